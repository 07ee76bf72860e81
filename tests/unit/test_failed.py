"""What failure records say of the tries before: whether another one may help, and what it gets."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_run import FakeRun, fake_run

from zarrmill.errors import CODES, EXIT_FAILED, PERMANENT
from zarrmill.io.failed import SHORT_OF_DISK, SHORT_OF_MEMORY, final_failure, keep_failure, share_of, tail_of
from zarrmill.io.record import read_record, write_record
from zarrmill.io.session import SESSION, begin_session, session
from zarrmill.io.state import Failures
from zarrmill.job import product_job
from zarrmill.model import FailureRecord, Measured, PlanRecord


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    """One product that has not begun, and a session."""
    monkeypatch.setenv(SESSION, "mine")
    monkeypatch.chdir(tmp_path)
    return fake_run(Path("."), 1, n_waiting=1, thumbnails=False)


def fail(run: FakeRun, code: str, stage: str = "convert", of: str = "mine") -> int:
    product = run.products[0]
    record = FailureRecord("demo", stage, product, "some", code, "why", "", "", (), Measured(), session=of)
    return keep_failure(record, run.state)


def test_each_record_has_the_first_free_number(run):
    assert [fail(run, "ZM-SRC-MISSING") for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("code", "stage", "of", "is_final"),
    [
        ("ZM-SRC-MISSING", "convert", "mine", True),
        ("ZM-CON-STORE", "convert", "mine", True),
        ("ZM-SRC-MISSING", "convert", "another", False),
        ("ZM-SRC-MISSING", "convert", "", False),
        ("ZM-SRC-MISSING", "validate", "mine", False),
        ("ZM-SRC-TIMEOUT", "convert", "mine", False),
        ("ZM-SRC-DENIED", "convert", "mine", False),
        ("ZM-CAP-MEMORY", "convert", "mine", False),
        ("ZM-UNKNOWN", "convert", "mine", False),
    ],
)
def test_failure_is_final_for_its_stage_and_its_session_only(run, code, stage, of, is_final):
    fail(run, code, stage, of)
    assert (final_failure(Failures(run.state).of(run.products[0]), "convert") is not None) == is_final
    assert CODES.keys() >= PERMANENT


def test_without_a_session_nothing_is_final(run, monkeypatch):
    fail(run, "ZM-SRC-MISSING", of="")
    monkeypatch.delenv(SESSION)
    assert final_failure(Failures(run.state).of(run.products[0]), "convert") is None


def test_later_failure_of_another_kind_is_what_counts(run):
    fail(run, "ZM-SRC-MISSING")
    fail(run, "ZM-CAP-MEMORY")
    assert final_failure(Failures(run.state).of(run.products[0]), "convert") is None


def test_every_driver_has_a_session_of_its_own(run):
    begin_session()
    first = session()
    begin_session()
    assert len({first, session(), ""}) == 3


@pytest.mark.parametrize(
    ("codes", "memory", "disk"),
    [
        ([], 3, 3),  # tries that left no record: nobody knows why
        (["ZM-CAP-MEMORY", "ZM-CAP-EVICTED"], 2, 2),
        (["ZM-CAP-MEMORY", "ZM-CAP-KILLED"], 3, 1),
        (["ZM-CAP-DISK", "ZM-CAP-EVICTED"], 1, 3),
        (["ZM-SRC-TIMEOUT", "ZM-STO-LOST"], 1, 1),
    ],
)
def test_third_try_gets_more_of_what_the_others_were_short_of(run, codes, memory, disk):
    fail(run, "ZM-SRC-TIMEOUT", of="another")
    for code in codes:
        fail(run, code)
    assert share_of(run.state, run.products[0], 3, SHORT_OF_MEMORY) == memory
    assert share_of(run.state, run.products[0], 3, SHORT_OF_DISK) == disk
    assert share_of(run.state, run.products[0], 1, SHORT_OF_MEMORY) == 1


def test_try_gets_all_when_records_cannot_be_read(run):
    fail(run, "ZM-SRC-TIMEOUT")
    Failures(run.state).of(run.products[0])[0].place.write_text("{")
    assert share_of(run.state, run.products[0], 2, SHORT_OF_MEMORY) == 2
    assert final_failure(Failures(run.state).of(run.products[0]), "convert") is None


def test_retry_of_a_final_failure_ends_at_once_and_the_next_driver_tries(run, monkeypatch, capsys):
    product = replace(run.products[0], product_type="S02MSIL2A")
    plan = run.state.target("plan", product)
    write_record(PlanRecord(product, {}), plan)
    settings = json.loads(run.settings.model_dump_json())
    fail(run, "ZM-SRC-MISSING")
    with (
        pytest.raises(SystemExit) as ended,
        product_job("convert", plan=plan.href, config=settings, log="a.log"),
    ):
        raise AssertionError("it must not begin")
    assert ended.value.code == EXIT_FAILED
    assert "ZM-SRC-MISSING as before, not tried again: why" in capsys.readouterr().err
    assert len(Failures(run.state).of(product)) == 1
    monkeypatch.setenv(SESSION, "next")
    with pytest.raises(SystemExit), product_job("convert", plan=plan.href, config=settings, log="a.log"):
        raise RuntimeError("it began")
    last = Failures(run.state).of(product)[-1]
    assert (last.attempt, last.failure_class) in {(2, "unknown"), (2, "config")}
    record = read_record(FailureRecord, last.place)
    assert '"event": "failed' in record.excerpt
    assert record.session == "next"


def test_end_of_a_log_is_read_and_one_that_is_gone_is_empty(tmp_path):
    (tmp_path / "a.log").write_bytes(b"x" * 100_000 + b"\nlast\n")
    assert tail_of(tmp_path / "a.log").endswith("x\nlast\n")
    assert tail_of(tmp_path / "b.log") == tail_of(None) == ""
