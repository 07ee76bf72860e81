"""What Snakemake, its jobs and their records add to the engine: one product alone, and several at once."""

import csv
import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.folder import Folder
from benchmarks.measure import ROOT, Cost, Json
from benchmarks.session import Session
from zarrmill.io.record import read_record
from zarrmill.io.state import PRODUCT_STAGES
from zarrmill.model import ConvertReceipt, Measured, ValidationReport

RUN_JOBS = ("stac_catalog", "report")
"""Jobs at the end of a run, at work at once, which the engine has no part in."""
IMPORTS = {
    "convert": "import zarrmill.io.record, zarrmill.job; from zarrmill.stages.convert import convert",
    "validate": "import zarrmill.io.record, zarrmill.job; from zarrmill.stages.validate import validate",
    "stac": "import zarrmill.io.record, zarrmill.job; from zarrmill.stages.stac import stac, write_item",
}
"""What the script of a rule imports before its stage is called."""


def archive(session: Session, size_px: int, n: int) -> Path:
    """Build ``n`` products on as many days, where they are not there yet, and return their item collection."""
    values = {"root": str(session.work / f"archive-{size_px}"), "size_px": size_px, "pixels": session.options.pixels, "n": n}
    made = session.quietly((sys.executable, "-m", "benchmarks.ours", "archive", json.dumps(values)))
    return ROOT / str(made["items"])


def imports(session: Session) -> dict[str, float]:
    """Return the seconds in which an interpreter starts and imports what a script imports, by stage."""
    for _ in range(session.options.repeats + 2):
        for stage, code in IMPORTS.items():
            session.run(f"imports-{stage}", f"interpreter and imports of the script {stage}", (sys.executable, "-c", code))
    return {stage: statistics.median(cost.wall_s for cost in session.costs[f"imports-{stage}"]) for stage in IMPORTS}


def one_product(session: Session, items: Path, size_px: int, imports_s: Mapping[str, float]) -> Json:
    """Measure one product from start to end, by the engine alone and by the workflow in turn; return seconds of the workflow."""
    threads, first = session.options.threads, {"limit": 1, "order": "oldest"}
    sides = ("bare", "workflow", "items")
    bare, flow, up_to_item = (
        Folder.make(session.work / f"one-{size_px}-{side}", items, first, threads=threads) for side in sides
    )
    rounds = []
    for _ in range(session.options.repeats):
        for folder in (bare, flow, up_to_item):
            folder.fresh()
            session.quietly(folder.zarrmill("plan"), cwd=folder.path)
        calls, undisturbed = {}, 0.0
        for stage in PRODUCT_STAGES:
            case = f"one-{size_px}-{stage}"
            cost = session.run(case, f"engine: {stage}, {size_px} px", bare.bare("stage", name=stage, threads=threads))
            calls[stage] = float(session.told(case)["wall_s"])
            undisturbed += calls[stage] * cost.alone_s / cost.wall_s
        case = f"one-{size_px}-workflow"
        cost = session.run(case, f"workflow: one product, {size_px} px", flow.snakemake())
        told = _seconds(flow, cost, calls, imports_s)
        rounds.append(told | {"undisturbed": cost.alone_s, "above_undisturbed": cost.alone_s - undisturbed})
        title = f"workflow: one product, {size_px} px, up to its item"
        cost = session.run(f"one-{size_px}-items", title, up_to_item.snakemake("--until", "stac"))
        above_s = cost.wall_s - sum(_engine_s(up_to_item, calls).values())
        rounds[-1] |= {"items": cost.wall_s, "above_items": above_s, "above_items_undisturbed": cost.alone_s - undisturbed}
    for folder in (bare, flow, up_to_item):
        folder.fresh()
    return _medians(rounds)


def _engine_s(flow: Folder, alone: Mapping[str, float]) -> dict[str, float]:
    """Return the engine's seconds of each stage of a run of one product.

    Those of ``convert`` and ``validate`` are of the records of this very run; an item has none, so those of ``stac`` are the ones
    of the bare call of the same round.
    """
    state, product = flow.state(), flow.products()[0]
    return {
        "convert": read_record(ConvertReceipt, state.target("convert", product)).measured.wall_s,
        "validate": read_record(ValidationReport, state.target("validate", product)).measured.wall_s,
        "stac": alone["stac"],
    }


def _seconds(flow: Folder, cost: Cost, alone: Mapping[str, float], imports_s: Mapping[str, float]) -> dict[str, float]:
    """Take one run of the workflow apart."""
    state, product = flow.state(), flow.products()[0]
    engine = _engine_s(flow, alone)
    folder = Path(state.root) / "benchmarks"
    jobs = {stage: _job_s(folder / stage / product.collection / product.day / f"{product.name}.tsv") for stage in PRODUCT_STAGES}
    jobs |= {rule: _job_s(folder / f"{rule}.tsv") for rule in RUN_JOBS}
    wall_s = cost.wall_s
    found = {
        "wall": wall_s,
        "cpu": cost.cpu_s,
        "engine": sum(engine.values()),
        "engine_bare": sum(alone.values()),
        "above_engine": wall_s - sum(engine.values()),
        "above_bare": wall_s - sum(alone.values()),
    }
    found |= {f"job_{rule}": seconds for rule, seconds in jobs.items()}
    found |= {f"engine_{stage}": seconds for stage, seconds in engine.items()}
    found |= {f"start_{stage}": jobs[stage] - engine[stage] - imports_s[stage] for stage in PRODUCT_STAGES}
    return found


def _job_s(table: Path) -> float:
    """Return the seconds in Snakemake's benchmark file of a job."""
    with table.open() as stream:
        return float(next(csv.DictReader(stream, delimiter="\t"))["s"])


def _medians(rounds: Sequence[Mapping[str, float]]) -> Json:
    return {name: round(statistics.median(one[name] for one in rounds), 2) for name in rounds[0]}


def several(session: Session, items: Path, name: str, n: int, store_root: str | None, env: Mapping[str, str]) -> Json:
    """Measure ``n`` products, two at a time with one thread each, by the engine alone and by the workflow in turn.

    Args: name: of the cases; store_root: address in a bucket, None for disk; env: with which the bucket is reached.
    """
    workers, where = session.options.workers, "bucket" if store_root else "disk"
    found: dict[str, float] = {"n_products": n}
    cpu_s = {}
    for side in ("bare", "workflow"):
        stores = {"store_root": f"{store_root}/{side}"} if store_root else {}
        folder = Folder.make(session.work / f"load-{name}-{side}", items, {"limit": n, "order": "oldest"}, threads=1, **stores)
        session.quietly(folder.zarrmill("plan"), cwd=folder.path, env=env)
        _warm(folder)
        title = f"{side}: {n} products, {workers} at a time, 1 thread each, stores on {where}"
        bare = folder.bare("load", workers=workers, threads=1)
        command = bare if side == "bare" else folder.snakemake("--cores", f"{workers}")
        cost = session.run(f"load-{name}-{side}", title, command, env=env)
        found[side], cpu_s[side] = cost.wall_s, cost.cpu_s
        if side == "workflow" and _n_ok(folder) != n:
            raise RuntimeError(f"{folder.path}: {_n_ok(folder)} of {n} products ok; see {session.log(f'load-{name}-{side}')}")
        found[f"engine_{side}"] = round(sum(one.wall_s for one in _engine(folder)), 2)
        folder.fresh()
    shares = {"share": found["bare"] / found["workflow"], "share_cpu": cpu_s["bare"] / cpu_s["workflow"]}
    return found | {key: round(share, 3) for key, share in shares.items()}


def _warm(folder: Folder) -> None:
    """Read all sources once, so that neither side waits for the disk."""
    for product in folder.products():
        for file in (folder.path / product.href).rglob("*"):
            if file.is_file():
                file.read_bytes()


def _n_ok(folder: Folder) -> int:
    return int(json.loads(folder.state().summary.read_bytes())["counts"]["ok"])


def _engine(folder: Folder) -> Iterator[Measured]:
    """Yield what receipts and validation reports say that the engine cost, over all products."""
    state = folder.state()
    for product in folder.products():
        yield read_record(ConvertReceipt, state.target("convert", product)).measured
        yield read_record(ValidationReport, state.target("validate", product)).measured
