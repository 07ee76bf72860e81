"""The report of ``benchmarks.workflow``: ``workflow.json``, ``README.md`` and drawings, small enough to commit."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import report
from zarrmill.io import charts

Json = Mapping[str, Any]  # Any: JSON values
NUMBERS = "workflow.json"


def write(result: Json, folder: Path) -> None:
    """Write everything into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / NUMBERS).write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    parts = result["parts"]
    found = {key: value for part in parts.values() for key, value in part["found"].items()}
    drawings = {}
    alone = {name: case for part in parts.values() for name, case in part["cases"].items() if name.startswith(("one-", "load-"))}
    if alone:
        drawings["wall"] = report.bars("wall", alone, "wall_s", 1.0, "wall seconds", "{:.1f}", _side)
    if "backfill" in found:
        drawings["memory"] = _memory(found["backfill"])
    for name, drawing in drawings.items():
        (folder / f"{name}.svg").write_text(report.alone(drawing))
    page = report.environment(html=False).get_template("workflow.md.j2")
    values = {"r": found, "parts": parts, "goals": result["goals"], "drawings": drawings, "kinds": _kinds}
    (folder / "README.md").write_text(page.render(values))


def _side(case: str) -> str:
    return "first" if case.endswith("workflow") else "idle"


def _kinds(requests: Mapping[str, int]) -> str:
    """Return counted requests in words."""
    return ", ".join(f"{n} {kind}" for kind, n in sorted(requests.items())) or "none"


def _memory(backfill: Json) -> str:
    """Return peak memory over the shards, oldest last: a line a command and place."""
    with charts.figure_of("memory", 7.6, 3.0) as figure:
        axes = figure.add_subplot()
        lines = [(place, key) for place in ("disk", "bucket") if place in backfill for key in ("plan", "dry_run")]
        for place, key in lines:
            shards = backfill[place]["shards"]
            words = f"{'zarrmill plan' if key == 'plan' else 'snakemake -n'}, {place}"
            peaks = [shard[key]["peak_bytes"] / 1e6 for shard in shards]
            colour = charts.COLOURS["first" if key == "plan" else "second"]
            style = "o-" if place == "disk" else "s--"
            axes.plot([shard["index"] for shard in shards], peaks, style, color=colour, label=words, markersize=4)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("shard")
        axes.set_ylabel("peak memory, MB")
        axes.legend(frameon=False, ncols=2)
        drawing: str = charts.svg_of(figure, "memory", "peak memory by shard")
        return drawing
