"""Stage ``plan``: which products the run builds, why, with what recipe, memory, objects and hours.

``plan`` reads the catalogue, the sources' metadata, the state and the stores, and writes nothing. ``write_plan`` writes the
manifest that the workflow is built from. What cannot be told makes no work: an outage stops the plan, or leaves a product out.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from itertools import batched
from pathlib import Path
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zarrmill.config import Recipe, Settings, product_digest
from zarrmill.core.cost import limits, n_within
from zarrmill.core.entries import Entry, entry_of_item, entry_of_row, key_of_row, label, public_address
from zarrmill.core.estimate import Estimate, estimate, read_tree
from zarrmill.core.planned import PlanResult, Row, in_order
from zarrmill.core.planning import STORE_GONE, TO_DO, Facts, PlanClass, classify, distinct, entry_skip, key_skip, ordered
from zarrmill.errors import ConfigError, SourceError, UnknownStateError
from zarrmill.io.answers import MissingObjectError
from zarrmill.io.builds import Builds, drop_empty, drop_receipts, latest_failure, older_build, read_builds
from zarrmill.io.catalog import Listed, read_catalogue
from zarrmill.io.listing import Listing
from zarrmill.io.logs import logger
from zarrmill.io.manifest import by_key, read_manifest, write_manifest
from zarrmill.io.objects import Objects
from zarrmill.io.places import together
from zarrmill.io.record import dumps, record_text
from zarrmill.io.source import read_metadata
from zarrmill.io.state import PRODUCT_STAGES, Failures, State
from zarrmill.io.targets import keep_bucket
from zarrmill.model import PlanRecord, Product
from zarrmill.prices import Prices, euros, load_prices

__all__ = ["PlanResult", "count_days", "merge_plan", "plan", "print_plan", "write_plan"]

log = logger()

N_READERS = 16
"""Sources and stores that are asked at once."""

N_WRITERS = 32
"""Records that are written at once."""

BREAKER = 2 * N_READERS
"""Outages in a row after which the host counts as down."""

OUTAGES = frozenset({"timeout", "denied"})
"""Kinds of ``SourceError`` that leave open whether an object is there."""

N_EXAMPLE = 200
"""Characters of an example that are printed."""
N_ROWS_PRINTED = 20
"""Refused and unknown products that are printed; ``plan.html`` has all."""

N_ROWS_HTML = 500
"""Rows of each list that ``plan.html`` shows; ``plan.json`` has all."""


@dataclass(slots=True)
class _Draft:
    """What reading the catalogue has gathered so far."""

    entries: list[Entry] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    listed: set[str] = field(default_factory=set)
    missing_cloud_cover: set[tuple[str, str]] = field(default_factory=set)
    n_repeated: int = 0


@dataclass(frozen=True, slots=True)
class _Known:
    """A product whose source was looked at."""

    entry: Entry
    product: Product
    zarr_format: int


def plan(
    settings: Settings, recipes: Mapping[str, Recipe], *, now: datetime | None = None, stores_gone: bool = False
) -> PlanResult:
    """Decide on every product that the catalogue lists; write nothing.

    Args: recipes: recipe by product type; now: what ``min_age_hours`` counts from, the present when not given; stores_gone:
        a store root that holds nothing is what is meant, not a disk that is not mounted.
    Raises: ConfigError: the price list, or the catalogue's address, kind or collections are wrong; CatalogError: the catalogue
        refused or is not STAC; UnknownStateError: catalogue, hosts or state cannot be read to their end, or there are receipts
        but nothing at all in the store root.
    """
    prices = load_prices(settings)
    draft = _listed(settings, now or datetime.now(UTC))
    log.info("catalogue read", n_entries=len(draft.entries), n_left_out=len(draft.rows))
    chosen = _chosen(draft, settings, recipes)
    known: list[_Known] = []
    inspect = partial(_inspected, settings=settings, recipes=recipes)
    for entry, answer in _asked(inspect, chosen):
        if isinstance(answer, SourceError):
            draft.rows.append(_left_out(entry, answer))
        else:
            known.append(answer)
    log.info("sources read", n_known=len(known))
    known = _paid_for(known, draft, settings, prices)
    draft.rows.extend(_decided(known, settings, stores_gone))
    rows = in_order(draft.rows, settings.source.order)
    kept = {(row.collection, row.product_id) for row in rows if row.product is not None}
    return PlanResult(
        run=settings.run,
        catalogue=public_address(settings.source.catalogue),
        order=settings.source.order,
        threads=settings.threads,
        rows=tuple(rows),
        packed={entry.key: entry.packed for entry in chosen if entry.key in kept},
        n_repeated=draft.n_repeated,
        n_missing_cloud_cover=len(draft.missing_cloud_cover),
        ids_not_found=tuple(sorted(set(settings.source.ids) - draft.listed)),
        prices=prices,
        limits=limits([one.product for one in known], prices, settings) if prices else (),
        kept=_still_built(rows, State.of(settings)),
    )


def count_days(settings: Settings, recipes: Mapping[str, Recipe], *, now: datetime | None = None) -> Counter[date]:
    """Return how many products the catalogue lists for each day, filters applied; no source is looked at, nothing is written.

    Raises: as ``plan`` where the catalogue is read.
    """
    chosen = _chosen(_listed(settings, now or datetime.now(UTC)), settings, recipes)
    return Counter(datetime.fromisoformat(entry.acquired).astimezone(UTC).date() for entry in chosen)


def write_plan(result: PlanResult, state: State) -> None:
    """Write records, ``plan.json``, ``plan.html`` and at last the manifest; drop receipts whose store is gone, and empty targets.

    Files whose content would be the same are left alone, so that nothing depending on them runs again.
    Raises: UnknownStateError: nothing at all could be told, an older manifest stays; CapacityError, StoreError: disk full or
        not writable.
    """
    if result.counts[PlanClass.UNKNOWN] and not result.products:
        message = f"{state.manifest}: none of {result.counts[PlanClass.UNKNOWN]} products could be looked at; nothing was written"
        raise UnknownStateError(message, kind="outage")
    keep_bucket(state)
    listing = Listing(state.root)
    records = (PlanRecord(product, result.item(product)) for product in result.products)
    for _ in together(partial(_write_record, state, listing), records, N_WRITERS):
        pass
    state.plan_json.write_changed(dumps(result.to_json()).encode())
    state.plan_html.write_changed(_html(result).encode())
    for product in result.gone:
        drop_receipts(state, product)
    for product in result.products:
        drop_empty(state, listing, product)
    write_manifest(result.manifest, state.manifest)


def merge_plan(result: PlanResult, products: Sequence[Product], state: State) -> None:
    """Put planned products in the place of their rows in the manifest that is there; everything else of the run stays.

    Raises: ConfigError: there is no manifest; as ``write_plan``.
    """
    new = by_key(products)
    rows = [new.get((row.collection, row.product_id), row) for row in read_manifest(state.manifest)]
    listing = Listing(state.root)
    for product in products:
        _write_record(state, listing, PlanRecord(product, result.item(product)))
        if product in result.gone:
            drop_receipts(state, product)
        drop_empty(state, listing, product)
    write_manifest(rows, state.manifest)


def print_plan(result: PlanResult, console: Console) -> None:
    """Print classes with an example each, what is left out and why, filters, dates and the size of the work."""
    summary = result.summary()
    table = Table(title=f"Plan of run {result.run}", title_justify="left")
    for name, justify in (("class", "left"), ("products", "right"), ("for example", "left")):
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    for plan_class, n in result.counts.items():
        if not n:
            continue
        example = next((row for row in result.rows if row.plan_class is plan_class), None)
        words = f"{example.product_id}: {example.reason}" if example else ""
        table.add_row(plan_class.value, f"{n}", Text(words if len(words) <= N_EXAMPLE else f"{words[: N_EXAMPLE - 1]}…"))
    table.add_section()
    table.add_row("listed", f"{summary['n_listed']}", Text(result.catalogue))
    console.print(table)
    left_out = [row for row in result.rows if row.plan_class in (PlanClass.REFUSED, PlanClass.UNKNOWN)]
    for row in left_out[:N_ROWS_PRINTED]:
        console.print(Text(f"{row.plan_class.value} {row.product_id}: {row.code}: {row.reason}"), soft_wrap=True)
    if len(left_out) > N_ROWS_PRINTED:
        console.print(Text(f"and {len(left_out) - N_ROWS_PRINTED} more: see plan.html"))
    for line in result.lines():
        console.print(Text(line))


def _listed(settings: Settings, now: datetime) -> _Draft:
    """Read the whole catalogue and apply every filter but ``limit``."""
    draft = _Draft()
    left_out: set[Row] = set()
    found: list[Entry] = []
    for listed in read_catalogue(settings.source):
        answer = _read(listed, settings, now, draft)
        if isinstance(answer, Entry):
            found.append(answer)
        elif answer in left_out:
            draft.n_repeated += 1
        else:
            left_out.add(answer)
            draft.rows.append(answer)
    draft.entries, refused, n_repeated = distinct(found)
    draft.n_repeated += n_repeated
    draft.rows.extend(_left_out(entry, error) for entry, error in refused)
    return draft


def _read(listed: Listed, settings: Settings, now: datetime, draft: _Draft) -> Entry | Row:
    """Return the entry that a document describes, or the row that says why it is left out."""
    source, acquired = settings.source, ""
    collection, product_id = _key(listed)
    draft.listed.add(product_id)
    try:
        if listed.error is not None:
            raise listed.error
        skip = key_skip(collection, product_id, source)
        if skip is None:
            entry = _entry(listed)
            acquired = entry.acquired
            skip = entry_skip(entry, source, now)
            if entry.cloud_cover is None and (skip is None or skip.by in ("missing_cloud_cover", "min_age_hours")):
                draft.missing_cloud_cover.add(entry.key)
            if skip is None:
                return entry
    except SourceError as error:
        return Row(collection, product_id, PlanClass.REFUSED, error.message, acquired, code=error.code)
    return Row(collection, product_id, PlanClass.SKIPPED, skip.reason, acquired, skipped_by=skip.by)


def _key(listed: Listed) -> tuple[str, str]:
    """Return collection and id as listed, safe to print, also of a document that is refused."""
    if listed.row:
        collection, product_id = key_of_row(listed.row)
        return label(collection), label(product_id)
    return label(listed.item.get("collection") or listed.collection), label(
        listed.item.get("id") or Path(public_address(listed.address)).stem
    )


def _entry(listed: Listed) -> Entry:
    if listed.row:
        return entry_of_row(listed.row, listed.address)
    return entry_of_item(listed.item, listed.address, embedded=listed.embedded, collection=listed.collection)


def _chosen(draft: _Draft, settings: Settings, recipes: Mapping[str, Recipe]) -> list[Entry]:
    """Return the entries that a recipe serves, in order, up to the limit; the others become rows."""
    served: list[Entry] = []
    for entry in ordered(draft.entries, settings.source.order):
        if entry.product_type in recipes:
            served.append(entry)
            continue
        found = f"product type {entry.product_type or 'unknown'!r}"
        message = f"{'/'.join(entry.key)}: {found}; supported are {', '.join(sorted(recipes))}; add a recipe or leave it out"
        draft.rows.append(_left_out(entry, SourceError(message, kind="type")))
    limit = settings.source.limit
    for entry in served[limit:] if limit is not None else ():
        reason = f"beyond the first {limit}, {settings.source.order} first"
        draft.rows.append(Row(*entry.key, PlanClass.SKIPPED, reason, entry.acquired, skipped_by="limit"))
    return served[:limit]


def _inspected(entry: Entry, settings: Settings, recipes: Mapping[str, Recipe]) -> _Known:
    """Return the manifest row of one product.

    Raises: SourceError: the source is missing, its metadata cannot be read, or it is Zarr v3 and the recipe refuses that.
    """
    recipe = recipes[entry.product_type]
    fingerprint, size = entry.stable, Estimate()
    if settings.source.fingerprint == "metadata":
        place, data = _metadata(entry, settings)
        fingerprint, size = hashlib.sha256(data).hexdigest(), estimate(read_tree(data, place), recipe.pixels)
    if size.zarr_format == 3 and recipe.pixels.zarr3_source == "refuse":
        message = f"{entry.href}: the source is Zarr v3, recipe {recipe.name} refuses that; set pixels.zarr3_source: relayout"
        raise SourceError(message, kind="type")
    product = Product(
        collection=entry.collection,
        product_id=entry.product_id,
        datetime=entry.acquired,
        product_type=entry.product_type,
        href=entry.href,
        item_href=entry.item_href,
        recipe=recipe.name,
        digest=product_digest(recipe, fingerprint),
        source_fingerprint=fingerprint,
        n_bytes=size.n_bytes,
        n_objects=size.n_objects,
        mem_mb=recipe.memory_mb,
    )
    return _Known(entry, product, size.zarr_format)


def _paid_for(known: list[_Known], draft: _Draft, settings: Settings, prices: Prices | None) -> list[_Known]:
    """Return the products that ``max_cost_eur`` pays for, from the first; the others become rows."""
    most = settings.source.max_cost_eur
    if most is None or prices is None:
        return known
    n = n_within([one.product for one in known], prices, most)
    for one in known[n:]:
        reason = f"beyond the first {n}, which have a planned cost within {euros(most)}, {settings.source.order} first"
        draft.rows.append(Row(*one.entry.key, PlanClass.SKIPPED, reason, one.entry.acquired, skipped_by="max_cost_eur"))
    return known[:n]


def _metadata(entry: Entry, settings: Settings) -> tuple[str, bytes]:
    """Return place and bytes of the root's consolidated metadata."""
    try:
        key, data = read_metadata(Objects(entry.href, settings.source.timeout_s, settings.source.retries))
    except ValueError as error:
        raise SourceError(f"{entry.href}: not an address ({error}); correct the item", kind="missing") from None
    return f"{entry.href}/{key}", data


def _still_built(rows: Sequence[Row], state: State) -> tuple[Product, ...]:
    """Return products of the manifest that have every target, but cannot be looked at now, or are refused.

    What is published is not taken back because its source does not answer, or is not kept by its provider any more.
    Raises: UnknownStateError: the state cannot be read.
    """
    out = {(row.collection, row.product_id) for row in rows if row.plan_class in (PlanClass.UNKNOWN, PlanClass.REFUSED)}
    try:
        before = read_manifest(state.manifest) if out and state.manifest.exists() else ()
    except ConfigError:  # a malformed one is planned anew
        return ()
    listing, stages = Listing(state.root), ("plan", *PRODUCT_STAGES)
    asked = [product for product in before if (product.collection, product.product_id) in out]
    return tuple(product for product in asked if all(listing.get(state.target(stage, product)) for stage in stages))


def _decided(known: Sequence[_Known], settings: Settings, stores_gone: bool) -> Iterator[Row]:
    """Yield the row of every product whose source is known."""
    state = State.of(settings)
    listing = Listing(state.root)
    builds = read_builds(state, listing, (one.product.collection for one in known))
    failures = Failures(state, listing)
    built = [one for one in known if PRODUCT_STAGES[0] in builds.present(one.product)]
    sealed = {one.product: answer for one, answer in _asked(_store_asker(settings), built)}
    if not stores_gone:
        _check_root(settings, list(sealed.values()))
    facts = partial(_facts, state, builds, failures)
    for one, told in zip(known, together(facts, (one.product for one in known), state.root.n_reads), strict=True):
        answer = sealed.get(one.product, False)
        yield _left_out(one.entry, answer) if isinstance(answer, SourceError) else _row(one, replace(told, sealed=answer))


def _check_root(settings: Settings, sealed: Sequence[bool | SourceError]) -> None:
    """Raise UnknownStateError when not one of the stores that were built is there because nothing at all is, or cannot be told.

    A plain http server cannot list, so it is not asked.
    """
    root = _root(settings)
    if not sealed or any(sealed) or urlsplit(root.href).scheme in ("http", "https"):
        return
    try:
        is_empty = root.is_empty()
    except SourceError as error:
        raise UnknownStateError(f"{root.href}: {error.message}; nothing was decided", kind="outage") from error
    if is_empty:
        text = (
            f"{settings.store_root}: nothing is there, but {len(sealed)} products have the receipt of a store below it; mount it"
        )
        text += " or correct store_root; if the stores are gone for good, plan with --stores-gone to build them again"
        raise UnknownStateError(text, kind="outage")


def _facts(state: State, builds: Builds, failures: Failures, product: Product) -> Facts:
    """Return what the state says of one product."""
    failed_stage, failure = latest_failure(failures.of(product))
    return Facts(
        stages=PRODUCT_STAGES,
        present=builds.present(product),
        sealed=False,
        gone=(product.collection, product.product_id, product.digest) in builds.gone,
        failed_stage=failed_stage,
        failure=failure,
        older=older_build(state, product, builds.others(product)),
    )


def _row(one: _Known, facts: Facts) -> Row:
    product = one.product
    plan_class, reason = classify(facts)
    gone = reason == STORE_GONE
    if one.zarr_format == 3 and plan_class in TO_DO:
        reason = f"{reason}; the source is Zarr v3, laid out anew"
    return Row(
        product.collection,
        product.product_id,
        plan_class,
        reason,
        product.datetime,
        zarr_format=one.zarr_format,
        converts=plan_class in TO_DO and not facts.sealed,
        store_gone=gone,
        drops_receipts=gone and PRODUCT_STAGES[0] in facts.present,
        product=product,
    )


def _store_asker(settings: Settings) -> Callable[[_Known], bool]:
    """Return what tells whether a product's store is sealed: its root holds something. One that was never made holds none."""
    objects = _root(settings)
    if objects.local is not None and not objects.local.exists():
        return lambda one: False

    def sealed(one: _Known) -> bool:
        try:
            return objects.size(f"{one.product.store_path}/zarr.json") > 0
        except MissingObjectError:
            return False

    return sealed


def _root(settings: Settings) -> Objects:
    return Objects(settings.store_root, settings.source.timeout_s, settings.source.retries)


def _asked[T, A](question: Callable[[T], A], things: Sequence[T]) -> Iterator[tuple[T, A | SourceError]]:
    """Ask about every thing, some at once, and yield answers in order.

    Raises: UnknownStateError: ``BREAKER`` outages in a row; the rest is not asked.
    """

    def answer(thing: T) -> A | SourceError:
        try:
            return question(thing)
        except SourceError as error:
            return error

    n_outages = 0
    with ThreadPoolExecutor(N_READERS) as pool:
        for part in batched(things, N_READERS):
            for thing, found in zip(part, pool.map(answer, part), strict=True):
                outage = isinstance(found, SourceError) and found.kind in OUTAGES
                n_outages = n_outages + 1 if outage else 0
                if n_outages >= BREAKER:
                    message = f"{n_outages} requests in a row without an answer, last {found}; nothing was decided"
                    raise UnknownStateError(message, kind="outage")
                yield thing, found


def _left_out(entry: Entry, error: SourceError) -> Row:
    plan_class = PlanClass.UNKNOWN if error.kind in OUTAGES else PlanClass.REFUSED
    return Row(*entry.key, plan_class, error.message, entry.acquired, code=error.code)


def _write_record(state: State, listing: Listing, record: PlanRecord) -> None:
    place, data = state.target("plan", record.product), record_text(record).encode()
    if not listing.holds(place, data):
        place.write_bytes(data)


def _html(result: PlanResult) -> str:
    environment = Environment(loader=PackageLoader("zarrmill.io"), autoescape=True, undefined=StrictUndefined)
    summary = result.summary()
    lists = {
        "To do": [row for row in result.rows if row.plan_class in TO_DO],
        "Unknown": [row for row in result.rows if row.plan_class is PlanClass.UNKNOWN],
        "Refused": [row for row in result.rows if row.plan_class is PlanClass.REFUSED],
    }
    template = environment.get_template("plan.html.j2")
    return template.render(plan=summary, lines=list(result.lines()), lists=lists, most=N_ROWS_HTML) + "\n"
