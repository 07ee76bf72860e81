"""What is there at the end, from outside: the bucket, the cluster, logs, ``zarrmill audit``, undisturbed conversions."""

import base64
import csv
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from k8s_server.objects import JOBS, ApiError
from kubernetes_run import POLICIES
from s3_server import KEYS, key_of
from tools import ROOT

from chaos import archive
from chaos.backfill import Round
from chaos.trouble import Trouble
from chaos.watch import Watch
from chaos.world import DRIVER_JOB, NS, World

Json = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True)
class Evidence:
    """Everything that the checks judge; plain values, so that each check can be shown to fail."""

    ids: tuple[str, ...]
    """Products of the archive."""
    rounds: tuple[Round, ...]
    n_shards: int
    listed: Mapping[str, tuple[int, str]]
    """Key of every object in the bucket to its size and entity tag."""
    manifests: Mapping[str, tuple[tuple[str, str], ...]]
    """Run of each shard to product id and store of its rows."""
    receipts: Mapping[str, Json]
    """Store to receipt."""
    reports: Mapping[str, Json]
    """Run to ``summary.json``."""
    roots: Mapping[str, int]
    """Store to how often its root was written with success."""
    undisturbed: Mapping[str, Json]
    """Store to what an undisturbed conversion writes."""
    records: Mapping[str, Json]
    """Key to failure record."""
    met: Mapping[str, int]
    """Kind of fault to how often it was met."""
    broken_sources: tuple[str, ...]
    broken_stores: tuple[str, ...]
    n_kills: int
    """Drivers that were to be killed."""
    audit: Json
    uploads: tuple[str, ...]
    """Keys of open multipart uploads."""
    left: tuple[str, ...]
    """Jobs, pods and Secrets in the cluster."""
    told: Mapping[str, bytes]
    """Every place that must not hold a key (logs, state, posted objects) to what it holds."""
    status: str
    """What ``zarrmill status`` says, with its exit code."""


def collect(world: World, trouble: Trouble, watch: Watch, rounds: Sequence[Round]) -> Evidence:
    """Look at everything; the faults have ended."""
    left = _tidy(world)
    listed = _listed(world)
    state = world.bucket.contents("state/")
    manifests = {key.partition("/")[0]: _rows(text) for key, text in state.items() if key.endswith("/manifest.csv")}
    receipts = [json.loads(text) for key, text in state.items() if _stage(key) == "convert"]
    user = _user(world)
    audit = _zarrmill(world, user, "audit", "--json", "--config", "config/config.yaml")
    status = _zarrmill(world, user, "status", world.name, "--config", "config/config.yaml")
    return Evidence(
        ids=world.archive.ids,
        rounds=tuple(rounds),
        n_shards=world.n_shards,
        listed=listed,
        manifests=manifests,
        receipts={one["store"].removeprefix(world.bucket.href("stores/")): one for one in receipts},
        reports={
            key.partition("/")[0]: json.loads(text) for key, text in state.items() if key.count("/") == 1 and "summary" in key
        },
        roots=dict(watch.roots),
        undisturbed=_undisturbed(world, user),
        records={key: json.loads(text) for key, text in state.items() if "/failed/" in key},
        met=trouble.met(),
        broken_sources=trouble.broken_sources,
        broken_stores=trouble.broken_stores,
        n_kills=world.size.n_kills,
        audit={"code": audit.returncode, **json.loads(audit.stdout or "{}")},
        uploads=_uploads(world),
        left=left,
        told={**{f"state/{key}": text for key, text in state.items()}, **_logs(world)},
        status=f"{status.returncode}: {status.stdout.strip()}{status.stderr[-500:]}",
    )


def secrets() -> tuple[bytes, ...]:
    """Return what must be in no log: the secret keys, as they are and as Kubernetes writes them."""
    plain = [secret.encode() for _, secret in (*KEYS.values(), *map(key_of, POLICIES))]
    return (*plain, *(base64.b64encode(secret) for secret in plain))


def _tidy(world: World) -> tuple[str, ...]:
    """Delete the Jobs of the rounds, as their operator does or their time to live; return what is left then."""
    for job in [one["metadata"]["name"] for one in world.cluster.store.find(JOBS)]:
        if job.startswith(f"{DRIVER_JOB}-"):
            try:
                world.cluster.controller.delete(JOBS, NS, job)
            except ApiError:
                continue
    return tuple(world.left())


def _listed(world: World) -> dict[str, tuple[int, str]]:
    with closing(world.server.client()) as client:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=world.bucket.name)
        items = [item for page in pages for item in page.get("Contents", ())]
    return {item["Key"]: (int(item["Size"]), item["ETag"].strip('"')) for item in items}


def _uploads(world: World) -> tuple[str, ...]:
    with closing(world.server.client()) as client:
        return tuple(sorted(one["Key"] for one in client.list_multipart_uploads(Bucket=world.bucket.name).get("Uploads", ())))


def _stage(key: str) -> str:
    parts = key.split("/")
    return parts[3] if len(parts) == 5 and parts[2].isdigit() and key.endswith(".json") else ""


def _rows(text: bytes) -> tuple[tuple[str, str], ...]:
    found = []
    for row in csv.DictReader(text.decode().splitlines()):
        day = row["datetime"][:10].replace("-", "")
        found.append((row["product_id"], f"{row['collection']}/{day}/{row['product_id']}_{row['digest']}.zarr"))
    return tuple(found)


def _logs(world: World) -> dict[str, bytes]:
    logs = {f"log of {name}": pod.log.read_bytes() for name, pod in world.cluster.kubelet.pods.items()}
    return logs | {"posted objects": json.dumps(world.cluster.posted).encode()}


def _user(world: World) -> Path:
    """Lay out the folder of a user who looks at the run from a machine of their own, past the faults."""
    folder = world.root / "user"
    (folder / "config").mkdir(parents=True)
    (folder / "config/config.yaml").write_text(yaml.safe_dump(world.config()))
    (folder / "config/s1-grd.yaml").write_text(archive.recipe((ROOT / "config/recipes/s1-grd.yaml").read_text()))
    return folder


def _environment(world: World) -> dict[str, str]:
    paths = {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT)]), "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **world.bucket.env("writer"), **paths}


def _zarrmill(world: World, user: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "zarrmill", *words]
    return subprocess.run(command, cwd=user, env=_environment(world), capture_output=True, text=True, timeout=600, check=False)


def _undisturbed(world: World, user: Path) -> dict[str, Json]:
    words = [str(world.root / "undisturbed"), world.name, f"{world.size.n_compared}", f"{world.seed}"]
    done = subprocess.run(
        [sys.executable, "-m", "chaos.undisturbed", *words],
        cwd=user,
        env=_environment(world),
        capture_output=True,
        text=True,
        timeout=3600,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"undisturbed conversions: {done.stderr[-2000:]}")
    return dict(json.loads(done.stdout))


def attempts(evidence: Evidence) -> dict[str, int]:
    """Return how the conversions went: stores written by the job that has the receipt, adopted by it, and failure records."""
    adopted = Counter(bool(one["adopted"]) for one in evidence.receipts.values())
    return {"written": adopted[False], "adopted": adopted[True], "failure records": len(evidence.records)}
