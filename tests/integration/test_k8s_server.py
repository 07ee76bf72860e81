"""The Kubernetes stand-in answers as an API server and a kubelet do; seen through the official client."""

import base64
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import kubernetes.client as k8s
import pytest
import urllib3
from k8s_server import KubernetesServer
from kubernetes.client.rest import ApiException
from tools import program
from until import until

NS = "zarrmill"
ROLE = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: driver, namespace: zarrmill}
rules:
- {apiGroups: [batch], resources: [jobs], verbs: [create, get]}
- {apiGroups: [""], resources: [pods], verbs: [list]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: driver, namespace: zarrmill}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: driver}
subjects: [{kind: ServiceAccount, name: driver, namespace: zarrmill}]
"""


@contextmanager
def client(cluster: KubernetesServer, token: str | None = None) -> Iterator[tuple[Any, Any]]:
    """Core and batch API of one user (the administrator without a token); no retries."""
    config = k8s.Configuration()
    config.host = cluster.url
    config.ssl_ca_cert = str(cluster.certificate)
    config.retries = urllib3.Retry(0)
    config.api_key = {"authorization": f"Bearer {token or cluster.admin}"}
    with k8s.ApiClient(config) as api:
        yield k8s.CoreV1Api(api), k8s.BatchV1Api(api)


def job(name: str, script: str, *, spec: dict[str, Any] | None = None, **container: Any) -> dict[str, Any]:
    body = {"name": "snakemake", "image": "zarrmill", "command": ["/bin/sh"], "args": ["-c", script], **container}
    pod = {"containers": [body], "restartPolicy": "Never"}
    return {"metadata": {"name": name}, "spec": {"backoffLimit": 0, "template": {"spec": pod}, **(spec or {})}}


def waits_for(path: Path) -> str:
    """Return a script that ends when a file is there."""
    return f"while ! test -e {path}; do sleep 0.05; done"


def limits(**values: str) -> dict[str, Any]:
    return {"resources": {"limits": values, "requests": values}}


@pytest.fixture
def api(cluster: KubernetesServer) -> Iterator[tuple[Any, Any]]:
    with client(cluster) as both:
        yield both


def ended(batch: Any, name: str) -> Any:
    def look() -> Any:
        status = batch.read_namespaced_job_status(name, NS).status
        return status if status.failed or status.succeeded else None

    return until(look)


def pods_of(core: Any, name: str) -> list[Any]:
    return list(core.list_namespaced_pod(NS, label_selector=f"job-name={name}").items)


def state_of(core: Any, name: str) -> Any:
    return pods_of(core, name)[0].status.container_statuses[0].state


def group_is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


def refusal(call: Callable[[], Any]) -> tuple[int, str]:
    with pytest.raises(ApiException) as caught:
        call()
    return int(caught.value.status), str(caught.value.body)


def test_job_runs_with_the_secret_and_nothing_else_of_the_driver_in_an_empty_folder(cluster, api, monkeypatch):
    core, batch = api
    monkeypatch.setenv("LEAK", "from the driver")
    core.create_namespaced_secret(NS, {"metadata": {"name": "run"}, "data": {"key": base64.b64encode(b"s3cret").decode()}})
    env = [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "run", "key": "key"}}}]
    batch.create_namespaced_job(NS, job("a", 'echo "key=$KEY leak=$LEAK home=$HOME"; pwd; ls -A', env=env))
    assert ended(batch, "a").succeeded == 1
    name = pods_of(core, "a")[0].metadata.name
    folder = cluster.kubelet.pods[name].folder
    assert core.read_namespaced_pod_log(name, NS, container="snakemake").split("\n") == [
        f"key=s3cret leak= home={folder}",
        str(folder),
        "",
    ]
    assert not folder.exists()


def test_pod_waits_for_its_secret(cluster, api):
    core, batch = api
    env = [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "run", "key": "key"}}}]
    batch.create_namespaced_job(NS, job("a", "exit 0", env=env))
    until(lambda: pods_of(core, "a") and pods_of(core, "a")[0].status.container_statuses)
    assert state_of(core, "a").waiting.reason == "CreateContainerConfigError"
    core.create_namespaced_secret(NS, {"metadata": {"name": "run"}, "data": {"key": ""}})
    assert ended(batch, "a").succeeded == 1


def test_exit_code_is_told_and_log_of_a_previous_container_is_refused(cluster, api):
    core, batch = api
    batch.create_namespaced_job(NS, job("a", "echo why; exit 7"))
    assert ended(batch, "a").failed == 1
    name = pods_of(core, "a")[0].metadata.name
    assert state_of(core, "a").terminated.exit_code == 7
    code, text = refusal(lambda: core.read_namespaced_pod_log(name, NS, container="snakemake", previous=True))
    assert code == 400
    assert f'previous terminated container \\"snakemake\\" in pod \\"{name}\\" not found' in text
    assert refusal(lambda: core.read_namespaced_pod_log(name, NS, container="x"))[0] == 400
    assert core.read_namespaced_pod_log(name, NS) == "why\n"


GREEDY = "python -c 'x = bytearray(300_000_000); import os, time\nwhile not os.path.exists(\"go\"): time.sleep(0.05)'"
"""Holds its memory until there is a file ``go`` in its folder."""


def let_go(cluster: KubernetesServer) -> None:
    """End a greedy process once its memory was seen."""
    running = until(lambda: next((r for r in cluster.kubelet.pods.values() if r.peak_bytes > 300_000_000), None))
    (running.folder / "go").touch()


@pytest.mark.parametrize(("limit", "outcome"), [("200M", "OOMKilled"), ("600M", "Completed")])
def test_process_over_its_memory_limit_is_killed(cluster, api, limit, outcome):
    core, batch = api
    batch.create_namespaced_job(NS, job("a", GREEDY, **limits(memory=limit)))
    if outcome == "Completed":
        let_go(cluster)
    ended(batch, "a")
    assert state_of(core, "a").terminated.reason == outcome
    assert state_of(core, "a").terminated.exit_code == (137 if outcome == "OOMKilled" else 0)


def test_without_a_limit_nothing_is_killed(cluster, api):
    core, batch = api
    batch.create_namespaced_job(NS, job("a", GREEDY, resources={"requests": {"memory": "1M"}}))
    let_go(cluster)
    assert ended(batch, "a").succeeded == 1
    assert cluster.kubelet.pods[pods_of(core, "a")[0].metadata.name].peak_bytes > 300_000_000


def test_pod_over_its_disk_limit_is_evicted(cluster, api):
    core, batch = api
    script = "dd if=/dev/zero of=big bs=1M count=20 2>/dev/null; sleep 20"
    batch.create_namespaced_job(NS, job("a", script, **limits(**{"ephemeral-storage": "10M"})))
    assert ended(batch, "a").failed == 1
    assert pods_of(core, "a")[0].status.reason == "Evicted"


@pytest.mark.parametrize(
    ("fault", "phase", "look"),
    [
        ({"kind": "oom"}, "Failed", lambda pod: pod.status.container_statuses[0].state.terminated.reason == "OOMKilled"),
        ({"kind": "exit", "code": 3}, "Failed", lambda pod: pod.status.container_statuses[0].state.terminated.exit_code == 3),
        ({"kind": "evicted"}, "Failed", lambda pod: pod.status.reason == "Evicted" and pod.status.container_statuses is None),
        (
            {"kind": "evicted", "after_s": 0.2},
            "Failed",
            lambda pod: pod.status.container_statuses[0].state.terminated.exit_code == 137,
        ),
        ({"kind": "image"}, "Pending", lambda pod: pod.status.container_statuses[0].state.waiting.reason == "ImagePullBackOff"),
        ({"kind": "pending"}, "Pending", lambda pod: pod.status.conditions[0].reason == "Unschedulable"),
    ],
    ids=["oom", "exit", "evicted before it starts", "evicted", "image", "pending"],
)
def test_pod_meets_its_fault_once(cluster, api, fault, phase, look):
    core, batch = api
    armed = cluster.fault(match="exit 0", **fault)
    batch.create_namespaced_job(NS, job("a", "sleep 60; exit 0"))
    until(lambda: pods_of(core, "a") and pods_of(core, "a")[0].status.phase == phase and look(pods_of(core, "a")[0]))
    batch.create_namespaced_job(NS, job("b", "exit 0"))
    assert ended(batch, "b").succeeded == 1
    assert armed.met == 1


def test_job_that_waits_for_ever_ends_at_its_deadline(cluster, api):
    core, batch = api
    cluster.fault("pending")
    batch.create_namespaced_job(NS, job("a", "exit 0", spec={"activeDeadlineSeconds": 1}))
    status = ended(batch, "a")
    assert (status.failed, status.conditions[-1].reason) == (1, "DeadlineExceeded")
    assert pods_of(core, "a") == []


def test_two_pods_of_one_job_and_a_job_that_vanishes(cluster, api):
    core, batch = api
    cluster.fault("twice", match="two")
    cluster.fault("vanish", match="gone")
    batch.create_namespaced_job(NS, job("a", "sleep 5; : two"))
    until(lambda: len(pods_of(core, "a")) == 2)
    batch.create_namespaced_job(NS, job("b", "sleep 5; : gone"))
    until(lambda: "b" not in [item.metadata.name for item in batch.list_namespaced_job(NS).items])
    code, text = refusal(lambda: batch.read_namespaced_job_status("b", NS))
    assert code == 404
    assert 'jobs.batch \\"b\\" not found' in text


def test_finished_job_is_removed_after_its_time_to_live(cluster, api):
    core, batch = api
    batch.create_namespaced_job(NS, job("a", "exit 0", spec={"ttlSecondsAfterFinished": 1}))
    until(lambda: not batch.list_namespaced_job(NS).items)
    (running,) = cluster.kubelet.pods.values()
    assert running.process is not None
    assert running.process.returncode == 0, "it was not removed before it finished"
    assert pods_of(core, "a") == []


def test_deleting_a_job_ends_its_processes(cluster, api):
    core, batch = api
    batch.create_namespaced_job(NS, job("a", "sleep 60 & sleep 61"))
    until(lambda: [r for r in cluster.kubelet.pods.values() if r.process])
    running = next(iter(cluster.kubelet.pods.values()))
    assert running.process is not None
    batch.delete_namespaced_job("a", NS, propagation_policy="Foreground")
    until(lambda: group_is_gone(running.process.pid))
    assert pods_of(core, "a") == []


def test_nothing_of_a_container_outlives_its_first_process(cluster, api):
    core, batch = api
    batch.create_namespaced_job(
        NS, job("a", "setsid sh -c 'echo $$ > pid; exec sleep 60' & while ! test -s pid; do :; done; cat pid")
    )
    ended(batch, "a")
    assert group_is_gone(int(core.read_namespaced_pod_log(pods_of(core, "a")[0].metadata.name, NS)))


def test_not_more_pods_run_at_once_than_the_node_holds(cluster, api, tmp_path):
    _core, batch = api
    for name in "abcd":
        batch.create_namespaced_job(NS, job(name, waits_for(tmp_path / "go")))
    until(lambda: len(cluster.kubelet.pods) == 4 and cluster.kubelet.n_most == 2)
    (tmp_path / "go").touch()
    for name in "abcd":
        assert ended(batch, name).succeeded == 1
    assert cluster.kubelet.n_most == 2


def test_pod_of_a_higher_priority_gets_the_next_place(cluster, api, tmp_path):
    _, batch = api
    cluster.kubelet.max_pods = 1
    for value, name in ((1, "low"), (2, "high")):
        cluster.load(f"{{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {{name: {name}}}, value: {value}}}")
    for index, name in enumerate(("low", "low", "high")):
        body = job(f"{name}-{index}", f"{waits_for(tmp_path / 'go')}; sleep 0.1; echo {name}")
        body["spec"]["template"]["spec"]["priorityClassName"] = name
        batch.create_namespaced_job(NS, body)
        until(lambda n=index: cluster.kubelet.n_most == 1 and len(cluster.kubelet._queue) == n)
    (tmp_path / "go").touch()
    for name in ("low-0", "low-1", "high-2"):
        ended(batch, name)
    started = sorted(cluster.kubelet.pods.values(), key=lambda running: running.log.stat().st_mtime_ns)
    assert [running.log.read_text().strip() for running in started] == ["low", "high", "low"]


def test_indexed_job_gives_each_pod_its_index_and_retries_only_the_one_that_failed(cluster, api):
    _core, batch = api
    cluster.fault("exit", match="index")
    spec = {"completionMode": "Indexed", "completions": 3, "parallelism": 1, "backoffLimitPerIndex": 1, "backoffLimit": 9}
    batch.create_namespaced_job(NS, job("a", "echo index $JOB_COMPLETION_INDEX", spec=spec))
    until(lambda: batch.read_namespaced_job_status("a", NS).status.succeeded == 3)
    logs = [running.log.read_text() for running in cluster.kubelet.pods.values()]
    assert logs == ["ended by the test\n", "index 0\n", "index 1\n", "index 2\n"]
    assert cluster.kubelet.n_most == 1


def test_unknown_field_and_wrong_value_are_refused(cluster, api):
    _core, batch = api
    code, text = refusal(lambda: batch.create_namespaced_job(NS, job("a", "exit 0", spec={"backofLimit": 1})))
    assert (code, "'backofLimit' was unexpected" in text) == (400, True)
    code, text = refusal(lambda: batch.create_namespaced_job(NS, job("a", "exit 0", spec={"backoffLimit": "one"})))
    assert (code, "spec.backoffLimit" in text) == (422, True)
    assert refusal(lambda: batch.create_namespaced_job(NS, job("A" * 70, "exit 0")))[0] == 422


def test_unknown_token_is_401_and_missing_right_403_in_the_words_of_the_server(cluster, api):
    cluster.load(ROLE)
    with client(cluster, "stale") as (core, batch):
        assert refusal(lambda: core.list_namespaced_pod(NS))[0] == 401
    with client(cluster, cluster.access.token(f"{NS}:driver")) as (core, batch):
        batch.create_namespaced_job(NS, job("a", "exit 0"))
        assert len(pods_of(core, "a")) <= 1
        code, text = refusal(lambda: batch.read_namespaced_job_status("a", NS))
        expected = (
            f'jobs.batch \\"a\\" is forbidden: User \\"system:serviceaccount:{NS}:driver\\" cannot get resource '
            f'\\"jobs/status\\" in API group \\"batch\\" in the namespace \\"{NS}\\"'
        )
        assert (code, expected in text) == (403, True)
        assert refusal(lambda: core.list_namespaced_pod("other"))[0] == 403
    assert cluster.verbs(f"system:serviceaccount:{NS}:driver") == {
        ("batch", "jobs", "create"),
        ("", "pods", "list"),
        ("batch", "jobs/status", "get"),
    }


def test_quota_on_jobs_refuses_and_quota_on_memory_makes_pods_wait(cluster, api, tmp_path):
    core, batch = api
    hard = {"count/jobs.batch": "2", "requests.memory": "1G"}
    core.create_namespaced_resource_quota(NS, {"metadata": {"name": "small"}, "spec": {"hard": hard}})
    batch.create_namespaced_job(NS, job("a", waits_for(tmp_path / "go"), **limits(memory="700M")))
    batch.create_namespaced_job(NS, job("b", "exit 0", **limits(memory="700M")))
    code, text = refusal(lambda: batch.create_namespaced_job(NS, job("c", "exit 0")))
    assert code == 403
    assert "exceeded quota: small, requested: count/jobs.batch=1, used: count/jobs.batch=2, limited: count/jobs.batch=2" in text
    until(lambda: [e for e in core.list_namespaced_event(NS).items if e.reason == "FailedCreate"])
    assert pods_of(core, "b") == []
    (tmp_path / "go").touch()
    assert ended(batch, "b").succeeded == 1


def test_limit_range_fills_in_limits_and_refuses_larger_ones(cluster, api):
    core, batch = api
    item = {"type": "Container", "default": {"memory": "200M"}, "max": {"memory": "1G"}}
    core.create_namespaced_limit_range(NS, {"metadata": {"name": "sane"}, "spec": {"limits": [item]}})
    batch.create_namespaced_job(NS, job("a", GREEDY))
    assert ended(batch, "a").failed == 1
    assert state_of(core, "a").terminated.reason == "OOMKilled"
    batch.create_namespaced_job(NS, job("b", "exit 0", **limits(memory="2G")))
    event = until(lambda: core.list_namespaced_event(NS).items)[0]
    assert "maximum memory usage per Container is 1G, but limit is 2G" in event.message


def test_restricted_namespace_lets_only_hardened_pods_in(cluster, api):
    core, batch = api
    core.create_namespace({"metadata": {"name": NS, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}})
    batch.create_namespaced_job(NS, job("a", "exit 0"))
    event = until(lambda: core.list_namespaced_event(NS).items)[0]
    assert 'violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false' in event.message
    hardened = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    batch.create_namespaced_job(NS, job("b", "exit 0", securityContext=hardened))
    assert ended(batch, "b").succeeded == 1


def test_owner_takes_what_it_owns_along(cluster, api):
    core, _batch = api
    owner = core.create_namespaced_config_map(NS, {"metadata": {"name": "owner"}})
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner.metadata.uid}
    core.create_namespaced_secret(NS, {"metadata": {"name": "run", "ownerReferences": [reference]}})
    core.delete_namespaced_config_map("owner", NS)
    assert refusal(lambda: core.read_namespaced_secret("run", NS))[0] == 404


@pytest.mark.parametrize("code", [409, 429, 500])
def test_request_meets_a_status(cluster, api, code):
    core, _ = api
    cluster.fault("status", match="GET .*/pods", code=code, times=2)
    assert [refusal(lambda: core.list_namespaced_pod(NS))[0] for _ in range(2)] == [code, code]
    assert core.list_namespaced_pod(NS).items == []
    assert cluster.count("list", "pods") == 1


def test_slow_answer_cut_connection_and_server_away(cluster, api):
    core, _ = api
    cluster.fault("slow", after_s=0.3)
    started = time.monotonic()
    core.list_namespaced_pod(NS)
    assert time.monotonic() - started >= 0.3
    cluster.fault("reset")
    with pytest.raises((urllib3.exceptions.HTTPError, OSError)):
        core.list_namespaced_pod(NS)
    core.list_namespaced_pod(NS)
    with cluster.away(), pytest.raises(urllib3.exceptions.MaxRetryError, match="refused"):
        core.list_namespaced_pod(NS)
    assert core.list_namespaced_pod(NS).items == []


def test_same_seed_breaks_the_same_pods(tmp_path):
    def choices(seed: int) -> list[bool]:
        server = KubernetesServer(tmp_path, {}, seed=seed)
        server.fault("oom", p=0.5, times=None)
        return [server.faults.of_pod("convert") is not None for _ in range(20)]

    assert choices(1) == choices(1)
    assert choices(1) != choices(2)
    assert 4 < sum(choices(1)) < 16


def test_kubectl_applies_lists_and_deletes(cluster, tmp_path):
    cluster.kubeconfig(tmp_path / "config", cluster.admin, NS)
    (tmp_path / "role.yaml").write_text(ROLE)

    def kubectl(*arguments: str) -> str:
        command = [program("kubectl"), "--kubeconfig", "config", "--cache-dir", "cache", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "role.rbac.authorization.k8s.io/driver serverside-applied" in kubectl("apply", "--server-side", "-f", "role.yaml")
    assert "driver" in kubectl("get", "roles")
    assert "deleted" in kubectl("delete", "--wait=false", "role/driver")
    assert "driver" not in kubectl("get", "roles")


def test_pods_end_with_the_cluster(tmp_path, image_env):
    with KubernetesServer(tmp_path / "c", image_env, grace_s=0.2) as server:
        with client(server) as (_, batch):
            batch.create_namespaced_job(NS, job("a", "trap '' TERM; sleep 60"))
        running = until(lambda: next((r for r in server.kubelet.pods.values() if r.process), None))
    assert running.process.returncode == -signal.SIGKILL
    assert not Path(f"/proc/{running.process.pid}").exists()
