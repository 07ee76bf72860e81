"""The driver's script: what it runs, and which exit code it makes of what it is told."""

import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fake_run import fake_run
from workspace import ROOT

from zarrmill.errors import EXIT_FAILED, EXIT_NOTHING, EXIT_OK, EXIT_UNKNOWN
from zarrmill.io.progress import Planned, collect_progress, progress_json


def driven(folder: Path, plan: int, snakemake: int, status: int = EXIT_OK, told: str = "{}") -> tuple[int, list[str]]:
    """Drive a run with commands that end with these exit codes; return that of the driver, and what was run."""
    bin_, home = folder / "bin", folder / "home"
    bin_.mkdir()
    for name in ("config", "workflow", "environment.yml"):
        (home / name).mkdir(parents=True)
        (home / name / "file").write_text("")
    ends = {"zarrmill": f"case $1 in plan) exit {plan} ;; esac; echo '{told}'; exit {status}", "snakemake": f"exit {snakemake}"}
    for name, end in ends.items():
        (bin_ / name).write_text(f"#!/bin/sh\necho {name} $1 >> {folder}/ran\n{end}\n")
        (bin_ / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "ZARRMILL_HOME": str(home)}
    environment.pop("ZARRMILL_CONFIG", None)
    done = subprocess.run([ROOT / "deploy/docker/driver", "run"], cwd=folder, env=environment, check=False, timeout=60)
    return done.returncode, (folder / "ran").read_text().split("\n")[:-1]


@pytest.mark.parametrize("plan", [EXIT_OK, EXIT_NOTHING])
def test_what_is_left_after_the_products_is_made_where_they_are_all_there(tmp_path: Path, plan: int) -> None:
    assert driven(tmp_path, plan, 0) == (EXIT_OK, ["zarrmill plan", "snakemake --profile", "zarrmill status"])


def test_a_plan_that_cannot_be_made_starts_nothing(tmp_path: Path) -> None:
    assert driven(tmp_path, EXIT_UNKNOWN, 0) == (EXIT_UNKNOWN, ["zarrmill plan"])


@pytest.mark.parametrize(
    ("snakemake", "status", "n_waiting", "expected"),
    [
        (EXIT_UNKNOWN, EXIT_OK, 0, EXIT_UNKNOWN),
        (EXIT_OK, EXIT_OK, 0, EXIT_OK),
        (1, EXIT_FAILED, 0, EXIT_FAILED),
        (1, EXIT_FAILED, 2, 1),
        (1, EXIT_OK, 2, 1),
        (1, EXIT_UNKNOWN, 0, EXIT_UNKNOWN),
    ],
)
def test_failed_products_end_the_run_and_what_was_not_tried_is_tried_again(
    tmp_path: Path, snakemake: int, status: int, n_waiting: int, expected: int
) -> None:
    run = fake_run(tmp_path, 4, n_failed=int(status == EXIT_FAILED), n_waiting=n_waiting, thumbnails=False)
    for record in run.state.failed.local.glob("*"):
        record.rename(record.with_name("unknown"))
    told = json.dumps(progress_json(collect_progress(run.state, run.products), datetime.now(UTC)))
    assert driven(tmp_path, EXIT_OK, snakemake, status, told)[0] == expected


@pytest.mark.parametrize("snakemake", [EXIT_OK, 1])
def test_a_source_that_could_not_be_looked_at_is_worth_another_try(tmp_path: Path, snakemake: int) -> None:
    run = fake_run(tmp_path, 4, thumbnails=False)
    seen = collect_progress(run.state, run.products, planned=Planned(skipped={"unknown": 1}))
    told = json.dumps(progress_json(seen, datetime.now(UTC)))
    assert driven(tmp_path, EXIT_OK, snakemake, EXIT_OK, told)[0] == EXIT_UNKNOWN
