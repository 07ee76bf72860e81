"""Fixtures that tests share: small products, built once a session."""

import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
from builders import build_test_product
from fault_proxy import FaultProxy, fault_proxy
from hypothesis import settings
from k8s_server import KubernetesServer, make_image
from kubernetes_run import policies
from s3_server import Bucket, S3Server, bucket, s3_server
from workspace import ROOT, Workspace

from zarrmill.config import S3
from zarrmill.io import bucket as buckets

settings.register_profile("same-every-time", derandomize=True, deadline=None)
settings.load_profile("same-every-time")


@pytest.fixture(scope="session")
def shared_sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Products of every kind, 180 px; never changed."""
    root = tmp_path_factory.mktemp("sources")
    return {
        "l2a": build_test_product(root / "l2a", "S02MSIL2A"),
        "l2a-1830": build_test_product(root / "l2a-1830", "S02MSIL2A", layout="1830"),
        "l2a-v3": build_test_product(root / "l2a-v3", "S02MSIL2A", layout="v3"),
        "l1c": build_test_product(root / "l1c", "S02MSIL1C"),
    }


@pytest.fixture
def source_copy(shared_sources: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that copies a shared product, so that a test may break it."""

    def copy(kind: str) -> Path:
        source = shared_sources[kind]
        return Path(shutil.copytree(source, tmp_path / "source" / source.name))

    return copy


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Two L2A and one L1C product, planned and run to the end with ``profiles/ci``."""
    work = Workspace.create(tmp_path_factory.mktemp("run") / "work", n_days=1, products_per_day=3)
    work.snakemake("plan")
    work.snakemake()
    return work


@pytest.fixture
def finished(finished_run: Workspace, tmp_path: Path) -> Workspace:
    """A copy of the finished run."""
    return finished_run.copy(tmp_path / "work")


@pytest.fixture
def workspace(tmp_path: Path) -> Callable[..., Workspace]:
    """Return a function that creates a folder where nothing ran yet."""
    return lambda **options: Workspace.create(tmp_path / "work", **options)


@pytest.fixture(autouse=True)
def _no_client_of_an_earlier_test() -> Iterator[None]:
    """Leave no setting, client or key of a bucket behind, whatever a test did."""
    yield
    buckets.use(S3())


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server for the whole session."""
    with s3_server(tmp_path_factory.mktemp("s3"), policies()) as server:
        yield server


@pytest.fixture
def s3_bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A bucket of this test alone; the environment of this process leads to it as ``writer``."""
    with bucket(s3, f"test-{uuid.uuid4().hex[:12]}") as made:
        for name, value in made.env("writer").items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def proxied() -> Iterator[Callable[[str], FaultProxy]]:
    """Return a function that puts a proxy with faults before a server (``http://host:port``)."""
    with ExitStack() as stack:
        yield lambda upstream: stack.enter_context(fault_proxy(upstream))


@pytest.fixture(scope="session")
def image_env(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Environment of a pod."""
    return make_image(tmp_path_factory.mktemp("image"))


@pytest.fixture
def cluster(tmp_path: Path, image_env: Mapping[str, str]) -> Iterator[KubernetesServer]:
    """A Kubernetes cluster of this test alone with what ``deploy/k8s/cluster`` brings; its pods are ended with it."""
    with KubernetesServer(tmp_path / "cluster", image_env) as server:
        server.load((ROOT / "deploy/k8s/cluster/priority.yaml").read_text())
        yield server
