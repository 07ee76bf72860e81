"""A run on Kubernetes as ``deploy/k8s`` sets it up: driver and jobs are pods, sources on the web, state and stores in buckets."""

import base64
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from file_server import FileServer, file_server
from k8s_server import KubernetesServer
from k8s_server.admission import quantity
from k8s_server.objects import BY_RESOURCE, JOBS, PODS, Object
from kubernetes_run import POLICIES, buckets_and_keys
from s3_server import KEYS, Bucket, key_of
from tools import ROOT, objects, rendered
from until import until
from workspace import Workspace

from zarrmill.core.room import WORK_MB
from zarrmill.io.pods import TARGETS, targets_of
from zarrmill.io.record import parse_record
from zarrmill.model import FailureRecord
from zarrmill.sample.s1 import GrdSpec, build_grd, grd_item, synthetic_scene

NS = "zarrmill-staging"
DRIVER = f"system:serviceaccount:{NS}:zarrmill-driver"
CONFIGMAPS = BY_RESOURCE["", "configmaps"]
SECRETS = BY_RESOURCE["", "secrets"]


@dataclass
class Namespace:
    """The staging overlay on the stand-in, with the buckets and the catalogue of one test."""

    cluster: KubernetesServer
    bucket: Bucket
    work: Workspace

    @classmethod
    def create(cls, cluster: KubernetesServer, bucket: Bucket, work: Workspace, web: FileServer) -> "Namespace":
        files, place = buckets_and_keys(cluster, bucket, work, web)
        bodies = list(yaml.safe_load_all(rendered("staging")))
        for body in bodies:
            if body["kind"] == "ConfigMap" and body["metadata"]["name"] in ("zarrmill-config", "zarrmill-place"):
                body["data"] = files if body["metadata"]["name"] == "zarrmill-config" else place
        cluster.load(yaml.safe_dump_all(bodies))
        return cls(cluster, bucket, work)

    def start(self, *options: str) -> Object:
        """Start a run as ``kubectl create job --from=cronjob/zarrmill-run`` does; it polls more often than a real one."""
        spec = objects("staging")["CronJob", "zarrmill-run"]["spec"]["jobTemplate"]["spec"]
        spec = json.loads(json.dumps(spec))
        spec["template"]["spec"]["containers"][0]["args"] += ["--seconds-between-status-checks", "1", *options]
        return self.cluster.create(JOBS, NS, {"metadata": {"name": "run"}, "spec": spec})

    def start_backfill(self, first: str, last: str, *, n_products: int, completions: int) -> Object:
        """Start a backfill with what the overlay says, but for the values that the guide says to set."""
        config = next(one for one in self.cluster.store.find(CONFIGMAPS, NS) if one["metadata"]["name"] == "zarrmill-backfill")
        config["data"] = {"FROM": first, "TO": last, "SHARD_PRODUCTS": f"{n_products}", "COMPLETIONS": f"{completions}"}
        spec = json.loads(json.dumps(objects("staging")["CronJob", "zarrmill-backfill"]["spec"]["jobTemplate"]["spec"]))
        return self.cluster.create(JOBS, NS, {"metadata": {"name": "run"}, "spec": {**spec, "completions": completions}})

    def finish(self, run: Object) -> str:
        """Wait for the end of a run; return how it ended."""
        until(lambda: run["status"].get("conditions"), timeout_s=120)
        return str(run["status"]["conditions"][-1]["type"])

    @property
    def output(self) -> str:
        """What the drivers printed."""
        pods = self.cluster.kubelet.pods
        return "\n".join(running.log.read_text() for name, running in pods.items() if name.startswith("run-"))

    @property
    def logs(self) -> str:
        """What all pods printed."""
        return "\n".join(running.log.read_text() for running in self.cluster.kubelet.pods.values())

    @property
    def jobs(self) -> list[Object]:
        """Jobs that drivers posted, oldest first."""
        return [body for body in self.cluster.posted if body.get("kind") != "Secret" and "spec" in body]

    def left(self) -> list[str]:
        """Jobs, pods and Secrets that a run left behind, but its own Job and its drivers."""
        own = {"run", "zarrmill-driver", "zarrmill-job"}
        names = [v["metadata"]["name"] for kind in (JOBS, PODS, SECRETS) for v in self.cluster.store.find(kind)]
        return [name for name in names if name not in own and not name.startswith("run-")]

    def done(self, run: str = "test") -> Counter[str]:
        """Targets of products in the bucket, by stage."""
        keys = [key.split("/") for key in self.bucket.keys(f"state/{run}/")]
        return Counter(key[4] for key in keys if len(key) == 6 and key[5].endswith(".json") and key[3].isdigit())

    def failures(self) -> list[FailureRecord]:
        """Failure records in the bucket, oldest first."""
        read = (parse_record(FailureRecord, data, key) for key, data in self.bucket.contents("state/test/failed/").items())
        return sorted(read, key=lambda one: (one.measured.attempt, one.product.name))

    def sealed(self) -> int:
        """Number of sealed stores."""
        return sum(key.count("/") == 4 and key.endswith(".zarr/zarr.json") for key in self.bucket.keys("stores/"))


@pytest.fixture
def namespace(
    s3_bucket: Bucket, cluster: KubernetesServer, workspace: Callable[..., Workspace], tmp_path: Path
) -> Iterator[Callable[..., Namespace]]:
    with file_server(tmp_path) as web:
        yield lambda n, n_days=1: Namespace.create(cluster, s3_bucket, workspace(n_days=n_days, products_per_day=n), web)


def disk_of(job: Object) -> str:
    return str(job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["ephemeral-storage"])


def memory_of(job: Object) -> str:
    return str(job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"])


def test_products_are_converted_validated_and_described_each_in_one_pod(namespace):
    space = namespace(2)
    run = space.start()
    assert space.finish(run) == "Complete", space.output
    assert space.done() == {"plan": 2, "convert": 2, "validate": 2, "stac": 2}
    assert space.sealed() == 2
    assert "state/test/report/index.html" in space.bucket.keys("state/test/report/")
    assert space.left() == []
    stages = [sorted(target.split(":")[0] for target in targets_of(job)) for job in space.jobs]
    assert stages == [["convert", "stac", "validate"]] * 2
    for job in space.jobs:
        container = job["spec"]["template"]["spec"]["containers"][0]
        # 2000 MB is the recipe's, 200 MB Snakemake's.
        limits = {"cpu": "1000m", "memory": "2200M", "ephemeral-storage": "500M"}
        assert container["resources"] == {"limits": limits, "requests": {**limits, "cpu": "950m"}}
        assert job["metadata"]["labels"] == {
            "app": "snakemake",
            "app.kubernetes.io/component": "job",
            "app.kubernetes.io/part-of": "zarrmill",
        }
        assert job["spec"]["template"]["spec"]["priorityClassName"] == "zarrmill-backfill"
        assert str(space.work.path) not in json.dumps(job)  # pods share no folder with anyone
    for running in space.cluster.kubelet.pods.values():
        limits = running.pod["spec"]["containers"][0]["resources"]["limits"]
        assert running.peak_bytes < quantity(limits["memory"]) / 2
        assert running.peak_disk_bytes < quantity(limits["ephemeral-storage"]) / 10


def test_pod_that_holds_chunks_of_a_remote_radar_product_has_room_for_them(workspace, cluster, s3_bucket, tmp_path):
    work = workspace(n_days=1, products_per_day=1)
    scene = synthetic_scene(spec := GrdSpec(shape=(800, 1200), form="flat"))
    source = build_grd(spec, work.path / "archive/products", scene)
    (work.path / "archive/items.json").write_text(
        json.dumps(
            {
                "type": "FeatureCollection",
                "features": [grd_item(spec, scene, source.relative_to(work.path / "archive").as_posix())],
            }
        )
    )
    shutil.copy(ROOT / "config/recipes/s1-grd.yaml", work.path / "config")
    work.configure(recipes=["config/s1-grd.yaml"])
    with file_server(tmp_path) as web:
        space = Namespace.create(cluster, s3_bucket, work, web)
        evicted = cluster.fault("evicted", match="S1A_IW_GRDH")
        run = space.start("--retries", "1")
        assert space.finish(run) == "Complete", space.output
    assert evicted.met == 1
    assert space.done() == {"plan": 1, "convert": 1, "validate": 1, "stac": 1}
    # Two images of 800 x 1200 pixels of two bytes are 3.84 MB, all arrays 3.9; more room after the first pod was evicted.
    assert [disk_of(job) for job in space.jobs] == [f"{WORK_MB + 4}M", f"{2 * (WORK_MB + 4)}M"]


def test_no_key_is_in_the_secret_of_a_run_and_a_pod_may_hold_several_products(namespace):
    space = namespace(2)
    run = space.start("--group-components", "item=2")
    until(lambda: space.jobs, timeout_s=120)
    secret = next(body for body in space.cluster.posted if body.get("type") == "Opaque")
    space.cluster.controller.delete(JOBS, NS, run["metadata"]["name"])
    values = [base64.b64decode(value).decode() for value in secret["data"].values()]
    assert not set(values) & {part for pair in (*KEYS.values(), *map(key_of, POLICIES)) for part in pair}
    assert [len(targets_of(job)) for job in space.jobs] == [6]
    assert memory_of(space.jobs[0]) == "4400M"
    until(lambda: space.left() == [])  # both go with the driver's pod


def test_lost_pods_are_tried_again_with_more_memory_and_an_api_that_is_away_is_waited_for(namespace):
    space = namespace(2)
    first, second = sorted(path.stem for path in (space.work.path / "archive/products").iterdir())
    faults = [
        space.cluster.fault("oom", match=first, after_s=1.0),
        space.cluster.fault("evicted", match=first, after_s=1.0),
        space.cluster.fault("exit", match=second, code=1),
    ]
    run = space.start()
    until(lambda: space.jobs, timeout_s=120)
    with space.cluster.away():
        time.sleep(4)
    assert space.finish(run) == "Complete", space.output
    assert [fault.met for fault in faults] == [1, 1, 1]
    assert space.done() == {"plan": 2, "convert": 2, "validate": 2, "stac": 2}
    assert space.sealed() == 2
    of_first = [memory_of(job) for job in space.jobs if first in job["metadata"]["annotations"][TARGETS]]
    assert of_first == ["2200M", "4200M", "4200M"]  # evicted is not short of memory, but maybe of disk
    assert [disk_of(job) for job in space.jobs if first in job["metadata"]["annotations"][TARGETS]] == ["500M", "500M", "1000M"]
    told = [(one.product.product_id == first, one.failure_class, one.code, one.measured.attempt) for one in space.failures()]
    expected = [
        (True, "capacity", "ZM-CAP-MEMORY", 1),
        (False, "unknown", "ZM-UNKNOWN", 1),
        (True, "evicted", "ZM-CAP-EVICTED", 2),
    ]
    assert sorted(told, key=str) == sorted(expected, key=str)
    assert any("limit of 2200M" in one.message for one in space.failures())
    assert any(one.excerpt == "ended by the test" for one in space.failures())
    summary = json.loads(space.bucket.contents("state/test/summary.json")[""])
    assert summary["counts"]["failed"] == 0
    assert space.left() == []
    # A failed pod had its log read, so this was everything that the role is for.
    rules = objects("staging")["Role", "zarrmill-driver"]["rules"]
    allowed = {(g, r, v) for rule in rules for g in rule["apiGroups"] for r in rule["resources"] for v in rule["verbs"]}
    assert space.cluster.verbs(DRIVER) == allowed


def test_product_that_cannot_be_converted_stops_no_other_and_ends_the_run_for_good(namespace):
    space = namespace(2)
    broken = next(space.work.path.glob("archive/products/*MSIL2A*"))
    next(broken.glob("measurements/reflectance/r10m/b04/*.*")).unlink()
    run = space.start("--retries", "1")
    assert space.finish(run) == "Failed"
    assert run["status"]["conditions"][-1]["reason"] == "PodFailurePolicy"
    assert space.done() == {"plan": 2, "convert": 1, "validate": 1, "stac": 1}
    assert space.sealed() == 1
    # The second try ended before it read anything: the record of the first one stands.
    assert [(one.failure_class, one.measured.attempt) for one in space.failures()] == [("source-missing", 1)]
    assert "ZM-SRC-MISSING as before, not tried again" in space.logs
    assert all('"event": "failed"' in one.excerpt and "ZM-SRC-MISSING" in one.excerpt for one in space.failures())
    assert len(space.jobs) == 3
    assert space.left() == []


def test_each_index_of_a_backfill_builds_its_shard_and_the_same_again_builds_nothing(namespace):
    space = namespace(1, n_days=2)
    run = space.start_backfill("2025-01-13", "2025-01-14", n_products=1, completions=2)
    assert space.finish(run) == "Complete", space.output
    name = "test-20250113-20250114"
    assert [space.done(f"{name}-{index:04d}") for index in range(2)] == [
        dict.fromkeys(("plan", "convert", "validate", "stac"), 1)
    ] * 2
    assert space.sealed() == 2
    assert f"state/{name}/backfill.json" in space.bucket.keys("state/")
    assert [f"state/{name}-{index:04d}/report/index.html" in space.bucket.keys("state/") for index in range(2)] == [True, True]
    assert "backfill test-20250113-20250114: 2 products listed in 2 shards" in space.output
    n_jobs = len(space.jobs)
    space.cluster.controller.delete(JOBS, NS, "run")
    assert space.left() == []
    again = space.start_backfill("2025-01-13", "2025-01-14", n_products=1, completions=2)
    assert space.finish(again) == "Complete", space.output
    assert len(space.jobs) == n_jobs


def test_backfill_with_more_shards_than_completions_is_refused(namespace):
    space = namespace(1, n_days=2)
    run = space.start_backfill("2025-01-13", "2025-01-14", n_products=1, completions=1)
    assert space.finish(run) == "Failed"
    assert run["status"]["conditions"][-1]["reason"] == "PodFailurePolicy"
    assert "2 shards, but the Job has 1 completions, so the others would never be built; set COMPLETIONS" in space.output
    assert space.jobs == []


def test_driver_that_was_killed_is_replaced_and_nothing_is_converted_twice(namespace):
    space = namespace(2)
    run = space.start()
    until(lambda: space.done()["convert"] or space.sealed(), timeout_s=120)
    driver = next(running for name, running in space.cluster.kubelet.pods.items() if name.startswith("run-"))
    os.killpg(driver.process.pid, signal.SIGKILL)
    assert space.finish(run) == "Complete", space.output
    assert space.done() == {"plan": 2, "convert": 2, "validate": 2, "stac": 2}
    assert space.sealed() == 2
    drivers = [name for name in space.cluster.kubelet.pods if name.startswith("run-")]
    assert len(drivers) == 2
    # What the killed driver left goes with its pod, at the latest when its Job's time is over.
    space.cluster.controller.delete(JOBS, NS, "run")
    assert space.left() == []
