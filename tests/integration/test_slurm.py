"""A run on a Slurm cluster: the profile as it is, one node, state and stores on a shared disk."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_server import slurm
from workspace import ROOT, Workspace

PLUGIN = ROOT / ".tools" / "slurm"
"""Snakemake's plugin, beside the environment as ``make servers`` puts it there."""


@pytest.fixture
def node() -> Iterator[Path]:
    if not PLUGIN.is_dir():
        pytest.skip(f"{PLUGIN} is missing; run `make servers`")
    with slurm() as folder:
        yield folder


def test_every_product_is_one_slurm_job(node: Path, workspace: Callable[..., Workspace]) -> None:
    work = workspace(n_days=1, products_per_day=2)
    assert work.plan()
    options = ["--seconds-between-status-checks", "2", "--slurm-init-seconds-before-status-checks", "2"]
    options += ["--slurm-status-command", "squeue"]  # a node without accounting
    done = subprocess.run(
        work.command(*options, profile="slurm"),
        cwd=work.path,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONPATH": str(PLUGIN)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for product in work.products:
        assert (work.store(product) / "zarr.json").exists()
        assert work.state.target("stac", product).exists()
    submitted = (node / "slurmctld.log").read_text().count("_slurm_rpc_submit_batch_job")
    assert submitted == 2
