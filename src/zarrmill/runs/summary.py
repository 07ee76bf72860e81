"""What became of a backfill: ``<state_root>/<backfill>/summary.json`` and ``report/index.html``, from the state of its shards.

Every driver writes both at its end, whatever ended it; they tell of all shards, also of those that other drivers work on.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from zarrmill.config import Settings
from zarrmill.core import story
from zarrmill.errors import EXIT_FAILED, EXIT_NOTHING, EXIT_OK, ConfigError
from zarrmill.io.manifest import read_manifest
from zarrmill.io.page import render_page
from zarrmill.io.places import Place, together
from zarrmill.io.progress import collect_progress
from zarrmill.io.record import dumps
from zarrmill.io.state import State
from zarrmill.model import Json
from zarrmill.runs.cuts import of_run, read_cuts, run_name
from zarrmill.runs.failures import replay_command

SCHEMA = "zarrmill/backfill-summary/1"
N_SLOWEST = 5


@dataclass(frozen=True, slots=True)
class ShardRow:
    """Where one shard stands."""

    run: str
    first: str
    last: str
    """Days, like 2025-01-31."""
    n_listed: int
    """Products that the catalogue listed when the range was cut."""
    total: int
    """Products in its manifest; 0 while there is none."""
    ok: int
    failed: dict[str, int]
    """Failure class to products."""
    state: str
    """``not begun``, ``done``, ``failed`` or ``unfinished``."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a driver ended."""

    code: int
    """Exit code."""
    reason: str
    """Why it ended before its end; empty when it did not."""
    broken: tuple[str, ...]
    """Shards that ended with an error of their own, with the log that says why."""
    command: str
    """The command that goes on; empty when nobody knows it."""
    elapsed_s: float
    """How long it took."""
    runs: tuple[str, ...]
    """Runs that it worked on."""


@dataclass(frozen=True, slots=True)
class Told:
    """What a summary tells people, of a run or a backfill."""

    exit_code: int
    story: str
    """How it went."""
    steps: tuple[str, ...]
    """What to do next, with commands."""


def read_summary(settings: Settings) -> Told:
    """Return what the summary of a run or backfill tells.

    Raises: ConfigError: there is none yet, or it is damaged; UnknownStateError: it cannot be read.
    """
    place = State.of(settings).summary
    try:
        body = json.loads(place.read_bytes())
        steps = tuple(f"{step['text']} {step['command']}".rstrip() for step in body.get("next", ()))
        return Told(int(body["exit_code"]), str(body["measured"]["story"]), steps)
    except FileNotFoundError:
        raise ConfigError(f"{place} is not there yet; run the workflow first", kind="usage") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        found = f"{type(error).__name__}: {error}"[:200]
        text = f"{place}: not a summary ({found}); write it anew with `zarrmill report {settings.run}`"
        raise ConfigError(text, kind="usage") from error


def write_summary(settings: Settings, config: Path, ended: Ended | None = None, *, now: datetime | None = None) -> Place:
    """Write summary and page of a backfill and return the place of the page.

    Args: config: file of the configuration, for the commands that are shown; ended: how the driver ended that writes it;
        without, what the last one said is kept.
    Raises: ConfigError: there is no backfill of that name, or a manifest of it is malformed; UnknownStateError: the state
        cannot be read; CapacityError, StoreError: it cannot be written.
    """
    state = State.of(settings)
    before = _before(state.summary)
    shards = shard_rows(settings)
    told = ended or _ended_before(before, shards)
    body = _body(settings, shards, told, _slowest(settings, told.runs, before), now or datetime.now(UTC))
    body["next"] = [{"text": text, "command": command} for text, command in _next_steps(settings, shards, told, config)]
    state.summary.write_text(dumps(body))
    state.report.write_text(render_page("backfill.html.j2", {"told": body, "broken": told.broken}, {"duration": story.duration}))
    return state.report


def shard_rows(settings: Settings) -> tuple[ShardRow, ...]:
    """Return where every shard of a backfill stands, from state alone. Raises: as ``write_summary``."""
    cuts = read_cuts(settings)
    if cuts is None:
        raise ConfigError(f"{settings.run}: no backfill of that name below {settings.state_root}", kind="usage")
    rows = []
    for index, shard in enumerate(cuts.shards):
        run = run_name(settings, index)
        state = State.of(of_run(settings, run))
        days = (f"{shard.first}", f"{shard.last}", shard.n_listed)
        if not state.manifest.exists():
            rows.append(ShardRow(run, *days, 0, 0, {}, "not begun"))
            continue
        seen = collect_progress(state, read_manifest(state.manifest))
        word = "failed" if seen.n_failed else "done" if seen.ok == seen.total else "unfinished"
        rows.append(ShardRow(run, *days, seen.total, seen.ok, dict(seen.failed), word))
    return tuple(rows)


def _body(
    settings: Settings, shards: Sequence[ShardRow], ended: Ended, slowest: Sequence[Json], now: datetime
) -> dict[str, Json]:
    failed: dict[str, int] = {}
    for row in shards:
        for name, n in row.failed.items():
            failed[name] = failed.get(name, 0) + n
    counts = {
        "listed": sum(row.n_listed for row in shards),
        "planned": sum(row.total for row in shards),
        "ok": sum(row.ok for row in shards),
        "failed": sum(failed.values()),
    }
    counts["left"] = counts["planned"] - counts["ok"] - counts["failed"]
    n_begun = sum(row.state != "not begun" for row in shards)
    days = f"{min(row.first for row in shards)} to {max(row.last for row in shards)}"
    words = [
        f"Backfill {settings.run}, {days}: {counts['ok']} of {counts['planned']} planned products ok, {counts['failed']} failed; "
        f"{n_begun} of {len(shards)} shards begun."
    ]
    words += [f"Ended early: {ended.reason}."] if ended.reason else []
    words += [f"The slowest product was {slowest[0]['product']} with {story.duration(slowest[0]['seconds'])}."] if slowest else []
    return {
        "schema": SCHEMA,
        "run": settings.run,
        "exit_code": ended.code,
        "reason": ended.reason,
        "counts": counts,
        "failed": dict(sorted(failed.items(), key=lambda pair: (-pair[1], pair[0]))),
        "shards": [asdict(row) for row in shards],
        "command": ended.command,
        "measured": {
            "generated": now.isoformat(timespec="seconds"),
            "elapsed_s": round(ended.elapsed_s, 1),
            "slowest": list(slowest),
            "story": " ".join(words),
        },
    }


def _next_steps(settings: Settings, shards: Sequence[ShardRow], ended: Ended, config: Path) -> list[tuple[str, str]]:
    """Return what to do next, with the command that does it."""
    name = f"{settings.run} --config {config}"
    steps = []
    if any(row.failed for row in shards):
        steps.append(("See what failed and why.", f"zarrmill failures {name}"))
        steps.append(("When it is mended, build exactly what failed.", replay_command(settings, config)))
    if ended.command and any(row.state in ("not begun", "unfinished") for row in shards):
        steps.append(("Go on: what is done is left alone.", ended.command))
    return steps or [("Nothing is left to do.", "")]


def _slowest(settings: Settings, runs: Sequence[str], before: dict[str, Json]) -> list[Json]:
    """Return the slowest products of ``runs``, as their own summaries tell, and of those that an earlier summary named."""
    places = [State.of(of_run(settings, run)).summary for run in runs]
    found = {row["product"]: row for row in before.get("measured", {}).get("slowest", [])}
    for run, told in zip(runs, together(_before, places, State.of(settings).root.n_reads), strict=True):
        measured = told.get("measured", {})
        for name in measured.get("slowest", []):
            seconds = sum(measured["products"][name]["wall_s"].values())
            found[name] = {"product": name, "run": run, "seconds": round(seconds, 1)}
    return sorted(found.values(), key=lambda row: (-row["seconds"], row["product"]))[:N_SLOWEST]


def _before(place: Place) -> dict[str, Json]:
    """Return a summary that was written before; empty without a whole one."""
    try:
        body = json.loads(place.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


def _ended_before(before: dict[str, Json], shards: Sequence[ShardRow]) -> Ended:
    """Return how the last driver ended, as its summary says; nothing of it counts once every shard is done."""
    if all(row.state == "done" for row in shards):
        before = {"measured": before.get("measured", {})}
    code = EXIT_FAILED if any(row.failed for row in shards) else EXIT_OK if any(row.total for row in shards) else EXIT_NOTHING
    elapsed_s = float(before.get("measured", {}).get("elapsed_s", 0.0))
    reason, command = str(before.get("reason", "")), str(before.get("command", ""))
    return Ended(int(before.get("exit_code", code)), reason, (), command, elapsed_s, tuple(row.run for row in shards))
