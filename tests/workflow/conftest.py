"""One finished run of the workflow, shared by tests that copy it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from workspace import Workspace


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
