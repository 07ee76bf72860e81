"""The container image built and run without a daemon: buildah builds, a mount namespace and ``chroot`` run."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tools import ROOT, program

SUITE = "trixie"
"""Debian release with Python 3.13: what a base image of the tests is made of."""
UID = 10001
ENTER = """
set -eu
root=$1; workdir=$2; shift 2
mount --bind "$root" "$root"
mount -o remount,ro,bind "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind "$workdir" "$root/workdir"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
exec chroot --userspec={uid}:{uid} "$root" env --ignore-environment --chdir=/workdir "$@"
"""


@dataclass(frozen=True)
class Image:
    """A built image, its file system mounted."""

    root: Path
    env: Mapping[str, str]
    user: str
    workdir: str

    def run(
        self, folder: Path, *command: str, env: Mapping[str, str] | None = None, network: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command as a pod with a read-only root would: only its working folder and ``/tmp`` can be written."""
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o777)  # as an emptyDir is: of root, open to all
        values = [f"{key}={value}" for key, value in {**self.env, **(env or {})}.items()]
        enter = ["unshare", *([] if network else ["--net"]), "--mount", "--propagation", "private"]
        enter += ["sh", "-c", ENTER.format(uid=UID), "enter"]
        return subprocess.run(
            [*enter, str(self.root), str(folder), *values, *command], capture_output=True, text=True, timeout=120, check=False
        )


def base() -> Path:
    """Return the file system of a small Debian with Python and git; made once, kept in ``.tools``."""
    path = ROOT / ".tools" / f"{SUITE}.tar"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        command = [program("mmdebstrap"), "--quiet", "--variant=minbase", "--include=python3,python3-venv,git,ca-certificates"]
        command += ["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*", "--format=tar"]
        done = subprocess.run([*command, SUITE, str(part)], capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            pytest.skip(f"no base image could be made: {done.stderr.strip().splitlines()[-1:]}")
        part.rename(path)
    return path


@contextmanager
def built_image(folder: Path) -> Iterator[Image]:
    """Build ``deploy/docker/Dockerfile`` on a base of our own and mount it; everything is below ``folder`` and goes with it."""
    if os.geteuid():
        pytest.skip("building an image without a daemon needs a superuser here")
    buildah = [program("buildah"), "--root", str(folder / "root"), "--runroot", str(folder / "runroot")]

    def call(*arguments: str) -> str:
        done = subprocess.run([*buildah, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    empty = call("from", "scratch")
    call("add", "--quiet", empty, str(base()), "/")
    call("commit", "--quiet", "--rm", empty, "localhost/base:test")
    arguments = ["--isolation", "chroot", "--build-arg", "BASE=localhost/base:test", "--tag", "localhost/zarrmill:test"]
    arguments += [f"--volume={source}:{target}" for source, target in _outside(folder).items()]
    call("build", *arguments, "--file", "deploy/docker/Dockerfile", ".")
    container = call("from", "localhost/zarrmill:test")
    config = json.loads(call("inspect", "--type", "image", "localhost/zarrmill:test"))["OCIv1"]["config"]
    try:
        root = Path(call("mount", container))
        yield Image(root, dict(item.split("=", 1) for item in config["Env"]), config["User"], config["WorkingDir"])
    finally:
        call("umount", container)
        call("rm", container)


def _outside(folder: Path) -> dict[str, str]:
    """Return what the build borrows from this machine: its certificates and its cache of packages."""
    etc = folder / "etc"
    etc.mkdir()
    (etc / "uv.toml").write_text("system-certs = true\n")
    (etc / "pip.conf").write_text("[global]\ncert = /etc/ssl/certs/ca-certificates.crt\n")
    cache = Path(os.environ.get("UV_CACHE_DIR", Path.home() / ".cache/uv"))
    cache.mkdir(parents=True, exist_ok=True)
    certificates = "/etc/ssl/certs/ca-certificates.crt"
    return {
        certificates: f"{certificates}:ro",
        str(etc / "pip.conf"): "/etc/pip.conf:ro",
        str(etc / "uv.toml"): "/etc/uv/uv.toml:ro",
        str(cache): "/root/.cache/uv",
    }
