"""What Snakemake's events say about jobs, and what the run's state says about products."""

import json
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zarrmill.io.places import Place
    from zarrmill.io.progress import Planned, ProgressSnapshot
    from zarrmill.model import FailureRecord, Product

TARGET = re.compile(
    r"^(?P<root>.*?)/(?P<collection>[^/\s]+)/(?P<day>\d{8})/(?P<stage>convert|validate|stac)/(?P<product>[^/\s]+)\.json\b"
)
"""A target of one product, see ``zarrmill.io.state``; Snakemake may add words such as ``(send to storage)``."""
RUN_FILE = re.compile(r"^(?P<root>.*[^/])/(?:manifest\.csv|plan\.json|plan\.html|summary\.json|report/index\.html)(?:\s|$)")
"""A target of the whole run."""
PRODUCT_STAGES = ("convert", "validate", "stac")
LAST_STAGE = PRODUCT_STAGES[-1]
MAX_LISTED = 20
"""Most products that a dry run lists."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job as its event told it."""

    job_id: int
    rule: str
    outputs: tuple[str, ...]
    log: str
    """First log file; empty without one."""
    why: str
    """Kinds of Snakemake's reasons for it, without the paths, which its outputs name already."""
    started: float
    """Seconds since the epoch."""
    target: Mapping[str, str] | None = None
    """Parts of the target by the names in ``TARGET``; None for a job that is not about one product."""
    root: str = ""
    """Folder of the run's state, or the same in object storage; empty when no output says."""

    @property
    def name(self) -> str:
        """Product, or the rule's name."""
        return self.target["product"] if self.target else self.rule

    @property
    def stage(self) -> str:
        """Stage of a product, or the rule's name."""
        return self.target["stage"] if self.target else self.rule


def job_of(event: Mapping[str, Any], when: float) -> Job:  # attributes of a log record: Snakemake declares no types for them
    """Return the job of a JOB_INFO or JOB_ERROR event that was logged at ``when``, seconds since the epoch."""
    outputs = tuple(str(output) for output in event.get("output") or ())
    target = next((match.groupdict() for output in outputs if (match := TARGET.match(output))), None)
    roots = (match["root"] for output in outputs if (match := RUN_FILE.match(output)))
    logs = [str(log).partition(" (")[0] for log in event.get("log") or ()]
    return Job(
        job_id=int(event.get("jobid", -1)),
        rule=str(event.get("rule_name", "")),
        outputs=outputs,
        log=logs[0] if logs else "",
        why=_why(str(event.get("reason") or "")),
        started=when,
        target=target,
        root=target["root"] if target else next(roots, ""),
    )


def _why(reason: str) -> str:
    kinds = [part.partition(":")[0].strip().lower() for part in reason.split(";")]
    return ", ".join(kind for kind in kinds if kind) or "asked for"


@dataclass
class DryRun:
    """What would be done, as told job by job; jobs are kept of the listed products alone, as there may be many thousands."""

    products: set[str] = field(default_factory=set)
    listed: dict[str, list[Job]] = field(default_factory=dict)
    """Jobs of the first ``MAX_LISTED`` products."""
    others: list[Job] = field(default_factory=list)
    """Jobs of the whole run."""

    def add(self, job: Job) -> None:
        """A job was told."""
        if not job.target:
            self.others.append(job)
            return
        self.products.add(job.name)
        if job.name in self.listed or len(self.listed) < MAX_LISTED:
            self.listed.setdefault(job.name, []).append(job)


@dataclass
class Run:
    """Everything that was heard so far. Knows products from the run's folder when it is on this machine, else from events."""

    since: float = 0.0
    """When the first job was started, seconds since the epoch."""
    command: str = ""
    stats: dict[str, int] = field(default_factory=dict)
    """Jobs to do by rule, as told at the start."""
    root: "Place | None" = None
    """Folder of the run's state, on this machine or in a bucket."""
    jobs: dict[int, Job] = field(default_factory=dict)
    running: dict[int, Job] = field(default_factory=dict)
    steps: tuple[int, int] = (0, 0)
    """Jobs done and jobs in all."""
    finished: list[float] = field(default_factory=list)
    """When each product's last stage ended in this session."""
    failed: dict[str, str] = field(default_factory=dict)
    """Product to failure class, for products whose last attempt failed in this session."""
    _products: "tuple[Product, ...] | None" = None
    _planned: "Planned | None" = None
    """What the plan says of these products."""

    def begin(self, job: Job) -> None:
        """A job was started."""
        self.jobs[job.job_id] = self.running[job.job_id] = job
        self.failed.pop(job.name, None)
        if job.root and self.root is None:
            from zarrmill.io.places import place_of

            self.root = place_of(job.root)

    def end(self, job_id: int, when: float) -> Job | None:
        """A job ended well."""
        job = self.running.pop(job_id, None)
        if job is not None and job.target:
            self.failed.pop(job.name, None)
            if job.stage == LAST_STAGE:
                self.finished.append(when)
        return job

    def fail(self, job: Job, failure_class: str) -> None:
        """A job failed."""
        self.running.pop(job.job_id, None)
        if job.target:
            self.failed[job.name] = failure_class

    def failure_record(self, job: Job) -> "FailureRecord | None":
        """Return the newest failure record that this job left, or None."""
        from zarrmill.errors import ZarrmillError
        from zarrmill.io.failed import final_failure
        from zarrmill.io.places import place_of
        from zarrmill.io.record import read_record
        from zarrmill.io.state import Failures, State
        from zarrmill.model import FailureRecord

        if job.target is None:
            return None
        part = job.target
        try:
            failures = Failures(State(place_of(part["root"]))).at(part["collection"], part["day"], part["product"])
            newest = next((one for one in reversed(failures) if one.stage == part["stage"]), None)
            if newest is None or newest.modified < job.started - 1:
                # A record from before this job does not explain it, unless that is why it gave up.
                return final_failure(failures, part["stage"])
            return read_record(FailureRecord, newest.place)
        except ZarrmillError:
            return None

    def snapshot(self) -> "ProgressSnapshot | None":
        """Return where the run stands; None when this session builds no products."""
        from zarrmill.io.progress import collect_progress
        from zarrmill.io.state import State

        products = self._manifest()
        if products and self.root is not None:
            return collect_progress(State(self.root), products, self.since, self._planned)
        return self._from_events()

    def _manifest(self) -> "tuple[Product, ...]":
        """Products of the manifest, when the run's state is on this machine: in a bucket, looking each second costs too much."""
        if self._products is None and self.root is not None:
            from zarrmill.errors import ZarrmillError
            from zarrmill.io.manifest import read_manifest
            from zarrmill.io.state import State
            from zarrmill.runs.planned import read_planned

            try:
                self._products = () if self.root.remote else read_manifest(self.root / "manifest.csv")
                self._planned = read_planned(State(self.root), self._products) if self._products else None
            except ZarrmillError:
                self._products = ()
        return self._products or ()

    def _from_events(self) -> "ProgressSnapshot | None":
        from zarrmill.io.progress import Heartbeat, ProgressSnapshot

        total = max((self.stats.get(stage, 0) for stage in PRODUCT_STAGES), default=0)
        if not total:
            return None
        now = time.time()
        beats = [Heartbeat(job.stage, job.name, 0, 0, job.started, now, 0, "") for job in self.running.values() if job.target]
        return ProgressSnapshot(
            total=total,
            ok=len(self.finished),
            failed=dict(Counter(self.failed.values()).most_common()),
            running=tuple(sorted(beats, key=lambda beat: (beat.started, beat.product))),
            finished=tuple(self.finished),
            since=self.since,
        )


def last_lines(path: str, n: int = 5) -> list[str]:
    """Return the last lines of a log that are not empty, or the failure that it ends with; none when it cannot be read."""
    try:
        with Path(path).open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - 8192))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    lines = [line for line in text.splitlines() if line.strip()][-n:]
    failure = _failure_of(lines[-1]) if lines else None
    return [failure] if failure else lines


def _failure_of(line: str) -> str | None:
    try:
        event = json.loads(line)
        return f"{event['code']}: {event['message']}"
    except (ValueError, TypeError, KeyError):
        return None
