"""Measure the conversion engine: the floor, ours and others in turn, on one product, in one go.

python -m benchmarks.engine [--size PX] [--repeats N] [--others] [--big]; ``make bench`` gives these from the environment.
"""

import argparse
import json
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks import limits, measure, others, report
from benchmarks.measure import ROOT, Cost, Json, answer, machine, shown, summary, tell

SHOWN = ("zarrmill", "numpy", "numcodecs", "zarr", "xarray")
GOALS = {
    "convert wall / floor": ("zarrmill", "floor", "wall_s", 1.5),
    "convert CPU / floor": ("zarrmill", "floor", "cpu_s", 1.4),
    "validate full / convert, wall": ("validate-full", "zarrmill", "wall_s", 1.0),
    "validate full / convert, CPU": ("validate-full", "zarrmill", "cpu_s", 1.0),
    "validate full / convert, stage alone": ("validate-full", "zarrmill", "stage_s", 1.0),
    "validate sampled / convert, wall": ("validate-sampled", "zarrmill", "wall_s", 0.1),
    "validate sampled / convert, CPU": ("validate-sampled", "zarrmill", "cpu_s", 0.1),
    "validate sampled / convert, stage alone": ("validate-sampled", "zarrmill", "stage_s", 0.1),
    "convert / eopf-geozarr integers, wall": ("zarrmill", "eopf-integers", "wall_s", round(1 / 6, 3)),
    "convert / eopf-geozarr integers, bytes": ("zarrmill", "eopf-integers", "n_bytes", 1.0),
    "Sentinel-1 GRD: convert / eopf-geozarr, wall": ("grd", "grd-eopf", "wall_s", round(1 / 6, 3)),
    "Sentinel-1 GRD: convert / eopf-geozarr, peak memory": ("grd", "grd-eopf", "peak_bytes", round(1 / 6, 3)),
    "Sentinel-1 GRD: validate full / convert, wall": ("grd-validate", "grd", "wall_s", 1.0),
    "convert / eopf-geozarr default (dask cluster), wall": ("zarrmill", "eopf-dask", "wall_s", round(1 / 18, 3)),
}
"""Ratio to its two cases, what is divided, and the most that it should be.

``stage_s`` are the seconds of the stage alone, without the start of the interpreter and the imports before it.
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One command that is measured."""

    name: str
    command: tuple[str, ...]
    title: str
    target: Path | None = None
    """What it writes; removed before it runs."""
    repeats: int | None = None
    """None: as often as asked for."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=10980, help="edge of the product at 10 m in pixels; a multiple of 12")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--others", action="store_true", help="measure eopf-geozarr too")
    parser.add_argument("--radar", default="16677x26064", help="lines x samples of the Sentinel-1 GRD product; 0x0 leaves it out")
    parser.add_argument("--big", action="store_true", help="convert a product of twice the edge too")
    parser.add_argument("--pixels", choices=("real", "synthetic"), default="real")
    parser.add_argument("--uv", default="uv", help="uv that makes the environment of eopf-geozarr")
    parser.add_argument("--work", type=Path, default=Path("results/bench"), help="products and stores")
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/engine"), help="report")
    return parser.parse_args()


def ours(verb: str, **values: object) -> tuple[str, ...]:
    """Return the command for a verb of ``benchmarks.ours``."""
    return (sys.executable, "-m", "benchmarks.ours", verb, json.dumps(values))


class Bench:
    """Everything of one call."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.work: Path = options.work / str(options.size)
        self.costs: dict[str, list[Cost]] = {}
        self.told: dict[str, Json] = {}
        self.stage_s: dict[str, list[float]] = {}
        self.sizes: dict[str, tuple[int, int]] = {}

    def once(self, name: str, command: Sequence[str]) -> Json:
        """Run a command whose cost is not of interest; return its answer."""
        log = self.work / f"logs/{name}.log"
        measure.run(command, log, ROOT)
        return answer(log)

    def product(self, size_px: int, product_type: str = "S02MSIL2A") -> str:
        """Return the path of the source product; built when it is not there."""
        root = str(self.options.work / f"products-{size_px}")
        values = {"root": root, "size_px": size_px, "pixels": self.options.pixels, "product_type": product_type}
        made = self.once(f"sample-{size_px}-{product_type}", ours("sample", **values))
        return str(made["product"])

    def radar_product(self, lines: int, samples: int, folder: str = "products-grd") -> str:
        """Return the path of a Sentinel-1 GRD product in a folder of its own; built when it is not there."""
        root = str(self.options.work / folder)
        return str(self.once("grd", ours("grd", root=root, lines=lines, samples=samples))["product"])

    def cases(self, source: str, layout: Path, venv: Path) -> list[Case]:
        """Return what is measured, in the order of a round."""
        threads = self.options.threads
        floor, store, store3 = (self.work / name for name in ("floor", "stores", "stores-level-3"))
        common = {"source": source, "root": str(store), "threads": threads}
        floor_command = (sys.executable, "benchmarks/floor.py", str(layout), str(floor), str(threads))
        found = [
            Case("floor", floor_command, f"floor: decode, average, encode the same bytes; {threads} threads", floor),
            Case("zarrmill", ours("convert", **common), f"zarrmill convert, everything on; {threads} threads", store),
            Case("validate-full", ours("validate", **common, depth="full"), "zarrmill validate, every pixel of every level"),
            Case("validate-sampled", ours("validate", **common, depth="sampled"), "zarrmill validate, sampled"),
            Case("zarrmill-1", ours("convert", **{**common, "root": f"{store}-1", "threads": 1}), "zarrmill convert, 1 thread",
                 Path(f"{store}-1")),
        ]  # fmt: skip
        if self.options.others:
            at_3 = ours("convert", **{**common, "root": str(store3)}, clevel=others.CLEVEL)
            found.append(Case("zarrmill-level-3", at_3, "zarrmill convert, codec of eopf-geozarr", store3))
            for name, title, options, repeats in (
                ("integers", "eopf-geozarr, integers kept, threads", ["--keep-scale-offset"], None),
                ("float32", "eopf-geozarr, float32 (default), threads", [], None),
                ("dask", "eopf-geozarr, float32, its dask cluster", ["--dask-cluster"], 1),
            ):
                target = self.work / f"eopf-{name}"
                command = tuple(others.command(venv, source, str(target), *options))
                found.append(Case(f"eopf-{name}", command, title, target, repeats))
        return found

    def radar_cases(self, venv: Path) -> list[Case]:
        """Return what is measured on a Sentinel-1 GRD product; the other converter once, it takes minutes."""
        lines, samples = (int(edge) for edge in self.options.radar.split("x"))
        if not lines:
            return []
        source, store, target = self.radar_product(lines, samples), self.work / "stores-grd", self.work / "eopf-grd"
        common = {"source": source, "root": str(store), "threads": self.options.threads, "product_type": "S01SIWGRH"}
        cases = [
            Case("grd", ours("convert", **common), f"zarrmill convert; {self.options.threads} threads", store),
            Case("grd-validate", ours("validate", **common, depth="full"), "zarrmill validate, full"),
        ]
        if self.options.others:
            command = tuple(others.radar_command(venv, source, str(target)))
            cases.append(Case("grd-eopf", command, "eopf-geozarr, EPSG:4326, threads", target, 1))
        return cases

    def measure(self, cases: Sequence[Case]) -> None:
        """Run all cases in turn, round by round."""
        for number in range(self.options.repeats):
            for case in cases:
                if case.repeats is not None and number >= case.repeats:
                    continue
                if case.target is not None:
                    shutil.rmtree(case.target, ignore_errors=True)
                log = self.work / f"logs/{case.name}.log"
                cost = measure.run(case.command, log, ROOT)
                self.costs.setdefault(case.name, []).append(cost)
                tell(f"{number + 1}/{self.options.repeats} {case.name}: {cost.wall_s} s, CPU {cost.cpu_s} s")
                if case.target is not None:
                    self.sizes[case.name] = measure.folder_size(case.target)
                if "benchmarks.ours" in case.command:
                    self.told[case.name] = answer(log)
                    self.stage_s.setdefault(case.name, []).append(float(self.told[case.name]["stage_s"]))

    def memory(self) -> list[Json]:
        """Return a row a type, size and target of conversion; what the cases do not have is converted once.

        Of the optical products half the edge, twice the edge when asked for, and one into a bucket.
        """
        size, threads = self.options.size, self.options.threads
        rows = [self._row("zarrmill", limits.L2A, f"{size}")]
        for name, what, product_type, edge in (
            ("half", limits.L2A, "S02MSIL2A", size // 2),
            *([("double", limits.L2A, "S02MSIL2A", 2 * size)] if self.options.big else []),
            ("full", limits.L1C, "S02MSIL1C", size),
        ):
            source, target = self.product(edge, product_type), self.options.work / f"{edge}-{product_type}" / "stores"
            command = ours("convert", source=source, root=str(target), threads=threads, product_type=product_type)
            rows.append(limits.converted(command, target, self._log(f"{product_type}-{edge}"), what, name, f"{edge}"))
        source = self.product(size)
        rows.append(
            limits.into_a_bucket(
                lambda root: ours("convert", source=source, root=root, threads=threads),
                self.work / "bucket",
                self._log("bucket"),
                f"{size}",
            )
        )
        return rows + (self._radar_memory() if "grd" in self.costs else [])

    def _radar_memory(self) -> list[Json]:
        lines, samples = (int(edge) for edge in self.options.radar.split("x"))
        edge, target = f"{lines // 2} x {samples // 2}", self.work / "stores-grd-half"
        source = self.radar_product(lines // 2, samples // 2, "products-grd-half")
        values = {"source": source, "root": str(target), "threads": self.options.threads, "product_type": "S01SIWGRH"}
        half = limits.converted(ours("convert", **values), target, self._log("grd-half"), limits.GRD, "half", edge)
        return [self._row("grd", limits.GRD, f"{lines} x {samples}"), half]

    def _row(self, case: str, what: str, edge: str) -> Json:
        """Return the row of a whole product that is a case too."""
        return limits.row(what, "full", edge, summary(self.costs[case]), *self.sizes[case])

    def _log(self, name: str) -> Path:
        return self.work / f"logs/memory-{name}.log"

    def same_bytes(self) -> Json:
        """Count the floor's objects, and those that are byte for byte ours."""
        floor, store = self.work / "floor", Path(self.told["zarrmill"]["store"])
        keys = [path.relative_to(floor) for path in floor.rglob("*") if path.is_file()]
        same = sum((store / key).is_file() and (store / key).read_bytes() == (floor / key).read_bytes() for key in keys)
        return {"n_objects": len(keys), "n_same": same}


def result_of(bench: Bench, cases: Sequence[Case], planned: Json) -> Json:
    """Return everything that was measured."""
    options = bench.options
    sizes = {case.name: bench.sizes.get(case.name, (None, None)) for case in cases}
    measured = {
        case.name: summary(bench.costs[case.name])
        | dict(zip(("n_bytes", "n_objects"), sizes[case.name], strict=True))
        | ({"stage_s": statistics.median(bench.stage_s[case.name])} if case.name in bench.stage_s else {})
        for case in cases
    }
    runs = [cost for costs in bench.costs.values() for cost in costs]
    memory = bench.memory()
    return {
        "command": shown(sys.orig_argv),
        "foreign_share": round(sum(cost.foreign_cpu_s for cost in runs) / sum(cost.cpu_s for cost in runs), 3),
        "product": {"size_px": options.size, "pixels": options.pixels} | planned,
        "radar": options.radar,
        "cases": {
            case.name: {"title": case.title, "command": shown(case.command), "told": bench.told.get(case.name)}
            | measured[case.name]
            for case in cases
        },
        "ratios": {
            name: [round(measured[a][key] / measured[b][key], 3), most]
            for name, (a, b, key, most) in GOALS.items()
            if a in measured and b in measured
        },
        "limits": limits.limits(memory),
        "same_bytes": bench.same_bytes(),
        "memory": memory,
    }


def main() -> None:
    """Measure and report."""
    options = arguments()
    bench, before, venv = Bench(options), machine(), ROOT / ".tools/bench-venv"
    started = datetime.now(UTC).isoformat(timespec="seconds")
    versions = {"zarrmill": {name: version(name) for name in SHOWN}}
    if options.others:
        versions["eopf-geozarr"] = others.install(options.uv, venv)
    source, layout = bench.product(options.size), bench.work / "layout.json"
    planned = bench.once("layout", ours("layout", source=source, target=str(layout)))
    cases = bench.cases(source, layout, venv) + bench.radar_cases(venv)
    bench.measure(cases)
    result = result_of(bench, cases, planned) | {"started": started, "versions": versions, "values": None}
    result["machine"] = before | {"load_after": machine()["load"]}
    if options.others:
        stores = (
            bench.told["zarrmill"]["store"],
            source,
            *(str(bench.work / f"eopf-{name}") for name in ("integers", "float32")),
        )
        result["values"] = bench.once("values", (sys.executable, "-m", "benchmarks.others", *stores))
    report.write(result, options.out)
    tell(f"report: {options.out}")


if __name__ == "__main__":
    main()
