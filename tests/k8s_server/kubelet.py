"""The node: runs a pod's container as a process in a fresh empty folder, watches its memory and disk, keeps its log."""

import base64
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from k8s_server.admission import quantity
from k8s_server.faults import Fault
from k8s_server.objects import BY_RESOURCE, ApiError, Object, Store, now

SECRETS, CONFIGMAPS, ACCOUNTS = (BY_RESOURCE["", name] for name in ("secrets", "configmaps", "serviceaccounts"))
WORKDIR = "/workdir"
"""Working folder of the image and of the executor's containers."""
TICK_S = 0.05
"""Seconds between two looks at a pod."""
DISK_TICK_S = 0.5


@dataclass
class Running:
    """A pod on the node."""

    pod: Object
    fault: Fault | None
    folder: Path
    """The working folder."""
    log: Path
    volumes: dict[str, Path] = field(default_factory=dict)
    """Mount path of every other volume to the folder that stands for it."""
    stopped: threading.Event = field(default_factory=threading.Event)
    process: "subprocess.Popen[bytes] | None" = None
    peak_bytes: int = 0
    """Largest memory of its processes together, as ``memory_of`` counts it."""
    peak_disk_bytes: int = 0
    has_place: bool = False


@dataclass
class Kubelet:
    """One node with room for ``max_pods``; further pods wait, Pending."""

    store: Store
    root: Path
    image_env: Mapping[str, str]
    """Environment that the image brings; ``{workdir}`` is replaced by the pod's folder. Nothing else is inherited."""
    max_pods: int
    grace_s: float
    """Upper bound of what a pod gets between SIGTERM and SIGKILL."""
    changed: Callable[[], None] = lambda: None
    kubeconfig: Callable[[Path, str, str], object] = lambda path, user, namespace: None
    """Writes what a pod reaches the API with, as its service account."""
    pods: dict[str, Running] = field(default_factory=dict)
    """Every pod that ever came here, by name."""
    n_most: int = 0
    """Largest number of containers that ran at once."""
    watch_s: float = TICK_S
    """Seconds between two looks at the memory of a pod; each costs CPU time."""
    _n_running: int = 0
    _queue: list[Running] = field(default_factory=list)
    _down: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, pod: Object, fault: Fault | None) -> None:
        """Bring a new pod up, in the background."""
        uid = pod["metadata"]["uid"]
        running = Running(pod, fault, self.root / "pods" / uid, self.root / "logs" / f"{uid}.log")
        running.log.parent.mkdir(parents=True, exist_ok=True)
        running.log.touch()
        self.pods[pod["metadata"]["name"]] = running
        pod["status"] = {"phase": "Pending", "conditions": [], "qosClass": "Burstable"}
        thread = threading.Thread(target=self._live, args=(running,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def kill(self, name: str) -> None:
        """End a pod that was deleted: SIGTERM, then SIGKILL; returns at once."""
        if name in self.pods:
            self.pods[name].stopped.set()

    def shut_down(self) -> None:
        """End every pod and wait until nothing of them runs."""
        self._down.set()
        for running in list(self.pods.values()):
            running.stopped.set()
        for thread in self._threads:
            thread.join(timeout=30)

    def _live(self, running: Running) -> None:
        fault = running.fault.kind if running.fault else ""
        try:
            with self.store.lock:
                self._queue.append(running)
            self._condition(running, "Unschedulable", "0/1 nodes are available: 1 Insufficient memory.")
            if fault == "pending" or not self._wait_for_room(running):
                running.stopped.wait()
                return
            self._run_on_node(running, fault)
        finally:
            with self.store.lock:
                self._queue = [other for other in self._queue if other is not running]
            for folder in (running.folder, *running.volumes.values()):
                shutil.rmtree(folder, ignore_errors=True)
            self.changed()

    def _run_on_node(self, running: Running, fault: str) -> None:
        try:
            if fault == "image":
                image = running.pod["spec"]["containers"][0]["image"]
                self._waiting(running, "ImagePullBackOff", f'Back-off pulling image "{image}"')
                running.stopped.wait()
            elif fault == "evicted" and not (running.fault and running.fault.after_s):
                self._evict(running, "The node was low on resource: memory.", None)
            else:
                environment = self._environment(running)
                if environment is not None:
                    self._run(running, environment)
        finally:
            self._give_back(running)

    def _wait_for_room(self, running: Running) -> bool:
        while not running.stopped.is_set():
            with self.store.lock:
                if self._n_running < self.max_pods and self._is_first(running):
                    self._queue.remove(running)
                    running.has_place = True
                    self._n_running += 1
                    self.n_most = max(self.n_most, self._n_running)
                    return True
            running.stopped.wait(TICK_S)
        return False

    def _give_back(self, running: Running) -> None:
        """Give the place on the node back, in the same moment in which the end is told: then the next pod may come."""
        with self.store.lock:
            self._n_running -= running.has_place
            running.has_place = False

    def _is_first(self, running: Running) -> bool:
        """Tell whether no pod of a higher priority waits for room (one that never gets it does not count)."""
        waiting = [r for r in self._queue if not (r.fault and r.fault.kind == "pending")]
        return all(r.pod["spec"].get("priority", 0) <= running.pod["spec"].get("priority", 0) for r in waiting)

    def _environment(self, running: Running) -> dict[str, str] | None:
        """Return the container's variables; wait while a Secret or ConfigMap that it needs is missing."""
        while not running.stopped.is_set():
            try:
                container = running.pod["spec"]["containers"][0]
                self._mount(running, container)
                image = {key: value.format(workdir=running.folder) for key, value in self.image_env.items()}
                given = {item["name"]: self._value(running.pod, item) for item in container.get("env", ())}
                own = {key: _mounted(running, value) for key, value in (self._env_from(running.pod, container) | given).items()}
                return image | own | self._account(running)
            except (ApiError, KeyError) as error:
                self._waiting(running, "CreateContainerConfigError", str(error))
                running.stopped.wait(TICK_S)
        return None

    def _mount(self, running: Running, container: Object) -> None:
        """Lay out the volumes of a container; a missing ConfigMap or Secret is an error."""
        volumes = {volume["name"]: volume for volume in running.pod["spec"].get("volumes", ())}
        namespace = running.pod["metadata"]["namespace"]
        for mount in container.get("volumeMounts", ()):
            if mount["mountPath"] == WORKDIR:
                continue
            volume, folder = volumes[mount["name"]], running.folder.with_name(f"{running.folder.name}-{mount['name']}")
            files: dict[str, str] = {}
            if "configMap" in volume:
                files = self.store.get(CONFIGMAPS, namespace, volume["configMap"]["name"])["data"]
            elif "secret" in volume:
                data = self.store.get(SECRETS, namespace, volume["secret"]["secretName"])["data"]
                files = {name: _decoded(value) for name, value in data.items()}
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (folder / name).write_text(text)
            running.volumes[mount["mountPath"]] = folder

    def _account(self, running: Running) -> dict[str, str]:
        """Return what tells a pod where the API is and who it is, when its service account may be used."""
        spec, namespace = running.pod["spec"], running.pod["metadata"]["namespace"]
        name = spec.get("serviceAccountName")
        if not name:
            return {}
        account = self.store.get(ACCOUNTS, namespace, name)
        if not spec.get("automountServiceAccountToken", account.get("automountServiceAccountToken", True)):
            return {}
        path = running.folder.with_name(f"{running.folder.name}-kubeconfig")
        self.kubeconfig(path, f"{namespace}:{name}", namespace)
        return {"KUBECONFIG": str(path)}

    def _env_from(self, pod: Object, container: Object) -> dict[str, str]:
        values: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            for key, kind in (("secretRef", SECRETS), ("configMapRef", CONFIGMAPS)):
                if key in source:
                    data = self.store.get(kind, pod["metadata"]["namespace"], source[key]["name"]).get("data", {})
                    values |= {name: _decoded(value) if kind == SECRETS else value for name, value in data.items()}
        return values

    def _value(self, pod: Object, item: Object) -> str:
        if "value" in item or "valueFrom" not in item:
            return str(item.get("value", ""))
        source, namespace = item["valueFrom"], pod["metadata"]["namespace"]
        if "secretKeyRef" in source:
            reference = source["secretKeyRef"]
            return _decoded(self.store.get(SECRETS, namespace, reference["name"])["data"][reference["key"]])
        if "configMapKeyRef" in source:
            reference = source["configMapKeyRef"]
            return str(self.store.get(CONFIGMAPS, namespace, reference["name"])["data"][reference["key"]])
        value: Object = pod
        path = source["fieldRef"]["fieldPath"]
        if "['" in path:
            head, key = path.removesuffix("']").split("['")
            return str(pod["metadata"][head.removeprefix("metadata.")][key])
        for part in path.split("."):
            value = value[part]
        return str(value)

    def _run(self, running: Running, environment: Mapping[str, str]) -> None:
        container = running.pod["spec"]["containers"][0]
        if running.fault and running.fault.kind == "exit":
            while running.fault.go and not running.fault.go.is_set() and not running.stopped.is_set():
                running.stopped.wait(TICK_S)
            running.log.write_text("ended by the test\n")
            self._terminated(running, running.fault.code)
            return
        running.folder.mkdir(parents=True)
        try:
            running.process = self._begin(running, container, environment)
        except OSError as error:
            running.log.write_text(f"{error}\n")
            self._terminated(running, 128, "StartError")
            return
        self._state(running, "Running", {"running": {"startedAt": now()}})
        reason = self._watch(running, running.process)
        end_container(running.folder)
        if reason == "Evicted":
            self._evict(running, "Pod was over its share of the node.", 137)
        else:
            self._terminated(running, _exit_code(running.process), reason)

    def _begin(self, running: Running, container: Object, environment: Mapping[str, str]) -> "subprocess.Popen[bytes]":
        with running.log.open("ab") as log:
            return subprocess.Popen(
                [_expanded(word, environment) for word in (*container["command"], *container.get("args", ()))],
                cwd=running.folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _watch(self, running: Running, process: "subprocess.Popen[bytes]") -> str:
        """Wait for the end of a container; return why the node ended it, empty when it did not."""
        limits = running.pod["spec"]["containers"][0].get("resources", {}).get("limits", {})
        fault, started, disk_at = running.fault, time.monotonic(), 0.0
        while process.poll() is None:
            used = memory_of(process.pid)
            running.peak_bytes = max(running.peak_bytes, used)
            age = time.monotonic() - started
            if age - disk_at > DISK_TICK_S:
                disk_at = age
                running.peak_disk_bytes = max(running.peak_disk_bytes, size_of(running.folder))
            due = fault is not None and age >= fault.after_s
            if used > quantity(limits.get("memory", "1e18")) or (due and fault is not None and fault.kind == "oom"):
                end_group(process, 0)
                return "OOMKilled"
            over = running.peak_disk_bytes > quantity(limits.get("ephemeral-storage", "1e18"))
            if over or (due and fault is not None and fault.kind == "evicted"):
                end_group(process, min(self.grace_s, 1.0))
                return "Evicted"
            if running.stopped.wait(self.watch_s):
                end_group(process, self.grace_s)
        end_group(process, 0)
        return ""

    def _condition(self, running: Running, reason: str, message: str) -> None:
        with self.store.lock:
            condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
            running.pod["status"]["conditions"] = [condition]
            self.store.touch(running.pod)

    def _waiting(self, running: Running, reason: str, message: str) -> None:
        self._state(running, "Pending", {"waiting": {"reason": reason, "message": message}})

    def _evict(self, running: Running, message: str, code: int | None) -> None:
        """``code`` None: the container never started, so the pod has no status of it."""
        state = None if code is None else {"terminated": {"exitCode": code, "reason": "Error", "finishedAt": now()}}
        self._state(running, "Failed", state, reason="Evicted", message=message)

    def _terminated(self, running: Running, code: int, reason: str = "") -> None:
        reason = reason or ("Completed" if code == 0 else "Error")
        state = {"terminated": {"exitCode": code, "reason": reason, "finishedAt": now()}}
        self._state(running, "Succeeded" if code == 0 else "Failed", state)

    def _state(self, running: Running, phase: str, state: Object | None, **more: str) -> None:
        pod = running.pod
        statuses = [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": container["image"],
                "ready": phase == "Running",
                "restartCount": 0,
                "state": state,
                "lastState": {},
            }
            for container in pod["spec"]["containers"]
        ]
        with self.store.lock:
            pod["status"] = {
                "phase": phase,
                "conditions": [
                    {"type": "PodScheduled", "status": "True"},
                    *([{"type": "DisruptionTarget", "status": "True"}] if more.get("reason") == "Evicted" else ()),
                ],
                **({"containerStatuses": statuses} if state is not None else {}),
                **more,
            }
            self.store.touch(pod)
            if phase in ("Succeeded", "Failed"):
                self._give_back(running)
        self.changed()


def memory_of(pid: int) -> int:
    """Return the bytes that a process and all below it hold and that no node could take back (files in memory it could)."""
    total = 0
    try:
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
            total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    except (psutil.Error, OSError):
        pass  # a process ended while it was looked at
    return total


def size_of(folder: Path) -> int:
    """Return the bytes below a folder that a pod is writing to."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except OSError:
                continue
    return total


def end_group(process: "subprocess.Popen[bytes]", grace_s: float) -> None:
    """End a process and everything in its group, by its id."""
    for signum, wait_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 10.0)):
        if signum == signal.SIGTERM and not grace_s:
            continue
        try:
            os.killpg(process.pid, signum)
            process.wait(timeout=wait_s)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def end_container(folder: Path) -> None:
    """End what is left of a container: nothing outlives its first process, whatever session or group it has made for itself."""
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(folder):
                process.kill()
                process.wait(timeout=10)
        except psutil.Error:
            continue  # it ended, or is of somebody else


def _exit_code(process: "subprocess.Popen[bytes]") -> int:
    code = process.wait()
    return 128 - code if code < 0 else code


def _decoded(value: str) -> str:
    return base64.b64decode(value).decode()


def _mounted(running: Running, value: str) -> str:
    """Return a variable's value with paths of volumes as they are here."""
    for path, folder in running.volumes.items():
        if value == path or value.startswith(f"{path}/"):
            return str(folder) + value.removeprefix(path)
    return value


def _expanded(word: str, environment: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` as the kubelet does."""
    return re.sub(r"\$\((\w+)\)", lambda found: environment.get(found[1], found[0]), word)
