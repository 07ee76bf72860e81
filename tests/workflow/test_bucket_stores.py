"""A run whose stores are in a bucket and whose sources come over http: planned by what is there, never by an outage."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_proxy import FaultProxy, Rule, denied, no_bucket, slow_down
from file_server import file_server
from s3_server import Bucket
from workspace import Workspace


@pytest.fixture
def work(tmp_path: Path, s3_bucket: Bucket) -> Iterator[Workspace]:
    """Two products that are served over http, staged here, and built into a bucket."""
    made = Workspace.create(tmp_path / "work", n_days=1, products_per_day=2)
    with file_server(made.path / "archive") as server:
        items = made.path / "archive/items.json"
        items.write_text(_served(items, made.path / "archive", server.url))
        made.configure(
            store_root=s3_bucket.href("stores"),
            s3={"endpoint_url": s3_bucket.url, "lease_s": 5.0, "retries": 1, "timeout_s": 5},
            source={"fetch": "stage", "staging": {"folder": "staging"}, "retries": 1},
        )
        yield made


def _served(items: Path, folder: Path, url: str) -> str:
    """Return the catalogue with the addresses of its products on a server."""
    document = json.loads(items.read_text())
    products = {path.name: f"{url}/{path.relative_to(folder).as_posix()}" for path in folder.rglob("*.zarr")}

    def change(value: object) -> object:
        if isinstance(value, dict):
            return {key: change(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [change(inner) for inner in value]
        if isinstance(value, str):
            for name, address in products.items():
                if f"{name}" in value:
                    return address + value.partition(name)[2]
        return value

    return json.dumps(change(document))


def test_a_run_builds_its_stores_in_the_bucket_and_the_next_one_nothing(work: Workspace, s3_bucket: Bucket) -> None:
    work.plan()
    work.snakemake()
    roots = [key for key in s3_bucket.keys("stores/") if key.endswith(".zarr/zarr.json")]
    assert len(roots) == len(work.products) == 2
    assert not [key for key in s3_bucket.keys("stores/") if ".zarr.journal/" in key]
    for product in work.products:
        receipt = json.loads(work.state.target("convert", product).read_text())
        assert receipt["store"] == s3_bucket.href(f"stores/{product.store_path}")
        item = json.loads(work.state.target("stac", product).read_text())
        assert item["id"]
    assert not (work.path / "s3:").exists()
    assert len(list((work.path / "staging").glob("*/complete.json"))) == 2
    assert work.jobs() == {}


def test_a_store_that_is_gone_is_built_again_and_an_outage_builds_nothing(
    work: Workspace, s3_bucket: Bucket, proxied: Callable[[str], FaultProxy]
) -> None:
    work.plan()
    work.snakemake()
    proxy = proxied(s3_bucket.url)
    work.configure(s3={"endpoint_url": proxy.url})
    before = work.state.manifest.read_bytes()
    for rule in (slow_down(), denied(), no_bucket(), Rule("refuse")):
        proxy.rules = [rule]
        done = work.zarrmill("plan")
        assert done.returncode == 6, done.stdout + done.stderr
        assert work.state.manifest.read_bytes() == before
        assert all(work.state.target("convert", product).exists() for product in work.products)
    proxy.clear()
    gone = work.products[0]
    s3_bucket.delete(f"stores/{gone.store_path}/zarr.json")
    work.plan()
    assert [work.state.target("convert", product).exists() for product in work.products] == [False, True]
    shutil.rmtree(work.path / "staging")
    work.snakemake()
    assert s3_bucket.keys(f"stores/{gone.store_path}/zarr.json")
    assert work.jobs() == {}
