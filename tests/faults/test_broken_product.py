"""One broken product never stops the others."""

import json

from products import garble_chunk
from workspace import Workspace

from zarrmill.io.record import read_record
from zarrmill.io.state import Failures
from zarrmill.model import FailureRecord


def test_broken_product_is_named_and_the_others_complete(tmp_path):
    work = Workspace.create(tmp_path / "work", n_days=1, products_per_day=3)
    work.plan()
    broken, *others = work.products
    source = work.path / "archive" / "products" / f"{broken.product_id}.zarr"
    garble_chunk(source, "measurements/reflectance/r10m/b03", "0.0")
    done = work.snakemake(check=False)
    assert done.returncode == 1
    assert broken.product_id in done.stdout
    assert "ZM-SRC-CORRUPT" in done.stdout
    for product in others:
        assert work.state.target("stac", product).exists()
    assert not work.state.target("convert", broken).exists()
    assert not (work.store(broken) / "zarr.json").exists()
    records = [read_record(FailureRecord, failure.place) for failure in Failures(work.state).of(broken)]
    assert [record.failure_class for record in records] == ["source-corrupt"], "no second try mends it: it gives up at once"
    assert "given up" in (work.path / records[0].log).read_text(), "profiles/ci tries twice"
    assert "measurements/reflectance/r10m/b03" in records[0].message
    summary = json.loads(work.state.summary.read_text())
    assert summary["counts"]["failed"] == 1
    assert summary["counts"]["ok"] == 2
    assert broken.product_id in work.state.report.read_text()
    assert work.zarrmill("status").returncode == 4
    planned = work.plan()
    assert [row["class"] for row in planned["products"]].count("failed before") == 1
    archive = Workspace.create(tmp_path / "again", n_days=1, products_per_day=3).path / "archive/products"
    mended = archive / f"{broken.product_id}.zarr/measurements/reflectance/r10m/b03/0.0"
    (source / "measurements/reflectance/r10m/b03/0.0").write_bytes(mended.read_bytes())
    work.snakemake()
    assert work.state.target("stac", broken).exists()
    assert json.loads(work.state.summary.read_text())["counts"] == {"ok": 3, "failed": 0, "skipped": 0, "not done": 0}


def test_store_that_fails_validation_gets_no_item(tmp_path):
    work = Workspace.create(tmp_path / "work", n_days=1, products_per_day=1)
    work.plan()
    (product,) = work.products
    work.snakemake("--until", "convert")
    victim = next(work.store(product).glob("measurements/reflectance/r10m/b04/c/*/*"))
    data = bytearray(victim.read_bytes())
    data[40] ^= 0xFF
    victim.write_bytes(bytes(data))
    done = work.snakemake("--retries", "0", check=False)
    assert done.returncode == 1
    assert "ZM-CON-STORE" in done.stdout
    assert not work.state.target("validate", product).exists()
    assert not work.state.target("stac", product).exists()
    (record,) = [read_record(FailureRecord, failure.place) for failure in Failures(work.state).of(product)]
    assert record.failure_class == "conformance"
    assert any(finding.code.startswith(("structure.digest", "values.")) for finding in record.findings)
