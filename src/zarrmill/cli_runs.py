"""Verbs for many runs: ``backfill``, ``replay``, ``audit``, ``clean``."""

import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, date, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zarrmill.cli_common import (
    DEFAULT_CONFIG,
    ConfigOption,
    ProfileOption,
    RunArgument,
    SnakefileOption,
    configured,
    exits,
    parse_duration,
)
from zarrmill.core.words import plural
from zarrmill.errors import EXIT_BOUND, EXIT_FAILED, EXIT_NOTHING, EXIT_OK, EXIT_UNKNOWN, ConfigError, ZarrmillError
from zarrmill.io.process import tell
from zarrmill.prices import euro_range, euros, load_prices

if TYPE_CHECKING:
    from zarrmill.config import Settings
    from zarrmill.core.shards import Shard
    from zarrmill.io.progress import ProgressSnapshot
    from zarrmill.runs.backfill import Outcome

SHARD_PRODUCTS = 500
"""Products of a shard, about, when nobody says."""

app = typer.Typer()


@app.command()
@exits
def backfill(
    first: Annotated[str, typer.Option("--from", help="First day, like 2025-01-31.")],
    last: Annotated[str, typer.Option("--to", help="Last day, or today.")],
    config: ConfigOption = DEFAULT_CONFIG,
    profile: ProfileOption = "local",
    snakefile: SnakefileOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the backfill; by default run and days.")] = None,
    forward: Annotated[
        bool, typer.Option("--forward", help="One run, RUN-forward, whose days may move on: what it did before stays done.")
    ] = False,
    shard_products: Annotated[
        int | None,
        typer.Option(min=1, envvar="SHARD_PRODUCTS", help="Products of a shard, about; days are never divided. 500 by default."),
    ] = None,
    shards: Annotated[int, typer.Option(min=1, help="Shards that run at once.")] = 1,
    shard_index: Annotated[
        int | None,
        typer.Option(min=0, envvar="JOB_COMPLETION_INDEX", help="Only this shard; an indexed Job of Kubernetes gives it."),
    ] = None,
    session: Annotated[str, typer.Option(envvar="ZARRMILL_BACKFILL_SESSION", hidden=True)] = "",
    oldest_first: Annotated[bool, typer.Option("--oldest-first", help="Instead of source.order.")] = False,
    completions: Annotated[
        int | None,
        typer.Option(
            min=1, envvar="COMPLETIONS", help="Shards that the indexed Job has drivers for; fewer than there are is an error."
        ),
    ] = None,
    canary: Annotated[int, typer.Option(min=0, help="Products that must succeed before anything else is begun.")] = 3,
    max_products: Annotated[int | None, typer.Option(min=1, help="End after so many products were begun.")] = None,
    max_failures: Annotated[int | None, typer.Option(min=1, help="End when so many products failed.")] = None,
    max_consecutive_failures: Annotated[int | None, typer.Option(min=1, help="End when so many failed in a row.")] = None,
    deadline: Annotated[str | None, typer.Option(help="End after so long: 30m, 12h, 2d.")] = None,
    max_cost: Annotated[
        float | None, typer.Option(min=0.01, help="End before products with a higher planned cost are begun, in EUR.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show the shards, write and run nothing.")] = False,
) -> int:
    """Build a range of days in shards, newest first; the same command again goes on where it ended.

    Exit codes: 0 done, 1 a shard broke off (see its log, run again), 2 configuration, 3 nothing to do, 4 products failed, 5 ended
    by a bound or the canary, 6 unknown, 130 interrupted.
    """
    from zarrmill.runs import backfill as driver
    from zarrmill.runs.cuts import parse_day
    from zarrmill.runs.part import Command

    began = time.monotonic()
    begin, end = parse_day(first), parse_day(last)
    if end < begin:
        raise ConfigError(f"--from {begin} lies after --to {end}", kind="usage")
    seconds = parse_duration(deadline, "--deadline") if deadline else None
    bounds = driver.Bounds(max_products, max_failures, max_consecutive_failures, seconds, max_cost)
    base = configured(config)
    if max_cost is not None:
        configured(config, max_cost_eur=max_cost)  # refuses what gives no cost
        load_prices(base)
    order = "oldest" if oldest_first else None
    command = Command(config, profile, snakefile, order=order)
    if not dry_run:
        command.check()
    chosen = name or (f"{base.run}-forward" if forward else f"{base.run}-{begin:%Y%m%d}-{end:%Y%m%d}")
    settings = configured(config, chosen, datetime=f"{begin}/{end}", order=order)
    if forward:
        _check_one_run({"--shard-products": shard_products, "--shard-index": shard_index, "--completions": completions}, shards)
        found = _forward(settings, begin, end, count=dry_run)
    else:
        found = _cuts(settings, begin, end, shard_products, keep=not dry_run)
        _check_completions(settings, len(found), completions)
    asked = _ordered(found, settings) if shard_index is None else found[shard_index : shard_index + 1]
    if dry_run or not asked:
        for run, shard in asked:
            print(f"  {run}: {shard.datetime}, {plural(shard.n_listed, 'product')}")
        print("nothing was run" if dry_run else f"there is no shard {shard_index}: nothing to do")
        return EXIT_OK if dry_run else EXIT_NOTHING
    again = command_that_goes_on(sys.argv[1:], end, moves=forward)
    print(f"to go on after an end of any kind: {again}")
    print(f"where it stands: zarrmill status {settings.run} --config {config}", flush=True)
    tried = driver.Canary(canary, bool(shard_index), session)
    with terminated_as_interrupted():
        told = driver.backfill(
            settings, asked, command, bounds, n_at_once=shards, canary=tried, show=_Line(), say=partial(print, flush=True)
        )
    _print_end(told, settings, config)
    _write_summary(told, settings, config, again, time.monotonic() - began, [run for run, _ in asked], forward=forward)
    return told.code


@app.command()
@exits
def replay(
    run: RunArgument = None,
    config: ConfigOption = DEFAULT_CONFIG,
    profile: ProfileOption = "local",
    snakefile: SnakefileOption = None,
    failure_class: Annotated[str, typer.Option("--class", help="Only failures of this class.")] = "",
    since: Annotated[str | None, typer.Option(help="Only failures since then: 7d, 12h, 30m or a date.")] = None,
    execute: Annotated[bool, typer.Option("--execute", help="Build them again; without, they are only shown.")] = False,
) -> int:
    """Plan the products that failed again, exactly them, and build them.

    Exit codes: 0 done, 2 configuration, 3 none failed, 4 some are not built, 6 unknown: a run could not be begun, or its state
    not be read.
    """
    from zarrmill.io.lock import RunLock
    from zarrmill.io.state import State
    from zarrmill.runs.cuts import runs_of
    from zarrmill.runs.failures import check_class, find_failures, none_failed, parse_since
    from zarrmill.runs.part import Command
    from zarrmill.runs.replay import check_profile, prepare, unfinished
    from zarrmill.runs.replay import run as run_snakemake

    check_class(failure_class)
    moment = parse_since(since, datetime.now(UTC)) if since else None
    command = Command(config, profile, snakefile)
    n, n_left, n_built, codes = 0, 0, 0, set()
    for name in runs_of(configured(config, run)):
        settings = configured(config, name)
        if execute:
            check_profile(settings, profile)
            command.check()
        records = find_failures(settings, failure_class=failure_class, since=moment)
        if not records:
            continue
        with RunLock(State.of(settings).root).held() if execute else nullcontext() as lock:
            again = prepare(settings, records, write=execute, check=lock.check if lock else lambda: None)
        n, n_left = n + len(again.products), n_left + len(again.left_out)
        for product in again.products:
            print(f"{name}: {product.product_id}")
        for line in again.left_out:
            print(f"{name}: left out: {line}")
        if execute and again.targets:
            with terminated_as_interrupted():
                codes.add(run_snakemake(command.targets(name, again.targets)))
            n_unbuilt = len(unfinished(settings, again.products))
            n_left, n_built = n_left + n_unbuilt, n_built + len(again.products) - n_unbuilt
    if not n and not n_left:
        print(none_failed(failure_class, since))
        return EXIT_NOTHING
    if execute:
        print(f"{plural(n_built, 'product')} built again, {n_left} not")
    else:
        print(f"{plural(n, 'product')} would be built again{'; run it with --execute' if n else ''}")
    if EXIT_UNKNOWN in codes:
        return EXIT_UNKNOWN
    return EXIT_FAILED if execute and n_left else EXIT_OK


@app.command()
@exits
def audit(
    config: ConfigOption = DEFAULT_CONFIG,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Compare stores with the receipts of all runs; change nothing. The exit code is 4 when they disagree, else 0."""
    from zarrmill.io.record import dumps
    from zarrmill.runs.audit import KINDS
    from zarrmill.runs.audit import audit as compare

    told = compare(configured(config))
    wrong = [one for one in told.found if one.kind != "unfinished"]
    if json:
        found = {kind: [one.place.href for one in told.of(kind)] for kind in KINDS}
        print(
            dumps({"schema": "zarrmill/audit/1", "n_sealed": told.n_sealed, "n_receipts": told.n_receipts, "found": found}),
            end="",
        )
        return EXIT_FAILED if wrong else EXIT_OK
    print(f"{plural(told.n_sealed, 'sealed store')}, {plural(told.n_receipts, 'receipt')}")
    for kind, words in KINDS.items():
        if told.of(kind):
            print(f"{len(told.of(kind))} {kind}: {words}")
        for one in told.of(kind):
            print(f"  {one.place}")
    if not wrong:
        print("they agree")
    return EXIT_FAILED if wrong else EXIT_OK


@app.command()
@exits
def clean(
    config: ConfigOption = DEFAULT_CONFIG,
    older_than: Annotated[str, typer.Option(help="Leave alone what changed within this time: 30m, 12h, 30d.")] = "30d",
    execute: Annotated[int | None, typer.Option(min=1, help="Remove them: how many there are, as shown without.")] = None,
    max_share: Annotated[float | None, typer.Option(min=0, max=1, help="Instead of clean.max_share.")] = None,
) -> int:
    """Remove stores that no receipt and no plan names, and what unfinished ones left; without --execute only show them.

    Exit codes: 0 done, 2 another number was typed, 3 nothing to do, 4 some were left, 5 more than clean.max_share,
    6 the state could not be asked.
    """
    from zarrmill.runs import clean as cleaning
    from zarrmill.runs.audit import audit as compare

    settings = configured(config)
    told = compare(settings)
    found = cleaning.candidates(settings, told, parse_duration(older_than, "--older-than"), older_than)
    chosen = [one for one in found if not one.kept]
    for one in found:
        if one.kept:
            print(f"kept, {one.kept}: {one.found.place}")
        elif execute is None:
            print(f"to remove: {one.found.kind} {one.found.place}, {one.size.n_objects} objects, {one.size.n_bytes} bytes")
    if not chosen:
        print("nothing to remove")
        return EXIT_NOTHING
    if execute is not None:
        cleaning.check_count(chosen, execute)
    refused = cleaning.over_cap(chosen, told, settings.clean.max_share if max_share is None else max_share)
    if refused:
        print(f"nothing was removed: {refused}")
        return EXIT_BOUND
    if execute is None:
        print(f"nothing was removed; run it with --execute {len(chosen)}")
        return EXIT_OK
    return EXIT_FAILED if cleaning.remove(settings, chosen, print) else EXIT_OK


def command_that_goes_on(arguments: "Sequence[str]", end: date, *, moves: bool) -> str:
    """Return the command that goes on: a backfill in shards keeps its days, so ``today`` is the day on which it began."""
    words = list(arguments)
    for index, (option, word) in enumerate(pairwise(["", *words])):
        if not moves and (option in ("--from", "--to") or word.startswith(("--from=", "--to="))):
            words[index] = re.sub(r"\btoday$", f"{end}", word)
    return shlex.join(["zarrmill", *words])


def _ordered(found: "Sequence[tuple[str, Shard]]", settings: "Settings") -> "Sequence[tuple[str, Shard]]":
    """Return shards in the order in which they are begun; their numbers are those of the day on which they were cut."""
    return sorted(found, key=lambda pair: pair[1].first, reverse=settings.source.order == "newest")


def _cuts(settings: "Settings", first: date, last: date, n_products: int | None, *, keep: bool) -> "Sequence[tuple[str, Shard]]":
    """Return the shards of a backfill with their runs, by number, and print how many there are."""
    from zarrmill.runs.cuts import cuts_of, run_name

    cuts = cuts_of(settings, first, last, n_products or SHARD_PRODUCTS, keep=keep)
    n_listed = sum(one.n_listed for one in cuts.shards)
    print(f"backfill {settings.run}: {plural(n_listed, 'product')} listed in {plural(len(cuts.shards), 'shard')}")
    if n_products is not None and cuts.n_products not in (None, n_products):
        print(
            f"--shard-products {n_products} changes nothing: the days were cut before, about {cuts.n_products} products a shard; "
            "take another --name to cut them anew"
        )
    return [(run_name(settings, index), shard) for index, shard in enumerate(cuts.shards)]


def _check_one_run(of_shards: Mapping[str, int | None], n_at_once: int) -> None:
    """Raise ConfigError: something is said about shards, of which a forward run has none."""
    said = [option for option, value in of_shards.items() if value is not None] + ["--shards"] * (n_at_once > 1)
    if said:
        raise ConfigError(f"--forward is one run without shards; leave out {', '.join(said)}", kind="usage")


def _check_completions(settings: "Settings", n_shards: int, completions: int | None) -> None:
    """Raise ConfigError: the indexed Job has fewer completions than there are shards."""
    if completions is None or n_shards <= completions:
        return
    text = f"{settings.run}: {n_shards} shards, but the Job has {completions} completions, so the others would never be built"
    raise ConfigError(f"{text}; set COMPLETIONS of ConfigMap zarrmill-backfill to {n_shards}, start the Job anew", kind="usage")


def _forward(settings: "Settings", first: date, last: date, *, count: bool) -> "Sequence[tuple[str, Shard]]":
    """Return the one run of all days. Raises: ConfigError: its name is that of a backfill in shards."""
    from zarrmill.config import load_recipes
    from zarrmill.core.shards import Shard
    from zarrmill.runs.cuts import read_cuts
    from zarrmill.stages.plan import count_days

    if read_cuts(settings) is not None:
        raise ConfigError(f"{settings.run} is a backfill that was cut into shards; take another --name", kind="usage")
    print(f"forward run {settings.run}: {first} to {last}")
    n_listed = count_days(settings, load_recipes(settings)).total() if count else 0
    return [(settings.run, Shard(first, last, n_listed))]


def _print_end(told: "Outcome", settings: "Settings", config: Path) -> None:
    print(f"\n{told.ok} of {told.total} products ok, {sum(told.failed.values())} failed")
    if told.cost:
        whole = euro_range(told.cost.low_eur, told.cost.high_eur)
        print(f"planned cost of what is ok: {euros(told.spent_eur)} of {whole}; the reports tell what was measured")
    for failure_class, n in told.failed.items():
        print(f"  {n} {failure_class}: zarrmill failures {settings.run} --class {failure_class} --config {config}")
    if told.n_unknown:
        print(f"  {told.n_unknown} could not be looked at and are left for the next run: see plan.html of their shards")
    for shard_log in told.broken:
        print(f"  did not end well: {shard_log}")
    if told.reason:
        print(f"ended early: {told.reason}")


def _write_summary(
    told: "Outcome", settings: "Settings", config: Path, again: str, elapsed_s: float, runs: Sequence[str], *, forward: bool
) -> None:
    """Leave summary and page behind, whatever the end; that they cannot be written does not change the exit code."""
    from zarrmill.runs.summary import Ended, write_summary
    from zarrmill.stages.report import report

    try:
        if not forward:
            ended = Ended(told.code, told.reason, told.broken, again, elapsed_s, tuple(runs))
            print(f"report: {write_summary(settings, config, ended)}")
        elif told.code not in (EXIT_OK, EXIT_NOTHING):
            report(settings)  # of any other end Snakemake's last rule writes it
    except ZarrmillError as error:
        tell(f"no report was written: {error}")


class _Line:
    """The progress line: rewritten in place on a terminal, else printed when it changed, at most once a minute."""

    def __init__(self) -> None:
        self._last, self._when = "", float("-inf")

    def __call__(self, snapshot: "ProgressSnapshot") -> None:
        from zarrmill.io.progress import format_line

        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{format_line(snapshot, datetime.now().astimezone(), width):{width}}", end="", flush=True)
            return
        line = format_line(snapshot, datetime.now(UTC))
        if line != self._last and time.monotonic() - self._when > 60:
            self._last, self._when = line, time.monotonic()
            print(line, flush=True)


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Take SIGTERM, which ends pods, like Ctrl-C."""
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)
