"""How much disk a job of one product needs on its own machine, told from its manifest row; stores and state are elsewhere."""

from math import ceil

from zarrmill.model import Product

WORK_MB = 500
"""Snakemake's copy of the workflow, records and log in MB; 20 MB measured."""
UNKNOWN_MB = 4000
"""For a source whose size the plan does not know, in MB; decoded, Sentinel-1 GRD has about 1700, Sentinel-2 L2A 3800."""

RADAR = "S01SIWGR"
"""How the types of products begin whose remote chunks are held in a temporary file."""


def disk_mb(product: Product, *, remote: bool, stages: bool, spools: bool, max_gb: float) -> int:
    """Return what a job writes to its own disk at most, in MB of 1e6 bytes.

    A compressed chunk is no larger than a decoded one (codecs store what they cannot compress), so decoded bytes bound what is
    fetched. The temporary file of ``io.pieces`` holds chunks of the images of a radar product, which are all converted. A staged
    product also has what the recipe leaves out (quick-looks, levels): decoded, the whole of a Sentinel-2 product is 1.13 times
    its converted arrays, and 1.92 times with a recipe of the 60 m level alone. Real pixels take less than a third of their
    decoded bytes (1.2 GB of 4.3), so the converted arrays bound a staged product, too.

    Args: remote: the source is not a local folder; stages: ``source.fetch`` is ``stage``; spools: the job makes a map of radar
        images; max_gb: ``source.staging.max_gb``, which a fetch never exceeds.
    """
    if not remote or not (stages or (spools and product.product_type.startswith(RADAR))):
        return WORK_MB
    fetched_mb = ceil(product.n_bytes / 1e6) or UNKNOWN_MB
    return WORK_MB + (min(fetched_mb, ceil(max_gb * 1000)) if stages else fetched_mb)
