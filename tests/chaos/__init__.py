"""A whole backfill on the Kubernetes stand-in while everything around it fails at random: the small one of ``make test``, the
big one of ``make soak``.

``sizes`` says how much, ``world`` starts servers, buckets and the cluster, ``archive`` makes the products, ``trouble`` breaks
things by a seed, ``backfill`` runs the real driver until all is done, ``watch`` notes what happens when, ``checks`` judges the
end, ``story`` tells it.
"""
