"""``report``: what became of a run, as one HTML page that needs nothing beside itself and one JSON file.

It can always be written: after failures, after an interruption, for a run that was only planned, with half of the records
missing. A record that cannot be read is listed in the report; it does not stop it.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from zarrmill.config import Recipe, Settings, load_recipes
from zarrmill.core import page, story
from zarrmill.core.outcome import ProductRecords, Ring
from zarrmill.core.summary import SCHEMA, Skipped, Summary, Unreadable, summarise
from zarrmill.errors import CODES, ConfigError
from zarrmill.io import charts
from zarrmill.io.benchmarks import read_benchmarks
from zarrmill.io.manifest import read_manifest
from zarrmill.io.objects import local_path
from zarrmill.io.page import embedded_json, inline_image, render_page
from zarrmill.io.progress import read_heartbeats, short_name
from zarrmill.io.record import dumps, read_record, write_text
from zarrmill.io.state import PRODUCT_STAGES, State
from zarrmill.model import ConvertReceipt, FailureRecord, Json, Measured, Product, ValidationReport, Verdict

COMMAND = "snakemake --profile profiles/local"
"""What starts a run on one machine."""
MAX_QUICKLOOKS = 60
"""Most thumbnails that are put into the page."""
QUICKLOOK_PX = 220
"""Longest edge of a thumbnail in the page."""


def report(settings: Settings, *, workdir: Path | None = None, command: str = COMMAND, now: datetime | None = None) -> Summary:
    """Write ``report/index.html`` and ``summary.json`` of a run and return the summary.

    Args: workdir: folder that relative paths start from, by default the current one; command: what the user typed to run,
    shown as the way to continue; now: time of the report.
    Raises: CapacityError, StoreError: the report cannot be written. Unreadable input never raises.
    """
    summary, records, recipes, state = _survey(settings, workdir, now)
    stores = _stores(settings.store_root, workdir or Path(), state.report.parent)
    write_text(state.summary, dumps(summary_json(summary)))
    write_text(state.report, _html(summary, records, state, stores, command, recipes))
    return summary


def survey(settings: Settings, *, workdir: Path | None = None, now: datetime | None = None) -> Summary:
    """Return the summary of a run without writing anything."""
    return _survey(settings, workdir, now)[0]


def _survey(
    settings: Settings, workdir: Path | None, now: datetime | None
) -> tuple[Summary, tuple[ProductRecords, ...], Mapping[str, Recipe], State]:
    base = workdir or Path()
    reader = _Reader(State(base / settings.run_root), State(settings.run_root), now or datetime.now(UTC))
    recipes = reader.recipes(settings, base)
    records = reader.products()
    skipped = reader.skipped()
    summary = summarise(
        settings.run,
        records,
        generated=reader.now,
        skipped=skipped,
        unreadable=tuple(reader.unreadable),
        max_objects={name: recipe.validation.max_objects for name, recipe in recipes.items()},
    )
    return summary, records, recipes, reader.state


def summary_json(summary: Summary) -> dict[str, Json]:
    """Return ``summary.json``; everything that differs between two equal runs is below ``measured``."""
    body = TypeAdapter(Summary).dump_python(summary, mode="json")
    body["measured"]["story"] = story.story(summary)
    return {
        "schema": SCHEMA,
        **body,
        "counts": summary.counts,
        "verdicts": summary.verdicts,
        "n_bytes": summary.n_bytes,
        "n_bytes_source": summary.n_bytes_source,
        "n_objects": summary.n_objects,
        "exit_code": summary.exit_code,
    }


class _Reader:
    """Reads the records of one run and keeps a list of those that it could not read."""

    def __init__(self, state: State, named: State, now: datetime) -> None:
        self.state = state
        self.named = named
        """The same run as Snakemake names its paths: relative to the working folder."""
        self.now = now
        self.unreadable: list[Unreadable] = []

    def recipes(self, settings: Settings, base: Path) -> Mapping[str, Recipe]:
        """Return the recipe of each product type; none when one cannot be read."""
        try:
            absolute = tuple(str(base / name) for name in settings.recipes)
            return load_recipes(settings.model_copy(update={"recipes": absolute}))
        except (ConfigError, OSError) as error:
            self._complain(Path("recipes"), error)
            return {}

    def products(self) -> tuple[ProductRecords, ...]:
        """Return the records of every product of the manifest; without one, of every product that left a record."""
        beats = {beat.product: beat.stage for beat in read_heartbeats(self.state, self.now.timestamp())}
        benchmarks = read_benchmarks(self.state)
        try:
            products: Sequence[Product] = read_manifest(self.state.manifest) if self.state.manifest.exists() else ()
        except (ConfigError, OSError) as error:
            self._complain(self.state.manifest, error)
            products = ()
        costs: dict[str, dict[str, Measured]] = {}
        for (stage, name), cost in benchmarks.items():
            costs.setdefault(name, {})[stage] = cost
        return tuple(
            self._product(product, beats.get(product.name, ""), costs.get(product.name, {}))
            for product in products or self._recovered()
        )

    def skipped(self) -> tuple[Skipped, ...]:
        """Return what the plan left out: by filter when skipped, by class and code when refused or unknown."""
        plan = self._json(self.state.plan_json)
        rows = plan.get("products", []) if isinstance(plan, dict) else []
        left = [row for row in rows if isinstance(row, dict) and row.get("class") in ("skipped", "refused", "unknown")]
        return tuple(
            Skipped(
                str(row.get("product_id", "")),
                str(row.get("skipped_by") or f"{row['class']} {row.get('code', '')}".strip()),
            )
            for row in left
        )

    def _product(self, product: Product, running: str, costs: Mapping[str, Measured]) -> ProductRecords:
        known = len(self.unreadable)
        receipt = self._record(ConvertReceipt, self.state.target("convert", product))
        validation = self._record(ValidationReport, self.state.target("validate", product))
        item = self._json(self.state.target("stac", product))
        broken = {Path(one.path).parent.name for one in self.unreadable[known:]}
        failures = (self._record(FailureRecord, path) for path in self.state.failures_of(product))
        return ProductRecords(
            product=product,
            target=self.named.target(PRODUCT_STAGES[-1], product).as_posix(),
            receipt=receipt,
            validation=validation,
            item=isinstance(item, dict),
            failures=tuple(failure for failure in failures if failure is not None),
            unreadable=tuple(stage for stage in PRODUCT_STAGES if stage in broken),
            running=running,
            footprint=self._footprint(product, item),
            benchmarks=costs,
        )

    def _footprint(self, product: Product, item: Json) -> tuple[Ring, ...]:
        """Outline from the item, else from the source's item that the plan kept."""
        if isinstance(item, dict):
            return page.ring_lists(item.get("geometry"))
        kept = self._json(self.state.target("plan", product))
        source = kept.get("item") if isinstance(kept, dict) else None
        return page.ring_lists(source.get("geometry")) if isinstance(source, dict) else ()

    def _recovered(self) -> tuple[Product, ...]:
        paths = sorted(self.state.root.glob("*/[0-9]*/convert/*.json"))
        receipts = (self._record(ConvertReceipt, path) for path in paths)
        failures = (self._record(FailureRecord, path) for path in sorted(self.state.failed.glob("*/*/*/*/*.json")))
        found = {one.product.name: one.product for one in (*receipts, *failures) if one is not None}
        self.unreadable = [one for one in self.unreadable if one.path.endswith(".csv") or one.path == "recipes"]
        return tuple(sorted(found.values(), key=lambda product: (product.datetime, product.name), reverse=True))

    def _record[R](self, kind: type[R], path: Path) -> R | None:
        if not path.exists():
            return None
        try:
            return read_record(kind, path)
        except (ConfigError, OSError) as error:
            self._complain(path, error)
            return None

    def _json(self, path: Path) -> Json:
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            self._complain(path, error)
            return None

    def _complain(self, path: Path, error: Exception) -> None:
        inside = path.is_relative_to(self.state.root)
        shown = path.relative_to(self.state.root).as_posix() if inside else str(path)
        reason = str(error).replace(f"{path}: ", "").split("\n")[0]
        self.unreadable.append(Unreadable(shown, reason[:200]))


def _html(
    summary: Summary,
    records: Sequence[ProductRecords],
    state: State,
    stores: str,
    command: str,
    recipes: Mapping[str, Recipe],
) -> str:
    folder = state.report.parent
    files = {record.product.name: _files(state, record) for record in records}
    values = {
        "summary": summary,
        "counts": summary.counts,
        "mood": story.mood(summary),
        "headline": story.headline(summary),
        "story": story.story(summary),
        "steps": story.next_steps(summary, command),
        "command": command,
        "replays": {group.failure_class: story.replay(command, group.targets) for group in summary.failures},
        "advice": CODES,
        "stages": [stage for stage in PRODUCT_STAGES if stage in summary.measured.stages],
        "charts": _charts(summary, records, recipes),
        "map": _map(summary, records),
        "quicklooks": _quicklooks(summary, records, state, files),
        "n_thumbnails": sum(bits >= 8 for bits in files.values()),
        "data": embedded_json({"columns": page.COLUMNS, "rows": page.table(summary, files), "stores": stores}),
        "logs": {group.failure_class: _beside(group.log, state, folder) for group in summary.failures},
        "plan": state.plan_html.exists(),
        "catalog": (state.catalog / "catalog.json").exists(),
    }
    filters: dict[str, Callable[..., object]] = {
        "number": story.number,
        "size": story.size,
        "duration": story.duration,
        "day": story.day,
    }
    return render_page("report.html.j2", values, filters)


def _charts(summary: Summary, records: Sequence[ProductRecords], recipes: Mapping[str, Recipe]) -> dict[str, str]:
    rows, cost = summary.products, summary.measured
    budgets = {recipe.validation.max_objects for name, recipe in recipes.items() if any(r.product_type == name for r in rows)}
    planned_mb = max((record.product.mem_mb for record in records), default=0)
    peaks_mb = {name: one.peak_rss_bytes / 1e6 for name, one in cost.products.items()}
    ratios = page.ratios(rows)
    scores = page.scores(rows)
    colours = {Verdict.PASS: "good", Verdict.WARN: "attention", Verdict.FAIL: "bad"}
    budget = max(budgets, default=0)
    drawn = {
        "Time by stage": charts.stage_bars("time", page.stage_seconds(summary, PRODUCT_STAGES), story.duration),
        "Products over time": charts.finished_over_time("pace", page.finish_hours(records, rows, cost.started)),
        "Compression": charts.histogram("ratio", page.by_type(rows, ratios), "decoded source bytes for one byte stored"),
        "Objects": charts.histogram(
            "objects",
            page.by_type(rows, {row.name: row.n_objects for row in rows}),
            "objects in a store",
            limit=(budget, f"budget {budget}") if budget else None,
        ),
        "Peak memory": charts.histogram(
            "memory",
            page.by_type(rows, peaks_mb),
            "peak memory of a product in MB",
            limit=(planned_mb, f"planned {planned_mb}") if planned_mb else None,
        ),
        "Validation score": charts.histogram(
            "score",
            scores,
            "score, 0 to 100",
            colours=[colours[Verdict(verdict)] for verdict in scores],
            bounds=(min([90.0, *(value for values in scores.values() for value in values)]), 100.0),
        ),
    }
    return {title: svg for title, svg in drawn.items() if svg}


def _map(summary: Summary, records: Sequence[ProductRecords]) -> str:
    shapes = page.shapes(records, summary.products)
    return charts.footprint_map("map", [charts.Outline(shape.rings, shape.colour, shape.title) for shape in shapes])


def _quicklooks(
    summary: Summary, records: Sequence[ProductRecords], state: State, files: Mapping[str, int]
) -> list[dict[str, str]]:
    """Return the thumbnails for the page: stores with warnings first, then in the order of the manifest."""
    pairs = sorted(zip(summary.products, records, strict=True), key=lambda pair: pair[0].verdict != Verdict.WARN)
    looks: list[dict[str, str]] = []
    for row, record in pairs:
        if len(looks) == MAX_QUICKLOOKS:
            break
        image = inline_image(state.thumbnail(record.product), QUICKLOOK_PX) if files[row.name] & 8 else None
        if image is not None:
            link = f"../{row.collection}/{row.day}/stac/{row.name}"
            label = short_name(row.product_id)
            looks.append(
                {"image": image, "name": row.product_id, "label": label, "day": row.day, "verdict": row.verdict, "link": link}
            )
    return looks


def _files(state: State, record: ProductRecords) -> int:
    places = [*(state.target(stage, record.product) for stage in PRODUCT_STAGES), state.thumbnail(record.product)]
    return sum(1 << bit for bit, path in enumerate(places) if path.exists())


def _stores(store_root: str, base: Path, folder: Path) -> str:
    """Return the way from the report to the stores, ending in a slash; empty when they are not on this machine."""
    root = local_path(store_root)
    return f"{_relative(base / root, folder)}/" if root is not None else ""


def _beside(path: str, state: State, folder: Path) -> str:
    """Return the way from the report to a log; empty when it is not there."""
    if not path:
        return ""
    candidates = [Path(path), *(parent / path for parent in (state.root, *state.root.parents))]
    found = next((place for place in candidates if place.is_file()), None)
    return _relative(found, folder) if found else ""


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
