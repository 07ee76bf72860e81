"""The report of a chaos backfill: ``README.md``, ``soak.json`` and ``timeline.svg``, small enough to commit."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.report import alone
from zarrmill.io import charts

Json = Mapping[str, Any]  # Any: JSON values
MARKS = {
    "kill": ("driver killed", "ink", "-"),
    "away": ("Kubernetes API away", "second", "--"),
    "bucket": ("bucket away", "third", "--"),
    "lose": ("pod lost", "muted", ":"),
}
"""Kind of event to its words, its colour and its line."""
MOST_SAMPLES = 240
"""Points of the timeline that are kept."""


def write(told: Json, folder: Path) -> None:
    """Write everything into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    timeline = told["timeline"][:: max(1, len(told["timeline"]) // MOST_SAMPLES)] + told["timeline"][-1:]
    kept = {**told, "timeline": timeline}
    (folder / "soak.json").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    (folder / "timeline.svg").write_text(alone(picture(kept)))
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.get_template("soak.md.j2").render(r=kept, marks=MARKS, kills=_kills(kept))
    (folder / "README.md").write_text(text)


def picture(told: Json) -> str:
    """Return the timeline: products done and failures, pods at work, faults a minute; a line for each event."""
    timeline: Sequence[Json] = told["timeline"]
    minutes = [one["t"] / 60 for one in timeline]
    with charts.figure_of("soak", 9.4, 6.2) as figure:
        top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1, 1))
        done = [one["done"] for one in timeline]
        top.fill_between(minutes, done, step="post", color=charts.COLOURS["first"], alpha=0.18, linewidth=0)
        top.step(minutes, done, where="post", color=charts.COLOURS["first"], linewidth=1.8, label="products done")
        failed = [one["failed"] for one in timeline]
        top.step(minutes, failed, where="post", color=charts.COLOURS["bad"], linewidth=1.4, label="failure records")
        top.set_ylim(0, max(told["n_products"], *failed) * 1.06)
        top.set_ylabel("products")
        middle.step(minutes, [one["running"] for one in timeline], where="post", color=charts.COLOURS["first"], label="jobs")
        middle.step(minutes, [one["drivers"] for one in timeline], where="post", color=charts.COLOURS["bad"], label="drivers")
        middle.set_ylabel("pods")
        bottom.fill_between(minutes, _rate(timeline), step="post", color=charts.COLOURS["second"], alpha=0.6, linewidth=0)
        bottom.set_ylabel("faults a min")
        bottom.set_xlabel("minutes since the start")
        _mark(told, (top, middle, bottom))
        for axes in (top, middle):
            axes.legend(frameon=False, loc="upper left", handlelength=1)
        drawing: str = charts.svg_of(figure, "soak", "Products, pods and faults over time")
        return drawing


def _mark(told: Json, panels: Sequence[Any]) -> None:  # axes of matplotlib
    seen = set()
    for event in told["events"]:
        words, colour, line = MARKS[event["kind"]]
        for axes in panels:
            label = words if axes is panels[0] and event["kind"] not in seen else None
            style = {"color": charts.COLOURS[colour], "linestyle": line, "linewidth": 1.2}
            axes.axvline(event["t"] / 60, label=label, **style)
        seen.add(event["kind"])
    start = 0.0
    for one in told["rounds"][:-1]:
        start += one["wall_s"]
        for axes in panels:
            axes.axvline(start / 60, color=charts.COLOURS["ink"], linewidth=0.8, alpha=0.5)


def _rate(timeline: Sequence[Json]) -> list[float]:
    """Return faults a minute between each sample and the one before it."""
    rates = [0.0]
    for before, now in pairwise(timeline):
        rates.append(60 * (now["faults"] - before["faults"]) / max(now["t"] - before["t"], 0.1))
    return rates


def _kills(told: Json) -> list[Json]:
    """Return what was done when a driver was killed, and how long it took until the next product was."""
    timeline, kills = told["timeline"], []
    for event in told["events"]:
        if event["kind"] == "kill":
            before = max((one["done"] for one in timeline if one["t"] <= event["t"]), default=0)
            after = next((one["t"] for one in timeline if one["t"] > event["t"] and one["done"] > before), None)
            kills.append({**event, "done": before, "next_s": None if after is None else round(after - event["t"])})
    return kills
