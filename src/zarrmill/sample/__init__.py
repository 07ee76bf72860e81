"""EOPF sample products with the structure of CPM products: Sentinel-2 made from real pixels, Sentinel-1 GRD.

A sample is for tests, demonstrations and benchmarks. It is not a Copernicus product, and its metadata says so.
"""

from zarrmill.sample.archive import Kind, archive_specs, build_all, build_archive, radar_specs, write_catalogue
from zarrmill.sample.build import build_product
from zarrmill.sample.items import collection_id, item
from zarrmill.sample.s1 import Form, GrdScene, GrdSpec, build_grd, grd_item, grd_product_id, synthetic_scene
from zarrmill.sample.spec import Layout, Pixels, ProductType, SampleSpec, SwathEdge, product_id

__all__ = [
    "Form",
    "GrdScene",
    "GrdSpec",
    "Kind",
    "Layout",
    "Pixels",
    "ProductType",
    "SampleSpec",
    "SwathEdge",
    "archive_specs",
    "build_all",
    "build_archive",
    "build_grd",
    "build_product",
    "collection_id",
    "grd_item",
    "grd_product_id",
    "item",
    "product_id",
    "radar_specs",
    "synthetic_scene",
    "write_catalogue",
]
