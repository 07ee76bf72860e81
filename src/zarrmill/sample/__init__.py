"""EOPF Sentinel-2 sample products made from real pixels, with the structure of CPM products.

A sample is for tests, demonstrations and benchmarks. It is not a Copernicus product, and its metadata says so.
"""

from zarrmill.sample.archive import archive_specs, build_archive, write_catalogue
from zarrmill.sample.build import build_product
from zarrmill.sample.items import collection_id, item
from zarrmill.sample.spec import Layout, Pixels, ProductType, SampleSpec, SwathEdge, product_id

__all__ = [
    "Layout",
    "Pixels",
    "ProductType",
    "SampleSpec",
    "SwathEdge",
    "archive_specs",
    "build_archive",
    "build_product",
    "collection_id",
    "item",
    "product_id",
    "write_catalogue",
]
