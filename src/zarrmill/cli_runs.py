"""Verbs for many runs: ``backfill``, ``replay``, ``audit``, ``clean``."""

import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from zarrmill.cli_common import DEFAULT_CONFIG, ConfigOption, ProfileOption, SnakefileOption, configured, exits
from zarrmill.errors import EXIT_FAILED, EXIT_NOTHING, EXIT_OK, ConfigError

if TYPE_CHECKING:
    from zarrmill.io.progress import ProgressSnapshot

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
    shard_products: Annotated[
        int, typer.Option(min=1, envvar="SHARD_PRODUCTS", help="Products of a shard, about; days are never divided.")
    ] = 500,
    shards: Annotated[int, typer.Option(min=1, help="Shards that run at once.")] = 1,
    shard_index: Annotated[
        int | None,
        typer.Option(min=0, envvar="JOB_COMPLETION_INDEX", help="Only this shard; an indexed Job of Kubernetes gives it."),
    ] = None,
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
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Show the shards, write and run nothing.")] = False,
) -> int:
    """Build a range of days in shards, newest first; the same command again goes on where it ended.

    Exit codes: 0 done, 3 nothing to do, 4 products failed, 5 ended by a bound or the canary, 6 unknown, 130 interrupted.
    """
    from zarrmill.runs import backfill as driver
    from zarrmill.runs.part import Command

    begin, end = driver.parse_day(first), driver.parse_day(last)
    if end < begin:
        raise ConfigError(f"--from {begin} lies after --to {end}", kind="usage")
    bounds = driver.Bounds(max_products, max_failures, max_consecutive_failures, _seconds(deadline) if deadline else None)
    base = configured(config)
    settings = configured(config, name or f"{base.run}-{begin:%Y%m%d}-{end:%Y%m%d}", datetime=f"{begin}/{end}")
    found = list(enumerate(driver.shards_of(settings, begin, end, shard_products, keep=not dry_run)))
    if shard_index is not None and completions is not None and len(found) > completions:
        text = (
            f"{settings.run}: {len(found)} shards, but the Job has {completions} completions, so the others would never be built"
        )
        raise ConfigError(
            f"{text}; set COMPLETIONS of ConfigMap zarrmill-backfill to {len(found)}, start the Job anew", kind="usage"
        )
    asked = found if shard_index is None else found[shard_index : shard_index + 1]
    print(f"backfill {settings.run}: {sum(one.n_listed for _, one in found)} products listed in {len(found)} shards")
    for index, shard in asked if dry_run else ():
        print(f"  {driver.run_name(settings, index)}: {shard.datetime}, {shard.n_listed} products")
    if dry_run or not asked:
        print("nothing was run" if dry_run else f"there is no shard {shard_index}: nothing to do")
        return EXIT_OK if dry_run else EXIT_NOTHING
    print(f"to go on after an end of any kind: {shlex.join(['zarrmill', *sys.argv[1:]])}")
    print(f"where it stands: zarrmill status {settings.run} --config {config}", flush=True)
    command = Command(config, profile, snakefile)
    with _terminated_as_interrupted():
        told = driver.backfill(settings, asked, command, bounds, n_at_once=shards, canary=canary, show=_Line())
    print(f"\n{told.ok} of {told.total} products ok, {sum(told.failed.values())} failed")
    for failure_class, n in told.failed.items():
        print(f"  {n} {failure_class}: zarrmill failures {settings.run} --class {failure_class} --config {config}")
    for shard_log in told.broken:
        print(f"  did not end well: {shard_log}")
    if told.reason:
        print(f"ended early: {told.reason}")
    return told.code


@app.command()
@exits
def replay(
    run: Annotated[str | None, typer.Argument(help="Name of the run or backfill; by default that of the configuration.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    profile: ProfileOption = "local",
    snakefile: SnakefileOption = None,
    failure_class: Annotated[str, typer.Option("--class", help="Only failures of this class.")] = "",
    since: Annotated[str | None, typer.Option(help="Only failures since then: 7d, 12h, 30m or a date.")] = None,
    execute: Annotated[bool, typer.Option("--execute", help="Build them again; without, they are only shown.")] = False,
) -> int:
    """Plan the products that failed again, exactly them, and build them. Exit codes: 0 done, 3 none failed, 4 some fail still."""
    from zarrmill.runs.backfill import runs_of
    from zarrmill.runs.failures import find_failures, parse_since
    from zarrmill.runs.part import Command
    from zarrmill.runs.replay import prepare, unfinished
    from zarrmill.runs.replay import run as run_snakemake

    moment = parse_since(since, datetime.now(UTC)) if since else None
    n, n_left = 0, 0
    for name in runs_of(configured(config, run)):
        settings = configured(config, name)
        records = find_failures(settings, failure_class=failure_class, since=moment)
        if not records:
            continue
        again = prepare(settings, records, write=execute)
        n, n_left = n + len(again.products), n_left + len(again.left_out)
        for product in again.products:
            print(f"{name}: {product.product_id}")
        for line in again.left_out:
            print(f"{name}: left out: {line}")
        if execute and again.targets:
            run_snakemake(Command(config, profile, snakefile).targets(name, again.targets))
            n_left += len(unfinished(settings, again.products))
    if not n and not n_left:
        print("no product failed")
        return EXIT_NOTHING
    print(
        f"{n} products built again, {n_left} fail still"
        if execute
        else f"{n} products would be built again; run it with --execute"
    )
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
    print(f"{told.n_sealed} sealed stores, {told.n_receipts} receipts")
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
    execute: Annotated[bool, typer.Option("--execute", help="Remove them; without, they are only shown.")] = False,
) -> int:
    """Remove stores that no receipt and no plan names, and what unfinished ones left. Exit code 3 when there is nothing to do."""
    from zarrmill.runs.audit import REMOVED, remove, young
    from zarrmill.runs.audit import audit as compare

    found = [one for one in compare(configured(config)).found if one.kind in REMOVED]
    kept = young(found, _seconds(older_than))
    for one in found:
        if one in kept:
            print(f"kept, changed within {older_than}: {one.place}")
            continue
        if execute:
            remove(one)
        print(f"{'removed' if execute else 'to remove'}: {one.kind} {one.place}")
    if len(found) == len(kept):
        print("nothing to remove")
        return EXIT_NOTHING
    if not execute:
        print("nothing was removed; run it with --execute")
    return EXIT_OK


def _seconds(text: str) -> float:
    from zarrmill.runs.failures import parse_since

    now = datetime.now(UTC)
    seconds = (now - parse_since(text, now)).total_seconds()
    if seconds <= 0:
        raise ConfigError(f"deadline {text!r} is not like 30m, 12h, 2d", kind="usage")
    return seconds


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
def _terminated_as_interrupted() -> Iterator[None]:
    """Take SIGTERM, which ends pods, like Ctrl-C."""
    old = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, old)
