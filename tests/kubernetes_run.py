"""Where a run on the Kubernetes stand-in finds its keys, its buckets and its sources."""

import string

from file_server import FileServer
from k8s_server import KubernetesServer
from s3_server import Bucket, key_of
from workspace import ROOT, Workspace

POLICIES = {"driver": "planner", "job": "converter"}
"""Key in the secret store to its rights in ``deploy/policies``."""
PLACES = {"STATE_BUCKET": "test-*", "STATE_PREFIX": "state", "STORE_BUCKET": "test-*", "STORE_PREFIX": "stores"}
"""Every test has a bucket of its own, for state and stores."""


def policies() -> dict[str, str]:
    """Return the rights of driver and job as the guide gives them, by identity."""
    texts = {who: (ROOT / f"deploy/policies/{name}.json").read_text() for who, name in POLICIES.items()}
    return {who: string.Template(text).substitute(PLACES) for who, text in texts.items()}


def buckets_and_keys(
    cluster: KubernetesServer, bucket: Bucket, work: Workspace, web: FileServer
) -> tuple[dict[str, str], dict[str, str]]:
    """Put the keys into the secret store; return the files of ``zarrmill-config`` and the values of ``zarrmill-place``."""
    for who in POLICIES:
        key, secret = key_of(who)
        cluster.vault[f"zarrmill/{who}"] = {"access_key_id": key, "secret_access_key": secret}
    cluster.kubelet.max_pods = 3
    work.configure(
        state_root=bucket.href("state"),
        store_root=bucket.href("stores"),
        s3={"lease_s": 10.0},
        source={"catalogue": web.href(work.path / "archive/items.json")},
    )
    files = {path.name: path.read_text() for path in (work.path / "config").iterdir()}
    place = dict.fromkeys(("AWS_REGION", "AWS_DEFAULT_REGION", "SNAKEMAKE_STORAGE_S3_REGION"), "us-east-1")
    place |= {"AWS_ENDPOINT_URL": bucket.url, "ZARRMILL_STATE": bucket.href("state"), "AWS_EC2_METADATA_DISABLED": "true"}
    return files, place
