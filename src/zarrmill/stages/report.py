"""``report``: what became of a run, as one HTML page that needs nothing beside itself and one JSON file.

It can always be written: after failures, after an interruption, for a run that was only planned, with half of the records
missing. A record that cannot be read is listed in the report; it does not stop it.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from pydantic import TypeAdapter

from zarrmill.config import Recipe, Settings, load_recipes
from zarrmill.core import page, story
from zarrmill.core.outcome import ProductRecords, Ring
from zarrmill.core.summary import SCHEMA, Skipped, Summary, Unreadable, summarise
from zarrmill.core.words import number
from zarrmill.errors import ConfigError, UnknownStateError, advice, help_of
from zarrmill.io import charts
from zarrmill.io.benchmarks import read_benchmarks
from zarrmill.io.listing import Listing
from zarrmill.io.manifest import read_manifest
from zarrmill.io.objects import local_path
from zarrmill.io.page import embedded_json, inline_image, render_page
from zarrmill.io.places import Place, together
from zarrmill.io.progress import read_heartbeats, short_name
from zarrmill.io.record import dumps, read_record
from zarrmill.io.state import PRODUCT_STAGES, Failures, State
from zarrmill.model import ConvertReceipt, FailureRecord, Json, Measured, Product, ValidationReport, Verdict
from zarrmill.prices import euros, parse_prices

COMMAND = "snakemake --config run={run} --profile profiles/{profile}"
"""What starts a run."""
MAX_QUICKLOOKS = 60
"""Most thumbnails that are put into the page."""
QUICKLOOK_PX = 220
"""Longest edge of a thumbnail in the page."""


def report(
    settings: Settings,
    *,
    page_to: Place | None = None,
    summary_to: Place | None = None,
    workdir: Path | None = None,
    now: datetime | None = None,
    catalog: bool = False,
) -> Summary:
    """Write ``report/index.html`` and ``summary.json`` of a run and return the summary.

    Args: page_to, summary_to: where to write them, by default in the run's state; workdir: folder that relative paths start
    from, by default the current one; now: time of the report; catalog: link to the catalogue though it may not be there yet,
    because it is written at the same time.
    Raises: CapacityError, StoreError: the report cannot be written; UnknownStateError: the state cannot be listed.
        Unreadable records never raise.
    """
    summary, records, recipes, reader = _survey(settings, workdir, now)
    stores = _stores(settings.store_root, workdir or Path(), reader.state.report.parent)
    (summary_to or reader.state.summary).write_text(dumps(summary_json(summary)))
    command = COMMAND.format(run=settings.run, profile="ovh" if State.of(settings).root.remote else "local")
    (page_to or reader.state.report).write_text(_html(summary, records, reader, stores, command, recipes, catalog=catalog))
    return summary


def survey(settings: Settings, *, workdir: Path | None = None, now: datetime | None = None) -> Summary:
    """Return the summary of a run without writing anything. Raises: UnknownStateError: the state cannot be listed."""
    return _survey(settings, workdir, now)[0]


def _survey(
    settings: Settings, workdir: Path | None, now: datetime | None
) -> "tuple[Summary, tuple[ProductRecords, ...], Mapping[str, Recipe], _Reader]":
    reader = _Reader(settings, State.of(settings, workdir), now or datetime.now(UTC))
    recipes = reader.recipes(settings, workdir or Path())
    records = reader.products()
    plan = reader.plan()
    summary = summarise(
        settings.run,
        records,
        generated=reader.now,
        skipped=reader.skipped(plan),
        unreadable=tuple(reader.unreadable),
        max_objects={name: recipe.validation.max_objects for name, recipe in recipes.items()},
        prices=parse_prices(plan.get("prices")),
    )
    return summary, records, recipes, reader


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

    def __init__(self, settings: Settings, state: State, now: datetime) -> None:
        self.state = state
        self.named = State(Place(settings.run)) if state.root.remote else State.of(settings)
        """The same run as Snakemake names its targets: relative to the working folder, or to the prefix in the bucket."""
        self.now = now
        self.listing = Listing(state.root)
        self.failures = Failures(state, self.listing)
        self.unreadable: list[Unreadable] = []

    def recipes(self, settings: Settings, base: Path) -> Mapping[str, Recipe]:
        """Return the recipe of each product type; none when one cannot be read."""
        try:
            absolute = tuple(str(base / name) for name in settings.recipes)
            return load_recipes(settings.model_copy(update={"recipes": absolute}))
        except (ConfigError, OSError) as error:
            self.unreadable.append(self._complaint(Place("recipes"), error))
            return {}

    def products(self) -> tuple[ProductRecords, ...]:
        """Return the records of every product of the manifest; without one, of every product that left a record."""
        beats = self._running()
        costs: dict[str, dict[str, Measured]] = {}
        for (stage, name), cost in read_benchmarks(self.state, self.listing).items():
            costs.setdefault(name, {})[stage] = cost
        try:
            products: Sequence[Product] = read_manifest(self.state.manifest) if self.listing.get(self.state.manifest) else ()
        except ConfigError as error:
            self.unreadable.append(self._complaint(self.state.manifest, error))
            products = ()
        read = together(self._product, products or self._recovered(), self.state.root.n_reads)
        records = []
        for record, complaints in read:
            name = record.product.name
            records.append(replace(record, running=beats.get(name, ""), benchmarks=costs.get(name, {})))
            self.unreadable += complaints
        return tuple(records)

    def plan(self) -> Mapping[str, Json]:
        """Return ``plan.json``; empty when there is none that can be read."""
        plan = self._json(self.state.plan_json, self.unreadable)
        return plan if isinstance(plan, dict) else {}

    def _running(self) -> dict[str, str]:
        """Return the stage that works on each product now."""
        try:
            return {beat.product: beat.stage for beat in read_heartbeats(self.state, self.listing)}
        except UnknownStateError as error:
            self.unreadable.append(self._complaint(self.state.root / "progress", error))
            return {}

    def skipped(self, plan: Mapping[str, Json]) -> tuple[Skipped, ...]:
        """Return what the plan left out: by filter when skipped, by class and code when refused or unknown."""
        left = [
            row
            for row in plan.get("products", [])
            if isinstance(row, dict) and row.get("class") in ("skipped", "refused", "unknown")
        ]
        return tuple(
            Skipped(
                str(row.get("product_id", "")),
                str(row.get("skipped_by") or f"{row['class']} {row.get('code', '')}".strip()),
            )
            for row in left
        )

    def files(self, product: Product) -> int:
        """Return which files of one product are there: a bit a stage, and one for the thumbnail."""
        places = [*(self.state.target(stage, product) for stage in PRODUCT_STAGES), self.state.thumbnail(product)]
        return sum(1 << bit for bit, place in enumerate(places) if self.listing.get(place))

    def _product(self, product: Product) -> tuple[ProductRecords, list[Unreadable]]:
        complaints: list[Unreadable] = []
        receipt = self._record(ConvertReceipt, self.state.target("convert", product), complaints)
        validation = self._record(ValidationReport, self.state.target("validate", product), complaints)
        item = self._json(self.state.target("stac", product), complaints)
        broken = {Path(one.path).parent.name for one in complaints}
        failures = [self._record(FailureRecord, failure.place, complaints) for failure in self.failures.of(product)]
        record = ProductRecords(
            product=product,
            target=self.named.target(PRODUCT_STAGES[-1], product).href,
            receipt=receipt,
            validation=validation,
            item=isinstance(item, dict),
            failures=tuple(failure for failure in failures if failure is not None),
            unreadable=tuple(stage for stage in PRODUCT_STAGES if stage in broken),
            running="",
            footprint=self._footprint(product, item, complaints),
            benchmarks={},
        )
        return record, complaints

    def _footprint(self, product: Product, item: Json, complaints: list[Unreadable]) -> tuple[Ring, ...]:
        """Outline from the item, else from the source's item that the plan kept."""
        if isinstance(item, dict):
            return page.ring_lists(item.get("geometry"))
        kept = self._json(self.state.target("plan", product), complaints)
        source = kept.get("item") if isinstance(kept, dict) else None
        return page.ring_lists(source.get("geometry")) if isinstance(source, dict) else ()

    def _recovered(self) -> tuple[Product, ...]:
        """Return the products of all receipts and failure records; what of them cannot be read is not worth a word."""
        receipts = [place for folder in self._folders("convert") for place, _ in self.listing.below(folder)]
        read = [self._record(ConvertReceipt, place, []) for place in receipts]
        read_too = [self._record(FailureRecord, place, []) for place in self.failures.places()]
        found = {one.product.name: one.product for one in (*read, *read_too) if one is not None}
        return tuple(sorted(found.values(), key=lambda product: (product.datetime, product.name), reverse=True))

    def _folders(self, stage: str) -> Iterator[Place]:
        """Yield the folders of one stage, of every collection and day."""
        for collection in self.listing.folders(self.state.root):
            for day in self.listing.folders(self.state.root / collection):
                yield self.state.root / collection / day / stage

    def _record[R](self, kind: type[R], place: Place, complaints: list[Unreadable]) -> R | None:
        if place.name not in self.listing.files(place.parent):
            return None
        try:
            return read_record(kind, place)
        except (ConfigError, UnknownStateError) as error:
            complaints.append(self._complaint(place, error))
            return None

    def _json(self, place: Place, complaints: list[Unreadable]) -> Json:
        if place.name not in self.listing.files(place.parent):
            return None
        try:
            return json.loads(place.read_bytes())
        except (OSError, UnknownStateError, ValueError) as error:
            complaints.append(self._complaint(place, error))
            return None

    def _complaint(self, place: Place, error: Exception) -> Unreadable:
        inside = place.href.startswith(f"{self.state.root}/")
        shown = place.key_in(self.state.root) if inside else str(place)
        reason = str(error).replace(f"{place}: ", "").split("\n")[0]
        return Unreadable(shown, reason[:200])


def _html(
    summary: Summary,
    records: Sequence[ProductRecords],
    reader: _Reader,
    stores: str,
    command: str,
    recipes: Mapping[str, Recipe],
    *,
    catalog: bool,
) -> str:
    state = reader.state
    files = {record.product.name: reader.files(record.product) for record in records}
    values = {
        "summary": summary,
        "cost": summary.measured.cost,
        "counts": summary.counts,
        "mood": story.mood(summary),
        "headline": story.headline(summary),
        "story": story.story(summary),
        "steps": story.next_steps(summary, command),
        "command": command,
        "replays": {group.failure_class: story.replay(command, group.targets) for group in summary.failures},
        "advice": {variant.code: advice(variant.code) for group in summary.failures for variant in group.variants},
        "help": {variant.code: help_of(variant.code) for group in summary.failures for variant in group.variants},
        "stages": [stage for stage in PRODUCT_STAGES if stage in summary.measured.stages],
        "charts": _charts(summary, records, recipes),
        "map": _map(summary, records),
        "quicklooks": _quicklooks(summary, records, state, files),
        "n_thumbnails": sum(bits >= 8 for bits in files.values()),
        "data": embedded_json({"columns": page.COLUMNS, "rows": page.table(summary, files), "stores": stores}),
        "logs": {group.failure_class: _beside(group.log, reader) for group in summary.failures},
        "plan": reader.listing.get(state.plan_html) is not None,
        "catalog": catalog or reader.listing.get(state.catalog / "catalog.json") is not None,
    }
    filters: dict[str, Callable[..., object]] = {
        "number": number,
        "size": story.size,
        "duration": story.duration,
        "day": story.day,
        "euros": euros,
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
        "Cost": charts.histogram("cost", page.by_type(rows, page.cents(summary)), "cents (EUR) of a product"),
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
    rows = [(row, record.product) for row, record in pairs if files[row.name] & 8]
    images = together(lambda pair: inline_image(state.thumbnail(pair[1]), QUICKLOOK_PX), rows, state.root.n_reads)
    shown = ((row, image) for (row, _), image in zip(rows, images, strict=True) if image is not None)
    return [
        {
            "image": image,
            "name": row.product_id,
            "label": short_name(row.product_id),
            "day": row.day,
            "verdict": row.verdict,
            "link": f"../{row.collection}/{row.day}/stac/{row.name}",
        }
        for row, image in islice(shown, MAX_QUICKLOOKS)
    ]


def _stores(store_root: str, base: Path, folder: Place) -> str:
    """Return the way from the report to the stores, ending in a slash; empty when no browser can go it."""
    root = local_path(store_root)
    return f"{_relative(base / root, folder.local)}/" if root is not None and folder.local else ""


def _beside(log: str, reader: _Reader) -> str:
    """Return the way from the report to a log; empty when it is not there."""
    if not log:
        return ""
    root = reader.state.root
    if root.local is None:
        inside = log.startswith(f"{root}/") and reader.listing.get(Place(log))
        return f"../{Place(log).key_in(root)}" if inside else ""
    candidates = [Path(log), *(parent / log for parent in (root.local, *root.local.parents))]
    found = next((place for place in candidates if place.is_file()), None)
    return _relative(found, root.local / "report") if found else ""


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
