"""One shard of a backfill at work: the commands that plan and run it, its process, and where its state says it stands."""

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from zarrmill.core.shards import Shard
from zarrmill.errors import EXIT_NOTHING, EXIT_OK, ConfigError, ZarrmillError, exit_code_of
from zarrmill.io.listing import Listing
from zarrmill.io.manifest import read_manifest
from zarrmill.io.process import die_with_parent
from zarrmill.io.progress import Heartbeat, Planned, ProgressSnapshot, collect_progress, read_all_heartbeats
from zarrmill.io.state import State
from zarrmill.runs.failures import record_killed
from zarrmill.runs.planned import read_planned

GOOD = (EXIT_OK, EXIT_NOTHING)
"""Exit codes of a step that did what it was to do."""


N_LAST_LINES = 15
"""Lines of the log of a shard that did not end well that are told."""


@dataclass(frozen=True, slots=True)
class Command:
    """How the parts of a backfill are run."""

    config: Path
    """Configuration that every shard shares."""
    profile: str
    """Snakemake profile: a folder below ``profiles``, a path, or a name that Snakemake knows."""
    snakefile: str | None = None
    """Snakefile; None takes Snakemake's default."""
    logs: Path = Path(".snakemake/backfill")
    """Folder on this machine for what Snakemake prints."""
    order: str | None = None
    """``newest`` or ``oldest`` first; None leaves it to the configuration."""

    def check(self) -> None:
        """Raise ConfigError when Snakefile or profile are nowhere where Snakemake looks; asked before anything is written."""
        if self.snakefile and "://" not in self.snakefile and not Path(self.snakefile).is_file():
            raise ConfigError(f"--snakefile {self.snakefile}: no such file; correct it", kind="usage")
        folders = (Path("profiles"), Path(), *_config_folders())
        if not any((folder / self.profile).exists() for folder in folders):
            here = ", ".join(sorted(path.name for path in Path("profiles").glob("*/"))) or "none"
            text = f"--profile {self.profile}: no such profile; those below ./profiles are: {here}"
            raise ConfigError(f"{text}; correct it, or run from the folder of the project", kind="usage")

    def plan(self, run: str, shard: Shard, limit: int | None, max_cost_eur: float | None) -> list[str]:
        """Return the command that plans a shard, of at most ``limit`` products and so many EUR."""
        size = ["--limit", f"{limit}"] if limit else []
        size += ["--max-cost", f"{max_cost_eur}"] if max_cost_eur else []
        size += ["--order", self.order] if self.order else []
        base = [sys.executable, "-m", "zarrmill", "plan", "--config", str(self.config)]
        return [*base, "--run", run, "--datetime", shard.datetime, "--partial", *size]

    def run(self, run: str, shard: Shard) -> list[str]:
        """Return the command that runs a shard's manifest."""
        return self.targets(run, (), shard)

    def targets(self, run: str, targets: Sequence[str], shard: Shard | None = None) -> list[str]:
        """Return the command that makes targets of a run, of a shard's manifest when one is given."""
        return [*self._snakemake(*targets), "--config", f"run={run}", *(_source(shard) if shard else ())]

    def _snakemake(self, *targets: str) -> list[str]:
        folder = Path("profiles") / self.profile
        where = ["--snakefile", self.snakefile] if self.snakefile else []
        profile = str(folder) if folder.is_dir() else self.profile
        return [sys.executable, "-m", "snakemake", *targets, *where, "--profile", profile, "--configfile", str(self.config)]


@dataclass(slots=True)
class Part:
    """One shard at work."""

    run: str
    state: State
    steps: deque[list[str]]
    log: Path
    since: float = 0.0
    """When this session took the shard up, seconds since the epoch by the clock of its state: older failures are not its own."""
    earlier: dict[str, float] = field(default_factory=dict)
    """Name of a product to when it was told that a job of an earlier session had died of it: that is no failure of this one."""
    code: int | None = None
    """Exit code of the step that ended the shard; None while it is at work."""
    process: "subprocess.Popen[bytes] | None" = None
    out: IO[bytes] | None = None
    seen: ProgressSnapshot = field(default_factory=lambda: ProgressSnapshot(0, 0))
    planned: Planned | None = None
    """What its plan says; None until it was looked at after the plan was made."""
    plans: bool = True
    """Whether the first step, the plan, is still to be made."""

    @property
    def is_planned(self) -> bool:
        """Whether the plan is made, or never will be."""
        return not self.plans or self.code is not None

    @property
    def n_unknown(self) -> int:
        """Products that could not be told when the shard was planned: the next run looks at them again."""
        return self.planned.skipped.get("unknown", 0) if self.planned else 0

    @property
    def failed_at(self) -> tuple[float, ...]:
        """When products failed in this session, seconds since the epoch, ascending; who was evicted is tried again first."""
        tried_again = self.seen.evicted if self.code is None else frozenset()
        failed = [(name, when) for name, when in self.seen.failed_at.items() if name not in tried_again]
        return tuple(sorted(when for name, when in failed if when >= self.since and when > self.earlier.get(name, 0)))

    def take_up(self) -> None:
        """Tell what earlier sessions left from what this one will do: jobs that died in them get their records before it begins.

        Raises: UnknownStateError: the state cannot be read.
        """
        with suppress(ConfigError):  # a manifest that is malformed is planned again
            if self.state.manifest.exists():
                self._died_before(record_killed(self.state, read_manifest(self.state.manifest), self.run))
        self.since = self.state.root.now()

    def _died_before(self, beats: Sequence[Heartbeat]) -> None:
        if beats:
            self.earlier |= dict.fromkeys((beat.product for beat in beats), self.state.root.now())

    def advance(self) -> bool:
        """Start the next step when none runs, take its exit code when it ended; return whether the shard is at work."""
        if self.process is not None:
            code = self.process.poll()
            if code is None:
                return True
            self._closed()
            self.plans = False
            if code not in GOOD or not self.steps or self._empty():
                self.code = code if self.code is None else self.code
                return False
        if not self.steps:
            return False
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.out = self.log.open("ab")
        self.process = subprocess.Popen(
            self.steps.popleft(),
            stdout=self.out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one thread
        )
        return True

    def go_on(self, step: list[str]) -> "Part":
        """Take another step when those before ended well and there are products."""
        if self.code in GOOD and not self._empty():
            self.code = None
            self.steps.append(step)
        return self

    def stop(self) -> None:
        """Ask for a clean end: what is at work is finished, nothing new is begun."""
        self.steps.clear()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def cancel(self) -> None:
        """End what is at work too, as Ctrl-C on a terminal does: Snakemake, which deletes its Jobs, and jobs on this machine."""
        if self.process is not None and self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGINT)

    def look(self) -> None:
        """Read from the state where the shard stands; keep what was known when it cannot be read, or is not planned yet."""
        try:
            if self.state.manifest.exists():
                products = read_manifest(self.state.manifest)
                listing = Listing(self.state.root)
                beats = read_all_heartbeats(self.state, listing)
                if killed := record_killed(self.state, products, self.run, listing=listing, beats=beats):
                    self._died_before([beat for beat in killed if beat.updated < self.since])
                    listing = Listing(self.state.root)
                planned = self.planned or read_planned(self.state, products)
                self.planned = planned if self.is_planned else None  # a plan of before is still there while a new one is made
                self.seen = collect_progress(self.state, products, planned=planned, listing=listing, beats=beats)
        except ZarrmillError as error:
            self.note(f"state not read: {error}")

    def end(self, error: ZarrmillError) -> None:
        """Go no further because of an error."""
        self.note(f"{error}")
        self.code = exit_code_of(error)
        self.steps.clear()

    def note(self, text: str) -> None:
        """Add a line to the log."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as out:
            out.write(f"backfill: {text}\n")

    def last_words(self) -> str:
        """Return the end of the log, each line indented on a line of its own."""
        try:
            lines = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "".join(f"\n    {line}" for line in [line for line in lines if line.strip()][-N_LAST_LINES:])

    def _empty(self) -> bool:
        """Return whether nothing was planned; a manifest that cannot be read ends the shard with the error's code."""
        try:
            return not read_manifest(self.state.manifest)
        except ZarrmillError as error:
            self.end(error)
            return True

    def _closed(self) -> None:
        if self.out is not None:
            self.out.close()
        self.process = self.out = None


def _config_folders() -> list[Path]:
    """Return where Snakemake looks for profiles by name, on Linux and macOS."""
    xdg = (
        os.environ.get("XDG_CONFIG_HOME") or "~/.config",
        (os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(os.pathsep)[0],
    )
    apple = ("~/Library/Application Support", "/Library/Application Support")
    return [Path(folder).expanduser() / "snakemake" for folder in (*xdg, *apple)]


def _source(shard: Shard) -> list[str]:
    return [f"source={json.dumps({'datetime': shard.datetime})}"]
