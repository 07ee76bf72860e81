"""``failures`` and ``status``: what stands between a run and its end."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fake_run import FAILURES, FakeRun, fake_items, fake_run, write_failure, write_ok
from typer.testing import CliRunner
from until import until

from zarrmill.cli import app
from zarrmill.config import parse_settings
from zarrmill.errors import EXIT_FAILED, EXIT_OK, EXIT_UNKNOWN, ConfigError
from zarrmill.io.progress import SILENT_S, ProgressFile, collect_progress
from zarrmill.io.record import read_record, write_record
from zarrmill.io.state import Failures
from zarrmill.model import FailureRecord
from zarrmill.runs import replay
from zarrmill.runs.backfill import standing
from zarrmill.runs.failures import find_failures, group, parse_since, record_killed, replay_command

NOW = datetime(2025, 6, 8, 12, 0, tzinfo=UTC)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    """Ten products, of which eight failed, two of each class."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir(exist_ok=True)
    made = fake_run(Path("."), 10, n_failed=8, thumbnails=False)
    text = {"run": "demo", "source": {"catalogue": "items.json"}, "recipes": list(made.settings.recipes)}
    Path("config/config.yaml").write_text(json.dumps(text))
    return made


def told(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_failures_of_four_classes_are_four_groups(run: FakeRun) -> None:
    code, output = told("failures", "--json")
    answer = json.loads(output)
    assert code == EXIT_FAILED
    assert answer["n"] == 8
    assert {one["failure_class"]: one["n"] for one in answer["groups"]} == {kind[0]: 2 for kind in FAILURES}
    memory = next(one for one in answer["groups"] if one["failure_class"] == "capacity")
    assert "Raise `memory_mb`" in memory["advice"]["ZM-CAP-MEMORY"]
    assert memory["help"] == {"ZM-CAP-MEMORY": "docs/reference/errors.md#zm-cap-memory"}
    assert all(target.startswith("results/demo/") and target.endswith(".json") for target in memory["targets"])


@pytest.mark.parametrize(("code", "expected"), [(1, EXIT_FAILED), (EXIT_UNKNOWN, EXIT_UNKNOWN)])
def test_replay_says_how_many_it_built_and_an_outage_is_no_failure(
    run: FakeRun, monkeypatch: pytest.MonkeyPatch, code: int, expected: int
) -> None:
    settings = json.loads(Path("config/config.yaml").read_text())
    settings["source"] |= {"fingerprint": "item"}
    Path("config/config.yaml").write_text(json.dumps(settings))
    Path("items.json").write_text(json.dumps({"type": "FeatureCollection", "features": fake_items(run.products)}))
    Path("profiles/local").mkdir(parents=True)

    def build_one(command: Sequence[str]) -> int:
        target = Path(next(word for word in command if word.endswith(".json")))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("{}")
        return code

    monkeypatch.setattr(replay, "run", build_one)
    ended, output = told("replay", "--execute", "--class", "source-timeout")
    assert (ended, "1 product built again, 1 not" in output) == (expected, True), output


def test_replay_of_a_run_in_a_bucket_wants_a_profile_of_a_cluster() -> None:
    settings = parse_settings({"run": "demo", "state_root": "s3://b/state", "source": {"catalogue": "x"}})
    with pytest.raises(ConfigError, match=r"state of demo is in s3://b/state, .* --profile ovh"):
        replay.check_profile(settings, "local")
    replay.check_profile(settings, "ovh")
    assert replay_command(settings, Path("c.yaml")) == "zarrmill replay demo --execute --config c.yaml --profile ovh"


def test_replay_that_is_interrupted_waits_for_the_clean_end_of_snakemake(tmp_path: Path) -> None:
    """The driver of a pod ends with its command, and what is left then is killed."""
    end = tmp_path / "ended"
    child = f"trap 'sleep 1; touch {end}; exit 0' TERM; touch {tmp_path}/began; while :; do sleep 0.1; done"
    code = (
        "import subprocess\nfrom pathlib import Path\nwait = subprocess.Popen.wait\n"
        f"subprocess.Popen.wait = lambda *a, **k: (Path({str(tmp_path / 'waits')!r}).touch(), wait(*a, **k))[1]\n"
        "from zarrmill.cli_runs import terminated_as_interrupted\nfrom zarrmill.runs.replay import run\n"
        f"with terminated_as_interrupted():\n    run(['sh', '-c', {child!r}])"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as process:
        until(lambda: (tmp_path / "began").exists() and (tmp_path / "waits").exists())
        process.terminate()
        assert process.wait(60) != 0
        assert end.exists()


def test_people_read_example_log_advice_and_command(run: FakeRun) -> None:
    code, output = told("failures", "--class", "source-timeout")
    assert code == EXIT_FAILED
    assert output.startswith("source-timeout: 2 (2 in convert)\n  2 × ZM-SRC-TIMEOUT: ")
    assert "It is tried again; then replay." in output
    assert "docs/reference/errors.md#zm-src-timeout" in output
    assert "again: zarrmill replay demo --class source-timeout --execute --config config/config.yaml\n" in output
    assert "capacity" not in output


def test_the_command_that_builds_again_is_for_the_run_that_was_asked_for(run: FakeRun) -> None:
    shutil.copytree("results/demo", "results/other")
    _, output = told("failures", "other", "--class", "capacity")
    assert "again: zarrmill replay other --class capacity --execute" in output


def test_end_of_a_log_that_is_gone_is_shown(run: FakeRun) -> None:
    failure = Failures(run.state).of(run.with_outcome("failed")[0])[-1]
    record = replace(read_record(FailureRecord, failure.place), log="", excerpt="\n".join(f"line {n}" for n in range(20)))
    write_record(record, failure.place)
    _, output = told("failures", "--class", record.failure_class)
    assert "went with its pod\n    | line 12\n" in output
    assert "| line 19\n" in output
    answer = json.loads(told("failures", "--json", "--class", record.failure_class)[1])
    assert answer["groups"][0]["excerpt"] == record.excerpt


def test_record_of_the_older_schema_is_still_read(run: FakeRun) -> None:
    failure = Failures(run.state).of(run.with_outcome("failed")[0])[-1]
    body = json.loads(failure.place.read_text())
    del body["excerpt"]
    failure.place.write_text(json.dumps({**body, "schema": "zarrmill/failure/1"}))
    assert read_record(FailureRecord, failure.place).excerpt == ""
    failure.place.write_text(json.dumps({**body, "schema": "zarrmill/failure/0"}))
    with pytest.raises(ConfigError, match="expected 'zarrmill/failure/2'"):
        read_record(FailureRecord, failure.place)


@pytest.mark.parametrize("text", ["[1]", "null", '"x"', "3", "", "{", "{}"])
def test_a_record_that_is_none_is_named_with_the_cure_and_the_report_tells_it(run: FakeRun, text: str) -> None:
    place = Failures(run.state).of(run.with_outcome("failed")[0])[-1].place
    place.write_text(text)
    for verb in ("failures", "replay"):
        result = CliRunner().invoke(app, [verb])
        assert isinstance(result.exception, ConfigError), result.exception
        assert result.exception.message.startswith(f"{place}: ")
        assert "remove it" in result.exception.message
    assert told("report")[0] == EXIT_OK
    assert place.name in Path(run.state.report).read_text()


def test_a_success_and_an_older_failure_are_left_out(run: FakeRun) -> None:
    failed = run.with_outcome("failed")
    write_ok(run.state, failed[0], 2, thumbnail=False)
    assert failed[0] not in [record.product for record in find_failures(run.settings)]
    assert len(find_failures(run.settings)) == 7
    assert find_failures(run.settings, since=parse_since("6d", NOW)) == ()
    assert len(find_failures(run.settings, since=parse_since("7d", NOW))) == 7


def test_a_run_without_failures_ends_with_0(run: FakeRun) -> None:
    assert told("failures", "--class", "catalog") == (EXIT_OK, "no product failed with class catalog\n")


@pytest.mark.parametrize("verb", ["failures", "replay"])
def test_a_class_that_does_not_exist_is_no_run_without_failures(run: FakeRun, verb: str) -> None:
    result = CliRunner().invoke(app, [verb, "--class", "source-mising"])
    assert isinstance(result.exception, ConfigError)
    assert "class 'source-mising' is not one of capacity, catalog, config, " in str(result.exception)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("7d", "2025-06-01T12:00:00+00:00"), ("12h", "2025-06-08T00:00:00+00:00"), ("2025-01-31", "2025-01-31T00:00:00+00:00")],
)
def test_since_is_an_age_or_a_date(text: str, expected: str) -> None:
    assert parse_since(text, NOW).isoformat() == expected


@pytest.mark.parametrize("text", ["a week", "²d", "d", ""])
def test_since_in_other_words_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=f"'{text}' is not like 7d"):
        parse_since(text, NOW)


def killed_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    process.kill()
    process.wait()
    return process.pid


def write_beat(run: FakeRun, pid: int, host: str, age_s: float, skew_s: float = 0.0) -> None:
    """Write a heartbeat of ``age_s``; the clock of its machine is ``skew_s`` ahead."""
    tick = ProgressFile(run.state.progress(run.products[-1]), "convert", run.products[-1].name)
    tick.write()
    body = json.loads(tick.place.read_text())
    moment = time.time() - age_s
    times = {"started": moment + skew_s - 1, "updated": moment + skew_s}
    tick.place.write_text(json.dumps({**body, "pid": pid, "host": host, **times}))
    os.utime(tick.place, (moment, moment))


@pytest.fixture
def waiting(tmp_path: Path) -> FakeRun:
    """Two products, one of which has not begun."""
    return fake_run(tmp_path, 2, n_waiting=1, thumbnails=False)


def test_a_killed_job_gets_its_failure_record_once(waiting: FakeRun) -> None:
    write_beat(waiting, killed_process(), socket.gethostname(), 1)
    assert [len(record_killed(waiting.state, waiting.products, "demo")) for _ in range(3)] == [1, 0, 0]
    (failure,) = Failures(waiting.state).of(waiting.products[-1])
    record = read_record(FailureRecord, failure.place)
    assert (record.failure_class, record.code, record.stage) == ("capacity", "ZM-CAP-KILLED", "convert")
    assert collect_progress(waiting.state, waiting.products).failed == {"capacity": 1}
    assert group(waiting.settings, [record])[0].variants[0].n == 1


def test_status_writes_nothing(waiting: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    write_beat(waiting, killed_process(), socket.gethostname(), 1)
    before = sorted(Path(waiting.state.root).rglob("*"))
    monkeypatch.chdir(waiting.workdir)
    assert standing(waiting.settings).n_failed == 0
    assert sorted(Path(waiting.state.root).rglob("*")) == before
    assert len(find_failures(waiting.settings)) == 1
    assert standing(waiting.settings).n_failed == 1


@pytest.mark.parametrize(("age_s", "n"), [(SILENT_S / 2, 0), (SILENT_S + 10, 1)])
def test_a_job_of_another_machine_counts_as_killed_only_after_long_silence(waiting: FakeRun, age_s: float, n: int) -> None:
    write_beat(waiting, 1, "pod-17", age_s)
    assert len(record_killed(waiting.state, waiting.products, "demo")) == n


@pytest.mark.parametrize("skew_s", [-7200.0, 7200.0])
def test_a_wrong_clock_neither_kills_a_job_nor_keeps_it_alive(waiting: FakeRun, skew_s: float) -> None:
    write_beat(waiting, 1, "pod-17", 5, skew_s)
    assert not record_killed(waiting.state, waiting.products, "demo")
    assert len(collect_progress(waiting.state, waiting.products).running) == 1
    write_beat(waiting, 1, "pod-17", SILENT_S + 10, skew_s)
    assert collect_progress(waiting.state, waiting.products).running == ()
    assert len(record_killed(waiting.state, waiting.products, "demo")) == 1


def test_a_living_process_is_never_taken_for_killed(waiting: FakeRun) -> None:
    write_beat(waiting, os.getpid(), socket.gethostname(), SILENT_S * 2)
    assert not record_killed(waiting.state, waiting.products, "demo")


def test_a_failure_that_the_job_wrote_itself_is_not_told_twice(waiting: FakeRun) -> None:
    write_beat(waiting, killed_process(), socket.gethostname(), 1)
    write_failure(waiting.state, waiting.products[-1], 1, FAILURES[1])
    assert not record_killed(waiting.state, waiting.products, "demo")


def test_status_counts_and_names_the_run(run: FakeRun) -> None:
    code, output = told("status", "demo", "--json")
    answer = json.loads(output)
    assert code == EXIT_FAILED
    assert (answer["run"], answer["total"], answer["ok"], answer["missing"]) == ("demo", 10, 2, 0)
    assert sum(answer["failed"].values()) == 8


def test_status_of_a_run_that_was_not_planned_says_so(run: FakeRun) -> None:
    result = CliRunner().invoke(app, ["status", "other"])
    assert isinstance(result.exception, ConfigError)
    assert "results/other/manifest.csv: no such manifest" in str(result.exception)
