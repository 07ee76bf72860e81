"""A shard's steps: what cannot be read is never taken for nothing to do."""

import json
import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from fake_run import FAILURES, FakeRun, fake_run, write_failure

from zarrmill.errors import EXIT_NOTHING, EXIT_OK, EXIT_UNKNOWN
from zarrmill.io.manifest import write_manifest
from zarrmill.io.places import Place, place_of
from zarrmill.io.progress import SILENT_S, ProgressFile
from zarrmill.io.state import Failures, State
from zarrmill.model import Product
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


def left_behind(run: FakeRun, product: Product, **changes: Any) -> Path:
    """Leave the heartbeat of a job that began a conversion; return its file."""
    tick = ProgressFile(run.state.progress(product), "convert", product.name)
    tick.write()
    beat = Path(tick.place.href)
    beat.write_text(json.dumps(json.loads(beat.read_text()) | changes))
    return beat


def test_a_clock_of_whole_seconds_makes_no_earlier_failure_this_sessions_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = fake_run(tmp_path, 6, n_failed=0, n_waiting=6, thumbnails=False)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    moment = float(int(time.time()))
    os.utime(left_behind(run, run.products[0], pid=process.pid), (moment - 10,) * 2)
    monkeypatch.setattr(Place, "now", lambda place: moment)  # as a bucket tells it, and stamps what is written in that second
    part = Part("demo", run.state, deque(), tmp_path / "part.log")
    part.take_up()
    stamp_records(run, run.products[0], moment)
    part.look()
    assert (part.seen.n_failed, part.failed_at) == (1, ())
    write_failure(run.state, run.products[0], 2, FAILURES[1])
    stamp_records(run, run.products[0], moment + 2)
    part.look()
    assert (part.seen.n_failed, part.failed_at) == (1, (moment + 2,)), "what fails again is"


def stamp_records(run: FakeRun, product: Product, moment: float) -> None:
    for place in Failures(run.state).places():
        if place.parent.name == product.name:
            os.utime(place.href, (moment, moment))


def test_a_job_of_an_earlier_session_that_is_found_dead_later_is_no_failure_of_this_one(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 6, n_failed=0, n_waiting=6, thumbnails=False)
    beats = [left_behind(run, product, host="elsewhere") for product in run.products[:2]]
    part = Part("demo", run.state, deque(), tmp_path / "part.log")
    now = time.time()
    os.utime(beats[0], (now - SILENT_S + 60,) * 2)  # silent, but not for long enough
    part.take_up()
    os.utime(beats[1], (now,) * 2)  # of this session
    part.since, silent = now - 1, now + SILENT_S + 60
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Place, "now", lambda place: silent)
        part.look()
    assert part.seen.failed_at.keys() == {product.name for product in run.products[:2]}
    assert len(part.failed_at) == 1


def test_who_was_evicted_counts_when_the_shard_ended_without_it(tmp_path: Path) -> None:
    """A node that is drained takes many pods at once, which says nothing of their products."""
    run = fake_run(tmp_path, 4, n_failed=0, n_waiting=4, thumbnails=False)
    part = Part("demo", run.state, deque(), tmp_path / "part.log")
    part.take_up()
    for product in run.products[:3]:
        write_failure(run.state, product, 1, ("evicted", "ZM-CAP-EVICTED", "convert", "the pod was evicted"))
    write_failure(run.state, run.products[3], 1, FAILURES[1])
    part.look()
    assert (part.seen.n_failed, len(part.failed_at)) == (4, 1)
    part.code = 1
    assert len(part.failed_at) == 4


def test_the_end_of_the_log_is_told_where_the_machine_may_be_gone(tmp_path: Path) -> None:
    part = ended(tmp_path, "for i in $(seq 30); do echo line $i; done; exit 1")
    assert part.last_words().splitlines()[1:] == [f"    line {i}" for i in range(16, 31)]
