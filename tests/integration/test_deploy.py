"""What ``deploy/k8s`` renders is valid, hardened, without secrets, the same in staging and production, and works."""

import copy
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kubernetes_validate
import pytest
import yaml
from k8s_server.admission import PRIORITIES, QUOTAS, admit, quantity
from k8s_server.objects import JOBS, PODS, ApiError, Object, Store
from snakemake_storage_plugin_s3 import StorageProvider, StorageProviderSettings
from tools import objects, program, rendered
from until import until

from zarrmill.config import load_settings
from zarrmill.io import bucket
from zarrmill.io.pods import merged
from zarrmill.io.state import State

ROOT = Path(__file__).parent.parent.parent
OVERLAYS = ("staging", "production")
DRIVERS = ("zarrmill-run", "zarrmill-backfill", "zarrmill-forward")

OVH = "https://s3.gra.io.cloud.ovh.net"
"""Only addresses of this form know lifecycle rules at OVH."""

MAY_DIFFER = (
    r"Namespace/[^.]*\.metadata\.name",
    r".*\.metadata\.namespace",
    r"RoleBinding/.*\.subjects\.0\.namespace",
    r"ResourceQuota/.*\.spec\.hard\..*",
    r"ConfigMap/zarrmill-(config|place|backfill)\.data\..*",
    r"CronJob/zarrmill-backfill\.spec\.jobTemplate\.spec\.(completions|parallelism)",
    r"CronJob/zarrmill-forward\.spec\.(suspend|schedule)",
    r"CronJob/.*\.containers\.0\.(image|env\.0\.value)",
)
"""Places of the rendered objects in which the overlays may say different things."""

SECRET = re.compile(
    r"(secret|password|token|key)\w*['\"]?[:=]\s*['\"]?(?!AWS_\w+$)[\w/+-]{16,}|BEGIN [A-Z ]*PRIVATE KEY|AKIA\w{16}",
    re.IGNORECASE,
)
"""Looks like a secret with its value."""


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value below an object with the way to it."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def told(overlay: str) -> dict[str, Any]:
    """Every value of an overlay; the namespace's name does not count as part of a way."""
    found = {}
    for (kind, name), body in objects(overlay).items():
        found.update(leaves(body, f"{kind}/{'' if kind == 'Namespace' else name}"))
    return found


def pod_of(overlay: str, driver: str) -> Object:
    return dict(objects(overlay)["CronJob", driver]["spec"]["jobTemplate"]["spec"]["template"]["spec"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_objects_are_valid_for_the_api(overlay):
    for body in yaml.safe_load_all(rendered(overlay)):
        if body["kind"] == "ExternalSecret":  # of an operator: no schema of it is at hand
            continue
        for version in ("1.31", "1.34"):
            kubernetes_validate.validate(body, version, strict=True)


def test_overlays_differ_only_where_they_may():
    staging, production = (told(overlay) for overlay in OVERLAYS)
    differ = {path for path in staging.keys() | production.keys() if staging.get(path) != production.get(path)}
    assert differ
    assert [path for path in sorted(differ) if not any(re.fullmatch(allowed, path) for allowed in MAY_DIFFER)] == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nothing_secret_is_in_it(overlay):
    assert not [name for kind, name in objects(overlay) if kind == "Secret"]
    assert [path for path, value in told(overlay).items() if SECRET.search(f"{path}: {value}")] == []


def test_a_secret_would_be_seen():
    assert SECRET.search("data.AWS_SECRET_ACCESS_KEY: wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    assert SECRET.search("ca.pem: -----BEGIN EC PRIVATE KEY-----")
    assert not SECRET.search("automountServiceAccountToken: false")


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("driver", DRIVERS)
def test_driver_is_hardened_and_has_time_to_stop(overlay, driver):
    pod, container = pod_of(overlay, driver), pod_of(overlay, driver)["containers"][0]
    assert pod["terminationGracePeriodSeconds"] == 300
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/workdir", "/tmp", "/config", "/job"}
    resources = container["resources"]
    assert all(quantity(resources["requests"][key]) <= quantity(limit) for key, limit in resources["limits"].items())
    variables = {item["name"]: item.get("value") for item in container["env"]}
    assert variables["ZARRMILL_IMAGE"] == container["image"]
    assert re.search(r"@sha256:[0-9a-f]{64}$", container["image"])
    assert variables["ZARRMILL_PRIORITY"] == pod["priorityClassName"]


def test_forward_runs_go_before_backfills_and_end_nobody():
    classes = {name: body for (kind, name), body in objects("../cluster").items() if kind == "PriorityClass"}
    assert classes["zarrmill-forward"]["value"] > classes["zarrmill-backfill"]["value"]
    assert {body["preemptionPolicy"] for body in classes.values()} == {"Never"}
    assert pod_of("production", "zarrmill-forward")["priorityClassName"] == "zarrmill-forward"
    assert pod_of("production", "zarrmill-backfill")["priorityClassName"] == "zarrmill-backfill"


def test_only_the_forward_run_starts_by_itself_and_only_in_production():
    suspended = {(o, d): objects(o)["CronJob", d]["spec"]["suspend"] for o in OVERLAYS for d in DRIVERS}
    assert [key for key, value in suspended.items() if not value] == [("production", "zarrmill-forward")]


def test_every_night_is_the_same_run():
    (command,) = pod_of("production", "zarrmill-forward")["containers"][0]["args"][2:]
    assert command.startswith("exec zarrmill backfill --forward --from ")
    assert "--canary 0" in command


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_mounted_configuration_is_one(overlay, tmp_path):
    data = objects(overlay)["ConfigMap", "zarrmill-config"]["data"]
    (tmp_path / "config.yaml").write_text(data["config.yaml"])
    settings = load_settings(tmp_path / "config.yaml")
    place = objects(overlay)["ConfigMap", "zarrmill-place"]["data"]
    assert settings.state_root == place["ZARRMILL_STATE"]
    assert settings.store_root.split("/")[2] != settings.state_root.split("/")[2]
    dates = objects(overlay)["ConfigMap", "zarrmill-backfill"]["data"]
    assert date.fromisoformat(dates["FROM"]) <= date.fromisoformat(dates["TO"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_removing_an_overlay_takes_nothing_from_the_other_one(overlay):
    for (kind, name), body in objects(overlay).items():
        assert kind == "Namespace" or body["metadata"]["namespace"] == f"zarrmill-{overlay}", (kind, name)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_library_and_storage_plugin_reach_ovh_alike(overlay, tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text(objects(overlay)["ConfigMap", "zarrmill-config"]["data"]["config.yaml"])
    settings = load_settings(tmp_path / "config.yaml")
    for name, value in objects(overlay)["ConfigMap", "zarrmill-place"]["data"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    bucket.use(settings.s3)
    plugin = StorageProviderSettings(region=os.environ["SNAKEMAKE_STORAGE_S3_REGION"])
    with closing(Provider.client(plugin)) as theirs, closing(bucket.client("made-up")) as ours:
        for client in (ours, theirs):
            assert (client.meta.endpoint_url, client.meta.region_name) == (OVH, "gra")
            config = client.meta.config
            assert (config.request_checksum_calculation, config.response_checksum_validation) == ("when_required",) * 2
            address = client.generate_presigned_url("get_object", Params={"Bucket": "made-up", "Key": "key"})
            assert address.startswith(f"{OVH}/made-up/key?"), "path style"
    state = State.of(settings)
    assert state.root.href.startswith(f"{os.environ['ZARRMILL_STATE']}/")
    profile = (ROOT / "profiles/ovh/config.v9+.yaml").read_text()
    assert yaml.safe_load(profile)["default-storage-prefix"] == "$ZARRMILL_STATE"
    assert OVH in profile
    assert OVH in (ROOT / "docs/guides/state-in-a-bucket.md").read_text()


class Provider:
    """The storage plugin as Snakemake starts it, as far as its client goes."""

    @staticmethod
    def client(settings: StorageProviderSettings) -> Any:
        provider = SimpleNamespace(settings=settings)
        StorageProvider.__post_init__(provider)
        return provider.s3c.meta.client


def policies(overlay: str) -> dict[str, Any]:
    return {name: body["spec"] for (kind, name), body in objects(overlay).items() if kind == "NetworkPolicy"}


def test_only_drivers_reach_the_kubernetes_api_and_nobody_the_credentials_of_a_machine():
    found = policies("production")
    assert found["zarrmill-nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for who, ports in (("driver", [443, 6443]), ("job", [443])):
        spec = found[f"zarrmill-{who}"]
        assert spec["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == who
        (rule,) = spec["egress"]
        assert [port["port"] for port in rule["ports"]] == ports
        assert rule["to"] == [{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}}]
    (names,) = found["zarrmill-names"]["egress"]
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in names["to"]
    assert {port["port"] for port in names["ports"]} == {53}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_example_of_another_port_works_as_it_stands(overlay, tmp_path):
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    path = tmp_path / "deploy/k8s/overlays" / overlay / "kustomization.yaml"
    text = path.read_text()
    path.write_text(re.sub(r"^# (patches:|- target: .kind: NetworkPolicy|  patch: |    - )", r"\1", text, flags=re.MULTILINE))
    done = subprocess.run([program("kubectl"), "kustomize", str(path.parent)], capture_output=True, text=True, check=True)
    bodies = {body["metadata"]["name"]: body for body in yaml.safe_load_all(done.stdout) if body["kind"] == "NetworkPolicy"}
    for who in ("driver", "job"):
        assert {"protocol": "TCP", "port": 9000} in bodies[f"zarrmill-{who}"]["spec"]["egress"][0]["ports"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_backfill_knows_how_many_completions_its_job_has(overlay):
    n = objects(overlay)["CronJob", "zarrmill-backfill"]["spec"]["jobTemplate"]["spec"]["completions"]
    assert objects(overlay)["ConfigMap", "zarrmill-backfill"]["data"]["COMPLETIONS"] == str(n)
    assert {"configMapRef": {"name": "zarrmill-backfill"}} in pod_of(overlay, "zarrmill-backfill")["containers"][0]["envFrom"]


def test_quota_has_room_for_the_jobs_of_the_profile():
    profile = yaml.safe_load((ROOT / "profiles/ovh/config.v9+.yaml").read_text())
    hard = objects("production")["ResourceQuota", "zarrmill"]["spec"]["hard"]
    n_drivers = objects("production")["CronJob", "zarrmill-backfill"]["spec"]["jobTemplate"]["spec"]["parallelism"] + 1
    assert int(hard["count/jobs.batch"]) > profile["jobs"] * n_drivers


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_backfills_leave_room_for_the_forward_run(overlay):
    whole, part = (objects(overlay)["ResourceQuota", name]["spec"] for name in ("zarrmill", "zarrmill-backfill"))
    drivers = [pod_of(overlay, f"zarrmill-{name}") for name in ("backfill", "forward")]
    (scope,) = part["scopeSelector"]["matchExpressions"]
    assert [pod["priorityClassName"] in scope["values"] for pod in drivers] == [True, False]
    for key, value in part["hard"].items():
        assert quantity(value) < quantity(whole["hard"][key]), key
    store = Store()
    for name in ("zarrmill", "zarrmill-backfill"):
        body = copy.deepcopy(objects(overlay)["ResourceQuota", name])
        store.add(QUOTAS, "n", body | {"spec": body["spec"] | {"hard": {"pods": "3" if name == "zarrmill" else "2"}}})
    for name in ("zarrmill-backfill", "zarrmill-forward"):
        store.add(PRIORITIES, "", {"metadata": {"name": name}, "value": 1})

    def pod(name, priority):
        spec = {"priorityClassName": priority, "containers": [{"name": "c"}]}
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec, "status": {"phase": "Pending"}}
        admit(store, PODS, "n", body)
        store.add(PODS, "n", body)

    pod("a", "zarrmill-backfill")
    pod("b", "zarrmill-backfill")
    with pytest.raises(ApiError, match="exceeded quota: zarrmill-backfill, requested: pods=1, used: pods=2, limited: pods=2"):
        pod("c", "zarrmill-backfill")
    pod("d", "zarrmill-forward")


def admitted(cluster: Any, overlay: str = "staging") -> None:
    """Bring an overlay into the stand-in, with the secrets it refers to."""
    cluster.vault |= {f"zarrmill/{who}": {"access_key_id": "id", "secret_access_key": "key"} for who in ("driver", "job")}
    cluster.load(rendered(overlay))


def jobs_from(cluster: Any, driver: str, args: list[str], overlay: str = "staging") -> Object:
    """Start a driver as ``kubectl create job --from`` does, with another command."""
    spec = yaml.safe_load(yaml.safe_dump(objects(overlay)["CronJob", driver]["spec"]["jobTemplate"]["spec"]))
    container = spec["template"]["spec"]["containers"][0]
    container |= {"command": ["/bin/sh", "-c"], "args": args}
    body = {"metadata": {"name": driver}, "spec": spec}
    return dict(cluster.create(JOBS, f"zarrmill-{overlay}", body))


def ended(cluster: Any, job: Object) -> Object:
    return until(lambda: job["status"].get("conditions")) and job["status"]


def logs(cluster: Any) -> list[str]:
    return [running.log.read_text() for running in cluster.kubelet.pods.values()]


def test_driver_starts_with_its_configuration_its_secret_and_its_account(cluster):
    admitted(cluster)
    script = (
        "cat $ZARRMILL_CONFIG/config.yaml | head -2; echo $AWS_ACCESS_KEY_ID $ZARRMILL_NAMESPACE $POD_NAME; test -s $KUBECONFIG"
    )
    status = ended(cluster, jobs_from(cluster, "zarrmill-run", [script]))
    assert status["conditions"][-1]["type"] == "Complete", logs(cluster)
    name = cluster.store.find(PODS)[0]["metadata"]["name"]
    assert logs(cluster)[0].splitlines()[1:] == ["run: 2025-01", f"id zarrmill-staging {name}"]


def test_pod_of_a_job_is_let_in_and_has_no_account(cluster):
    admitted(cluster)
    data = objects("staging")["ConfigMap", "zarrmill-job"]["data"]
    template = yaml.safe_load(data["job.yaml"].replace("$ZARRMILL_PRIORITY", "zarrmill-backfill").replace("$POD_", "x"))
    limits = {"cpu": "1", "memory": "500M", "ephemeral-storage": "500M"}
    container = {"name": "snakemake", "image": "zarrmill", "command": ["/bin/sh"], "resources": {"limits": limits}}
    container["args"] = ["-c", 'echo "$AWS_ACCESS_KEY_ID $AWS_ENDPOINT_URL ${KUBECONFIG:-none}"']
    pod = {"containers": [container], "restartPolicy": "Never", "serviceAccountName": "zarrmill-job"}
    job = merged({"metadata": {"name": "a"}, "spec": {"backoffLimit": 0, "template": {"spec": pod}}}, template)
    status = ended(cluster, cluster.create(JOBS, "zarrmill-staging", job))
    assert status["conditions"][-1]["type"] == "Complete", cluster.store.find(JOBS)
    assert logs(cluster) == [f"id {OVH} none\n"]


def test_shards_that_failed_products_are_done_with_and_others_go_on(cluster):
    admitted(cluster)
    script = "echo $FROM $JOB_COMPLETION_INDEX $ZARRMILL_BACKFILL_SESSION; [ $JOB_COMPLETION_INDEX != 1 ] || exit 4"
    job = jobs_from(cluster, "zarrmill-backfill", [script])
    status = ended(cluster, job)
    assert (status["succeeded"], status["failed"]) == (19, 1)
    session = job["metadata"]["uid"]
    assert sorted(logs(cluster)) == sorted(f"2025-01-01 {index} {session}\n" for index in range(20)), "one canary for all"
    assert cluster.kubelet.n_most == 2


def test_backfill_with_a_wrong_configuration_ends_at_once(cluster):
    admitted(cluster)
    status = ended(cluster, jobs_from(cluster, "zarrmill-backfill", ["exit 2"]))
    assert status["conditions"][-1]["reason"] == "PodFailurePolicy"
    assert len(cluster.kubelet.pods) <= 2


@pytest.mark.parametrize(("code", "n_tries"), [(2, 1), (4, 1), (6, 4)])
def test_driver_is_tried_again_only_when_that_may_help(cluster, code, n_tries):
    admitted(cluster)
    job = jobs_from(cluster, "zarrmill-run", [f"exit {code}"])
    ended(cluster, job)
    assert len(cluster.kubelet.pods) == n_tries


def test_evicted_driver_is_no_failed_try(cluster, tmp_path):
    admitted(cluster)
    for _ in range(5):
        cluster.fault("evicted", after_s=0.1)
    job = jobs_from(cluster, "zarrmill-run", [f"while ! test -e {tmp_path}/go; do sleep 0.1; done"])
    until(lambda: len(cluster.kubelet.pods) == 6)
    (tmp_path / "go").touch()
    status = ended(cluster, job)
    assert status["conditions"][-1]["type"] == "Complete"
    assert len(cluster.kubelet.pods) == 6


def test_kubectl_applies_the_overlay_and_starts_a_run_from_it(cluster, tmp_path):
    cluster.vault |= {f"zarrmill/{who}": {"access_key_id": "id", "secret_access_key": "key"} for who in ("driver", "job")}
    config = cluster.kubeconfig(tmp_path / "config", cluster.admin, "zarrmill-staging")

    def kubectl(*arguments: str, stdin: str = "") -> str:
        command = [program("kubectl"), "--kubeconfig", str(config), "--cache-dir", str(tmp_path / "cache"), *arguments]
        done = subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    kubectl("apply", "--server-side", "-k", "deploy/k8s/overlays/staging")
    assert "zarrmill-forward" in kubectl("get", "cronjobs")
    cluster.fault("exit", code=0)
    job = kubectl("create", "job", "run-2025-01", "--from=cronjob/zarrmill-run", "--dry-run=client", "-o", "yaml")
    assert kubectl("create", "-f", "-", stdin=job) == "job.batch/run-2025-01 created\n"
    until(lambda: cluster.store.find(JOBS)[0]["status"].get("conditions"))
    assert kubectl("logs", "job/run-2025-01") == "ended by the test\n"
