"""The driver's script: what it runs, and which exit code it makes of what it is told."""

import os
import subprocess
from pathlib import Path

import pytest
from workspace import ROOT

from zarrmill.errors import EXIT_BROKEN, EXIT_CONFIG, EXIT_FAILED, EXIT_NOTHING, EXIT_OK, EXIT_UNKNOWN


def driven(folder: Path, plan: int, snakemake: int, status: int = EXIT_OK) -> tuple[int, list[str]]:
    """Drive a run with commands that end with these exit codes; return that of the driver, and what was run."""
    bin_, home = folder / "bin", folder / "home"
    bin_.mkdir()
    for name in ("config", "workflow", "environment.yml"):
        (home / name).mkdir(parents=True)
        (home / name / "file").write_text("")
    ends = {"zarrmill": f'[ "$1" = plan ] && exit {plan}; exit {status}', "snakemake": f"exit {snakemake}"}
    for name, end in ends.items():
        (bin_ / name).write_text(f"#!/bin/sh\necho {name} $1 $2 >> {folder}/ran\n{end}\n")
        (bin_ / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{bin_}:{os.environ['PATH']}", "ZARRMILL_HOME": str(home)}
    environment.pop("ZARRMILL_CONFIG", None)
    done = subprocess.run([ROOT / "deploy/docker/driver", "run"], cwd=folder, env=environment, check=False, timeout=60)
    return done.returncode, (folder / "ran").read_text().split("\n")[:-1]


@pytest.mark.parametrize("plan", [EXIT_OK, EXIT_NOTHING])
def test_what_is_left_after_the_products_is_made_where_they_are_all_there(tmp_path: Path, plan: int) -> None:
    assert driven(tmp_path, plan, 0) == (
        EXIT_OK,
        ["zarrmill plan --partial", "snakemake --profile ovh", "zarrmill status --ended"],
    )


def test_a_plan_that_cannot_be_made_starts_nothing(tmp_path: Path) -> None:
    assert driven(tmp_path, EXIT_UNKNOWN, 0) == (EXIT_UNKNOWN, ["zarrmill plan --partial"])


@pytest.mark.parametrize(
    ("snakemake", "status", "expected"),
    [
        (EXIT_UNKNOWN, EXIT_OK, EXIT_UNKNOWN),
        (EXIT_OK, EXIT_OK, EXIT_OK),
        (EXIT_OK, EXIT_BROKEN, EXIT_OK),  # it was asked for some targets alone
        (EXIT_OK, EXIT_UNKNOWN, EXIT_UNKNOWN),
        (1, EXIT_OK, EXIT_BROKEN),
        (1, EXIT_BROKEN, EXIT_BROKEN),
        (1, EXIT_FAILED, EXIT_FAILED),
        (1, EXIT_UNKNOWN, EXIT_UNKNOWN),
        (1, EXIT_CONFIG, EXIT_CONFIG),
    ],
)
def test_failed_products_end_the_run_and_what_is_left_is_tried_again(
    tmp_path: Path, snakemake: int, status: int, expected: int
) -> None:
    assert driven(tmp_path, EXIT_OK, snakemake, status)[0] == expected
