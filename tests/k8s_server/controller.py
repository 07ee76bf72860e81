"""What makes Pods of Jobs, ends Jobs, and collects what nobody owns any more."""

import copy
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

from k8s_server.admission import admit, is_finished
from k8s_server.faults import Faults
from k8s_server.kubelet import Kubelet
from k8s_server.objects import EVENTS, JOBS, PODS, ApiError, Kind, Object, Store, now

INDEX = "batch.kubernetes.io/job-completion-index"
OF_JOB = "batch.kubernetes.io/controller-uid"
CREATED = "stand-in/pods-created"
TICK_S = 0.1


@dataclass
class Controller:
    """The loops that bring the cluster to what its objects say."""

    store: Store
    kubelet: Kubelet
    faults: Faults
    wait_clock: float = 1.0
    """How fast time passes for a Job whose pod is never to start, so that deadlines of an hour can be tested."""
    wake: threading.Event = field(default_factory=threading.Event)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _vanish_at: dict[str, float] = field(default_factory=dict)

    def start(self) -> None:
        """Begin."""
        self.kubelet.changed = self.wake.set
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, pods and all."""
        self._stop.set()
        self.wake.set()
        if self._thread:
            self._thread.join(timeout=10)
        self.kubelet.shut_down()

    def delete(self, kind: Kind, namespace: str, name: str, *, orphan: bool = False) -> Object:
        """Remove an object and, unless they are orphaned, what it owns; running pods are ended."""
        with self.store.lock:
            value = self.store.remove(kind, namespace, name)
            if kind == PODS:
                self.kubelet.kill(name)
            if not orphan:
                for of, dependent in self.store.dependents(value):
                    self.delete(of, dependent["metadata"].get("namespace", ""), dependent["metadata"]["name"])
        self.wake.set()
        return value

    def _loop(self) -> None:
        while not self._stop.is_set():
            self.wake.wait(TICK_S)
            self.wake.clear()
            for job in self.store.find(JOBS):
                with self.store.lock:
                    if job in self.store.find(JOBS):
                        self._sync(job)

    def _sync(self, job: Object) -> None:
        status, spec, uid = job["status"], job["spec"], job["metadata"]["uid"]
        if uid in self._vanish_at and time.monotonic() >= self._vanish_at[uid]:
            self._remove(job)
            return
        if status.get("conditions"):
            ttl = spec.get("ttlSecondsAfterFinished")
            if ttl is not None and _age_s(status["conditions"][-1]["lastTransitionTime"]) >= ttl:
                self._remove(job)
            return
        pods = self.store.owned(PODS, job)
        phases = [pod["status"].get("phase", "Pending") for pod in pods]
        gone = _n_gone(job, pods)
        n_failed, n_done = phases.count("Failed") + gone, len({_index(p) for p in pods if p["status"]["phase"] == "Succeeded"})
        status |= {
            "failed": n_failed,
            "succeeded": n_done,
            "active": len(pods) - phases.count("Failed") - phases.count("Succeeded"),
        }
        deadline = spec.get("activeDeadlineSeconds")
        if n_done >= spec["completions"]:
            self._end(job, "Complete", "CompletionsReached", "")
        elif any(action == "FailJob" for action in _actions(job, pods).values()):
            self._end(job, "Failed", "PodFailurePolicy", "Container failed with an exit code that the pod failure policy names")
        elif self._is_out_of_tries(job, pods, n_failed):
            self._end(job, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        elif deadline is not None and self._age_s(job, pods) >= deadline:
            self._end(job, "Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
        else:
            self._fill(job, pods)

    def _age_s(self, job: Object, pods: list[Object]) -> float:
        faults = [self.kubelet.pods[pod["metadata"]["name"]].fault for pod in pods]
        waits = any(fault is not None and fault.kind in ("pending", "image") for fault in faults)
        return _age_s(job["status"]["startTime"]) * (self.wait_clock if waits else 1.0)

    def _is_out_of_tries(self, job: Object, pods: list[Object], n_failed: int) -> bool:
        actions = _actions(job, pods)
        if n_failed - sum(action == "Ignore" for action in actions.values()) > int(job["spec"]["backoffLimit"]):
            return True
        given_up = {index for index in range(job["spec"]["completions"]) if _is_given_up(job, pods, index)}
        done = {_index(pod) for pod in pods if pod["status"]["phase"] == "Succeeded"}
        return bool(given_up) and len(given_up | done) >= job["spec"]["completions"]

    def _fill(self, job: Object, pods: list[Object]) -> None:
        spec = job["spec"]
        busy = [_index(pod) for pod in pods if not is_finished(pod) or pod["status"]["phase"] == "Succeeded"]
        n_active = sum(not is_finished(pod) for pod in pods)
        for index in range(spec["completions"]):
            if n_active >= spec["parallelism"]:
                return
            if index not in busy and not _is_given_up(job, pods, index):
                n_active += self._create_pod(job, index)

    def _create_pod(self, job: Object, index: int) -> bool:
        template, namespace, name = copy.deepcopy(job["spec"]["template"]), job["metadata"]["namespace"], job["metadata"]["name"]
        indexed = job["spec"].get("completionMode") == "Indexed"
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **template.get("metadata", {}),
                "name": f"{name}-{index}-{uuid.uuid4().hex[:5]}" if indexed else f"{name}-{uuid.uuid4().hex[:5]}",
                "namespace": namespace,
                "ownerReferences": [_reference(job)],
            },
            "spec": template["spec"],
            "status": {"phase": "Pending"},
        }
        labels = pod["metadata"].get("labels", {})
        pod["metadata"]["labels"] = {**labels, OF_JOB: job["metadata"]["uid"]}
        if indexed:
            pod["metadata"].setdefault("annotations", {})[INDEX] = str(index)
            pod["spec"]["containers"][0].setdefault("env", []).append({"name": "JOB_COMPLETION_INDEX", "value": str(index)})
        try:
            admit(self.store, PODS, namespace, pod)
        except ApiError as error:
            self._event(job, "FailedCreate", f"Error creating: {error}")
            return False
        self._place(job, pod, namespace)
        return True

    def _place(self, job: Object, pod: Object, namespace: str) -> None:
        container = pod["spec"]["containers"][0]
        fault = self.faults.of_pod(" ".join([*container.get("command", ()), *container.get("args", ())]))
        self.store.add(PODS, namespace, pod)
        _count(job)
        self.kubelet.start(pod, fault)
        if fault and fault.kind == "vanish":
            self._vanish_at[job["metadata"]["uid"]] = time.monotonic() + fault.after_s
        if fault and fault.kind == "twice":
            second = copy.deepcopy(pod)
            second["metadata"]["name"] += "-again"
            self.store.add(PODS, namespace, second)
            _count(job)
            self.kubelet.start(second, None)

    def _end(self, job: Object, kind: str, reason: str, message: str) -> None:
        status = job["status"]
        for pod in self.store.owned(PODS, job):
            if not is_finished(pod):
                self.delete(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"])
                if kind == "Failed":
                    status["failed"] += 1
        condition = {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()}
        status |= {"conditions": [condition], "active": 0}
        if kind == "Complete":
            status["completionTime"] = now()
        self.store.touch(job)

    def _remove(self, job: Object) -> None:
        self.delete(JOBS, job["metadata"]["namespace"], job["metadata"]["name"])

    def _event(self, job: Object, reason: str, message: str) -> None:
        namespace = job["metadata"]["namespace"]
        for event in self.store.find(EVENTS, namespace):
            if (event["involvedObject"]["name"], event["reason"]) == (job["metadata"]["name"], reason):
                event["message"] = message  # one event a Job and reason, as a server joins those that repeat
                return
        involved = {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "namespace": namespace}
        event = {"apiVersion": "v1", "kind": "Event", "metadata": {"generateName": "event-"}, "involvedObject": involved}
        self.store.add(EVENTS, namespace, {**event, "reason": reason, "message": message, "type": "Warning"})


def start_status(job: Object) -> None:
    """Fill in what the server defaults in a new Job."""
    spec, labels = job["spec"], {"job-name": job["metadata"]["name"], "batch.kubernetes.io/job-name": job["metadata"]["name"]}
    spec["completions"] = spec.get("completions", 1)
    spec["parallelism"] = spec.get("parallelism", 1)
    spec["backoffLimit"] = spec.get("backoffLimit", 6 if "backoffLimitPerIndex" not in spec else 2**31 - 1)
    metadata = spec["template"].setdefault("metadata", {})
    metadata["labels"] = {**metadata.get("labels", {}), **labels}
    job["status"] = {"startTime": now(), "active": 0}


def _actions(job: Object, pods: list[Object]) -> dict[str, str]:
    """Return what the pod failure policy says of each failed pod: Count, Ignore, FailIndex or FailJob."""
    rules = job["spec"].get("podFailurePolicy", {}).get("rules", [])
    failed = [pod for pod in pods if pod["status"]["phase"] == "Failed"]
    return {pod["metadata"]["name"]: next((rule["action"] for rule in rules if _matches(rule, pod)), "Count") for pod in failed}


def _matches(rule: Object, pod: Object) -> bool:
    status = pod["status"]
    if "onPodConditions" in rule:
        return any(wanted["type"] == has["type"] for wanted in rule["onPodConditions"] for has in status["conditions"])
    codes = [c["state"]["terminated"]["exitCode"] for c in status.get("containerStatuses", ()) if "terminated" in c["state"]]
    is_in = any(code in rule["onExitCodes"]["values"] for code in codes)
    return is_in == (rule["onExitCodes"]["operator"] == "In")


def _is_given_up(job: Object, pods: list[Object], index: int) -> bool:
    limit = job["spec"].get("backoffLimitPerIndex")
    if limit is None:
        return False
    actions = list(_actions(job, [pod for pod in pods if _index(pod) == index]).values())
    return "FailIndex" in actions or actions.count("Count") > limit


def _n_gone(job: Object, pods: list[Object]) -> int:
    """Pods that were deleted before they ended; to a Job they are failures."""
    return int(job["metadata"].get("annotations", {}).get(CREATED, 0)) - len(pods)


def _count(job: Object) -> None:
    annotations = job["metadata"].setdefault("annotations", {})
    annotations[CREATED] = str(int(annotations.get(CREATED, 0)) + 1)


def _index(pod: Object) -> int:
    return int(pod["metadata"].get("annotations", {}).get(INDEX, 0))


def _reference(owner: Object) -> Object:
    return {"apiVersion": owner["apiVersion"], "kind": owner["kind"], **{k: owner["metadata"][k] for k in ("name", "uid")}}


def _age_s(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
