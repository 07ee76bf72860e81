"""Two faces of the same run: lines and one refreshed line for a terminal, JSON lines for everything else."""

import json
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from snakemake_logger_plugin_zarrmill.jobs import PRODUCT_STAGES, DryRun, Job, Run, last_lines

if TYPE_CHECKING:
    from zarrmill.model import FailureRecord

RED, GREEN, YELLOW, DIM, PLAIN = "\033[31m", "\033[32m", "\033[33m", "\033[2m", "\033[0m"


class Display(Protocol):
    """What is shown at each turn of a run."""

    interval_s: float
    """Seconds between two calls of ``progress``."""

    def start(self, run: Run) -> None: ...
    def finished(self, run: Run, job: Job, seconds: float) -> None: ...
    def failed(self, run: Run, job: Job, seconds: float, record: "FailureRecord | None") -> None: ...
    def progress(self, run: Run) -> None: ...
    def message(self, level: str, text: str) -> None: ...
    def end(self, run: Run, seconds: float) -> None: ...


class Terminal:
    """For people: what happened scrolls by, where the run stands is one line below it."""

    interval_s = 1.0

    def __init__(self, stream: TextIO, colour: bool, line: bool = True) -> None:
        self._stream, self._colour, self._with_line = stream, colour, line
        self._line = ""

    def start(self, run: Run) -> None:
        """Tell run, work ahead and the command that resumes, before anything is started."""
        name = run.root.name if run.root else ""
        jobs = ", ".join(f"{n} {rule}" for rule, n in run.stats.items() if rule not in ("total", "all"))
        self._say(f"{f'run {name}: ' if name else ''}{jobs or 'nothing'} to do")
        if run.command:
            self._say(self._paint(DIM, f"resume after an interruption with the same command: {run.command}"))

    def finished(self, run: Run, job: Job, seconds: float) -> None:
        """One line for a stage that ended well."""
        self._say(f"{self._paint(GREEN, '✓')} {job.stage:<8} {job.name}  {_seconds(seconds)}{result(job)}")

    def failed(self, run: Run, job: Job, seconds: float, record: "FailureRecord | None") -> None:
        """Product, class, code, message and log of a failure."""
        self._say(f"{self._paint(RED, '✕')} {job.stage:<8} {job.name}  {_seconds(seconds)}")
        if record is not None:
            first = record.message.strip().partition("\n")[0]
            self._say(f"    {self._paint(RED, record.failure_class)} {record.code}: {first}")
        else:
            for line in last_lines(job.log):
                self._say(f"    {line[:400]}")
        log = record.log if record is not None and record.log else job.log
        if log:
            self._say(self._paint(DIM, f"    log: {log}"))

    def progress(self, run: Run) -> None:
        """Draw the line again."""
        if not self._with_line:
            return
        from zarrmill.io.progress import format_line

        width = shutil.get_terminal_size().columns - 1
        snapshot = run.snapshot()
        if snapshot is not None:
            self._line = format_line(snapshot, datetime.now().astimezone(), width)
        elif run.steps[1]:
            self._line = f"{run.steps[0]}/{run.steps[1]} steps"[:width]
        self._write(f"\r\033[K{self._line}")

    def message(self, level: str, text: str) -> None:
        """What Snakemake itself has to say."""
        colour = {"error": RED, "warning": YELLOW}.get(level)
        self._say(self._paint(colour, text) if colour else text)

    def end(self, run: Run, seconds: float) -> None:
        """Where the run stands now, and what to do next."""
        self._write("\r\033[K" if self._line else "")
        self._line = ""
        snapshot = run.snapshot()
        if snapshot is not None:
            failed = ", ".join(f"{n} {name}" for name, n in snapshot.failed.items())
            text = f"{snapshot.ok}/{snapshot.total} ok{f', {snapshot.n_failed} failed ({failed})' if failed else ''}"
            self._say(f"{text} after {_seconds(seconds)}")
        page = run.root / "report" / "index.html" if run.root else None
        if page is not None and (page.remote or page.exists()):
            self._say(f"report: {page}")
        if snapshot is not None and snapshot.ok < snapshot.total and run.command:
            self._say(f"to continue, run again: {run.command}")

    def _say(self, text: str) -> None:
        self._write(f"\r\033[K{text}\n{self._line}" if self._line else f"{text}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{PLAIN}" if self._colour else text


class JsonLines:
    """For logs: start, failures, one line of progress a minute, end."""

    interval_s = 60.0

    def __init__(self, stream: TextIO, line: bool = True) -> None:
        self._stream, self._with_line = stream, line
        self._run = ""

    def start(self, run: Run) -> None:
        """One line with the work ahead and the command that resumes."""
        self._run = run.root.name if run.root else ""
        jobs = {rule: n for rule, n in run.stats.items() if rule != "total"}
        self._say("start", jobs=jobs, command=run.command)

    def finished(self, run: Run, job: Job, seconds: float) -> None:
        """Nothing: the progress line counts it."""

    def failed(self, run: Run, job: Job, seconds: float, record: "FailureRecord | None") -> None:
        """One line a failure."""
        told: dict[str, object] = {"stage": job.stage, "product": job.name if job.target else None, "log": job.log}
        if record is not None:
            told |= {"class": record.failure_class, "code": record.code, "message": record.message}
            told |= {"attempt": record.measured.attempt, "log": record.log or job.log}
        else:
            told |= {"class": "unknown", "code": None, "message": "\n".join(last_lines(job.log))}
        self._say("failure", seconds=round(seconds, 1), **told)

    def progress(self, run: Run) -> None:
        """One line of progress."""
        if not self._with_line:
            return
        self._say("progress", **_numbers(run))

    def message(self, level: str, text: str) -> None:
        """Warnings and errors of Snakemake itself, and that there is nothing to do."""
        if level != "info":
            self._say(level, message=text)

    def end(self, run: Run, seconds: float) -> None:
        """The last numbers."""
        self._say("end", seconds=round(seconds, 1), **_numbers(run))

    def _say(self, event: str, **values: object) -> None:
        time = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"event": event, "time": time, "run": self._run, **values}, ensure_ascii=False, default=str)
        self._stream.write(line + "\n")
        self._stream.flush()


def dry_run_text(stats: Mapping[str, int], todo: DryRun) -> str:
    """Return what a dry run prints: jobs by rule, and the products that would be built with what is missing of each."""
    lines = ["dry run: nothing is started", "", *(f"{n:>8}  {rule}" for rule, n in stats.items()), ""]
    for name, jobs in todo.listed.items():
        first, *_ = ordered = sorted(jobs, key=lambda job: PRODUCT_STAGES.index(job.stage))
        lines.append(f"{name}: {' → '.join(job.stage for job in ordered)}  ({first.why})")
    if len(todo.products) > len(todo.listed):
        lines.append(f"… and {len(todo.products) - len(todo.listed)} products more")
    lines += [f"{job.rule}: {', '.join(job.outputs)}  ({job.why})" for job in todo.others if job.outputs]
    # With --quiet, Snakemake tells the number of jobs but not which.
    n_products = len(todo.products) or max(stats.get(stage, 0) for stage in PRODUCT_STAGES)
    lines.append(f"{n_products} product{'' if n_products == 1 else 's'} would be built")
    return "\n".join(lines) + "\n"


def result(job: Job) -> str:
    """Return what a stage made, in words, from its target; empty when it is not on this machine."""
    from zarrmill.core.story import size
    from zarrmill.core.words import number

    try:
        body = json.loads(Path(job.outputs[0]).read_bytes()) if job.target else {}
        if job.stage == "convert":
            return f"  {size(body['n_bytes_source'])} → {size(body['n_bytes'])}, {number(body['n_objects'])} objects"
        if job.stage == "validate":
            return f"  {body['verdict']} {body['score']:.1f}"
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        pass
    return ""


def display_for(stream: TextIO, *, colour: bool, line: bool) -> Display:
    """Return the face that fits the stream; ``line`` is False when progress was asked not to be shown."""
    return Terminal(stream, colour, line) if stream.isatty() else JsonLines(stream, line)


def stream_for(stdout: bool) -> TextIO:
    """Return the stream that Snakemake writes to."""
    return sys.stdout if stdout else sys.stderr


def _numbers(run: Run) -> dict[str, object]:
    from zarrmill.io.progress import progress_json

    snapshot = run.snapshot()
    if snapshot is None:
        return {"steps_done": run.steps[0], "steps": run.steps[1]}
    numbers = progress_json(snapshot, datetime.now(UTC))
    return {key: value for key, value in numbers.items() if key not in ("event", "time")}


def _seconds(seconds: float) -> str:
    from zarrmill.core.story import duration

    return duration(seconds)
