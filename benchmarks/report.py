"""The report of ``benchmarks.engine``: ``engine.json``, ``README.md``, ``index.html`` and drawings, small enough to commit."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from zarrmill.io import charts

Json = Mapping[str, Any]  # Any: JSON values
LIGHT = {
    "ink": "#1c2430",
    "muted": "#5b6675",
    "line": "#d5dbe3",
    "good": "#2e7d4f",
    "attention": "#b7791f",
    "bad": "#b3372f",
    "idle": "#8a94a3",
    "first": "#2563a8",
    "second": "#c2702c",
    "third": "#6b7f3a",
}
"""Colours of the drawings as files; the page has its own, dark and light."""
CONVERSIONS = ("floor", "zarrmill", "zarrmill-1", "zarrmill-level-3", "eopf-integers", "eopf-float32", "eopf-dask")
BARS = {
    "wall": ("wall_s", 1.0, "wall seconds", "{:.1f}"),
    "cpu": ("cpu_s", 1.0, "CPU seconds", "{:.1f}"),
    "memory": ("peak_bytes", 1e6, "peak memory, MB", "{:,.0f}"),
}
"""Drawing to key, divisor, axis and form of the numbers."""


def write(result: Json, folder: Path) -> None:
    """Write everything into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = {name: result["cases"][name] for name in CONVERSIONS if name in result["cases"]}
    drawings = {name: bars(name, cases, *settings) for name, settings in BARS.items()}
    (folder / "engine.json").write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    for name, drawing in drawings.items():
        (folder / f"{name}.svg").write_text(alone(drawing))
    radar = {name: case for name, case in result["cases"].items() if name.startswith("grd")}
    shown = {
        "r": result,
        "cases": cases,
        "radar": radar,
        "values": _by_group(result["values"]),
        "drawings": drawings,
        "light": LIGHT,
    }
    for template, target in (("report.md.j2", "README.md"), ("report.html.j2", "index.html")):
        (folder / target).write_text(environment(html=target.endswith("html")).get_template(template).render(shown))


def _colour(case: str) -> str:
    return "idle" if case == "floor" else "first" if case.startswith("zarrmill") else "second"


def bars(
    name: str,
    cases: Mapping[str, Json],
    key: str,
    divisor: float,
    axis: str,
    form: str,
    colour: Callable[[str], str] = _colour,
) -> str:
    """Return one horizontal bar a case: the median, with a dot for each run."""
    with charts.figure_of(name, 7.6, 0.7 + 0.42 * len(cases)) as figure:
        axes = figure.add_subplot()
        for row, (case, cost) in enumerate(cases.items()):
            runs = [run[key] / divisor for run in cost["runs"]]
            axes.barh(row, cost[key] / divisor, height=0.56, color=charts.COLOURS[colour(case)])
            axes.plot(runs, [row] * len(runs), "o", markersize=3, color=charts.COLOURS["ink"])
            label = form.format(cost[key] / divisor)
            axes.annotate(label, (max(*runs, cost[key] / divisor), row), (6, 0), textcoords="offset points", va="center")
        axes.set_yticks(range(len(cases)), [cost["title"] for cost in cases.values()])
        axes.invert_yaxis()
        axes.set_xlabel(axis)
        axes.margins(x=0.12)
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        drawing: str = charts.svg_of(figure, name, axis)
        return drawing


def alone(drawing: str) -> str:
    """Turn an element of a page into a file that shows in light and on its own."""
    colours = ";".join(f"--{name}:{value}" for name, value in LIGHT.items())
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return drawing.replace("<svg ", f'<svg {spaces} style="{colours};background:#fff;font-family:sans-serif" ', 1) + "\n"


def _by_group(values: Json | None) -> list[dict[str, Any]]:
    """Return one row a group of arrays of one kind, instead of one an array."""
    groups: dict[tuple[str, str], list[Json]] = defaultdict(list)
    for row in values["arrays"] if values else ():
        groups[row["kind"], row["path"].rpartition("/")[0]].append(row)
    return [{"kind": kind, "group": group, **_total(rows)} for (kind, group), rows in sorted(groups.items(), reverse=True)]


def _total(rows: Sequence[Json]) -> dict[str, Any]:
    same_shape = [row for row in rows if row["n"] is not None]
    return {
        "arrays": [row["path"].rpartition("/")[2] for row in rows],
        "other_shape": len(rows) - len(same_shape),
        **{key: sum(row[key] for row in same_shape) for key in ("n", "n_different", "n_filled", "n_by_one")},
        "lowest": min((row["lowest"] for row in same_shape), default=0),
        "highest": max((row["highest"] for row in same_shape), default=0),
    }


def environment(*, html: bool) -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=loader, autoescape=html, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
