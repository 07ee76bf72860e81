"""Heartbeats, the progress line, and the Snakemake logger plugin that shows it."""

import io
import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fake_run import FAILURES, FakeRun, fake_products, fake_run, price_list, write_failure, write_ok
from snakemake_interface_logger_plugins.common import LogEvent
from until import until

from snakemake_logger_plugin_zarrmill import LogHandler, jobs
from zarrmill.errors import EXIT_BROKEN, EXIT_FAILED, EXIT_OK, EXIT_UNKNOWN
from zarrmill.io import progress
from zarrmill.io.places import Place, place_of
from zarrmill.io.progress import (
    STALE_S,
    Heartbeat,
    ProgressFile,
    ProgressSnapshot,
    collect_progress,
    eta,
    format_line,
    progress_json,
    progress_of,
    rate_per_hour,
    read_heartbeats,
    remove_finished,
    short_name,
    together,
)
from zarrmill.io.state import State
from zarrmill.prices import Cost
from zarrmill.runs.failures import record_killed
from zarrmill.runs.planned import read_planned

NOON = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def beat(**changes: Any) -> Heartbeat:
    """A heartbeat of another machine, a minute before noon."""
    values: dict[str, Any] = {
        "stage": "convert",
        "product": "S2A_MSIL2A_20250530T102031_N0511_R065_T32TNQ_20250530T150000_0123abcd",
        "done": 61,
        "total": 100,
        "started": NOON.timestamp() - 60,
        "updated": NOON.timestamp(),
        "pid": 1,
        "host": "pod-17",
    }
    return Heartbeat(**{**values, **changes})


# heartbeat files


def test_heartbeat_is_written_at_most_once_a_second(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "progress" / "p.json"
    tick = ProgressFile(place_of(path), "convert", "p", clock)
    for step in range(1, 11):
        clock.now = 1000.0 + step / 4
        tick(step, 100)
        if step == 4:
            assert json.loads(path.read_text())["done"] == 1, "the second write comes a second after the first, at step 5"
    assert json.loads(path.read_text()) == {
        "schema": "zarrmill/progress/1",
        "stage": "convert",
        "product": "p",
        "done": 9,
        "total": 100,
        "started": 1000.0,
        "updated": 1002.25,
        "pid": os.getpid(),
        "host": os.uname().nodename,
    }
    assert [entry.name for entry in path.parent.iterdir()] == ["p.json"], "nothing half-written stays"


def test_heartbeat_exists_from_start_to_end_of_the_block(tmp_path: Path) -> None:
    state, product = State(place_of(tmp_path)), fake_products(1)[0]
    with progress_of(state, product, "validate") as tick:
        tick(5, 10)
        (found,) = read_heartbeats(state)
        assert (found.stage, found.product) == ("validate", product.name)
    assert not state.progress(product).exists()


def test_a_stage_that_fetches_for_long_is_not_taken_for_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("SILENT_S", 0.6), ("RENEW_S", 0.1), ("EVERY_S", 0.1)):
        monkeypatch.setattr(progress, name, seconds)
    run = fake_run(tmp_path, 1, n_waiting=1, thumbnails=False)
    with progress_of(run.state, run.products[0], "convert"):
        monkeypatch.setattr(progress.socket, "gethostname", lambda: "the machine of the driver")
        beat = Path(run.state.progress(run.products[0]).href)
        begun = beat.stat().st_mtime
        until(lambda: beat.stat().st_mtime > begun + 0.6)
        monkeypatch.setattr(Place, "now", lambda place: beat.stat().st_mtime + 0.3)
        assert not record_killed(run.state, run.products, "demo")
    assert not run.state.progress(run.products[0]).exists()


def test_heartbeat_is_removed_when_the_stage_fails(tmp_path: Path) -> None:
    state, product = State(place_of(tmp_path)), fake_products(1)[0]
    with pytest.raises(ValueError, match="broken"), progress_of(state, product, "convert"):
        raise ValueError("broken")
    assert not state.progress(product).exists()


def test_a_place_that_cannot_be_written_does_not_stop_the_stage(tmp_path: Path) -> None:
    (tmp_path / "progress").write_text("a file where a folder should be")
    with progress_of(State(place_of(tmp_path)), fake_products(1)[0], "convert") as tick:
        tick(1, 2)


def test_heartbeats_of_finished_products_are_removed_and_no_others(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 3, n_waiting=1, thumbnails=False)
    waiting = run.with_outcome("waiting")[0]
    for product in run.products:
        ProgressFile(run.state.progress(product), "convert", product.name).write()
    assert remove_finished(run.state, {one.name: one for one in run.products}) == 2
    assert [one.product for one in read_heartbeats(run.state)] == [waiting.name]
    assert remove_finished(run.state, {}) == 0


def test_old_heartbeat_is_not_running() -> None:
    assert beat().alive(NOON.timestamp() + STALE_S)
    assert not beat().alive(NOON.timestamp() + STALE_S + 1)


def test_heartbeat_of_a_dead_process_on_this_machine_is_not_running() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = os.uname().nodename
    assert not beat(pid=gone.pid, host=here).alive(NOON.timestamp())
    assert beat(pid=gone.pid, host="another").alive(NOON.timestamp()), "another machine's numbers mean nothing here"
    assert beat(pid=os.getpid(), host=here).alive(NOON.timestamp())


def test_damaged_heartbeats_are_passed_over(tmp_path: Path) -> None:
    state = State(place_of(tmp_path))
    with progress_of(state, fake_products(1)[0], "convert"):
        for name, text in {
            "cut.json": '{"stage": "conv',
            "list.json": "[]",
            "void.json": "",
            "text.json": '{"done": "x"}',
        }.items():
            (tmp_path / "progress" / name).write_text(text)
        assert len(read_heartbeats(state)) == 1


# where the run stands


def test_snapshot_counts_targets_failures_and_running(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 20, n_failed=5, n_waiting=3, thumbnails=False)
    with progress_of(run.state, run.with_outcome("waiting")[0], "convert"):
        snapshot = collect_progress(run.state, run.products)
    assert (snapshot.total, snapshot.ok, snapshot.n_failed, len(snapshot.running)) == (20, 12, 5, 1)
    assert snapshot.failed == {"source-missing": 2, "source-timeout": 1, "capacity": 1, "conformance": 1}
    assert snapshot.stages == {"convert": 12, "validate": 12, "stac": 12}
    assert len(snapshot.finished) == 12
    assert list(snapshot.finished) == sorted(snapshot.finished)


def test_a_failure_is_outdated_by_a_later_success(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 4, n_failed=1, thumbnails=False)
    write_ok(run.state, run.products[3], 3, thumbnail=False)
    snapshot = collect_progress(run.state, run.products)
    assert (snapshot.ok, snapshot.n_failed) == (4, 0)


def test_a_failure_that_is_tried_again_now_is_running_not_failed(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 4, n_failed=1, thumbnails=False)
    with progress_of(run.state, run.products[3], "convert"):
        snapshot = collect_progress(run.state, run.products)
    assert (snapshot.n_failed, len(snapshot.running)) == (0, 1)


def test_the_last_of_several_failures_counts(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 1, n_waiting=1)
    for index, kind in enumerate((FAILURES[1], FAILURES[2])):
        write_failure(run.state, run.products[0], 0, kind)
        for path in Path(run.state.failed).rglob("*.json"):
            if kind[0] in path.parts:
                os.utime(path, (1000 + index, 1000 + index))
    assert collect_progress(run.state, run.products).failed == {"capacity": 1}


@pytest.mark.parametrize(
    ("snapshot", "code"),
    [
        (ProgressSnapshot(total=3, ok=3), EXIT_OK),
        (ProgressSnapshot(total=3, ok=3, skipped={"cloud": 2}), EXIT_OK),
        (ProgressSnapshot(total=3, ok=2, failed={"unknown": 1}), EXIT_FAILED),
        (ProgressSnapshot(total=3, ok=1, failed={"unknown": 1}), EXIT_BROKEN),
        (ProgressSnapshot(total=3, ok=2, failed={"store": 1}, skipped={"unknown": 1}), EXIT_UNKNOWN),
    ],
)
def test_how_a_run_ended_says_whether_another_try_is_worth_it(snapshot: ProgressSnapshot, code: int) -> None:
    assert snapshot.ended_code == code


def test_an_empty_state_has_nothing_done(tmp_path: Path) -> None:
    snapshot = collect_progress(State(place_of(tmp_path / "nothing")), fake_products(3))
    assert snapshot == ProgressSnapshot(3, 0, {}, (), {"convert": 0, "validate": 0, "stac": 0}, (), None)
    assert format_line(snapshot, NOON) == "0/3 ok"


# what the plan says


def test_spent_is_the_planned_cost_of_what_is_finished(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 4, n_waiting=1, thumbnails=False, prices=price_list(gb_month_eur=0, core_hour_eur=0))
    snapshot = collect_progress(run.state, run.products, planned=read_planned(run.state, run.products))
    assert snapshot.cost is not None
    assert snapshot.spent_eur == pytest.approx(3 * 3.8), "380 objects each, a thousand at 10 EUR"
    assert snapshot.cost.eur == pytest.approx(4 * 3.8)
    both = together([snapshot, collect_progress(run.state, run.products)])
    assert both.cost == snapshot.cost, "a run without prices adds nothing"
    assert both.skipped == snapshot.skipped == {"max_cloud_cover": 1}, "what was not asked for is not skipped"


def test_a_plan_without_prices_or_that_is_damaged_tells_no_cost(tmp_path: Path) -> None:
    run = fake_run(tmp_path, 4, thumbnails=False)
    assert read_planned(run.state, run.products).costs is None
    for text in ("{", "[]", "{}", '{"skipped": {"limit": 1}, "totals": {"refused": 2, "unknown": 0}, "prices": {"dated": 1}}'):
        run.state.plan_json.write_text(text)
        assert read_planned(run.state, run.products).costs is None
    planned = read_planned(run.state, run.products)
    assert (planned.skipped, planned.bounds) == ({"refused": 2}, {"limit"})
    run.state.plan_json.unlink()
    assert format_line(collect_progress(run.state, run.products), NOON).startswith("4/4 ok")


# the line


def golden() -> ProgressSnapshot:
    """612 of 1,000 done, 41 of them in the last hour."""
    old = [NOON.timestamp() - 7200] * 571
    return ProgressSnapshot(
        total=1000,
        ok=612,
        failed={"source-missing": 3, "capacity": 1},
        running=tuple(beat(product=beat().product if n == 0 else f"p{n}") for n in range(7)),
        stages={"convert": 640, "validate": 620, "stac": 612},
        finished=(*old, *(NOON.timestamp() - 3600 + n * 80 for n in range(41))),
        since=NOON.timestamp() - 90_000,
        skipped={"max_cloud_cover": 12},
        cost=Cost(3.0, 10.5, 0.1, 12.2, 15.4),
        spent_eur=7.1,
    )


def test_line_for_people_is_golden() -> None:
    assert format_line(golden(), NOON) == (
        "612/1000 ok · 4 failed (3 source-missing, 1 capacity) · 12 skipped (12 max_cloud_cover) · "
        "7 running (S2A_…T32TNQ convert 61 %) · 41 products/h · ETA 21:21 · €7.10 of €12–15"
    )


def test_line_is_cut_to_the_width_of_the_terminal() -> None:
    line = format_line(golden(), NOON, width=30)
    assert line == "612/1000 ok · 4 failed (3 sou…"
    assert len(line) == 30


def test_json_for_machines_is_golden() -> None:
    values = progress_json(golden(), NOON)
    assert len(values.pop("running")) == 7  # type: ignore[arg-type]  # a list among other JSON values
    assert values == {
        "event": "progress",
        "time": "2025-06-01T12:00:00+00:00",
        "total": 1000,
        "ok": 612,
        "failed": {"source-missing": 3, "capacity": 1},
        "missing": 377,
        "skipped": {"max_cloud_cover": 12},
        "stages": {"convert": 640, "validate": 620, "stac": 612},
        "products_per_hour": 41.0,
        "eta": "2025-06-01T21:21:57+00:00",
        "cost": {
            "spent_eur": 7.1,
            "compute_eur": 3.0,
            "storage_eur": 10.5,
            "requests_eur": 0.1,
            "eur": 13.6,
            "low_eur": 12.2,
            "high_eur": 15.4,
        },
    }
    json.dumps(progress_json(golden(), NOON))


def test_rate_needs_two_finished_products_or_a_known_start() -> None:
    moment = NOON.timestamp()
    assert rate_per_hour(ProgressSnapshot(9, 0), NOON) is None
    assert rate_per_hour(ProgressSnapshot(9, 1, finished=(moment - 600,)), NOON) is None
    assert rate_per_hour(ProgressSnapshot(9, 2, finished=(moment - 1200, moment - 600)), NOON) == pytest.approx(3)
    assert rate_per_hour(
        ProgressSnapshot(9, 2, finished=(moment - 1200, moment - 600), since=moment - 1800), NOON
    ) == pytest.approx(4)


def test_the_rate_of_a_run_that_is_through_stays_as_it_was() -> None:
    ended = NOON.timestamp() - 7200
    done = ProgressSnapshot(3, 3, finished=(ended - 120, ended - 60, ended))
    assert rate_per_hour(done, NOON) == pytest.approx(60)


def test_products_of_an_earlier_session_do_not_make_the_rate() -> None:
    moment = NOON.timestamp()
    snapshot = ProgressSnapshot(100, 51, finished=(*[moment - 900] * 50, moment - 60), since=moment - 600)
    assert rate_per_hour(snapshot, NOON) == pytest.approx(6)


def test_eta_names_the_day_when_it_is_not_today() -> None:
    moment = NOON.timestamp()
    snapshot = ProgressSnapshot(150, 51, finished=tuple(moment - 1800 + n for n in range(1)), since=moment - 1800)
    assert format_line(snapshot, NOON).endswith("2.0 products/h · ETA 2025-06-03 13:30")


def test_eta_is_not_told_when_all_are_through() -> None:
    done = ProgressSnapshot(2, 1, {"capacity": 1}, finished=(NOON.timestamp() - 60,), since=NOON.timestamp() - 600)
    assert eta(done, NOON) is None


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("S2A_MSIL2A_20250530T102031_N0511_R065_T32TNQ_20250530T150000_0123abcd", "S2A_…T32TNQ"),
        ("S1A_IW_GRDH_1SDV_20250530T054012_20250530T054037_059_7588_0123abcd", "S1A_IW_GRD…0123abcd"),
        ("short", "short"),
    ],
)
def test_names_are_shortened_to_platform_and_tile(name: str, short: str) -> None:
    assert short_name(name) == short


# the plugin


class Tty(io.StringIO):
    """A terminal, for whoever asks."""

    def isatty(self) -> bool:
        return True


@dataclass
class Output:
    """The settings that Snakemake passes to logger plugins."""

    printshellcmds: bool = False
    nocolor: bool = True
    quiet: set[str] = field(default_factory=set)
    debug_dag: bool = False
    verbose: bool = False
    show_failed_logs: bool = False
    stdout: bool = False
    dryrun: bool = False


class Driver:
    """Sends the events of a run to the plugin as Snakemake does."""

    def __init__(self, run: FakeRun, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.chdir(run.workdir)
        self.run, self.stream = run, stream
        self.handler = LogHandler(Output(**settings), None)  # type: ignore[arg-type]  # the settings' interface is a base class

    def send(self, event: LogEvent | None, message: str | None = "", level: int = logging.INFO, **values: Any) -> None:
        record = logging.LogRecord("snakemake", level, "workflow.py", 1, message, (), None)
        record.__dict__.update(values, event=event)
        self.handler.emit(record)

    def open(self, **stats: int) -> None:
        self.send(LogEvent.WORKFLOW_STARTED, cmd="/opt/bin/snakemake --profile profiles/local")
        self.send(LogEvent.RUN_INFO, stats={**stats, "total": sum(stats.values())})

    def start(self, job_id: int, stage: str, index: int) -> None:
        self.send(LogEvent.JOB_INFO, **self.job(job_id, stage, index))

    def fail(self, job_id: int, stage: str, index: int) -> None:
        self.send(LogEvent.ERROR, "RuleException:\nCalledProcessError in file x", logging.ERROR, exception="RuleException")
        self.send(LogEvent.JOB_ERROR, level=logging.ERROR, **self.job(job_id, stage, index))

    def job(self, job_id: int, stage: str, index: int) -> dict[str, Any]:
        product = self.run.products[index]
        target = State(place_of("results/demo")).target(stage, product)
        log = f"results/demo/logs/{stage}/{product.collection}/{product.day}/{product.name}.log"
        reason = f"Missing output files: {target}; Input files updated by another job: x"
        return {"jobid": job_id, "rule_name": stage, "output": [str(target)], "log": [log], "reason": reason}

    def end(self) -> str:
        self.handler.close()
        self.handler.close()
        return self.stream.getvalue()


@pytest.fixture
def no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the refreshing thread from drawing, so that what is shown does not depend on time."""
    monkeypatch.setattr("snakemake_logger_plugin_zarrmill.display.Terminal.interval_s", 3600.0)


def test_log_without_terminal_has_json_lines_for_start_failure_and_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(tmp_path, 4, n_failed=2, thumbnails=False)
    driver = Driver(run, io.StringIO(), monkeypatch)
    driver.open(convert=2, validate=2, stac=2, all=1)
    driver.start(7, "convert", 2)
    write_failure(run.state, run.products[2], 2, FAILURES[2])
    driver.fail(7, "convert", 2)
    driver.send(None, "At least one job did not complete successfully.", logging.ERROR)
    lines = [json.loads(line) for line in driver.end().splitlines()]
    assert [line["event"] for line in lines] == ["start", "failure", "end"]
    assert all(line["run"] == "demo" for line in lines)
    assert lines[0]["command"] == "snakemake --profile profiles/local"
    assert lines[0]["jobs"] == {"convert": 2, "validate": 2, "stac": 2, "all": 1}
    told = {key: lines[1][key] for key in ("stage", "product", "class", "code", "log")}
    assert told == {
        "stage": "convert",
        "product": run.products[2].name,
        "class": "capacity",
        "code": "ZM-CAP-MEMORY",
        "log": driver.job(7, "convert", 2)["log"][0],
    }
    assert lines[1]["message"].startswith(f"{run.products[2].product_id}: needs 2310 MB")
    assert (lines[2]["ok"], lines[2]["total"], sum(lines[2]["failed"].values())) == (2, 4, 2)


@pytest.mark.usefixtures("no_line")
def test_terminal_shows_stages_failures_and_how_to_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(tmp_path, 3, n_failed=1, thumbnails=False)
    driver = Driver(run, Tty(), monkeypatch)
    driver.open(convert=2, validate=1, stac=1)
    driver.start(1, "convert", 0)
    driver.send(LogEvent.JOB_FINISHED, job_id=1)
    driver.start(2, "convert", 2)
    write_failure(run.state, run.products[2], 2, FAILURES[2])
    driver.fail(2, "convert", 2)
    driver.send(None, "Trying to restart job 2.")
    lines = driver.end().splitlines()
    assert lines[0] == "run demo: 2 convert, 1 validate, 1 stac to do"
    assert lines[1] == "resume after an interruption with the same command: snakemake --profile profiles/local"
    assert lines[2].startswith(f"✓ convert  {run.products[0].name}  0.0 s  1.90 GB → ")
    assert lines[3].startswith(f"✕ convert  {run.products[2].name}")
    assert lines[4].strip().startswith("capacity ZM-CAP-MEMORY: ")
    assert lines[5].strip().startswith("log: results/demo/logs/convert/")
    assert lines[6] == f"↻ convert  {run.products[2].name}  is tried again"
    assert lines[7].startswith("2/3 ok, 1 failed (1 capacity) after ")
    assert lines[8] == "to continue, run again: snakemake --profile profiles/local"
    assert len(lines) == 9, "the job's failure is told once, not again as CalledProcessError"


def test_terminal_refreshes_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snakemake_logger_plugin_zarrmill.display.Terminal.interval_s", 0.02)
    run = fake_run(tmp_path, 5, n_waiting=2, thumbnails=False)
    driver = Driver(run, Tty(), monkeypatch)
    driver.open(convert=2)
    driver.start(1, "convert", 3)
    limit = time.monotonic() + 20
    while "\r\033[K3/5 ok" not in driver.stream.getvalue() and time.monotonic() < limit:
        time.sleep(0.02)
    assert "\r\033[K3/5 ok" in driver.end()


def test_failure_without_record_shows_the_end_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(tmp_path, 1, n_waiting=1)
    driver = Driver(run, io.StringIO(), monkeypatch)
    log = Path(driver.job(1, "stac", 0)["log"][0])
    log.parent.mkdir(parents=True)
    log.write_text("\n".join(f"line {n}" for n in range(9)) + "\n\n")
    driver.open(stac=1)
    driver.start(1, "stac", 0)
    driver.fail(1, "stac", 0)
    failure = json.loads(driver.end().splitlines()[1])
    assert (failure["class"], failure["message"]) == ("unknown", "line 4\nline 5\nline 6\nline 7\nline 8")


def test_a_failure_record_of_an_earlier_run_explains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(tmp_path, 1, n_failed=1)
    for path in Path(run.state.failed).rglob("*.json"):
        os.utime(path, (1000, 1000))
    driver = Driver(run, io.StringIO(), monkeypatch)
    driver.open(convert=1)
    driver.start(1, "convert", 0)
    driver.fail(1, "convert", 0)
    assert json.loads(driver.end().splitlines()[1])["class"] == "unknown"


def test_state_elsewhere_is_counted_from_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(tmp_path, 3, n_waiting=3)
    driver = Driver(run, io.StringIO(), monkeypatch)
    driver.open(convert=3, validate=3, stac=3)
    for job_id, stage in enumerate(("convert", "validate", "stac")):
        job = driver.job(job_id, stage, 0)
        job["output"] = [f"s3://bucket/state/{job['output'][0]} (send to storage)"]
        driver.send(LogEvent.JOB_INFO, **job)
        driver.send(LogEvent.JOB_FINISHED, job_id=job_id)
    end = json.loads(driver.end().splitlines()[-1])
    assert (end["run"], end["total"], end["ok"]) == ("demo", 3, 1)


def test_json_lines_tell_the_cost_by_the_prices_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(tmp_path, 4, n_waiting=3, thumbnails=False, prices=price_list(gb_month_eur=0, core_hour_eur=0))
    driver = Driver(run, io.StringIO(), monkeypatch)
    driver.open(convert=3)
    driver.start(1, "convert", 1)
    end = json.loads(driver.end().splitlines()[-1])
    assert (end["cost"]["spent_eur"], end["cost"]["eur"]) == (3.8, 15.2)


def test_quiet_all_still_tells_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(tmp_path, 2, n_failed=1, thumbnails=False)
    driver = Driver(run, io.StringIO(), monkeypatch, quiet={"ALL"})
    driver.open(convert=1)
    driver.start(1, "convert", 1)
    driver.fail(1, "convert", 1)
    assert [json.loads(line)["event"] for line in driver.end().splitlines()] == ["failure"]


def test_dry_run_lists_what_would_be_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(tmp_path, 30, n_waiting=30)
    driver = Driver(run, io.StringIO(), monkeypatch, dryrun=True, stdout=True)
    driver.open(convert=25, stac=25)
    for index in range(25):
        driver.start(2 * index + 1, "stac", index)  # Snakemake tells jobs in no order
        driver.start(2 * index, "convert", index)
    driver.send(LogEvent.RUN_INFO, stats={"convert": 25, "stac": 25, "total": 50})
    lines = driver.end().splitlines()
    assert lines[:5] == ["dry run: nothing is started", "", "      25  convert", "      25  stac", "      50  total"]
    assert lines[6] == f"{run.products[0].name}: convert → stac  (missing output files, input files updated by another job)"
    assert len([line for line in lines if "convert → stac" in line]) == 20
    assert lines[-2:] == ["… and 5 products more", "25 products would be built"]


def test_a_defect_of_the_display_is_told_once_and_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = fake_run(tmp_path, 2, n_waiting=2)
    driver = Driver(run, io.StringIO(), monkeypatch)
    driver.open(convert=2)
    driver.send(LogEvent.JOB_FINISHED, job_id="not a number")
    driver.send(LogEvent.PROGRESS, done=None, total=3)
    driver.send(LogEvent.JOB_INFO)
    shown = driver.end()
    assert shown.count("progress cannot be shown (ValueError") == 1


def test_errors_of_snakemake_itself_are_shown_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(fake_run(tmp_path, 1), io.StringIO(), monkeypatch)
    driver.send(LogEvent.ERROR, "MissingRuleException:\nNo rule to produce x", logging.ERROR, exception="MissingRuleException")
    driver.send(None, "Building DAG of jobs...")
    driver.send(None, "100% nothing %s special", logging.WARNING)
    lines = [json.loads(line) for line in driver.end().splitlines()]
    assert [(line["event"], line["message"]) for line in lines] == [
        ("error", "MissingRuleException:\nNo rule to produce x"),
        ("warning", "100% nothing %s special"),
    ]


@pytest.mark.parametrize(
    ("output", "root"),
    [
        ("results/demo/manifest.csv", "results/demo"),
        ("/data/x/report/index.html", "/data/x"),
        ("s3://bucket/state/demo/plan.json (send to storage)", "s3://bucket/state/demo"),
        ("results/demo/other.csv", ""),
    ],
)
def test_targets_of_the_whole_run_tell_its_folder(output: str, root: str) -> None:
    assert jobs.job_of({"jobid": 1, "rule_name": "plan", "output": [output]}, 0.0).root == root


SNAKEFILE = """
rule all:
    input: "results/demo/c/20250101/stac/A_00000001.json"
rule convert:
    output: "results/demo/c/20250101/convert/{p}.json"
    log: "results/demo/logs/convert/c/20250101/{p}.log"
    shell: "echo '{{}}' > {output}"
rule stac:
    input: "results/demo/c/20250101/convert/{p}.json"
    output: "results/demo/c/20250101/stac/{p}.json"
    log: "results/demo/logs/stac/c/20250101/{p}.log"
    shell: "echo boom > {log}; exit 3"
"""


def test_snakemake_runs_with_the_plugin(tmp_path: Path) -> None:
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    command = [sys.executable, "-m", "snakemake", "--logger", "zarrmill", "--cores", "1"]
    dry = subprocess.run([*command, "-n"], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert dry.returncode == 0, dry.stderr
    assert "A_00000001: convert → stac  (missing output files)" in dry.stdout
    real = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    events = [json.loads(line) for line in real.stderr.splitlines() if line.startswith("{")]
    assert real.returncode == 1
    assert [event["event"] for event in events] == ["start", "failure", "end"]
    assert (events[1]["product"], events[1]["stage"], events[1]["message"]) == ("A_00000001", "stac", "boom")
