"""``failures``: what stands between a run and its end, from its state alone."""

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

from zarrmill.config import Settings
from zarrmill.core.excerpt import excerpt, secrets_of
from zarrmill.core.failures import FailureGroup, group_failures
from zarrmill.errors import FAILURE_CLASSES, CapacityError, ConfigError, StoreError, advice, help_of
from zarrmill.io.failed import keep_failure, tail_of
from zarrmill.io.listing import Listing
from zarrmill.io.manifest import read_manifest
from zarrmill.io.places import Place, together
from zarrmill.io.process import tell
from zarrmill.io.progress import Heartbeat, read_all_heartbeats
from zarrmill.io.record import read_record
from zarrmill.io.state import PRODUCT_STAGES, Failure, Failures, State
from zarrmill.model import FailureRecord, Json, Measured, Product

SCHEMA = "zarrmill/failures/1"
UNITS = {"m": 60.0, "h": 3600.0, "d": 86400.0}
"""Seconds of a unit of ``--since``."""


def parse_since(text: str, now: datetime) -> datetime:
    """Return the moment that ``7d``, ``12h``, ``30m`` ago was, or a date or time (UTC when it names no zone).

    Raises: ConfigError: it is neither.
    """
    if text[:-1].isdecimal() and text[-1:] in UNITS:
        with suppress(OverflowError):
            return now - timedelta(seconds=int(text[:-1]) * UNITS[text[-1]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"since {text!r} is not like 7d, 12h, 30m or 2025-01-31", kind="usage") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def check_class(failure_class: str) -> None:
    """Let a class pass, or nothing for all of them. Raises: ConfigError: there is none of that name."""
    if failure_class and failure_class not in FAILURE_CLASSES:
        raise ConfigError(f"class {failure_class!r} is not one of {', '.join(FAILURE_CLASSES)}", kind="usage")


def none_failed(failure_class: str, since: str | None) -> str:
    """Return the words for no failure among those that were asked for."""
    return "no product failed" + (f" with class {failure_class}" if failure_class else "") + (f" since {since}" if since else "")


def find_failures(settings: Settings, *, failure_class: str = "", since: datetime | None = None) -> tuple[FailureRecord, ...]:
    """Return the last failure of each product of the manifest that failed and did not succeed since, in manifest order.

    Costs listings and one read a failed product. A job that was killed gets its record first, see ``record_killed``; who may
    not write is told of it and reads what is there.
    Raises: ConfigError: there is no manifest, or a record cannot be read; UnknownStateError: the state cannot be read.
    """
    state = State.of(settings)
    products = read_manifest(state.manifest)
    try:
        record_killed(state, products, settings.run)
    except (CapacityError, StoreError) as error:
        tell(f"a job was killed, and its failure is not among these: {error}")
    listing = Listing(state.root)
    places = [failure.place for failure in _standing(state, products, listing)]
    records = together(_read, places, state.root.n_reads)
    return tuple(
        record
        for record in records
        if (not failure_class or record.failure_class == failure_class)
        and (since is None or datetime.fromisoformat(record.when) >= since)
    )


def group(settings: Settings, records: Iterable[FailureRecord]) -> tuple[FailureGroup, ...]:
    """Return failures in groups; the targets are as Snakemake names them."""
    found = tuple(records)
    named = {one.run: named_state(settings.model_copy(update={"run": one.run})) for one in found}
    return group_failures(found, {one.product.name: named[one.run].target(PRODUCT_STAGES[-1], one.product).href for one in found})


def replay_command(settings: Settings, config: Path, failure_class: str = "") -> str:
    """Return the command that builds what failed again; with the state in a bucket it takes a profile of a cluster."""
    only = f" --class {failure_class}" if failure_class else ""
    profile = " --profile ovh" if State.of(settings).root.remote else ""
    return f"zarrmill replay {settings.run}{only} --execute --config {config}{profile}"


def named_state(settings: Settings) -> State:
    """Return the state of a run as Snakemake's command line names it: in a bucket, below its storage prefix."""
    state = State.of(settings)
    return State(Place(settings.run)) if state.root.remote else state


def failures_json(settings: Settings, groups: Sequence[FailureGroup]) -> dict[str, Json]:
    """Return failures for machines: every group with what to do about each of its codes, and where that is told at length."""
    told = [
        {
            **asdict(one),
            "advice": {variant.code: advice(variant.code) for variant in one.variants},
            "help": {variant.code: help_of(variant.code) for variant in one.variants},
        }
        for one in groups
    ]
    return {"schema": SCHEMA, "run": settings.run, "n": sum(one.n for one in groups), "groups": told}


def record_killed(
    state: State,
    products: Sequence[Product],
    run: str,
    *,
    listing: Listing | None = None,
    beats: Sequence[Heartbeat] | None = None,
) -> tuple[Heartbeat, ...]:
    """Leave a failure record for every job that ended without one, and return what they left.

    A job that is killed (out of memory, evicted, by hand) cannot write a record, but leaves its heartbeat. Nothing is written
    about a job that may live: on this machine its process is gone, on another it has been silent for long.
    Args: listing, beats: what was listed and read a moment ago, to spare the requests.
    Raises: UnknownStateError: the state cannot be listed, or a heartbeat not be read; CapacityError, StoreError: a record
        cannot be written.
    """
    listing = listing or Listing(state.root)
    failures, by_name = Failures(state, listing), {product.name: product for product in products}
    killed, beats = [], read_all_heartbeats(state, listing) if beats is None else beats
    now = state.root.now() if beats else 0.0
    for beat in beats:
        product = by_name.get(beat.product)
        if product is None or not beat.dead(now) or listing.get(state.target(beat.stage, product)):
            continue
        known = failures.of(product)
        if any(one.stage == beat.stage and one.modified >= beat.started for one in known):
            continue
        _write_killed(state, product, beat, run, known)
        killed.append(beat)
    return tuple(killed)


def _write_killed(state: State, product: Product, beat: Heartbeat, run: str, known: Sequence[Failure]) -> None:
    first = max((one.attempt for one in known), default=0) + 1
    error = CapacityError(
        f"{product.product_id}: {beat.stage} ended without a word on {beat.host}, process {beat.pid}, after {beat.done} of "
        f"{beat.total} bytes; expected a target or a failure record; killed from outside, most often for its memory",
        kind="killed",
    )
    log = state.log(beat.stage, product)
    record = FailureRecord(
        run=run,
        stage=beat.stage,
        product=product,
        failure_class=error.failure_class,
        code=error.code,
        message=error.message,
        when=datetime.fromtimestamp(beat.updated, UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        log=log.href,
        findings=(),
        measured=Measured(attempt=first),
        excerpt=excerpt(tail_of(log.local), secrets_of(os.environ)),
    )
    keep_failure(record, state)


def _standing(state: State, products: Sequence[Product], listing: Listing) -> Iterable[Failure]:
    """Yield the last failure of each product whose failed stage has no target since."""
    failures = Failures(state, listing)
    for product in products:
        known = failures.of(product)
        if known and not listing.get(state.target(known[-1].stage, product)):
            yield known[-1]


def _read(place: Place) -> FailureRecord:
    return read_record(FailureRecord, place)
