"""Snakemake logger plugin ``zarrmill``: ``snakemake --logger zarrmill``.

On a terminal: one line that says where the run stands, and one for each stage of a product that finished or failed. Elsewhere:
JSON lines. A defect in here must never stop a run or hide an error, so whatever goes wrong is told once and passed over.

Snakemake imports every logger plugin at each of its starts, in every job too: only light modules are imported up here.
"""

import logging
import re
import sys
import threading
import time
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_zarrmill.display import Display, Terminal, display_for, dry_run_text, stream_for
from snakemake_logger_plugin_zarrmill.jobs import DryRun, Job, Run, job_of

PASSED_OVER = (
    "At least one job did not complete successfully",
    "Exiting because a job execution failed",
    "CalledProcessError",
)
"""Errors that repeat what a failed job said already."""
OURS = re.compile(r"ZM-[A-Z]{3}-[A-Z]+: .*")
"""A message of our error tree, on its line."""
NOTHING = "Nothing to be done"
TOLD = (NOTHING, "Trying to restart job", "Complete log(s)", "Terminating processes", "Will exit after")
"""What Snakemake says as plain information and an operator wants to see."""


class LogHandler(LogHandlerBase):
    """Receives every log record of a run in one thread of Snakemake's; a second thread refreshes the progress."""

    def __post_init__(self) -> None:
        settings = self.common_settings
        quiet = {str(getattr(choice, "name", choice)).lower() for choice in settings.quiet or ()}
        self._silent = "all" in quiet
        self._no_rules = bool(quiet & {"rules", "all"})
        stream = stream_for(settings.stdout)
        line = not quiet & {"progress", "all"}
        self._stream = stream
        self._show: Display = display_for(stream, colour=not settings.nocolor, line=line)
        if settings.dryrun and not stream.isatty():
            # A dry run is read by people, also through a pager.
            self._show = Terminal(stream, colour=False, line=False)
        self._run = Run()
        self._guard = threading.RLock()
        self._stop = threading.Event()
        self._ticker: threading.Thread | None = None
        self._todo = DryRun()
        self._stage = "idle"
        """``idle``, ``ready`` (jobs are known), ``running`` (the first was started) or ``closed``."""
        self._complained = False

    @property
    def writes_to_stream(self) -> bool:
        """It takes the place of Snakemake's own output."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """Snakemake's own log file stays as it is."""
        return False

    @property
    def has_filter(self) -> bool:
        """``--quiet`` is obeyed here: it must not hide failures from the count."""
        return True

    @property
    def has_formatter(self) -> bool:
        """Texts are made here."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """Not shown."""
        return False

    def emit(self, record: logging.LogRecord) -> None:
        """Take one record."""
        with self._guard:
            try:
                self._take(record)
            except Exception as error:  # noqa: BLE001  # an exception here would end Snakemake's logging thread
                self._complain(error)

    def close(self) -> None:
        """Show the end; Snakemake calls this when the run is over, however it ended, and Python once more at exit."""
        self._stop.set()
        if self._ticker is not None and self._ticker is not threading.current_thread():
            self._ticker.join(timeout=5)
        with self._guard:
            try:
                self._finish()
            except Exception as error:  # noqa: BLE001  # as in emit
                self._complain(error)
        super().close()

    def _take(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        values: dict[str, Any] = record.__dict__  # Snakemake puts the event's values there
        if event == LogEvent.WORKFLOW_STARTED:
            self._opened(str(values.get("cmd") or ""))
        elif event == LogEvent.RUN_INFO:
            self._begin(dict(values.get("stats") or {}))
        elif event == LogEvent.JOB_INFO:
            self._job_started(job_of(values, record.created))
        elif event == LogEvent.JOB_FINISHED:
            self._job_finished(int(values.get("job_id", -1)), record.created)
        elif event == LogEvent.JOB_ERROR:
            self._job_failed(job_of(values, record.created))
        elif event == LogEvent.PROGRESS:
            self._run.steps = (int(values.get("done", 0)), int(values.get("total", 0)))
        elif event in (None, LogEvent.ERROR):
            self._text(record)

    def _opened(self, command: str) -> None:
        program, _, arguments = command.partition(" ")
        name = program.rpartition("/")[2]
        self._run.command = f"{'snakemake' if name == '__main__.py' else name} {arguments}".strip()
        if not self.common_settings.dryrun and self._ticker is None:
            self._ticker = threading.Thread(target=self._tick, name="zarrmill-progress", daemon=True)
            self._ticker.start()

    def _begin(self, stats: dict[str, int]) -> None:
        self._run.stats = {str(rule): int(n) for rule, n in stats.items()}
        if self.common_settings.dryrun or self._stage != "idle":
            return
        self._stage = "ready"
        self._run.steps = (0, self._run.stats.get("total", 0))

    def _job_started(self, job: Job) -> None:
        if self.common_settings.dryrun:
            self._todo.add(job)
            return
        self._run.begin(job)
        if self._stage == "ready":
            # Only the first job's paths tell which run this is; Snakemake starts it after this record.
            self._stage = "running"
            self._run.since = job.started
            if not self._silent:
                self._show.start(self._run)

    def _job_finished(self, job_id: int, when: float) -> None:
        job = self._run.end(job_id, when)
        if job is not None and job.rule != "all" and not self._no_rules:
            self._show.finished(self._run, job, when - job.started)

    def _job_failed(self, job: Job) -> None:
        begun = self._run.running.get(job.job_id, job)
        record = self._run.failure_record(begun)
        self._run.fail(job, record.failure_class if record else "unknown")
        self._show.failed(self._run, begun, job.started - begun.started, record)

    def _text(self, record: logging.LogRecord) -> None:
        text = "" if record.msg is None else record.getMessage().strip()
        if not text or any(part in text for part in PASSED_OVER):
            return
        if record.levelno >= logging.ERROR:
            ours = OURS.search(text)  # without the place in the rule files that Snakemake wraps around it
            self._show.message("error", ours.group() if ours else text)
        elif record.levelno >= logging.WARNING:
            if not self._silent:
                self._show.message("warning", text)
        elif not self._silent and (self.common_settings.verbose or text.startswith(TOLD)):
            self._show.message("nothing" if text.startswith(NOTHING) else "info", self._named(text))

    def _named(self, text: str) -> str:
        """Put the product's name where Snakemake names a job by its number."""
        number = text.removeprefix("Trying to restart job ").rstrip(".")
        job = self._run.jobs.get(int(number)) if number.isdigit() else None
        return f"↻ {job.stage:<8} {job.name}  is tried again" if job else text

    def _tick(self) -> None:
        # Before the first job ends, and not in Snakemake's logging thread, which must not fall behind.
        import zarrmill.core.story
        import zarrmill.io.manifest
        import zarrmill.io.progress  # noqa: F401

        wait = self._show.interval_s
        while not self._stop.wait(wait):
            if self._stage != "running":
                continue
            with self._guard:
                before = time.monotonic()
                try:
                    self._show.progress(self._run)
                except Exception as error:  # noqa: BLE001  # as in emit
                    self._complain(error)
                # Looking at ten thousand products takes its time: spend a tenth of it on looking at most.
                wait = max(self._show.interval_s, 10 * (time.monotonic() - before))

    def _finish(self) -> None:
        stage, self._stage = self._stage, "closed"
        if stage == "closed":
            return
        if self.common_settings.dryrun and self._run.stats:
            self._stream.write(dry_run_text(self._run.stats, self._todo))
            self._stream.flush()
        elif stage == "running" and not self._silent:
            self._show.end(self._run, time.time() - self._run.since)

    def _complain(self, error: Exception) -> None:
        """Say once that the display is broken; the run goes on."""
        if not self._complained:
            self._complained = True
            text = f"zarrmill: progress cannot be shown ({type(error).__name__}: {error}); the run goes on\n"
            try:
                sys.stderr.write(text)
            except (OSError, ValueError):
                return
