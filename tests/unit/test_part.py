"""A shard's steps: what cannot be read is never taken for nothing to do."""

import json
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest
from fake_run import FAILURES, fake_run, write_failure

from zarrmill.errors import EXIT_NOTHING, EXIT_OK, EXIT_UNKNOWN
from zarrmill.io.manifest import write_manifest
from zarrmill.io.places import place_of
from zarrmill.io.progress import ProgressFile
from zarrmill.io.state import State
from zarrmill.runs.part import Part


def ended(folder: Path, *steps: str) -> Part:
    """Return a shard that went through shell commands."""
    part = Part("run", State(place_of(folder)), deque(["sh", "-c", step] for step in steps), folder / "part.log")
    while part.advance():
        time.sleep(0.01)
    return part


def test_a_shard_without_products_runs_nothing(tmp_path: Path) -> None:
    write_manifest((), place_of(tmp_path / "manifest.csv"))
    assert ended(tmp_path, f"exit {EXIT_NOTHING}", "echo ran").code == EXIT_NOTHING
    assert "ran" not in (tmp_path / "part.log").read_text()


def test_a_manifest_that_cannot_be_read_is_an_outage_not_an_empty_shard(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").mkdir()
    part = ended(tmp_path, "exit 0", "echo ran")
    assert part.code == EXIT_UNKNOWN
    assert "manifest.csv" in (tmp_path / "part.log").read_text()


@pytest.mark.parametrize("code", [EXIT_UNKNOWN, 1])
def test_a_plan_that_fails_ends_the_shard(tmp_path: Path, code: int) -> None:
    assert ended(tmp_path, f"exit {code}", "echo ran").code == code
    assert "ran" not in (tmp_path / "part.log").read_text()


def test_the_last_step_says_how_it_ended(tmp_path: Path) -> None:
    assert ended(tmp_path, f"exit {EXIT_OK}").code == EXIT_OK
    assert ended(tmp_path, "exit 7").code == 7


def test_only_failures_of_this_session_are_its_own(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 6, n_failed=2, n_waiting=2, thumbnails=False)
    part = Part("demo", run.state, deque(), tmp_path / "part.log")
    part.look()
    assert len(part.failed_at) == 2
    tick = ProgressFile(run.state.progress(run.products[-1]), "convert", run.products[-1].name)
    tick.write()
    beat = json.loads(tick.place.read_text())
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    tick.place.write_text(json.dumps({**beat, "pid": process.pid}))
    time.sleep(0.05)
    part.take_up()
    part.look()
    assert (part.seen.n_failed, part.failed_at) == (3, ()), "a job that died in an earlier session is no failure of this one"
    time.sleep(0.05)
    write_failure(run.state, run.with_outcome("failed")[0], 1, FAILURES[1])
    part.look()
    assert (part.seen.n_failed, len(part.failed_at)) == (3, 1)
