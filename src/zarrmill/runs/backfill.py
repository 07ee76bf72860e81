"""``backfill``: a range of days, cut into shards, each planned and run by Snakemake; running it again goes on.

Thin over ``zarrmill plan`` and ``snakemake``: every shard is a run of its own, named ``<backfill>-<number>``, that all other
verbs know, see ``zarrmill.runs.cuts``. What a shard reached is read from its state, never from Snakemake's output.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from zarrmill.config import Settings
from zarrmill.core.shards import Shard
from zarrmill.core.words import plural
from zarrmill.errors import (
    EXIT_BOUND,
    EXIT_BROKEN,
    EXIT_CONFIG,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_NOTHING,
    EXIT_OK,
    EXIT_UNKNOWN,
    ZarrmillError,
)
from zarrmill.io.manifest import read_manifest
from zarrmill.io.places import place_of
from zarrmill.io.process import tell
from zarrmill.io.progress import ProgressSnapshot, collect_progress, together
from zarrmill.io.state import PRODUCT_STAGES, Failures, State
from zarrmill.prices import Cost, euros
from zarrmill.runs import canary as verdicts
from zarrmill.runs.cuts import of_run, runs_of
from zarrmill.runs.failures import named_state
from zarrmill.runs.part import GOOD, Command, Part
from zarrmill.runs.planned import read_planned

LOOK_S = 2.0
"""Seconds between two looks at state on disk."""
LOOK_REMOTE_S = 20.0
"""The same in a bucket."""
LAST_WORDS_CHARS = 300
"""Characters of the last line of a canary's log that the reason of an end has room for."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What ends a backfill before its end; None bounds nothing."""

    products: int | None = None
    """Products in the manifests of the shards that were begun, those that were done before too; the last shard is cut to fit."""
    failures: int | None = None
    """Products that failed since this command began; what failed before is tried again."""
    consecutive_failures: int | None = None
    """The same, of those that failed after the last one that was finished."""
    deadline_s: float | None = None
    """Seconds since the start."""
    cost_eur: float | None = None
    """Planned cost of the products in the manifests of the shards that were begun; like ``products``, and cut as they are."""


@dataclass(frozen=True, slots=True)
class Canary:
    """Products that must succeed before anything else is begun."""

    n: int = 0
    """The first ones that never failed, of the first shard that has any; 0 for none."""
    awaited: bool = False
    """Another driver has the first shard: its verdict is waited for."""
    session: str = ""
    """What tells the drivers that were started together from others, see ``zarrmill.runs.canary``."""


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
    cost: Cost | None = None
    """Planned cost of ``total`` products; None when no prices are known."""
    spent_eur: float = 0.0
    """Planned cost of ``ok`` products."""
    n_unknown: int = 0
    """Products whose source could not be looked at: they are in no manifest, and the next run looks again."""


def standing(settings: Settings) -> ProgressSnapshot:
    """Return where a run, or all shards of a backfill that were planned, stand, from state alone; nothing is written.

    Raises: ConfigError: nothing was planned; UnknownStateError: the state cannot be read.
    """
    seen = []
    for run in runs_of(settings):
        state = State.of(of_run(settings, run))
        products = read_manifest(state.manifest)
        seen.append(collect_progress(state, products, planned=read_planned(state, products)))
    return together(seen)


def backfill(
    settings: Settings,
    shards: Sequence[tuple[str, Shard]],
    command: Command,
    bounds: Bounds,
    *,
    n_at_once: int = 1,
    canary: Canary = Canary(),
    show: Callable[[ProgressSnapshot], None] = lambda snapshot: None,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Plan and run shards, up to ``n_at_once`` at a time, until they are through or a bound ends it cleanly.

    Args: settings: ``run`` is the name of the backfill; shards: with the names of their runs, in order; show: told where it
        stands, now and then; say: told what is waited for.
    Raises: UnknownStateError: the place of the state cannot be asked for its time, or there is no verdict on the canary;
        CapacityError, StoreError: the verdict cannot be written.
    """
    driver = _Driver(settings, command, bounds, n_at_once, show)
    if driver.may_begin(shards, canary, say):
        driver.drive([partial(driver.begin, run, shard) for run, shard in shards])
        driver.settle()
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
        root = place_of(settings.state_root)
        self._started = root.now()
        self._look_s = LOOK_REMOTE_S if root.remote else LOOK_S

    def may_begin(self, shards: Sequence[tuple[str, Shard]], canary: Canary, say: Callable[[str], None]) -> bool:
        """Return whether the canary lets everything else begin: try it, or wait for the driver that does."""
        if not canary.n or not shards:
            return True
        if canary.awaited:
            wait_s = min(verdicts.WAIT_S, self.bounds.deadline_s or verdicts.WAIT_S)
            verdict = verdicts.await_verdict(self.settings, canary.session, wait_s, say)
            if not verdict.ok:
                self.reason = (
                    f"{verdict.reason} ({verdict.when}, in another driver); when it is mended, run the first shard again"
                )
            return verdict.ok
        tried = self._try_out(shards, canary.n, say)
        if tried is not None:
            verdicts.give(self.settings, canary.session, "" if tried else self.reason)
        return tried is True and not self.reason

    def _try_out(self, shards: Sequence[tuple[str, Shard]], n: int, say: Callable[[str], None]) -> bool | None:
        """Plan a shard in full, build its first ``n`` products alone, return whether that went well; None: it cannot be told.

        A shard without products, or with such as failed before alone, shows nothing, so the next one is planned then.
        """
        for run, shard in shards:
            self.drive([partial(self.begin, run, shard, plan_only=True)])
            if self.reason or self.parts[-1].code not in GOOD:
                return None  # no product was tried
            targets = _first_targets(of_run(self.settings, run), n)
            if targets:
                self.drive([partial(self.parts[-1].go_on, self.command.targets(run, targets, shard))])
                return self._went_well(self.parts[-1], n)
        say("the canary has nothing to try: every product is done, or failed before; everything begins without it")
        return True

    def _went_well(self, tried: Part, n: int) -> bool | None:
        """Return whether the canary did; None when it cannot be told: an outage says nothing of the products."""
        if self.interrupted:
            return None
        if self._failed_at() or self._broken():
            if tried.code == EXIT_UNKNOWN:
                return None
            canary = f"the canary of {plural(n, 'product')}"
            if self._failed_at():
                words = f"{canary} failed; see `zarrmill failures {tried.run}` and {tried.log}"
            else:
                last = tried.last_words().rpartition("\n")[2].strip()[:LAST_WORDS_CHARS]
                words = f"{canary} broke off, and no product failed; see {tried.log}, which ends with: {last or 'nothing'}"
            self.reason = self.reason or words
            return False
        return None if self.reason else True

    def drive(self, waiting: Iterable[Callable[[], Part | None]]) -> None:
        """Begin and work through parts, some at once, until they are done or a bound is met."""
        waiting, active = deque(waiting), list[Part]()
        looked = float("-inf")
        try:
            while waiting or active:
                while waiting and len(active) < self.n_at_once and not self.reason:
                    part = waiting[0]()
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

    def snapshot(self) -> ProgressSnapshot:
        """Return where all shards that were begun stand together."""
        return together([part.seen for part in self.parts], self._started)

    def outcome(self) -> Outcome:
        """Return how it ended; the exit code says the worst that happened."""
        now, broken = self.snapshot(), self._broken()
        code, n_unknown = self._code(now), sum(part.n_unknown for part in self.parts)
        return Outcome(code, self.reason, now.total, now.ok, dict(now.failed), tuple(broken), now.cost, now.spent_eur, n_unknown)

    def _code(self, now: ProgressSnapshot) -> int:
        """Return the exit code: failed products (4) are no reason to try again, a shard that broke off (1) is."""
        ended = {part.code for part in self.parts} - {None, *GOOD}
        if self.interrupted:
            return EXIT_INTERRUPTED
        if self.reason:
            return EXIT_BOUND
        if EXIT_UNKNOWN in ended or any(part.n_unknown for part in self.parts):
            return EXIT_UNKNOWN
        if now.failed and not (ended and now.n_missing):
            return EXIT_FAILED
        if ended:
            return EXIT_CONFIG if ended == {EXIT_CONFIG} else EXIT_BROKEN
        return EXIT_OK if now.total else EXIT_NOTHING

    def settle(self) -> None:
        """Tell of a bound that cut the last shard."""
        self.reason = self.reason or self._full(more=False)

    def _full(self, *, more: bool) -> str:
        """Return why no further product may be begun; empty when one may, or when none was left out. ``more``: shards wait."""
        bounds, now = self.bounds, self.snapshot()
        cut = {name for part in self.parts if part.planned for name in part.planned.bounds}
        eur = now.cost.eur if now.cost else 0.0
        if bounds.cost_eur is not None and ("max_cost_eur" in cut or (more and eur >= bounds.cost_eur)):
            planned = f"{now.total} products with a planned cost of {euros(eur)} were begun"
            return f"{planned}, the next would exceed {euros(bounds.cost_eur)} (--max-cost); raise it to go on"
        if bounds.products is not None and now.total >= bounds.products and (more or "limit" in cut):
            return f"{bounds.products} products were begun (--max-products); raise it to go on"
        return ""

    def _all_planned(self) -> bool:
        """Whether the plan of every shard that was begun is known; none is waited for that ended without."""
        for part in self.parts:
            if part.code is None and part.is_planned and part.planned is None:
                part.look()
        return all(part.planned is not None or part.code is not None for part in self.parts)

    def begin(self, run: str, shard: Shard, *, plan_only: bool = False) -> Part | None:
        """Begin a shard, or go on after its canary; None when a bound is met, or cannot be told before plans at work are made."""
        for part in self.parts:
            if part.run == run:
                return part.go_on(self.command.run(run, shard))
        bounds, limit, cost_eur = self.bounds, None, None
        if bounds.products is not None or bounds.cost_eur is not None:
            if not self._all_planned():
                return None
            self.reason = self._full(more=True)
            if self.reason:
                return None
            now = self.snapshot()
            if bounds.products is not None:
                limit = bounds.products - now.total
            if bounds.cost_eur is not None:
                cost_eur = bounds.cost_eur - (now.cost.eur if now.cost else 0.0)
        steps = deque([self.command.plan(run, shard, limit, cost_eur)])
        if not plan_only:
            steps.append(self.command.run(run, shard))
        part = Part(run, State.of(of_run(self.settings, run)), steps, self.command.logs / f"{run}.log")
        try:
            part.take_up()
        except ZarrmillError as error:
            part.end(error)
        self.parts.append(part)
        return part

    def _bound(self, active: Iterable[Part]) -> None:
        """Stop cleanly when a bound is met."""
        if self.reason:
            return
        now, bounds = self.snapshot(), self.bounds
        failed_at = self._failed_at()
        in_a_row = sum(when > (now.finished[-1] if now.finished else 0) for when in failed_at)
        if bounds.failures is not None and len(failed_at) >= bounds.failures:
            self.reason = f"{plural(len(failed_at), 'product')} failed (--max-failures)"
        elif bounds.consecutive_failures is not None and in_a_row >= bounds.consecutive_failures:
            self.reason = f"{plural(in_a_row, 'product')} failed one after another (--max-consecutive-failures)"
        elif bounds.deadline_s is not None and time.monotonic() - self._began > bounds.deadline_s:
            self.reason = f"{bounds.deadline_s:.0f} s have passed (--deadline)"
        if self.reason:
            for part in active:
                part.stop()

    def _interrupt(self, active: Sequence[Part]) -> None:
        """End cleanly after Ctrl-C or SIGTERM, and cancel what is at work after a second one; a third one is Python's own."""
        self.interrupted, self.reason = True, "interrupted"
        for part in active:
            part.stop()
        shards = plural(len(active), "shard")
        tell(f"backfill: interrupted; waits for the products at work of {shards}, interrupt again to cancel them")
        try:
            _wait(active)
        except KeyboardInterrupt:
            tell("backfill: products at work are cancelled; what is written of them is kept for the next run")
            for part in active:
                part.cancel()
            _wait(active)
        for part in active:
            part.look()

    def _failed_at(self) -> list[float]:
        """Return when products failed in this session."""
        return [when for part in self.parts for when in part.failed_at]

    def _broken(self) -> list[str]:
        """Return shards that ended with an error that no product's failure explains."""
        ended = [part for part in self.parts if part.code not in (None, *GOOD)]
        return [f"{part.run}: {part.log}{part.last_words()}" for part in ended if not part.failed_at and not self.reason]


def _wait(active: Iterable[Part]) -> None:
    """Wait until shards that were asked to end have."""
    while [part for part in active if part.advance()]:
        time.sleep(0.1)


def _first_targets(settings: Settings, n: int) -> list[str]:
    """Return the last targets of the first ``n`` products of a manifest that did not fail in an earlier session.

    One that did says nothing of the others; with it as canary, a product that cannot be converted would stop a backfill for good.
    Raises: as ``read_manifest``; UnknownStateError: the failures cannot be listed.
    """
    state, named = State.of(settings), named_state(settings)
    failed = {place.parent.name for place in Failures(state).places()}
    fresh = [product for product in read_manifest(state.manifest) if product.name not in failed]
    return [named.target(PRODUCT_STAGES[-1], product).href for product in fresh[:n]]
