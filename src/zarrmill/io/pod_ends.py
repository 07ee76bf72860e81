"""How the pods of Jobs ended: what Snakemake's executor sees of them, told to whoever keeps records."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from zarrmill.errors import ZarrmillError
from zarrmill.io.process import tell

CONTAINER = "snakemake"
"""Name that the executor gives its container."""
JOB_NAME = "job-name"
"""Label of a pod that names its Job."""


@dataclass(frozen=True, slots=True)
class EndedPod:
    """A Job that failed, and how its pod ended."""

    targets: tuple[str, ...]
    """What the Job makes, as ``rule:wildcard=value,...``."""
    reason: str
    """``OOMKilled``, ``Evicted``, ``DisruptionTarget``, ``Error``, ``DeadlineExceeded``, ``Deleted`` ..."""
    exit_code: int | None
    """Of the container; None when there was none."""
    end: str
    """All that is known of the end, in one line."""
    memory: str
    """Memory limit of the container as Kubernetes writes it; empty without one."""
    started: float
    """When the pod, or else its Job, began, seconds since the epoch by the cluster's clock; 0 when not known."""
    log: str
    """What the container printed; empty when it cannot be read."""


@dataclass
class PodEnds:
    """What this driver saw of the Jobs that it posted."""

    told: Callable[[EndedPod], None] | None = None
    """Told of each Job that failed, before the executor hears of it and starts the next try."""
    targets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Name of a Job that has not ended, as far as is known, to what it makes."""
    _failed: dict[str, Any] = field(default_factory=dict)  # Any: pods of the Kubernetes client, which has no types
    _statuses: dict[str, Any] = field(default_factory=dict)

    def keep_status(self, job: str, found: Any) -> None:
        """Remember the status of a Job that was just read; None: somebody deleted it."""
        if found is None:
            self._tell(job, reason="Deleted", end="Job deleted by someone else")
            return
        self._statuses[job] = found.status
        if found.status.succeeded:
            self.targets.pop(job, None)

    def keep_pods(self, client: Any, selector: str, pods: list[Any]) -> None:
        """Remember how the pods of a Job ended; a failed Job that has none any more has no log either, so it is told now."""
        job = selector.removeprefix(f"{JOB_NAME}=")
        for pod in pods if job in self.targets else ():
            if pod.status.phase == "Failed":
                give_container(client, pod)
                self._failed[pod.metadata.name] = pod
        status = self._statuses.pop(job, None)
        if not pods and status is not None and status.failed:
            ended = [one for one in status.conditions or () if one.type == "Failed"]
            reason = ended[-1].reason if ended else "Deleted"
            text = f"{ended[-1].reason}: {ended[-1].message}" if ended else "its pod is gone"
            started = status.start_time.timestamp() if status.start_time else 0.0
            self._tell(job, reason=reason if reason == "DeadlineExceeded" else "DisruptionTarget", end=text, started=started)

    def with_log(self, name: str, log: str | None, why: str) -> str:
        """Return what is shown as the log of a pod: how it ended, then its log, or ``why`` there is none."""
        pod = self._failed.pop(name, None)
        end = end_of(pod) if pod is not None else "ended"
        if pod is not None:
            ended, resources = terminated(pod), pod.spec.containers[0].resources
            self._tell(
                pod.metadata.labels[JOB_NAME],
                reason=reason_of(pod),
                exit_code=ended[0].exit_code if ended else None,
                end=end.removeprefix("pod: "),
                memory=((resources and resources.limits) or {}).get("memory", ""),
                started=pod.status.start_time.timestamp() if pod.status.start_time else 0.0,
                log=log or "",
            )
        return f"{end}\n{why if log is None else log}"

    def _tell(self, job: str, **facts: Any) -> None:
        targets = self.targets.pop(job, ())
        if self.told is None or not targets:
            return
        facts = {"exit_code": None, "memory": "", "started": 0.0, "log": "", **facts}
        try:
            self.told(EndedPod(targets, **facts))
        except ZarrmillError as error:
            tell(f"no failure record of {job}: {error}")


def usefulness(pod: Any) -> tuple[int, str]:
    """Order pods of one Job: the one that tells most of how it went comes last."""
    rank: Mapping[str, int] = {"Succeeded": 3, "Running": 2, "Pending": 1}
    return rank.get(pod.status.phase, 0), pod.metadata.name


def give_container(client: Any, pod: Any) -> None:
    """Give a pod that ended without a container one that says so: the executor looks at nothing else."""
    if not pod.status.container_statuses:
        ended = client.V1ContainerStateTerminated(exit_code=137, reason=pod.status.reason)
        state, image = client.V1ContainerState(terminated=ended), pod.spec.containers[0].image
        pod.status.container_statuses = [
            client.V1ContainerStatus(name=CONTAINER, image=image, image_id="", ready=False, restart_count=0, state=state)
        ]


def terminated(pod: Any) -> list[Any]:
    """Return how the containers of a pod ended, those that did."""
    return [one.state.terminated for one in pod.status.container_statuses or () if one.state and one.state.terminated]


def reason_of(pod: Any) -> str:
    """Return why a pod ended, in one word: the node's reason before the container's."""
    if pod.status.reason:
        return str(pod.status.reason)
    if any(one.type == "DisruptionTarget" and one.status == "True" for one in pod.status.conditions or ()):
        return "DisruptionTarget"
    ended = terminated(pod)
    return str(ended[0].reason or "Error") if ended else "Error"


def end_of(pod: Any) -> str:
    """Return how a pod ended, in one line."""
    status = pod.status
    parts = [status.reason, *(f"{end.reason or 'ended'}, exit code {end.exit_code}" for end in terminated(pod)), status.message]
    return "pod: " + "; ".join(part for part in parts if part)
