"""Turn EOPF Zarr products into validated, catalogued, cloud-optimised GeoZarr."""

from importlib.metadata import version

__version__ = version("zarrmill")

FORMAT_VERSION = 1
"""Raised when the same recipe and source would give other bytes; part of every store's digest."""
