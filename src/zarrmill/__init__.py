"""Turn EOPF Zarr products into validated, catalogued, cloud-optimised GeoZarr."""

import os
from importlib.metadata import version

# pydantic would look through every installed distribution for plugins of its own: 20 ms of every process.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
# Nothing here multiplies matrices of any size, and each further thread of OpenBLAS spins for 0.1 s when NumPy is imported.
# Snakemake asks for as many threads as a job has cores.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

__version__ = version("zarrmill")

FORMAT_VERSION = 3
"""Raised when the same recipe and source would give other bytes; part of every store's digest."""
