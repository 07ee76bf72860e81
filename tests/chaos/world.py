"""The machine that a chaos backfill runs on: S3 server, host of sources, a proxy with faults before each, and the cluster."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml
from fault_proxy import FaultProxy, fault_proxy
from file_server import file_server
from k8s_server import KubernetesServer, make_image
from k8s_server.kubelet import Running
from k8s_server.objects import BY_RESOURCE, JOBS, PODS, Object
from kubernetes_run import POLICIES, policies
from s3_server import Bucket, S3Server, bucket, key_of, s3_server
from tools import ROOT, rendered

from chaos import archive
from chaos.archive import Archive
from chaos.sizes import Size

NS = "zarrmill-staging"
RUN = "soak"
DRIVER_JOB = "backfill"
SECRETS = BY_RESOURCE["", "secrets"]


@dataclass(frozen=True)
class World:
    """Everything that runs, and where it is."""

    size: Size
    seed: int
    root: Path
    server: S3Server
    bucket: Bucket
    """As the tests see it, without faults."""
    s3: FaultProxy
    """What the workflow sees."""
    web: FaultProxy
    cluster: KubernetesServer
    archive: Archive

    @property
    def name(self) -> str:
        """Name of the backfill."""
        return f"{RUN}-{self.archive.first:%Y%m%d}-{self.archive.last:%Y%m%d}"

    @property
    def n_shards(self) -> int:
        """Shards that the range is cut into: whole days, as many as fit."""
        per_day = -(-self.size.n_products // self.size.n_days)
        return -(-self.size.n_days // max(1, self.size.shard_products // per_day))

    def config(self, *, through_faults: bool = True) -> dict[str, object]:
        """Return the configuration of the run."""
        web = self.web.url if through_faults else self.web.upstream
        return {
            "run": RUN,
            "state_root": self.bucket.href("state"),
            "store_root": self.bucket.href("stores"),
            "source": {"catalogue": f"{web}/items.json", "timeout_s": 10.0},
            "recipes": ["config/s1-grd.yaml"],
            "threads": 1,
            "s3": {"lease_s": self.size.lease_s, "timeout_s": 10.0, "retries": 4},
        }

    def drivers(self) -> dict[str, Running]:
        """Return every driver pod there ever was, by name."""
        return {name: pod for name, pod in list(self.cluster.kubelet.pods.items()) if name.startswith(f"{DRIVER_JOB}-")}

    def workers(self) -> dict[str, Running]:
        """Return every pod of a driver's Jobs there ever was, by name."""
        return {name: pod for name, pod in self.cluster.kubelet.pods.items() if not name.startswith(f"{DRIVER_JOB}-")}

    def left(self) -> list[str]:
        """Return Jobs, pods and Secrets that are there, but for the Secrets of the namespace."""
        names = [value["metadata"]["name"] for kind in (JOBS, PODS, SECRETS) for value in self.cluster.store.find(kind)]
        return [name for name in names if name not in ("zarrmill-driver", "zarrmill-job")]


@contextmanager
def world(root: Path, size: Size, seed: int) -> Iterator[World]:
    """Start everything, with a bucket and a namespace that are empty but for what an operator puts there."""
    with ExitStack() as stack:
        made = archive.build(root / "archive", size.n_products, size.n_days)
        (root / "s3").mkdir()
        server = stack.enter_context(s3_server(root / "s3", policies()))
        made_bucket = stack.enter_context(bucket(server, f"test-soak-{seed}"))
        s3 = stack.enter_context(fault_proxy(server.url))
        web = stack.enter_context(fault_proxy(stack.enter_context(file_server(made.root)).url))
        image = make_image(root / "image")
        _profile(root / "image", size)
        cluster = stack.enter_context(KubernetesServer(root / "cluster", image, max_pods=size.max_pods, seed=seed))
        cluster.kubelet.watch_s = size.watch_s
        found = World(size, seed, root, server, made_bucket, s3, web, cluster, made)
        _namespace(found)
        yield found


def driver_job(world: World, number: int) -> Object:
    """Return a Job as ``kubectl create job --from=cronjob/zarrmill-backfill`` makes it, for as many shards as there are."""
    found = [body for body in yaml.safe_load_all(rendered("staging")) if body["metadata"]["name"] == "zarrmill-backfill"]
    job: Object = next(body for body in found if body["kind"] == "CronJob")["spec"]["jobTemplate"]["spec"]
    job["completions"] = world.n_shards
    job["parallelism"] = world.size.n_drivers
    job["template"]["spec"]["containers"][0]["args"] += ["--canary", f"{world.size.canary}"]
    return {"metadata": {"name": f"{DRIVER_JOB}-{number}"}, "spec": job}


def _namespace(world: World) -> None:
    for who in POLICIES:
        key, secret = key_of(who)
        world.cluster.vault[f"zarrmill/{who}"] = {"access_key_id": key, "secret_access_key": secret}
    place = dict.fromkeys(("AWS_REGION", "AWS_DEFAULT_REGION", "SNAKEMAKE_STORAGE_S3_REGION"), "us-east-1")
    place |= {"AWS_ENDPOINT_URL": world.s3.url, "ZARRMILL_STATE": world.bucket.href("state"), "AWS_EC2_METADATA_DISABLED": "true"}
    files = {
        "config.yaml": yaml.safe_dump(world.config()),
        "s1-grd.yaml": archive.recipe((ROOT / "config/recipes/s1-grd.yaml").read_text()),
    }
    days = {"FROM": f"{world.archive.first}", "TO": f"{world.archive.last}"}
    days |= {"SHARD_PRODUCTS": f"{world.size.shard_products}", "COMPLETIONS": f"{world.n_shards}"}
    data = {"zarrmill-config": files, "zarrmill-place": place, "zarrmill-backfill": days}
    world.cluster.load(rendered("../cluster"))
    bodies = list(yaml.safe_load_all(rendered("staging")))
    for body in bodies:
        if body["kind"] == "ConfigMap":
            body["data"] = data.get(body["metadata"]["name"], body["data"])
    world.cluster.load(yaml.safe_dump_all(bodies))


def _profile(image: Path, size: Size) -> None:
    """Set in the image's profile what an operator sets for small products and a small cluster."""
    path = next((image / "xdg/snakemake/ovh").glob("config*.yaml"))
    profile = yaml.safe_load(path.read_text())
    profile |= {"group-components": [f"item={size.per_pod}"], "jobs": size.jobs, "seconds-between-status-checks": size.poll_s}
    path.write_text(yaml.safe_dump(profile))


def versions(weed: Path) -> str:
    """Return the version of the S3 server."""
    done = subprocess.run([str(weed), "version"], capture_output=True, text=True, timeout=60, check=False)
    return " ".join(done.stdout.split()[:3])


def free_gb(folder: Path) -> float:
    """Return the free space of a disk."""
    return shutil.disk_usage(folder).free / 1e9
