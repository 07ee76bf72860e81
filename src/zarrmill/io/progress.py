"""How far a run is: heartbeats that stages write, and one line that tells people.

A heartbeat is ``<run>/progress/<product>.json``. It exists while a stage works on a product, says how far it is, and is
believed only while its process lives and it is younger than ``STALE_S``. Its age is told by the clock of the place that it lies
in: those of the machine that wrote it and of the one that reads it may be wrong. Everything else is told by which targets
and failure records exist, so the line needs no driver and no database.
"""

import json
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from threading import Event, RLock, Thread

from zarrmill.errors import EXIT_BROKEN, EXIT_FAILED, EXIT_OK, EXIT_UNKNOWN, ZarrmillError
from zarrmill.io.listing import Listing
from zarrmill.io.places import Place
from zarrmill.io.places import together as places_together
from zarrmill.io.record import dumps
from zarrmill.io.state import PRODUCT_STAGES, Failures, State
from zarrmill.model import Product
from zarrmill.prices import Cost, euro_range, euros

SCHEMA = "zarrmill/progress/1"
STALE_S = 60.0
"""Age in seconds at which a heartbeat no longer counts as running."""
SILENT_S = 900.0
"""Age in seconds at which a heartbeat of another machine is taken for that of a killed job."""
EVERY_S = 1.0
"""Shortest time in seconds between two writes of one heartbeat on disk."""
EVERY_REMOTE_S = 20.0
"""The same in a bucket."""
RENEW_S = 20.0
"""Seconds after which a heartbeat is written again while its stage has nothing to tell, as when it fetches or waits."""
WINDOW_S = 3600.0
"""Length in seconds of the recent past that the rate is measured over."""

Tick = Callable[[int, int], None]
"""``tick(bytes_done, bytes_total)``; a total of 0 is not known."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """How far one stage is with one product."""

    stage: str
    product: str
    """Name of the product, as in its targets."""
    done: int
    """Bytes done."""
    total: int
    """Bytes to do; 0 when not known."""
    started: float
    """Seconds since the epoch; in the file by the clock of ``host``, once read by that of the place."""
    updated: float
    """The same of the last tick that was written."""
    pid: int
    host: str
    """Machine on which ``pid`` means something."""

    @property
    def share(self) -> float | None:
        """Share that is done, 0 to 1; None when the total is not known."""
        return min(1.0, self.done / self.total) if self.total > 0 else None

    def alive(self, now: float) -> bool:
        """Return whether this counts as running: recent by ``Place.now``, and its process there when it ran on this machine."""
        if now - self.updated > STALE_S:
            return False
        return self.host != socket.gethostname() or _process_exists(self.pid)

    def dead(self, now: float) -> bool:
        """Return whether the job is certainly over: its process is gone, or, where that cannot be seen, long silent."""
        if self.host == socket.gethostname():
            return not _process_exists(self.pid)
        return now - self.updated > SILENT_S


class ProgressFile:
    """Writer of one heartbeat; call it as ``tick(bytes_done, bytes_total)``.

    Writes at most once a second (in a bucket, every 20 seconds and beside the work) and whole or not at all. A place that cannot
    be written is ignored: a conversion must not fail because its display does. Threads may share it.
    """

    def __init__(self, place: Place, stage: str, product: str, clock: Callable[[], float] = time.time) -> None:
        self.place = place
        self._clock = clock
        self._beat = Heartbeat(stage, product, 0, 0, clock(), clock(), os.getpid(), socket.gethostname())
        self._every_s = EVERY_REMOTE_S if place.remote else EVERY_S
        self._written = float("-inf")
        self._writer: Thread | None = None
        self._guard = RLock()

    def __call__(self, done: int, total: int) -> None:
        """Tell that ``done`` of ``total`` bytes are through."""
        with self._guard:
            self._beat = replace(self._beat, done=done, total=total)
            self.renew()

    def renew(self) -> None:
        """Tell that the stage is still at work, as far as it was."""
        with self._guard:
            now = self._clock()
            self._beat = replace(self._beat, updated=now)
            if now - self._written >= self._every_s:
                self.write()

    def write(self) -> None:
        """Write the heartbeat now."""
        self._written = self._beat.updated
        text = dumps({"schema": SCHEMA, **asdict(self._beat)})
        if not self.place.remote:
            self._put(text)
        elif self._writer is None or not self._writer.is_alive():
            self._writer = Thread(target=self._put, args=(text,), name="heartbeat", daemon=True)
            self._writer.start()

    def _put(self, text: str) -> None:
        with suppress(ZarrmillError):
            self.place.write_text(text)

    def flush(self) -> None:
        """Wait until what was told is written."""
        if self._writer is not None:
            self._writer.join()

    def remove(self) -> None:
        """Remove the heartbeat: nothing is running any more."""
        self.flush()
        with suppress(ZarrmillError):
            self.place.unlink()


@contextmanager
def progress_of(state: State, product: Product, stage: str) -> Iterator[ProgressFile]:
    """Keep the heartbeat of ``stage`` on ``product`` while the block runs; it is removed however the block ends.

    It stays young by itself: a stage that fetches its source or waits has nothing to tell for long, and is not dead.
    """
    tick, ended = ProgressFile(state.progress(product), stage, product.name), Event()
    tick.write()

    def renew() -> None:
        while not ended.wait(RENEW_S):
            tick.renew()

    renewing = Thread(target=renew, name="heartbeats", daemon=True)
    renewing.start()
    try:
        yield tick
    finally:
        ended.set()
        renewing.join()
        tick.remove()


def read_heartbeats(state: State, listing: Listing | None = None) -> tuple[Heartbeat, ...]:
    """Return the heartbeats that count as running, oldest first; stale and malformed ones are left out.

    Raises: UnknownStateError: the state cannot be listed, or a heartbeat that is there cannot be read.
    """
    return _running(state, read_all_heartbeats(state, listing or Listing(state.root)))


def _running(state: State, beats: Sequence[Heartbeat]) -> tuple[Heartbeat, ...]:
    now = state.root.now() if beats else 0.0
    return tuple(beat for beat in beats if beat.alive(now))


def read_all_heartbeats(state: State, listing: Listing) -> tuple[Heartbeat, ...]:
    """Return every heartbeat, those of killed jobs too, oldest first; times are those of ``Place.now``.

    Raises: as ``read_heartbeats``.
    """
    folder = state.root / "progress"
    found = [(folder / name, facts.modified) for name, facts in listing.files(folder).items()]
    read = places_together(_read_heartbeat, found, state.root.n_reads)
    return tuple(sorted((beat for beat in read if beat is not None), key=lambda beat: (beat.started, beat.product)))


def remove_finished(state: State, products: Mapping[str, Product]) -> int:
    """Remove the heartbeats of products that have every target, and return how many there were.

    A job that is killed after another one finished its product leaves one, and so does a removal that the bucket refuses: no
    later job would overwrite it. Args: products: by name.
    Raises: as ``read_heartbeats``; StoreError: one cannot be removed.
    """
    listing, n_removed = Listing(state.root), 0
    for beat in read_all_heartbeats(state, listing):
        product = products.get(beat.product)
        if product is not None and all(listing.get(state.target(stage, product)) for stage in PRODUCT_STAGES):
            state.progress(product).unlink()
            n_removed += 1
    return n_removed


@dataclass(frozen=True, slots=True)
class Planned:
    """What the plan of a run says beside the manifest; all of it may be unknown."""

    skipped: Mapping[str, int] = field(default_factory=dict)
    """Why products were left out for what they are, to their number."""
    bounds: frozenset[str] = frozenset()
    """Filters that cut the list short: ``limit``, ``max_cost_eur``."""
    costs: Mapping[str, Cost] | None = None
    """Planned cost by name of a product, of every one in the manifest; None when no prices are known."""


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """Where a run stands at one moment."""

    total: int
    """Products in the manifest."""
    ok: int
    """Products of which every target exists."""
    failed: Mapping[str, int] = field(default_factory=dict)
    """Failure class to products whose last attempt failed and that are not being tried again now."""
    running: tuple[Heartbeat, ...] = ()
    stages: Mapping[str, int] = field(default_factory=dict)
    """Stage to products that have its target."""
    finished: tuple[float, ...] = ()
    """When each ``ok`` product was finished, seconds since the epoch, ascending."""
    since: float | None = None
    """When this session of the run began, seconds since the epoch; None when that is not known."""
    failed_at: Mapping[str, float] = field(default_factory=dict)
    """Name of a product that failed to when it did so the last time, seconds since the epoch."""
    evicted: frozenset[str] = frozenset()
    """Those of ``failed_at`` whose machine took their last try away, which says nothing of them; a driver at work tries again."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """Why the plan left out products for what they are, to their number; they are not in ``total``."""
    cost: Cost | None = None
    """Planned cost of all products; None when no prices are known."""
    spent_eur: float = 0.0
    """Planned cost of the products that are ok; the report tells what was measured."""

    @property
    def n_failed(self) -> int:
        """Products that failed."""
        return sum(self.failed.values())

    @property
    def n_missing(self) -> int:
        """Products that are neither ok nor failed nor running."""
        return max(0, self.total - self.ok - self.n_failed - len({beat.product for beat in self.running}))

    @property
    def ended_code(self) -> int:
        """Exit code of a run that ended like this: 6 products could not be looked at, 1 some are left, 4 some failed, else 0."""
        if self.skipped.get("unknown"):
            return EXIT_UNKNOWN
        if self.n_missing:
            return EXIT_BROKEN
        return EXIT_FAILED if self.failed else EXIT_OK


def collect_progress(
    state: State,
    products: Sequence[Product],
    since: float | None = None,
    planned: Planned | None = None,
    *,
    listing: Listing | None = None,
    beats: Sequence[Heartbeat] | None = None,
) -> ProgressSnapshot:
    """Look at the state alone and tell where the run stands; costs listings, not one request a product.

    Args: planned: what the plan says of these products, see ``zarrmill.runs.planned``; listing, beats: what was listed and read
        a moment ago, to spare the requests.
    Raises: UnknownStateError: the state cannot be listed, or a heartbeat that is there cannot be read.
    """
    listing = listing or Listing(state.root)
    running = read_heartbeats(state, listing) if beats is None else _running(state, beats)
    failures = Failures(state, listing)
    busy = {beat.product for beat in running}
    planned = planned or Planned()
    costs = planned.costs or {}
    stages: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    finished, failed_at, evicted, spent_eur = [], dict[str, float](), set[str](), 0.0
    for product in products:
        has = {stage: found for stage in PRODUCT_STAGES if (found := listing.get(state.target(stage, product)))}
        stages.update(has.keys())
        if len(has) == len(PRODUCT_STAGES):
            finished.append(has[PRODUCT_STAGES[-1]].modified)
            spent_eur += costs[product.name].eur if product.name in costs else 0
            continue
        known = failures.of(product)
        if known and known[-1].stage not in has and product.name not in busy:
            failed[known[-1].failure_class] += 1
            failed_at[product.name] = known[-1].modified
            if known[-1].failure_class == "evicted":
                evicted.add(product.name)
    return ProgressSnapshot(
        total=len(products),
        ok=len(finished),
        failed=dict(failed.most_common()),
        running=running,
        stages={stage: stages[stage] for stage in PRODUCT_STAGES},
        finished=tuple(sorted(finished)),
        since=since,
        failed_at=failed_at,
        evicted=frozenset(evicted),
        skipped=planned.skipped,
        cost=None if planned.costs is None else sum(costs.values(), Cost()),
        spent_eur=spent_eur,
    )


def together(seen: Sequence[ProgressSnapshot], since: float | None = None) -> ProgressSnapshot:
    """Return where several runs stand as one."""
    costs = [one.cost for one in seen if one.cost is not None]
    return ProgressSnapshot(
        total=sum(one.total for one in seen),
        ok=sum(one.ok for one in seen),
        failed=_added(one.failed for one in seen),
        running=tuple(beat for one in seen for beat in one.running),
        stages=_added(one.stages for one in seen),
        finished=tuple(sorted(when for one in seen for when in one.finished)),
        since=since,
        failed_at={name: when for one in seen for name, when in one.failed_at.items()},
        evicted=frozenset().union(*(one.evicted for one in seen)),
        skipped=_added(one.skipped for one in seen),
        cost=sum(costs, Cost()) if costs else None,
        spent_eur=sum(one.spent_eur for one in seen),
    )


def rate_per_hour(snapshot: ProgressSnapshot, now: datetime) -> float | None:
    """Return products finished an hour in the recent past, of a run that is through in its last; None: nothing to measure."""
    moment = now.timestamp()
    if snapshot.finished and not snapshot.running and snapshot.ok + snapshot.n_failed >= snapshot.total:
        moment = min(moment, snapshot.finished[-1])
    recent = [when for when in snapshot.finished if moment - WINDOW_S <= when <= moment]
    if snapshot.since is not None:
        start = max(snapshot.since, moment - WINDOW_S)
        n_done = sum(when >= start for when in recent)
    elif recent:
        # The first one opens the window: how long it took is not known.
        start, n_done = recent[0], len(recent) - 1
    else:
        return None
    return n_done * 3600 / (moment - start) if n_done and moment > start else None


def eta(snapshot: ProgressSnapshot, now: datetime) -> datetime | None:
    """Return when the products that are neither ok nor failed will be through at the present rate."""
    rate = rate_per_hour(snapshot, now)
    left = snapshot.total - snapshot.ok - snapshot.n_failed
    if not rate or left <= 0:
        return None
    hours = left / rate
    return now + timedelta(hours=hours) if hours < 24 * 365 else None


def format_line(snapshot: ProgressSnapshot, now: datetime, width: int | None = None) -> str:
    """Return the one line for people; ``width`` cuts it to so many characters. Times are in the zone of ``now``."""
    parts = [f"{snapshot.ok}/{snapshot.total} ok"]
    if snapshot.failed:
        classes = ", ".join(f"{n} {name}" for name, n in snapshot.failed.items())
        parts.append(f"{snapshot.n_failed} failed ({classes})")
    if snapshot.skipped:
        reasons = ", ".join(f"{n} {name}" for name, n in snapshot.skipped.items())
        parts.append(f"{sum(snapshot.skipped.values())} skipped ({reasons})")
    if snapshot.running:
        parts.append(f"{len(snapshot.running)} running ({_running_text(snapshot.running[0])})")
    rate = rate_per_hour(snapshot, now)
    if rate is not None:
        parts.append(f"{rate:.0f} products/h" if rate >= 10 else f"{rate:.1f} products/h")
    end = eta(snapshot, now)
    if end is not None:
        parts.append(f"ETA {end:%H:%M}" if end.date() == now.date() else f"ETA {end:%Y-%m-%d %H:%M}")
    if snapshot.cost is not None:
        parts.append(f"{euros(snapshot.spent_eur)} of {euro_range(snapshot.cost.low_eur, snapshot.cost.high_eur)}")
    line = " · ".join(parts)
    return line if width is None or len(line) <= width else line[: max(0, width - 1)] + "…"


def progress_json(snapshot: ProgressSnapshot, now: datetime) -> dict[str, object]:
    """Return the same as ``format_line`` for machines, ready for ``json.dumps``."""
    rate, end = rate_per_hour(snapshot, now), eta(snapshot, now)
    return {
        "event": "progress",
        "time": now.astimezone(UTC).isoformat(timespec="seconds"),
        "total": snapshot.total,
        "ok": snapshot.ok,
        "failed": dict(snapshot.failed),
        "missing": snapshot.n_missing,
        "skipped": dict(snapshot.skipped),
        "stages": dict(snapshot.stages),
        "running": [
            {"product": beat.product, "stage": beat.stage, "bytes_done": beat.done, "bytes_total": beat.total}
            for beat in snapshot.running
        ],
        "products_per_hour": None if rate is None else round(rate, 1),
        "eta": None if end is None else end.astimezone(UTC).isoformat(timespec="seconds"),
        "cost": None if snapshot.cost is None else {"spent_eur": round(snapshot.spent_eur, 6), **snapshot.cost.rounded()},
    }


def short_name(name: str) -> str:
    """Return a product's name short enough for one line: its platform and its tile, or its start and end."""
    tile = re.search(r"_(T\d{2}[A-Z]{3})(?=_|$)", name)
    if tile:
        return f"{name[:4]}…{tile[1]}"
    return name if len(name) <= 20 else f"{name[:10]}…{name[-8:]}"


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    return dict(sum((Counter(one) for one in counts), Counter()))


def _running_text(beat: Heartbeat) -> str:
    share = "" if beat.share is None else f" {beat.share:.0%}".replace("%", " %")
    return f"{short_name(beat.product)} {beat.stage}{share}"


def read_heartbeat(place: Place, listing: Listing) -> Heartbeat | None:
    """Return one heartbeat as ``listing`` knows it; None when there is none, or none that makes sense.

    Raises: as ``read_heartbeats``.
    """
    found = listing.get(place)
    return _read_heartbeat((place, found.modified)) if found else None


def _read_heartbeat(found: tuple[Place, float]) -> Heartbeat | None:
    """Return a heartbeat with its times by the clock that it was modified by; None when it is gone or malformed.

    Raises: UnknownStateError: it cannot be read.
    """
    place, modified = found
    try:
        body = json.loads(place.read_bytes())
        ahead = modified - float(body["updated"])
        return Heartbeat(
            stage=str(body["stage"]),
            product=str(body["product"]),
            done=int(body["done"]),
            total=int(body["total"]),
            started=float(body["started"]) + ahead,
            updated=modified,
            pid=int(body["pid"]),
            host=str(body["host"]),
        )
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _process_exists(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
