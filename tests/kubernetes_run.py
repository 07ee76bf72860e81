"""Where a run on the Kubernetes stand-in finds its keys, its buckets and its sources."""

from file_server import FileServer
from k8s_server import KubernetesServer
from s3_server import KEYS, Bucket
from workspace import Workspace


def buckets_and_keys(
    cluster: KubernetesServer, bucket: Bucket, work: Workspace, web: FileServer
) -> tuple[dict[str, str], dict[str, str]]:
    """Put the keys into the secret store; return the files of ``zarrmill-config`` and the values of ``zarrmill-place``."""
    key, secret = KEYS["writer"]
    cluster.vault |= {f"zarrmill/{who}": {"access_key_id": key, "secret_access_key": secret} for who in ("driver", "job")}
    cluster.kubelet.max_pods = 3
    work.configure(
        state_root=bucket.href("state"),
        store_root=bucket.href("stores"),
        s3={"lease_s": 5.0},
        source={"catalogue": web.href(work.path / "archive/items.json")},
    )
    files = {path.name: path.read_text() for path in (work.path / "config").iterdir()}
    place = dict.fromkeys(("AWS_REGION", "AWS_DEFAULT_REGION", "SNAKEMAKE_STORAGE_S3_REGION"), "us-east-1")
    place |= {"AWS_ENDPOINT_URL": bucket.url, "ZARRMILL_STATE": bucket.href("state"), "AWS_EC2_METADATA_DISABLED": "true"}
    return files, place
