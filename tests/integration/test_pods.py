"""Snakemake's Kubernetes executor with what ``zarrmill.io.pods`` puts around it, while pods and API misbehave."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from k8s_server import KubernetesServer
from k8s_server.access import ADMIN
from k8s_server.objects import BY_RESOURCE, JOBS, PODS
from until import PATIENCE, until

from zarrmill.errors import ConfigError
from zarrmill.io import pods

SNAKEFILE = """
from zarrmill.io.pods import fence_executor

if not config.get("bare"):
    fence_executor()


rule all:
    input:
        expand("state/{name}.txt", name=config["names"].split(",")),


rule make:
    output:
        text="state/{name}.txt",
    log:
        "state/logs/{name}.log",
    resources:
        mem_mb=lambda wildcards, attempt: 400 * attempt,
    shell:
        "echo {wildcards.name} {resources.mem_mb} > {output.text}"
"""

IMAGE = f"zarrmill@sha256:{'0' * 64}"

TEMPLATE = """
metadata:
  labels: {app.kubernetes.io/part-of: zarrmill}
  ownerReferences: [{apiVersion: v1, kind: ConfigMap, name: driver, uid: $DRIVER_UID}]
spec:
  activeDeadlineSeconds: 900
  ttlSecondsAfterFinished: 3600
  template:
    spec:
      priorityClassName: $PRIORITY
      containers: [{name: snakemake, securityContext: {allowPrivilegeEscalation: false}}]
"""


class Run:
    """One run of the tiny workflow."""

    def __init__(self, folder: Path, cluster: KubernetesServer, bucket) -> None:
        self.folder, self.cluster, self.bucket = folder, cluster, bucket
        folder.mkdir()
        (folder / "Snakefile").write_text(SNAKEFILE)
        bucket.put("keep", b"")
        cluster.kubeconfig(folder / "kubeconfig", cluster.admin, "zarrmill")
        cluster.load("{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: backfill}, value: 1}")
        self.env = {**os.environ, "KUBECONFIG": str(folder / "kubeconfig"), "PYTHONWARNINGS": "ignore"}

    def start(self, names: str, *arguments: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "snakemake", "--executor", "kubernetes", "--kubernetes-namespace", "zarrmill"]
        command += ["--default-storage-provider", "s3", "--default-storage-prefix", self.bucket.href("run")]
        command += ["--shared-fs-usage", "none", "--seconds-between-status-checks", "1", "--container-image", IMAGE]
        command += ["--default-resources", "disk_mb=50", "scale=0", "--jobs", "20", "--keep-going"]
        command += ["--envvars", *(name for name in self.env if name.startswith("AWS_"))]
        command += ["--config", f"names={names}", *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def __call__(self, names: str, *arguments: str) -> tuple[int, str]:
        with self.start(names, *arguments) as process:
            return finish(process)

    def made(self) -> dict[str, str]:
        found = self.bucket.contents("run/state/")
        return {key.removesuffix(".txt"): text.decode().strip() for key, text in found.items() if key.endswith(".txt")}


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Return code and output of a run; one that hangs is ended."""
    try:
        output, _ = process.communicate(timeout=120 * PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"the run hangs:\n{output}") from None
    return process.returncode, output


@pytest.fixture
def run(tmp_path, s3_bucket, cluster):  # pods end before their bucket goes
    return Run(tmp_path / "work", cluster, s3_bucket)


def test_without_it_a_failed_pod_ends_the_run_of_all_others(run):
    run.cluster.fault("exit", match=r"name=bad\b")
    code, output = run("bad,slow", "bare=1", "--retries", "1")
    assert code != 0
    assert 'previous terminated container \\"snakemake\\"' in output
    assert "bad" not in run.made()


def test_every_job_ends_well_whatever_meets_its_first_pod(run):
    faults = {
        "exit": run.cluster.fault("exit", match=r"name=exit\b", code=9),
        "oom": run.cluster.fault("oom", match=r"name=oom\b", after_s=0.5),
        "evicted": run.cluster.fault("evicted", match=r"name=evicted\b", after_s=0.5),
        "early": run.cluster.fault("evicted", match=r"name=early\b"),
        "pending": run.cluster.fault("pending", match=r"name=pending\b"),
        "image": run.cluster.fault("image", match=r"name=image\b"),
        "gone": run.cluster.fault("vanish", match=r"name=gone\b", after_s=0.5),
        "twice": run.cluster.fault("twice", match=r"name=twice\b"),
    }
    template = run.folder / "job.yaml"
    template.write_text(TEMPLATE)
    run.cluster.load("{apiVersion: v1, kind: ConfigMap, metadata: {name: driver, namespace: zarrmill}}")
    owner = run.cluster.store.find(BY_RESOURCE["", "configmaps"])[0]
    run.env |= {"ZARRMILL_JOB_TEMPLATE": str(template), "PRIORITY": "backfill", "DRIVER_UID": owner["metadata"]["uid"]}
    run.cluster.kubelet.max_pods = 9
    run.cluster.controller.wait_clock = 300.0
    code, output = run(",".join(faults), "--retries", "1")
    assert code == 0, output
    assert run.made() == {name: f"{name} {400 if name == 'twice' else 800}" for name in faults}
    assert [fault.met for fault in faults.values()] == [1] * len(faults)
    # A Job that ended at its deadline has no pod, and the executor leaves it; it goes after its time or with its owner.
    assert len(objects_left(run.cluster)) == 2
    run.cluster.controller.delete(BY_RESOURCE["", "configmaps"], "zarrmill", "driver")
    assert objects_left(run.cluster) == []


def test_requests_that_fail_are_repeated(run):
    run.cluster.fault("status", match="GET .*/status", code=500, times=3)
    run.cluster.fault("status", match="POST .*/jobs", code=429)
    run.cluster.fault("reset", match="GET .*/pods", times=2)
    run.cluster.fault("reset", match="DELETE")
    code, output = run("a,b")
    assert code == 0, output
    assert run.made() == {"a": "a 400", "b": "b 400"}
    assert objects_left(run.cluster) == []


def test_refused_credentials_are_read_again_and_requests_repeated(run):
    run.cluster.fault("status", match="POST .*/jobs", code=401)
    run.cluster.fault("status", match="GET .*/status", code=401, times=2)
    run.cluster.fault("status", match="DELETE .*/jobs", code=401)
    code, output = run("a,b")
    assert code == 0, output
    assert run.made() == {"a": "a 400", "b": "b 400"}
    assert "reauthenticate" not in output
    assert objects_left(run.cluster) == []


def test_token_that_was_renewed_is_taken_from_its_file(run):
    process = run.start("a,b")
    until(lambda: run.cluster.count("create", "jobs", 201) == 2, timeout_s=60)
    run.cluster.access.tokens.pop(run.cluster.admin)
    until(lambda: run.cluster.count("", "", 401), timeout_s=60)
    for half in ("", "users: [{name: user, user: {token: "):
        (run.folder / "kubeconfig").write_text(half)
        n = run.cluster.count("", "", 401)
        until(lambda: run.cluster.count("", "", 401) > n, timeout_s=60)  # noqa: B023  # at once
    run.cluster.kubeconfig(run.folder / "kubeconfig", run.cluster.access.token(ADMIN), "zarrmill")
    code, output = finish(process)
    assert code == 0, output
    assert run.made() == {"a": "a 400", "b": "b 400"}
    assert objects_left(run.cluster) == []


IN_CLUSTER = """
import sys
from kubernetes import client, config
from kubernetes.config import incluster_config
from zarrmill.errors import UnknownStateError
from zarrmill.io import pods

incluster_config.SERVICE_TOKEN_FILENAME, incluster_config.SERVICE_CERT_FILENAME = sys.argv[1:3]
pods.AUTH_WAITS_S = (0.0, 0.0)
pods._authorised(client)
config.load_incluster_config()
api = client.CoreV1Api()
print(len(api.list_namespaced_secret("zarrmill").items), flush=True)
sys.stdin.readline()
print(len(api.list_namespaced_secret("zarrmill").items), flush=True)
sys.stdin.readline()
try:
    api.list_namespaced_secret("zarrmill")
except UnknownStateError as error:
    print(error, flush=True)
"""


def test_pod_reads_the_token_of_its_account_again_and_ends_when_none_is_taken(cluster, tmp_path):
    token = tmp_path / "token"
    token.write_text(first := cluster.access.token(ADMIN))
    port = cluster.url.rpartition(":")[2]
    env = {**os.environ, "KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": port, "HOME": str(tmp_path)}
    env.pop("KUBECONFIG", None)
    command = [sys.executable, "-c", IN_CLUSTER, str(token), str(cluster.certificate)]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        assert process.stdout.readline() == "0\n"
        cluster.access.tokens.pop(first)
        token.write_text(second := cluster.access.token(ADMIN))
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "0\n"
        cluster.access.tokens.pop(second)
        process.stdin.write("\n")
        process.stdin.flush()
        assert "ZM-UNK-OUTAGE: Kubernetes API: 401 for 0 s" in process.stdout.readline()


def test_conflict_and_lost_answer_of_a_new_job_end_no_run(run):
    conflict = run.cluster.fault("status", match="POST .*/jobs", code=409, times=2)
    lost = run.cluster.fault("lost", match="POST .*/jobs")
    code, output = run("a,b")
    assert code == 0, output
    assert (conflict.met, lost.met) == (2, 1)
    assert run.made() == {"a": "a 400", "b": "b 400"}
    assert run.cluster.count("create", "jobs", 409) == 1  # that of the Job whose answer was lost
    assert objects_left(run.cluster) == []


QUOTA = """
{apiVersion: v1, kind: ResourceQuota, metadata: {name: small, namespace: zarrmill}, spec: {hard: {count/jobs.batch: "2"}}}
"""


def test_jobs_wait_for_a_quota_that_is_full(run):
    run.cluster.load(QUOTA)
    code, output = run("a,b,c,d")
    assert code == 0, output
    assert run.made() == {name: f"{name} 400" for name in "abcd"}
    assert output.count("Jobs wait for a place in the namespace: ") == 1
    assert "exceeded quota: small" in output
    assert run.cluster.count("create", "jobs", 403) >= 2
    assert objects_left(run.cluster) == []


def test_run_goes_on_after_the_api_was_away(run):
    process = run.start("a,b")
    until(lambda: run.cluster.count("create", "jobs", 201) == 2, timeout_s=60)
    with run.cluster.away():
        time.sleep(6)
    code, output = finish(process)
    assert code == 0, output
    assert run.made() == {"a": "a 400", "b": "b 400"}
    assert objects_left(run.cluster) == []


def test_driver_that_breaks_off_leaves_no_job_that_waits_for_its_secret(run):
    blocked = threading.Event()
    run.cluster.fault("pending", match=r"name=slow\b")
    run.cluster.fault("exit", match=r"name=bad\b", go=blocked)
    process = run.start("bad,slow")
    until(lambda: run.cluster.count("create", "jobs", 201) == 2, timeout_s=60)
    logs = run.folder / ".snakemake/auxiliary/kubernetes-logs"
    shutil.rmtree(logs, ignore_errors=True)
    logs.write_text("the log of a pod cannot be written here")
    blocked.set()
    code, output = finish(process)
    assert code == 1
    assert str(logs.relative_to(run.folder)) in output
    assert [entry for entry in objects_left(run.cluster) if "slow" in entry or "bad" in entry] == []


def test_status_that_is_refused_ends_the_run_and_leaves_nothing(run):
    run.cluster.fault("pending", match=r"name=slow\b")
    run.cluster.fault("status", match="GET .*/status", code=403)
    code, output = run("slow")
    assert code == 1
    assert re.search(r"ZM-UNK-OUTAGE: Kubernetes API: status of snakejob-\S+: 403 Forbidden; start another driver", output)
    assert objects_left(run.cluster) == []


def test_failed_pod_leaves_its_log_and_how_it_ended(run):
    run.cluster.fault("exit", match=r"name=bad\b", code=9, times=None)
    code, _ = run("bad,good", "--show-failed-logs")
    assert code == 1
    assert run.made() == {"good": "good 400"}
    logs = [path.read_text() for path in run.folder.rglob("kubernetes-logs/*.log")]
    assert logs == ["pod: Error, exit code 9\nended by the test\n\n"]
    assert objects_left(run.cluster) == []


def test_node_that_does_not_answer_for_a_log_does_not_hold_up_the_run(run):
    run.cluster.fault("exit", match=r"name=bad\b", code=9, times=None)
    silent = run.cluster.fault("status", match="GET .*/log", code=500, times=None)
    code, output = run("bad,good", "--show-failed-logs")
    assert (code, silent.met) == (1, 3), output
    assert run.made() == {"good": "good 400"}
    assert "(no log: Internal Server Error)" in "".join(path.read_text() for path in run.folder.rglob("kubernetes-logs/*.log"))


def test_posted_job_has_what_the_template_says_and_its_targets(run):
    template = run.folder / "job.yaml"
    template.write_text(TEMPLATE)
    run.env |= {"ZARRMILL_JOB_TEMPLATE": str(template), "PRIORITY": "backfill", "DRIVER_UID": "0"}
    code, output = run("a")
    assert code == 0, output
    secret, job = run.cluster.posted
    assert secret["metadata"]["ownerReferences"] == job["metadata"]["ownerReferences"]
    assert job["metadata"]["labels"] == {"app": "snakemake", "app.kubernetes.io/part-of": "zarrmill"}
    assert job["metadata"]["annotations"] == {"zarrmill/targets": "make:name=a"}
    assert job["spec"]["activeDeadlineSeconds"] == 900
    spec = job["spec"]["template"]["spec"]
    assert spec["priorityClassName"] == "backfill"
    container = spec["containers"][0]
    assert container["securityContext"] == {"allowPrivilegeEscalation": False}
    assert container["resources"] == {
        "requests": {"cpu": "950m", "memory": "400M", "ephemeral-storage": "50M"},
        "limits": {"cpu": "1000m", "memory": "400M", "ephemeral-storage": "50M"},
    }


def test_lists_are_joined_and_containers_merged_by_place():
    body = {"a": 1, "env": [{"name": "A"}], "containers": [{"image": "x", "env": [{"name": "A"}]}]}
    more = {"a": 2, "env": [{"name": "B"}], "containers": [{"env": [{"name": "B"}]}], "b": {"c": 1}}
    assert pods.merged(body, more) == {
        "a": 2,
        "env": [{"name": "A"}, {"name": "B"}],
        "containers": [{"image": "x", "env": [{"name": "A"}, {"name": "B"}]}],
        "b": {"c": 1},
    }


def test_template_with_a_variable_that_is_not_set_is_refused(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(TEMPLATE)
    with pytest.raises(ConfigError, match="variable 'DRIVER_UID' is not set"):
        pods.read_template({"ZARRMILL_JOB_TEMPLATE": str(path)})
    path.write_text("- a list")
    with pytest.raises(ConfigError, match="expected keys of a Job, found list"):
        pods.read_template({"ZARRMILL_JOB_TEMPLATE": str(path)})
    with pytest.raises(ConfigError, match="No such file"):
        pods.read_template({"ZARRMILL_JOB_TEMPLATE": str(tmp_path / "none")})
    assert pods.read_template({}) == {}


def test_image_without_a_digest_is_refused(run):
    code, output = run("a", "--container-image", "zarrmill:latest")
    assert code == 1
    assert "container image zarrmill:latest: expected NAME@sha256:..." in output
    assert "Traceback" not in output
    assert run.cluster.count("create", "jobs") == 0
    assert objects_left(run.cluster) == []


def test_another_version_of_the_executor_is_refused(monkeypatch):
    monkeypatch.setattr(pods, "KNOWN_VERSION", "0.5.2")
    monkeypatch.setitem(sys.modules, "snakemake_executor_plugin_kubernetes", sys)
    with pytest.raises(ConfigError, match=r"found 0\.5\.1, expected 0\.5\.2"):
        pods.fence_executor({})


def objects_left(cluster: KubernetesServer) -> list[str]:
    """Secrets, Jobs and Pods that a run left behind."""
    kinds = (BY_RESOURCE["", "secrets"], PODS, JOBS)
    return [json.dumps(value["metadata"]) for kind in kinds for value in cluster.store.find(kind)]
