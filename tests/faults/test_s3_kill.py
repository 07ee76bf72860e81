"""A conversion into a bucket is killed: the next one takes over, keeps what was proven, and ends with the same bytes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_proxy import Rule
from products import product_row, recipe_for

from zarrmill.config import S3
from zarrmill.io import bucket as buckets
from zarrmill.stages.convert import convert

LEASE_S = 3.0
CHILD = """
import sys
from pathlib import Path
from products import product_row, recipe_for
from zarrmill.config import S3
from zarrmill.io import bucket as buckets
from zarrmill.stages.convert import convert
buckets.use(S3(lease_s=float(sys.argv[3])))
recipe = recipe_for("S02MSIL1C")
convert(product_row(Path(sys.argv[1]), recipe, "S02MSIL1C"), recipe=recipe, store_root=sys.argv[2], threads=2)
"""


@pytest.mark.parametrize("share", [0.3, 0.7], ids=["early", "late"])
def test_conversion_after_kills_ends_with_the_same_bytes(shared_sources, s3_bucket, proxied, monkeypatch, tmp_path, share):
    recipe = recipe_for("S02MSIL1C")
    product = product_row(shared_sources["l1c"], recipe, "S02MSIL1C")
    golden = convert(product, recipe=recipe, store_root=str(tmp_path), threads=2)
    proxy = proxied(s3_bucket.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    proxy.add(Rule("latency", method="PUT", path="/c/", seconds=0.1))
    path = os.pathsep.join([*sys.path, str(Path(__file__).parent.parent)])
    arguments = [sys.executable, "-c", CHILD, str(shared_sources["l1c"]), s3_bucket.href("stores"), str(LEASE_S)]
    process = subprocess.Popen(arguments, env={**os.environ, "PYTHONPATH": path})
    deadline = time.monotonic() + 120
    while proxy.count("PUT", "/c/") < share * golden.n_objects / 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "the conversion ended before it could be killed"
    process.kill()
    process.wait()
    left = s3_bucket.keys("stores/")
    assert not [key for key in left if key.endswith(".zarr/zarr.json")]
    proxy.clear()
    buckets.use(S3(lease_s=LEASE_S))
    again = convert(product, recipe=recipe, store_root=s3_bucket.href("stores"), threads=2)
    place = again.store.removeprefix(f"s3://{s3_bucket.name}/")
    store = Path(golden.store)
    assert s3_bucket.contents(f"{place}/") == {
        file.relative_to(store).as_posix(): file.read_bytes() for file in store.rglob("*") if file.is_file()
    }
    assert (again.adopted, again.tree_sha256) == (False, golden.tree_sha256)
    assert s3_bucket.keys("stores/") == sorted(s3_bucket.keys(f"{place}/"))
