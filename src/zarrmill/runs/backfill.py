"""``backfill``: a range of days, cut into shards, each planned and run by Snakemake; running it again goes on.

Thin over ``zarrmill plan`` and ``snakemake``: every shard is a run of its own, named ``<backfill>-<number>``, that all other
verbs know. Where the range was cut is kept in ``<state_root>/<backfill>/backfill.json`` by the first driver, so that a rerun and
the drivers of an indexed Job have the same shards. What a shard reached is read from its state, never from Snakemake's output.
"""

import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from zarrmill.config import Settings, load_recipes
from zarrmill.core.shards import Shard, cut
from zarrmill.errors import (
    EXIT_BOUND,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NOTHING,
    EXIT_OK,
    EXIT_UNKNOWN,
    ConfigError,
)
from zarrmill.io.manifest import read_manifest
from zarrmill.io.places import Place, place_of
from zarrmill.io.progress import ProgressSnapshot, collect_progress
from zarrmill.io.record import dumps
from zarrmill.io.state import State
from zarrmill.runs.failures import record_killed
from zarrmill.runs.part import Command, Part
from zarrmill.stages.plan import count_days

SCHEMA = "zarrmill/backfill/1"
LOOK_S = 2.0
"""Seconds between two looks at state on disk."""
LOOK_REMOTE_S = 20.0
"""The same in a bucket."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What ends a backfill before its end; None bounds nothing."""

    products: int | None = None
    """Products in the manifests of the shards that were begun, those that were done before too; the last shard is cut to fit."""
    failures: int | None = None
    """Products that failed."""
    consecutive_failures: int | None = None
    """Products that failed after the last one that was finished."""
    deadline_s: float | None = None
    """Seconds since the start."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a backfill ended."""

    code: int
    reason: str
    """Why it ended before its end; empty when it did not."""
    total: int
    ok: int
    failed: dict[str, int]
    broken: tuple[str, ...]
    """Shards that ended with an error of their own, with the log that says why and its end: the machine may be gone soon."""


def shards_of(settings: Settings, first: date, last: date, n_products: int, *, keep: bool = True) -> tuple[Shard, ...]:
    """Return the shards of a backfill: those that were cut before, or, the first time, cut now by what the catalogue lists.

    Args: keep: write down where the range was cut.
    Raises: ConfigError: the backfill of that name was cut over another range; as ``plan`` where the catalogue is read.
    """
    place = _place(settings)
    known = _read(place)
    if known is None:
        counts = count_days(settings, load_recipes(settings))
        shards = cut(counts, first, last, n_products)
        if not keep or place.create(dumps(_document(settings, shards)).encode()):
            return shards
        known = _read(place) or shards  # another driver was first
    if (known[-1].first, known[0].last) != (first, last):
        text = f"{place}: this backfill covers {known[-1].first} to {known[0].last}, not {first} to {last}; take another --name"
        raise ConfigError(text, kind="usage")
    return known


def runs_of(settings: Settings) -> tuple[str, ...]:
    """Return the runs that a name stands for: the shards of a backfill that were planned, else the run itself.

    Raises: UnknownStateError: the state cannot be read.
    """
    known = _read(_place(settings))
    if known is None:
        return (settings.run,)
    names = (run_name(settings, index) for index in range(len(known)))
    return tuple(name for name in names if _state(settings, name).manifest.exists())


def standing(settings: Settings) -> ProgressSnapshot:
    """Return where a run, or all shards of a backfill that were planned, stand, from state alone.

    Raises: ConfigError: nothing was planned; UnknownStateError: the state cannot be read.
    """
    seen = []
    for run in runs_of(settings):
        state = _state(settings, run)
        products = read_manifest(state.manifest)
        record_killed(state, products, run)
        seen.append(collect_progress(state, products))
    return _together(seen, None)


def run_name(settings: Settings, index: int) -> str:
    """Return the name of the run of one shard."""
    return f"{settings.run}-{index:04d}"


def backfill(
    settings: Settings,
    shards: Sequence[tuple[int, Shard]],
    command: Command,
    bounds: Bounds,
    *,
    n_at_once: int = 1,
    canary: int = 0,
    show: Callable[[ProgressSnapshot], None] = lambda snapshot: None,
) -> Outcome:
    """Plan and run shards, up to ``n_at_once`` at a time, until they are through or a bound ends it cleanly.

    Args: settings: ``run`` is the name of the backfill; shards: with their numbers, in order; canary: products of the first
        shard that must succeed before anything else is begun, 0 for none; show: told where the backfill stands, now and then.
    """
    driver = _Driver(settings, command, bounds, n_at_once, show)
    if canary and shards:
        driver.drive(shards[:1], canary)
        if not driver.reason and driver.failed_or_broken:
            driver.reason = f"the canary of {canary} products failed"
    if not driver.reason:
        driver.parts.clear()  # the canary's products belong to the first shard
        driver.drive(shards, None)
    return driver.outcome()


class _Driver:
    """The loop of one backfill; one thread."""

    def __init__(
        self, settings: Settings, command: Command, bounds: Bounds, n_at_once: int, show: Callable[[ProgressSnapshot], None]
    ) -> None:
        self.settings, self.command, self.bounds, self.n_at_once, self.show = settings, command, bounds, n_at_once, show
        self.parts: list[Part] = []
        self.reason = ""
        self.interrupted = False
        self._began = time.monotonic()
        self._started = time.time()
        self._look_s = LOOK_REMOTE_S if place_of(settings.state_root).remote else LOOK_S

    def drive(self, shards: Sequence[tuple[int, Shard]], limit: int | None) -> None:
        """Work through shards until they are done or a bound is met."""
        waiting, active = deque(shards), list[Part]()
        looked = float("-inf")
        try:
            while waiting or active:
                while waiting and len(active) < self.n_at_once and not self.reason:
                    part = self._begin(*waiting[0], limit)
                    if part is None:
                        break
                    waiting.popleft()
                    active.append(part)
                ended = [part for part in active if not part.advance()]
                if ended or time.monotonic() - looked > self._look_s:
                    for part in active:
                        part.look()
                    looked = time.monotonic()
                    self.show(self.snapshot())
                    self._bound(active)
                active = [part for part in active if part not in ended]
                if self.reason:
                    waiting.clear()
                time.sleep(0.1 if active else 0)
        except KeyboardInterrupt:
            self._interrupt(active)

    @property
    def failed_or_broken(self) -> bool:
        """Whether anything went wrong so far."""
        return bool(self.snapshot().n_failed or self._broken())

    def snapshot(self) -> ProgressSnapshot:
        """Return where all shards that were begun stand together."""
        return _together([part.seen for part in self.parts], self._started)

    def outcome(self) -> Outcome:
        """Return how it ended; the exit code says the worst that happened."""
        now, broken = self.snapshot(), self._broken()
        codes = {part.code for part in self.parts}
        if self.interrupted:
            code = EXIT_INTERRUPTED
        elif self.reason:
            code = EXIT_BOUND
        elif EXIT_UNKNOWN in codes:
            code = EXIT_UNKNOWN
        elif now.failed or broken:
            code = EXIT_FAILED
        else:
            code = EXIT_OK if now.total else EXIT_NOTHING
        return Outcome(code, self.reason, now.total, now.ok, dict(now.failed), tuple(broken))

    def _begin(self, index: int, shard: Shard, limit: int | None) -> Part | None:
        if self.bounds.products is not None:
            left = self.bounds.products - self.snapshot().total
            if left <= 0:
                self.reason = f"{self.bounds.products} products were begun (--max-products); raise it to go on"
                return None
            limit = min(limit or left, left)
        run = run_name(self.settings, index)
        state = _state(self.settings, run)
        steps = deque([self.command.plan(run, shard, limit), self.command.run(run, shard)])
        part = Part(run, state, steps, self.command.logs / f"{run}.log")
        self.parts.append(part)
        return part

    def _bound(self, active: Iterable[Part]) -> None:
        """Stop cleanly when a bound is met."""
        if self.reason:
            return
        now, bounds = self.snapshot(), self.bounds
        in_a_row = sum(when > (now.finished[-1] if now.finished else 0) for when in now.failed_at)
        if bounds.failures is not None and now.n_failed >= bounds.failures:
            self.reason = f"{now.n_failed} products failed (--max-failures)"
        elif bounds.consecutive_failures is not None and in_a_row >= bounds.consecutive_failures:
            self.reason = f"{in_a_row} products failed one after another (--max-consecutive-failures)"
        elif bounds.deadline_s is not None and time.monotonic() - self._began > bounds.deadline_s:
            self.reason = f"{bounds.deadline_s:.0f} s have passed (--deadline)"
        if self.reason:
            for part in active:
                part.stop()

    def _interrupt(self, active: Sequence[Part]) -> None:
        """End cleanly after Ctrl-C or SIGTERM; a second one is Python's own."""
        self.interrupted, self.reason = True, "interrupted"
        for part in active:
            part.stop()
        while [part for part in active if part.advance()]:
            time.sleep(0.1)
        for part in active:
            part.look()

    def _broken(self) -> list[str]:
        """Return shards that ended with an error that no product's failure explains."""
        good = (None, EXIT_OK, EXIT_NOTHING)
        return [
            f"{part.run}: {part.log}{part.last_words()}"
            for part in self.parts
            if part.code not in good and not part.seen.n_failed and not self.reason
        ]


def parse_day(text: str) -> date:
    """Return a date like 2025-01-31, or today (UTC) for ``today``. Raises: ConfigError: it is neither."""
    if text == "today":
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"day {text!r} is not a date like 2025-01-31, nor today", kind="usage") from None


def _together(seen: Sequence[ProgressSnapshot], since: float | None) -> ProgressSnapshot:
    return ProgressSnapshot(
        total=sum(one.total for one in seen),
        ok=sum(one.ok for one in seen),
        failed=dict(sum((Counter(one.failed) for one in seen), Counter())),
        running=tuple(beat for one in seen for beat in one.running),
        stages=dict(sum((Counter(one.stages) for one in seen), Counter())),
        finished=tuple(sorted(when for one in seen for when in one.finished)),
        since=since,
        failed_at=tuple(sorted(when for one in seen for when in one.failed_at)),
    )


def _state(settings: Settings, run: str) -> State:
    return State.of(settings.model_copy(update={"run": run}))


def _place(settings: Settings) -> Place:
    return State.of(settings).root / "backfill.json"


def _document(settings: Settings, shards: Sequence[Shard]) -> dict[str, object]:
    rows = [
        {"run": run_name(settings, index), "first": f"{one.first}", "last": f"{one.last}", "n_listed": one.n_listed}
        for index, one in enumerate(shards)
    ]
    return {"schema": SCHEMA, "name": settings.run, "shards": rows}


def _read(place: Place) -> tuple[Shard, ...] | None:
    """Return the shards that were written down; None when there are none."""
    try:
        rows = json.loads(place.read_bytes())["shards"]
        return tuple(
            Shard(date.fromisoformat(row["first"]), date.fromisoformat(row["last"]), int(row["n_listed"])) for row in rows
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{place}: not a {SCHEMA} record ({error}); move it away", kind="manifest") from error
