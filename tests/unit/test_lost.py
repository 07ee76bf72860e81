"""Failure records that the driver writes for pods that ended without a word."""

from dataclasses import replace
from pathlib import Path

import pytest
from fake_run import FAILURES, FakeRun, fake_run, write_failure

from zarrmill.io.pod_ends import EndedPod
from zarrmill.io.progress import ProgressFile
from zarrmill.io.record import read_record
from zarrmill.io.state import Failures
from zarrmill.model import FailureRecord
from zarrmill.runs.failures import record_killed
from zarrmill.runs.lost import record_lost, stages_of


@pytest.fixture
def run(tmp_path: Path) -> FakeRun:
    """Three products, none of which has begun."""
    return fake_run(tmp_path, 3, n_waiting=3, thumbnails=False)


def pod_of(run: FakeRun, *indexes: int, **facts: object) -> EndedPod:
    rows = [run.products[index] for index in indexes]
    targets = [
        f"{rule}:collection={one.collection},day={one.day},product={one.name}" for one in rows for rule in ("stac", "convert")
    ]
    pod = EndedPod(tuple(targets), "OOMKilled", 137, "OOMKilled, exit code 137", "2200M", 0.0, "a line\ntoken=abcdefgh\n")
    return replace(pod, **facts)


def lost(run: FakeRun, pod: EndedPod, known: dict[str, frozenset[str]]) -> int:
    return record_lost(run.state, {one.name: one for one in run.products}, "demo", pod, known)


def records(run: FakeRun, index: int) -> list[FailureRecord]:
    return [read_record(FailureRecord, one.place) for one in Failures(run.state).of(run.products[index])]


@pytest.mark.parametrize(
    ("reason", "exit_code", "expected"),
    [
        ("OOMKilled", 137, ("capacity", "ZM-CAP-MEMORY")),
        ("Evicted", None, ("evicted", "ZM-CAP-EVICTED")),
        ("DisruptionTarget", 143, ("evicted", "ZM-CAP-EVICTED")),
        ("Error", 137, ("capacity", "ZM-CAP-KILLED")),
        ("Deleted", None, ("capacity", "ZM-CAP-KILLED")),
        ("Error", 1, ("unknown", "ZM-UNKNOWN")),
        ("DeadlineExceeded", None, ("unknown", "ZM-UNKNOWN")),
    ],
)
def test_class_follows_from_how_the_pod_ended(run, reason, exit_code, expected):
    assert lost(run, pod_of(run, 0, reason=reason, exit_code=exit_code), {}) == 1
    (record,) = records(run, 0)
    assert (record.failure_class, record.code) == expected
    assert (record.stage, record.measured.attempt, record.log) == ("convert", 1, "")
    assert record.excerpt == "a line\ntoken=***"
    assert "OOMKilled, exit code 137" in record.message
    assert "None" not in record.message


def test_each_try_is_told_once_with_its_number(run):
    known: dict[str, frozenset[str]] = {}
    assert lost(run, pod_of(run, 0), known) == 1
    assert lost(run, pod_of(run, 0, reason="Evicted"), known) == 1
    assert [(one.failure_class, one.measured.attempt) for one in records(run, 0)] == [("capacity", 1), ("evicted", 2)]


def test_what_the_job_wrote_itself_is_not_told_twice(run):
    known: dict[str, frozenset[str]] = {}
    assert lost(run, pod_of(run, 0), known) == 1
    write_failure(run.state, run.products[0], 0, FAILURES[0])
    assert lost(run, pod_of(run, 0, exit_code=1, reason="Error"), known) == 0
    write_failure(run.state, run.products[1], 1, FAILURES[0])
    assert lost(run, pod_of(run, 1, exit_code=1, reason="Error"), known) == 0


def test_record_of_an_earlier_driver_does_not_count_for_this_try(run):
    write_failure(run.state, run.products[0], 0, FAILURES[0])
    (old,) = Failures(run.state).of(run.products[0])
    assert lost(run, pod_of(run, 0, started=old.modified + 600), {}) == 1
    assert [one.measured.attempt for one in records(run, 0)][-1] == 2


def test_stage_at_work_is_told_by_its_heartbeat_and_not_told_again_from_it(run):
    product = run.products[0]
    tick = ProgressFile(run.state.progress(product), "stac", product.name)
    tick(5, 10)
    assert lost(run, pod_of(run, 0), {}) == 1
    (record,) = records(run, 0)
    assert record.stage == "stac"
    assert "after 5 of 10 bytes" in record.message
    assert not record_killed(run.state, run.products, "demo")


def test_products_of_one_pod_are_all_told_but_finished_ones(run):
    product = run.products[0]
    for stage in ("convert", "stac"):
        run.state.target(stage, product).write_text("{}")
    assert lost(run, pod_of(run, 0, 1, 2), {}) == 2
    assert [len(records(run, index)) for index in range(3)] == [0, 1, 1]
    assert "the pod held 2 other products" in records(run, 1)[0].message


def test_stages_are_in_their_order_and_other_targets_are_left_out():
    targets = ("validate:collection=a,day=1,product=p_1", "convert:collection=a,day=1,product=p_1", "report:", "make:name=x")
    assert stages_of(targets) == {"p_1": ["convert", "validate"]}
