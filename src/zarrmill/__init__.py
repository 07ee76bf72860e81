"""Turn EOPF Zarr products into validated, catalogued, cloud-optimised GeoZarr."""

import os
from importlib.metadata import version

# pydantic would look through every installed distribution for plugins of its own: 20 ms of every process.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

__version__ = version("zarrmill")

FORMAT_VERSION = 1
"""Raised when the same recipe and source would give other bytes; part of every store's digest."""
