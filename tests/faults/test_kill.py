"""Killed with SIGKILL at random moments: a rerun ends complete, and no partial product is ever visible as done."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from workspace import Workspace

from zarrmill.io.store import sha256_of, tree_digest


def assert_sealed_stores_are_whole(work: Workspace) -> int:
    """Every store with a root holds exactly the objects that its root's digest was made of."""
    roots = list((work.path / "results/stores").rglob("*.zarr/zarr.json"))
    for root in roots:
        files = [path for path in root.parent.rglob("*") if path.is_file()]
        objects = [(p.relative_to(root.parent).as_posix(), p.stat().st_size, sha256_of(p)) for p in files]
        assert json.loads(root.read_text())["attributes"]["zarrmill"]["tree_sha256"] == tree_digest(objects), root
    return len(roots)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("group", [True, False], ids=["driver and jobs", "driver alone"])
def test_rerun_after_kills_ends_complete(tmp_path, group):
    work = Workspace.create(tmp_path / "work", n_days=1, products_per_day=2, size_px=360)
    work.plan()
    rng = random.Random(20250113 + group)
    for _ in range(4):
        process = work.start()
        time.sleep(rng.uniform(2.0, 9.0))
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        assert_sealed_stores_are_whole(work)
        for product in work.products:
            if work.state.target("convert", product).exists():
                assert (work.store(product) / "zarr.json").exists()
            if work.state.target("stac", product).exists():
                assert work.state.target("validate", product).exists()
    work.snakemake()
    assert assert_sealed_stores_are_whole(work) == 2
    assert all(work.state.target("stac", product).exists() for product in work.products)
    assert work.jobs() == {}
    stores = work.path / "results/stores"
    assert not [path for path in stores.rglob("*") if path.name.endswith((".part", ".journal"))]
    clean = Workspace.create(tmp_path / "clean", n_days=1, products_per_day=2, size_px=360)
    clean.plan()
    clean.snakemake("--until", "convert")
    assert contents(stores) == contents(clean.path / "results/stores")
