"""A finished shard without a conversion: every target, benchmark and root of a store that a run leaves, as small files."""

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from benchmarks.folder import Folder
from benchmarks.stand_ins import Bucket, write_benchmark, write_ok
from zarrmill.io.manifest import read_manifest
from zarrmill.io.places import place_of
from zarrmill.io.state import PRODUCT_STAGES, State
from zarrmill.model import Product

STEP_S = 2.0
"""Seconds between the targets of two stages, where times are set."""
ENDS = (("catalog/catalog.json", "benchmarks/stac_catalog.tsv"), ("report/index.html", "summary.json", "benchmarks/report.tsv"))
"""Files that a run writes after its products, in order."""


def finish(folder: Folder, run: str, made: Bucket | None) -> None:
    """Write what a finished run leaves. Args: made: bucket of its state and its stores, None when both are on disk."""
    if made is None:
        state = folder.state(run)
        stores = folder.path / folder.settings().store_root
        _ordered(state, write(state, stores, folder.products(run)))
        return
    local, stores = folder.path / "local", folder.path / "local-stores"
    state, settings = State(place_of(local)), folder.settings()
    local.mkdir()
    prefix = f"{settings.state_root}/{run}".removeprefix(f"s3://{made.name}/")
    with closing(made.server.client()) as client:
        (local / "manifest.csv").write_bytes(client.get_object(Bucket=made.name, Key=f"{prefix}/manifest.csv")["Body"].read())
    steps = write(state, stores, read_manifest(state.manifest))
    _put(made, settings.store_root.removeprefix(f"s3://{made.name}/"), stores, list(stores.rglob("zarr.json")))
    for step in steps:
        _put(made, prefix, local, step)
        time.sleep(1.1)  # times in a bucket are whole seconds
    shutil.rmtree(local)
    shutil.rmtree(stores)


def write(state: State, stores: Path, products: tuple[Product, ...]) -> list[list[Path]]:
    """Write targets and roots of stores on disk; return the files of each stage, in order."""
    root = Path(state.root)
    for index, product in enumerate(products):
        write_ok(state, product, index, thumbnail=False)
        for stage in PRODUCT_STAGES:
            write_benchmark(state, product, stage, 1.0)
        (stores / product.store_path).mkdir(parents=True)
        (stores / product.store_path / "zarr.json").write_text("{}")
    for name in (name for names in ENDS for name in names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}")
    made = [
        [path for product in products for path in (Path(state.target(stage, product)), _benchmark(root, stage, product))]
        for stage in PRODUCT_STAGES
    ]
    return [*made, *([root / name for name in names] for names in ENDS)]


def _benchmark(root: Path, stage: str, product: Product) -> Path:
    return root / "benchmarks" / stage / product.collection / product.day / f"{product.name}.tsv"


def _ordered(state: State, steps: list[list[Path]]) -> None:
    """Let every stage be later than the one before it."""
    start = time.time()
    for number, files in enumerate(steps):
        moment = start + STEP_S * (number - len(steps))
        for path in files:
            os.utime(path, (moment, moment))


def _put(made: Bucket, prefix: str, folder: Path, files: list[Path]) -> None:
    with closing(made.server.client(max_pool_connections=16)) as client, ThreadPoolExecutor(16) as pool:

        def put(path: Path) -> None:
            client.put_object(Bucket=made.name, Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())

        list(pool.map(put, files))
