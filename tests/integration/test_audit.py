"""Stores against receipts, and what may be removed; on disk and in a bucket, told apart by names alone."""

import os
import shutil
import time
from pathlib import Path

import pytest
from s3_server import Bucket
from workspace import Workspace

from zarrmill.errors import EXIT_FAILED, EXIT_NOTHING, EXIT_OK, StoreError
from zarrmill.io.places import place_of
from zarrmill.runs.audit import Found, audit, remove, young


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One day of two products that were built."""
    work = Workspace.create(tmp_path_factory.mktemp("audit") / "work", n_days=1, products_per_day=2)
    work.plan()
    work.snakemake()
    return work


@pytest.fixture
def work(untouched: Workspace, tmp_path: Path) -> Workspace:
    return untouched.copy(tmp_path / "work")


def aged(path: Path, days: float = 60) -> None:
    when = time.time() - days * 86400
    for one in [path, *path.rglob("*")]:
        os.utime(one, (when, when))


def test_what_a_run_made_agrees_and_nothing_is_removed(work: Workspace) -> None:
    told = work.zarrmill("audit")
    assert (told.returncode, "2 sealed stores, 2 receipts" in told.stdout) == (EXIT_OK, True), told.stdout + told.stderr
    assert work.zarrmill("clean", "--older-than", "1m").returncode == EXIT_NOTHING


def test_each_kind_is_found_and_only_what_belongs_to_no_run_is_removed(work: Workspace) -> None:
    first, second = (work.store(product) for product in work.products)
    orphan = first.with_name("ORPHAN_00000000.zarr")
    shutil.copytree(first, orphan)
    leftover = first.with_name("LEFTOVER_00000000.zarr")
    shutil.copytree(first, leftover)
    (leftover / "zarr.json").unlink()
    journal = leftover.with_name(f"{leftover.name}.journal")
    journal.write_text("")
    alone = first.with_name("ALONE_00000000.zarr.journal")
    alone.write_text("")
    (second / "zarr.json").unlink()
    work.state.target("convert", work.products[1]).unlink()  # unfinished: planned, no receipt
    (first / "zarr.json").rename(first / "zarr.away")
    told = work.zarrmill("audit")
    assert told.returncode == EXIT_FAILED
    for words in ("1 missing: ", "1 orphan: ", "2 leftover: ", "1 unfinished: "):
        assert words in told.stdout, told.stdout
    (first / "zarr.away").rename(first / "zarr.json")
    for path in (orphan, leftover, journal, first, second):  # age alone removes nothing
        aged(path)
    dry = work.zarrmill("clean", "--older-than", "30d")
    assert (dry.returncode, dry.stdout.count("to remove: ")) == (EXIT_OK, 2), dry.stdout + dry.stderr
    assert f"kept, changed within 30d: results/stores/{alone.relative_to(work.path / 'results/stores')}" in dry.stdout
    assert orphan.exists()
    done = work.zarrmill("clean", "--older-than", "30d", "--execute")
    assert (done.returncode, done.stdout.count("removed: ")) == (EXIT_OK, 2), done.stdout + done.stderr
    left = {path.name for path in first.parent.iterdir()}
    assert left == {first.name, second.name, alone.name} | {path.name for path in first.parent.glob(f"{second.name}.journal")}
    assert (first / "zarr.json").exists()


def test_a_removal_that_is_cut_short_leaves_no_product(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    orphan = work.store(work.products[0]).with_name("ORPHAN_00000000.zarr")
    shutil.copytree(work.store(work.products[0]), orphan)

    def refused(path: Path) -> None:
        assert not (path / "zarr.json").exists(), "the root goes first"
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shutil, "rmtree", refused)
    with pytest.raises(StoreError, match="Permission denied; check path"):
        remove(Found("orphan", place_of(orphan)))
    assert orphan.exists()


def test_an_orphan_in_a_bucket_goes_with_its_root_first(work: Workspace, s3_bucket: Bucket) -> None:
    product = work.products[0]
    store = work.store(product)
    for path in [*sorted(store.rglob("*.json"))[:4], store / "zarr.json"]:
        for name in (product.store_path, product.store_path.replace(product.name, "ORPHAN_00000000")):
            s3_bucket.put(f"stores/{name}/{path.relative_to(store)}", path.read_bytes())
    settings = work.settings.model_copy(
        update={"store_root": s3_bucket.href("stores"), "state_root": str(work.path / "results"), "run": "test"}
    )
    told = audit(settings)
    assert [one.place.name for one in told.of("orphan")] == ["ORPHAN_00000000.zarr"]
    assert len(told.of("missing")) == 1  # the second product's store is not in the bucket
    (orphan,) = told.of("orphan")
    assert young([orphan], 3600) == {orphan}
    assert young([orphan], -3600) == set()
    remove(orphan)
    assert not s3_bucket.keys(f"stores/{orphan.place.key_in(orphan.place.parent.parent.parent)}")
    assert s3_bucket.keys(f"stores/{product.store_path}/zarr.json")
