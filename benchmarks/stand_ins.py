"""What the tests are made with and this benchmark takes too: products that are only described, and servers."""

import sys

from benchmarks.measure import ROOT

sys.path.append(str(ROOT / "tests"))

from fake_run import fake_items, fake_products, write_benchmark, write_ok
from fault_proxy import FaultProxy, fault_proxy
from s3_server import Bucket, bucket, s3_server
from stac_server import stac_server

__all__ = [
    "Bucket",
    "FaultProxy",
    "bucket",
    "fake_items",
    "fake_products",
    "fault_proxy",
    "s3_server",
    "stac_server",
    "write_benchmark",
    "write_ok",
]
