"""One module a stage; each composes ``io`` and ``core``, none knows another."""
