"""What the report's page shows, as plain values: table rows, chart series, outlines. Pure."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from zarrmill.core.outcome import Outcome, ProductRecords, ProductRow, Ring
from zarrmill.core.summary import Summary
from zarrmill.model import Verdict

COLUMNS = (
    "name",
    "collection",
    "day",
    "type",
    "outcome",
    "reason",
    "verdict",
    "score",
    "seconds",
    "bytes",
    "objects",
    "memory",
    "cents",
    "files",
    "message",
)
"""Columns of the table's rows."""
FILES = ("convert", "validate", "stac", "thumbnail")
"""Files beside a product, as bits of the column ``files``: 1, 2, 4, 8."""
MAX_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Shape:
    """Products of one outline on the map."""

    rings: tuple[Ring, ...]
    colour: str
    """``good``, ``attention``, ``bad`` or ``idle``: the worst of its products."""
    title: str


def table(summary: Summary, files: Mapping[str, int]) -> list[list[object]]:
    """Return one list a product in the order of ``COLUMNS``; ``files`` has the bits by product name."""
    rows: list[list[object]] = []
    costs = cents(summary)
    for row in summary.products:
        cost = summary.measured.products[row.name]
        rows.append(
            [
                row.name,
                row.collection,
                row.day,
                row.product_type,
                row.outcome.value,
                row.reason,
                row.verdict,
                None if row.score is None else round(row.score, 2),
                round(cost.total_s, 1),
                row.n_bytes,
                row.n_objects,
                cost.peak_rss_bytes,
                costs.get(row.name),
                files.get(row.name, 0),
                _said(row),
            ]
        )
    return rows


def shapes(records: Sequence[ProductRecords], rows: Sequence[ProductRow]) -> tuple[Shape, ...]:
    """Return one shape for each outline, the worst last so that it lies on top. Equal outlines (one tile) count as one."""
    at: dict[tuple[Ring, ...], list[ProductRow]] = defaultdict(list)
    for record, row in zip(records, rows, strict=True):
        if record.footprint:
            at[tuple(tuple((round(x, 2), round(y, 2)) for x, y in ring) for ring in record.footprint)].append(row)
    order = ("idle", "good", "attention", "bad")
    found = [Shape(rings, _worst(members, order), _title(members)) for rings, members in at.items()]
    return tuple(sorted(found, key=lambda shape: (order.index(shape.colour), shape.title)))


def by_type(rows: Iterable[ProductRow], values: Mapping[str, float]) -> dict[str, list[float]]:
    """Return values by product type, for products that have one above 0; ``values`` are by product name."""
    series: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        if values.get(row.name, 0) > 0:
            series[row.product_type].append(values[row.name])
    common = sorted(series, key=lambda key: (-len(series[key]), key))
    if len(common) > 3:
        # A chart has three colours: the rarest types share the last.
        return {**{key: series[key] for key in common[:2]}, "others": [v for key in common[2:] for v in series[key]]}
    return {key: series[key] for key in common}


def ratios(rows: Iterable[ProductRow]) -> dict[str, float]:
    """Return decoded source bytes over store bytes by product name."""
    return {row.name: row.n_bytes_source / row.n_bytes for row in rows if row.n_bytes and row.n_bytes_source}


def cents(summary: Summary) -> dict[str, float]:
    """Return what products cost so far in cents (EUR), by name; nothing without prices, or of products without records."""
    costs = summary.measured.products.items()
    return {name: round(one.cost.eur * 100, 2) for name, one in costs if one.cost is not None and one.cost.eur > 0}


def scores(rows: Iterable[ProductRow]) -> dict[str, list[float]]:
    """Return validation scores by verdict, only verdicts that occur."""
    series: dict[str, list[float]] = {verdict.value: [] for verdict in Verdict}
    for row in rows:
        if row.score is not None:
            series[row.verdict].append(row.score)
    return {verdict: values for verdict, values in series.items() if values}


def stage_seconds(summary: Summary, stages: Sequence[str]) -> dict[str, list[float]]:
    """Return seconds of every product by stage, in the order of ``stages``."""
    costs = summary.measured.products.values()
    return {stage: [cost.wall_s[stage] for cost in costs if cost.wall_s.get(stage, 0) > 0] for stage in stages}


def finish_hours(records: Sequence[ProductRecords], rows: Sequence[ProductRow], started: str) -> list[float]:
    """Return hours from the first start to the end of each ``ok`` product's validation."""
    if not started:
        return []
    begin = datetime.fromisoformat(started)
    hours = []
    for record, row in zip(records, rows, strict=True):
        if row.outcome != Outcome.OK or record.validation is None:
            continue
        measured = record.validation.measured
        try:
            end = datetime.fromisoformat(measured.started) + timedelta(seconds=measured.wall_s)
            hours.append((end - begin).total_seconds() / 3600)
        except (ValueError, TypeError):
            # Without a time, or without a zone, it has no place on the axis.
            continue
    return hours


def ring_lists(geometry: object) -> tuple[Ring, ...]:
    """Return the outer rings of a GeoJSON Polygon or MultiPolygon; empty when it is not one."""
    if not isinstance(geometry, Mapping):
        return ()
    try:
        parts = {"Polygon": lambda c: [c[0]], "MultiPolygon": lambda c: [part[0] for part in c]}[geometry["type"]](
            geometry["coordinates"]
        )
        rings = tuple(tuple((float(point[0]), float(point[1])) for point in part) for part in parts)
    except (KeyError, TypeError, ValueError, IndexError):
        return ()
    sane = all(abs(x) <= 360 and abs(y) <= 90 for ring in rings for x, y in ring)
    return rings if sane and all(len(ring) >= 3 for ring in rings) else ()


def _said(row: ProductRow) -> str:
    """First line of the message, without the product's name that stands beside it."""
    line = row.message.strip().partition("\n")[0]
    return line.removeprefix(f"{row.name}: ").removeprefix(f"{row.product_id}: ")[:MAX_MESSAGE]


def _worst(rows: Sequence[ProductRow], order: Sequence[str]) -> str:
    return max((_colour(row) for row in rows), key=order.index)


def _colour(row: ProductRow) -> str:
    if row.outcome == Outcome.FAILED:
        return "bad"
    if row.outcome != Outcome.OK:
        return "idle"
    return "attention" if row.verdict == Verdict.WARN else "good"


def _title(rows: Sequence[ProductRow]) -> str:
    counts = Counter(row.reason if row.outcome == Outcome.FAILED else row.outcome.value for row in rows)
    outcome = ", ".join(f"{n} {what}" for what, n in counts.most_common())
    if len(rows) == 1:
        what = f"failed: {rows[0].reason}" if rows[0].outcome == Outcome.FAILED else rows[0].reason or rows[0].outcome.value
        return f"{rows[0].product_id}\n{what}"
    tiles = {match[1] for row in rows if (match := re.search(r"_T?(\d{2}[A-Z]{3})(?=_|$)", row.product_id))}
    place = f"Tile {tiles.pop()}" if len(tiles) == 1 else "Same outline"
    return f"{place}: {len(rows)} products\n{outcome}"
