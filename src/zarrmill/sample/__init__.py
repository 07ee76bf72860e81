"""EOPF sample products with the structure of CPM products: Sentinel-2 made from real pixels, Sentinel-1 GRD.

A sample is for tests, demonstrations and benchmarks. It is not a Copernicus product, and its metadata says so.
"""

from zarrmill.sample.archive import archive_specs, build_archive, write_catalogue
from zarrmill.sample.build import build_product
from zarrmill.sample.items import collection_id, item
from zarrmill.sample.s1 import GrdScene, GrdSpec, build_grd, grd_item, grd_product_id, synthetic_scene
from zarrmill.sample.spec import Layout, Pixels, ProductType, SampleSpec, SwathEdge, product_id

__all__ = [
    "GrdScene",
    "GrdSpec",
    "Layout",
    "Pixels",
    "ProductType",
    "SampleSpec",
    "SwathEdge",
    "archive_specs",
    "build_archive",
    "build_grd",
    "build_product",
    "collection_id",
    "grd_item",
    "grd_product_id",
    "item",
    "product_id",
    "synthetic_scene",
    "write_catalogue",
]
