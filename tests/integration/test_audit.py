"""Stores against receipts, and what may be removed; on disk and in a bucket, told apart by names alone."""

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from s3_server import Bucket
from workspace import Workspace

from zarrmill.config import Settings
from zarrmill.errors import EXIT_BOUND, EXIT_CONFIG, EXIT_FAILED, EXIT_NOTHING, EXIT_OK
from zarrmill.io import removal
from zarrmill.io.journal import Journal
from zarrmill.io.lease import Lease
from zarrmill.io.state import PRODUCT_STAGES
from zarrmill.runs.audit import audit
from zarrmill.runs.clean import candidates, remove


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
    work.configure(clean={"max_share": 1.0})
    dry = work.zarrmill("clean", "--older-than", "30d")
    assert (dry.returncode, dry.stdout.count("to remove: ")) == (EXIT_OK, 2), dry.stdout + dry.stderr
    assert "run it with --execute 2" in dry.stdout
    assert f"kept, changed within 30d: results/stores/{alone.relative_to(work.path / 'results/stores')}" in dry.stdout
    assert orphan.exists()
    done = work.zarrmill("clean", "--older-than", "30d", "--execute", "2")
    assert (done.returncode, done.stdout.count("removed: ")) == (EXIT_OK, 2), done.stdout + done.stderr
    left = {path.name for path in first.parent.iterdir()}
    assert left == {first.name, second.name, alone.name} | {path.name for path in first.parent.glob(f"{second.name}.journal")}
    assert (first / "zarr.json").exists()


@pytest.mark.parametrize("stage", [*PRODUCT_STAGES, "root"])
def test_an_empty_target_or_root_is_no_target_and_is_made_again(work: Workspace, stage: str) -> None:
    product, other = work.products
    target = work.store(product) / "zarr.json" if stage == "root" else Path(work.state.target(stage, product))
    before = json.loads(target.read_text())
    target.write_text("")
    told = work.zarrmill("audit")
    assert told.returncode == EXIT_FAILED
    assert f"1 {'missing' if stage == 'root' else 'damaged'}: " in told.stdout, told.stdout
    assert work.zarrmill("status").stdout.startswith("2/2 ok" if stage == "root" else "1/2 ok")
    (row,) = (row for row in work.plan()["products"] if row["class"] != "up to date")
    assert (row["product_id"], row["class"]) == (product.product_id, "missing")
    work.snakemake()
    assert json.loads(target.read_text()).keys() == before.keys()
    assert work.zarrmill("status").stdout.startswith("2/2 ok")
    assert work.zarrmill("audit").returncode == EXIT_OK
    assert (work.store(other) / "zarr.json").exists()


@pytest.mark.parametrize("text", ["{", "[1]", "null", '{"schema": "other"}', "\udcff"])
def test_what_cannot_be_read_is_told_and_still_names_its_store(work: Workspace, text: str) -> None:
    targets = [Path(work.state.target(stage, work.products[0])) for stage in PRODUCT_STAGES]
    for target in targets:
        target.write_bytes(text.encode(errors="surrogateescape"))
    told = work.zarrmill("audit")
    assert (told.returncode, "2 sealed stores, 2 receipts" in told.stdout) == (EXIT_FAILED, True), told.stdout + told.stderr
    assert "3 damaged: a receipt, report or item that cannot be read: remove it" in told.stdout
    assert all(target.name in told.stdout for target in targets)
    assert "orphan" not in told.stdout


def test_a_run_that_would_keep_its_state_among_the_stores_is_refused(work: Workspace) -> None:
    """Its folder would be taken for that of the stores, and what it made for orphans."""
    told = work.zarrmill("status", "stores")
    assert (told.returncode, "would keep its state in store_root" in told.stderr) == (EXIT_CONFIG, True), told.stderr


def test_a_store_that_is_a_link_is_left_with_what_it_leads_to(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = work.path / "elsewhere.zarr"
    shutil.copytree(work.store(work.products[0]), elsewhere)
    work.store(work.products[0]).with_name("LINK_00000000.zarr").symlink_to(elsewhere)
    monkeypatch.chdir(work.path)
    chosen = candidates(work.settings, audit(work.settings), -60, "-1m")
    told: list[str] = []
    assert remove(work.settings, chosen, told.append) == 1
    assert "is a link to something elsewhere" in told[-1]
    assert (elsewhere / "zarr.json").exists()


def log_lines(work: Workspace) -> list[dict[str, object]]:
    return [
        json.loads(line) for path in (work.path / "results/_removed").glob("*.jsonl") for line in path.read_text().splitlines()
    ]


def orphaned(work: Workspace, name: str = "ORPHAN_00000000", days: float = 60) -> Path:
    """A sealed store that no run names."""
    first = work.store(work.products[0])
    made = Path(shutil.copytree(first, first.with_name(f"{name}.zarr")))
    aged(made, days)
    return made


def test_stores_of_another_state_root_are_more_than_may_go(work: Workspace) -> None:
    """The accident: two projects share a store root, and the one cleans up what the other one serves."""
    for product in work.products:
        aged(work.store(product))
    work.configure(state_root="other")
    for arguments in ((), ("--execute", "2")):
        told = work.zarrmill("clean", *arguments)
        assert (told.returncode, "2 of 2 stores is more than clean.max_share 0.2" in told.stdout) == (EXIT_BOUND, True), (
            told.stderr
        )
    work.configure(state_root="results")
    assert all((work.store(product) / "zarr.json").exists() for product in work.products)


def test_a_wrong_count_removes_nothing(work: Workspace) -> None:
    orphan = orphaned(work)
    for typed in ("2", "0", "all"):
        done = work.zarrmill("clean", "--max-share", "1", "--execute", typed)
        assert done.returncode == EXIT_CONFIG, done.stdout + done.stderr
    assert orphan.exists()
    assert log_lines(work) == []
    assert work.zarrmill("clean", "--execute", "1").returncode == EXIT_BOUND, "one of three is more than a fifth"
    assert orphan.exists()
    assert work.zarrmill("clean", "--max-share", "1", "--execute", "1").returncode == EXIT_OK
    assert not orphan.exists()


def test_what_is_protected_stays_and_the_reason_is_told(work: Workspace) -> None:
    orphan = orphaned(work)
    for pattern in ("ORPHAN_*", f"*/{orphan.parent.name}/*"):
        work.configure(clean={"max_share": 1.0, "protected": {pattern: "shown at the symposium"}})
        done = work.zarrmill("clean", "--execute", "1")
        assert done.returncode == EXIT_NOTHING, done.stdout
        assert f"kept, protected by '{pattern}': shown at the symposium: " in done.stdout
    assert orphan.exists()


def test_what_goes_is_written_down_first(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    orphan = orphaned(work)
    n_bytes = sum(path.stat().st_size for path in orphan.rglob("*") if path.is_file())
    monkeypatch.chdir(work.path)
    seen = []
    rmtree = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda path: (seen.extend(log_lines(work)), rmtree(path)))
    told = audit(work.settings)
    assert remove(work.settings, candidates(work.settings, told, 3600, "1h"), print) == 0
    (first,), (last,) = seen, log_lines(work)
    assert (first["outcome"], last["outcome"], last["kind"], last["n_bytes"]) == ("to be removed", "removed", "orphan", n_bytes)
    assert str(last["store"]).endswith(f"/{orphan.name}")
    assert "@" in str(last["by"])
    assert last["when"]


def test_a_removal_that_is_cut_short_leaves_no_product(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    orphan = orphaned(work)

    def refused(path: Path) -> None:
        assert not (path / "zarr.json").exists(), "the root goes first"
        raise PermissionError(13, "Permission denied")

    monkeypatch.chdir(work.path)
    monkeypatch.setattr(shutil, "rmtree", refused)
    assert remove(work.settings, candidates(work.settings, audit(work.settings), 3600, "1h"), print) == 1
    assert "Permission denied; check path" in str(log_lines(work)[0]["outcome"])
    assert orphan.exists()


@pytest.mark.parametrize("how", ["planned", "converted", "written", "changed"])
def test_a_store_that_is_adopted_or_written_meanwhile_is_left(work: Workspace, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    orphan = orphaned(work)
    monkeypatch.chdir(work.path)
    chosen = candidates(work.settings, audit(work.settings), 3600, "1h")
    target = work.state.target("convert", work.products[0]).local
    assert target is not None
    other = work.path / "results/another-run" / target.relative_to(work.path / "results/test").parent.parent
    expected = {"planned": "names it by now", "converted": "names it by now", "written": "another process", "changed": "changed"}
    with writing(orphan, when=how == "written"):
        if how in ("planned", "converted"):  # by a run that was not there when the list was made
            stage = {"planned": "plan", "converted": "convert"}[how]
            (other / stage).mkdir(parents=True)
            (other / stage / f"{orphan.stem}.json").write_text("{}")
        if how == "changed":
            (orphan / "more").write_text("")
        told: list[str] = []
        assert remove(work.settings, chosen, told.append) == 1
    assert expected[how] in told[-1]
    assert (orphan / "zarr.json").exists()


@contextmanager
def writing(store: Path, *, when: bool) -> Iterator[None]:
    """Hold a store as the process does that writes it."""
    if not when:
        yield
        return
    with Journal(store).locked(0):
        yield


def in_bucket(work: Workspace, made: Bucket) -> Settings:
    """Settings of stores in a bucket that holds the first product and an orphan, some objects of each."""
    product = work.products[0]
    store = work.store(product)
    for path in [*sorted(store.rglob("*.json"))[:4], store / "zarr.json"]:
        for name in (product.store_path, product.store_path.replace(product.name, "ORPHAN_00000000")):
            made.put(f"stores/{name}/{path.relative_to(store)}", path.read_bytes())
    return work.settings.model_copy(
        update={"store_root": made.href("stores"), "state_root": str(work.path / "results"), "run": "test"}
    )


def test_an_orphan_in_a_bucket_goes_with_its_open_uploads(work: Workspace, s3_bucket: Bucket) -> None:
    settings, product = in_bucket(work, s3_bucket), work.products[0]
    told = audit(settings)
    assert [one.place.name for one in told.of("orphan")] == ["ORPHAN_00000000.zarr"]
    assert len(told.of("missing")) == 1  # the second product's store is not in the bucket
    assert [one.kept for one in candidates(settings, told, 3600, "1h")] == ["changed within 1h"]
    chosen = candidates(settings, told, -3600, "-1h")
    assert [one.kept for one in chosen] == [""]
    key = product.store_path.replace(product.name, "ORPHAN_00000000")
    with closing(s3_bucket.client()) as client:
        for begun in (f"stores/{key}/c/0", f"stores/{product.store_path}/c/0"):
            client.create_multipart_upload(Bucket=s3_bucket.name, Key=begun)
    assert remove(settings, chosen, print) == 0
    assert not [one for one in s3_bucket.keys("stores/") if "ORPHAN" in one]
    assert s3_bucket.uploads() == [f"stores/{product.store_path}/c/0"]
    assert s3_bucket.keys(f"stores/{product.store_path}/zarr.json")


def test_an_orphan_in_a_bucket_loses_its_root_first_and_one_that_is_written_is_left(
    work: Workspace, s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = in_bucket(work, s3_bucket)
    chosen = candidates(settings, audit(settings), -3600, "-1h")
    key = chosen[0].store.href.removeprefix(f"s3://{s3_bucket.name}/")
    lease, told = Lease(s3_bucket.name, f"{key}.journal"), []
    lease.take(0)
    assert remove(settings, chosen, told.append) == 1
    assert "another process" in told[-1]
    lease.remove()
    assert s3_bucket.keys(f"{key}/zarr.json")
    together = removal.together

    def checked(*arguments: object) -> Iterator[object]:
        assert not s3_bucket.keys(f"{key}/zarr.json")
        return together(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(removal, "together", checked)
    assert remove(settings, chosen, told.append) == 0
    assert not s3_bucket.keys(key)
    assert not [thread for thread in threading.enumerate() if thread.name == "lease"]
