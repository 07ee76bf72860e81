"""A real S3 server on 127.0.0.1 for tests: SeaweedFS on free ports with a folder of its own, ended by its process id."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

KEYS = {
    "admin": ("test-admin-key", "test-admin-secret"),
    "writer": ("test-writer-key", "test-writer-secret"),
    "converter": ("test-converter-key", "test-converter-secret"),
    "reader": ("test-reader-key", "test-reader-secret"),
}
"""Access key and secret of each identity. ``writer`` may delete objects but no bucket, ``converter`` may delete nothing."""

_EVERYWHERE = ["arn:aws:s3:::*", "arn:aws:s3:::*/*"]
_READ = ["s3:GetObject", "s3:ListBucket", "s3:GetBucketLocation"]
_WRITE = [*_READ, "s3:PutObject", "s3:ListBucketMultipartUploads", "s3:ListMultipartUploadParts", "s3:AbortMultipartUpload"]


def key_of(identity: str) -> tuple[str, str]:
    """Return access key and secret of an identity, also of one that a test made."""
    return KEYS.get(identity, (f"test-{identity}-key", f"test-{identity}-secret"))


def weed() -> Path:
    """Return the server's binary, installed beside the interpreter."""
    return Path(sys.executable).with_name("weed")


@dataclass(frozen=True)
class S3Server:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]
    folder: Path

    def client(self, identity: str = "admin", url: str | None = None, **options: Any) -> Any:  # boto3's clients have no type
        """Return a client without retries; close it."""
        key, secret = key_of(identity)
        config = Config(retries={"max_attempts": 0}, s3={"addressing_style": "path"}, connect_timeout=5, read_timeout=30)
        return boto3.session.Session().client(
            "s3",
            endpoint_url=url or self.url,
            aws_access_key_id=key,
            aws_secret_access_key=secret,
            region_name="us-east-1",
            config=config.merge(Config(**options)),
        )

    def env(self, identity: str = "admin", url: str | None = None) -> dict[str, str]:
        """Return the environment of a process that works on this server (or through a proxy at ``url``)."""
        key, secret = key_of(identity)
        return {
            "AWS_ENDPOINT_URL": url or self.url,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@dataclass(frozen=True)
class Bucket:
    """A bucket of one test."""

    server: S3Server
    name: str
    url: str
    """Endpoint: the server's, or that of a proxy before it (``through``)."""

    def through(self, url: str) -> "Bucket":
        """Return the same bucket behind another endpoint."""
        return replace(self, url=url)

    def href(self, key: str = "") -> str:
        """Return the ``s3://`` address of a key or prefix."""
        return f"s3://{self.name}/{key}" if key else f"s3://{self.name}"

    def env(self, identity: str = "admin") -> dict[str, str]:
        """Return the environment of a process that works on this bucket."""
        return self.server.env(identity, self.url)

    def client(self, identity: str = "admin", **options: Any) -> Any:  # boto3's clients have no type
        """Return a client through this bucket's endpoint; close it."""
        return self.server.client(identity, self.url, **options)

    def contents(self, prefix: str = "") -> dict[str, bytes]:
        """Return every object below ``prefix`` (asked of the server itself), key relative to it."""
        with closing(self.server.client()) as client:
            keys = _keys(client, self.name, prefix)
            return {key[len(prefix) :]: client.get_object(Bucket=self.name, Key=key)["Body"].read() for key in keys}

    def keys(self, prefix: str = "") -> list[str]:
        """Return the key of every object below ``prefix``, whole, sorted."""
        with closing(self.server.client()) as client:
            return _keys(client, self.name, prefix)

    def uploads(self) -> list[str]:
        """Return the keys of multipart uploads that are neither completed nor aborted."""
        with closing(self.server.client()) as client:
            return sorted(upload["Key"] for upload in client.list_multipart_uploads(Bucket=self.name).get("Uploads", []))

    def put(self, key: str, data: bytes) -> None:
        """Write one object as admin."""
        with closing(self.server.client()) as client:
            client.put_object(Bucket=self.name, Key=key, Body=data)

    def delete(self, *keys: str) -> None:
        """Delete objects as admin."""
        with closing(self.server.client()) as client:
            for key in keys:
                client.delete_object(Bucket=self.name, Key=key)


@contextmanager
def s3_server(folder: Path, policies: Mapping[str, str] | None = None) -> Iterator[S3Server]:
    """Run a server with its data in ``folder`` until the block ends; ``policies`` are further identities by name."""
    folder = folder.resolve()  # its own working folder
    config = folder / "s3.json"
    config.write_text(json.dumps(_identities(policies or {})))
    names = ("master", "volume", "filer", "s3")
    ports = _free_ports(2 * len(names))
    options = [f"-{n}.port={http}" for n, http in zip(names, ports, strict=False)]
    options += [f"-{n}.port.grpc={grpc}" for n, grpc in zip(names, ports[len(names) :], strict=True)]
    options += [f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.config={config}"]
    options += ["-volume.max=200", "-master.volumeSizeLimitMB=256", "-master.telemetry=false", "-s3.autoCreateBucket=false"]
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-filer.localSocket=none", "-s3.localSocket=none"]
    env = {**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}  # one volume a bucket, not seven: buckets are made quickly
    with (folder / "log").open("wb") as log:
        command = [str(weed()), "-logtostderr", "server", *options]
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
    server = S3Server(f"http://127.0.0.1:{ports[names.index('s3')]}", process, folder)
    try:
        _wait(server)
        yield server
    finally:
        process.kill()  # its data is thrown away; a tidy end takes 15 s
        process.wait()


@contextmanager
def bucket(server: S3Server, name: str) -> Iterator[Bucket]:
    """Make a bucket and remove it with all that is in it."""
    with closing(server.client()) as client:
        client.create_bucket(Bucket=name)
        try:
            yield Bucket(server, name, server.url)
        finally:
            for key in _keys(client, name, ""):
                client.delete_object(Bucket=name, Key=key)
            client.delete_bucket(Bucket=name)


def _keys(client: Any, name: str, prefix: str) -> list[str]:
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=name, Prefix=prefix)
    return sorted(item["Key"] for page in pages for item in page.get("Contents", []))


def _identities(more: Mapping[str, str]) -> dict[str, Any]:
    def policy(allowed: list[str]) -> str:
        statement = {"Effect": "Allow", "Action": allowed, "Resource": _EVERYWHERE}
        return json.dumps({"Version": "2012-10-17", "Statement": [statement]})

    policies = {"writer": policy([*_WRITE, "s3:DeleteObject"]), "converter": policy(_WRITE), "reader": policy(_READ), **more}
    credentials = {name: [dict(zip(("accessKey", "secretKey"), key_of(name), strict=True))] for name in {*KEYS, *more}}
    identities: list[dict[str, Any]] = [
        {"name": "admin", "credentials": credentials["admin"], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    ]
    identities += [{"name": n, "credentials": credentials[n], "actions": [], "policyNames": [n]} for n in policies]
    return {"identities": identities, "policies": [{"name": n, "content": text} for n, text in policies.items()]}


def _free_ports(n: int) -> list[int]:
    sockets = [socket.socket() for _ in range(n)]
    try:
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [int(item.getsockname()[1]) for item in sockets]
    finally:
        for item in sockets:
            item.close()


def _wait(server: S3Server, timeout_s: float = 60.0) -> None:
    """Wait until an object can be written: the volume server joins some seconds after the S3 port opens."""
    deadline = time.monotonic() + timeout_s
    with closing(server.client()) as client:
        while True:
            try:
                if not client.list_buckets()["Buckets"]:
                    client.create_bucket(Bucket="first-bucket")
                client.put_object(Bucket="first-bucket", Key="ready", Body=b"1")
                return
            except (BotoCoreError, ClientError) as error:
                if time.monotonic() > deadline or server.process.poll() is not None:
                    log = (server.folder / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"the S3 server did not come up: {error}\n{log}") from error
                time.sleep(0.1)
