"""What a backfill leaves behind: one summary and one page over all shards, whatever the end."""

import json
from datetime import date
from pathlib import Path

import pytest
from fake_run import fake_run

from zarrmill.config import Settings
from zarrmill.core.shards import Shard
from zarrmill.errors import EXIT_BOUND, EXIT_FAILED, EXIT_OK, ConfigError
from zarrmill.io.places import place_of
from zarrmill.io.record import dumps
from zarrmill.io.state import State
from zarrmill.runs.cuts import Cuts, cuts_of, document, read_cuts, run_name
from zarrmill.runs.summary import Ended, read_summary, write_summary
from zarrmill.stages.report import report

CONFIG = Path("config/config.yaml")
DAY = date(2025, 1, 9)


@pytest.fixture
def backfill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Three shards: one that is done, one with failures and products that wait, one that was not begun."""
    monkeypatch.chdir(tmp_path)
    settings = fake_run(tmp_path, 1, thumbnails=False).settings.model_copy(update={"run": "b"})
    for index, numbers in enumerate(({"n": 4}, {"n": 6, "n_failed": 2, "n_waiting": 1})):
        run = fake_run(tmp_path, **numbers, thumbnails=False)
        report(run.settings)
        Path(run.state.root).rename(tmp_path / "results" / run_name(settings, index))
        for record in (tmp_path / "results" / run_name(settings, index) / "failed").rglob("*.json"):
            record.write_text(record.read_text().replace('"run": "demo"', f'"run": "{run_name(settings, index)}"'))
    days = [date(2025, 1, day) for day in (9, 8, 7)]
    cuts = Cuts(tuple(Shard(day, day, 5) for day in days), 5)
    (State.of(settings).root / "backfill.json").write_text(dumps(document(settings, cuts)))
    return settings


def test_an_end_by_a_bound_tells_of_all_shards_and_what_to_do(backfill: Settings) -> None:
    ended = Ended(
        EXIT_BOUND, "2 products failed (--max-failures)", ("b-0001: log: words",), "zarrmill backfill ...", 61.0, ("b-0001",)
    )
    page = Path(write_summary(backfill, CONFIG, ended)).read_text()
    told = json.loads(State.of(backfill).summary.read_text())
    assert told["counts"] == {"listed": 15, "planned": 10, "ok": 7, "failed": 2, "left": 1}
    assert [row["state"] for row in told["shards"]] == ["done", "failed", "not begun"]
    assert sum(told["failed"].values()) == 2
    assert (told["exit_code"], told["reason"], told["command"]) == (EXIT_BOUND, ended.reason, ended.command)
    assert [step["command"].split()[1] for step in told["next"]] == ["failures", "replay", "backfill"]
    assert {row["run"] for row in told["measured"]["slowest"]} == {"b-0001"}
    for words in (ended.reason, *ended.broken, ended.command, 'href="../../b-0001/report/index.html"', "1 min 1 s"):
        assert words in page
    assert 'href="../../b-0002/' not in page, "there is no report of what was not begun"


def test_the_report_is_written_anew_and_keeps_what_the_driver_said(backfill: Settings) -> None:
    write_summary(backfill, CONFIG)
    told = json.loads(State.of(backfill).summary.read_text())
    assert (told["exit_code"], told["reason"]) == (EXIT_FAILED, "")
    assert len(told["measured"]["slowest"]) == 5
    write_summary(backfill, CONFIG, Ended(EXIT_BOUND, "stopped", (), "again", 2.0, ()))
    write_summary(backfill, CONFIG)
    told = json.loads(State.of(backfill).summary.read_text())
    assert (told["exit_code"], told["reason"], told["command"]) == (EXIT_BOUND, "stopped", "again")
    assert len(told["measured"]["slowest"]) == 5, "what other drivers measured stays"


@pytest.mark.parametrize("data", [b"", b'{"exit_code": 0, "mea', b"\xff\xfe\x00", b"null", b"{}", b"[1]", b'{"next": 3}'])
def test_a_damaged_summary_is_named_with_the_cure_which_works(backfill: Settings, data: bytes) -> None:
    with pytest.raises(ConfigError, match="is not there yet; run the workflow first"):
        read_summary(backfill)
    State.of(backfill).summary.write_bytes(data)
    with pytest.raises(ConfigError, match=r"b/summary.json: not a summary .*; write it anew with `zarrmill report b`"):
        read_summary(backfill)
    write_summary(backfill, CONFIG)
    told = read_summary(backfill)
    assert (told.exit_code, told.story.startswith("Backfill b"), len(told.steps)) == (EXIT_FAILED, True, 2)


def test_a_reason_is_forgotten_when_everything_is_done(backfill: Settings) -> None:
    write_summary(backfill, CONFIG, Ended(EXIT_BOUND, "the canary failed", (), "again", 2.0, ()))
    (State.of(backfill).root / "backfill.json").write_text(dumps(document(backfill, Cuts((Shard(DAY, DAY, 4),), 5))))
    write_summary(backfill, CONFIG)
    told = json.loads(State.of(backfill).summary.read_text())
    assert (told["exit_code"], told["reason"], told["next"][0]["text"]) == (EXIT_OK, "", "Nothing is left to do.")


def test_a_name_without_a_backfill_is_named(backfill: Settings) -> None:
    with pytest.raises(ConfigError, match="c: no backfill of that name below results"):
        write_summary(backfill.model_copy(update={"run": "c"}), CONFIG)


def test_cuts_that_were_written_before_their_size_was_still_count(backfill: Settings, tmp_path: Path) -> None:
    place = State.of(backfill).root / "backfill.json"
    body = json.loads(place.read_text())
    del body["shard_products"]
    place.write_text(dumps(body))
    cuts = read_cuts(backfill)
    assert cuts is not None
    assert (cuts.n_products, len(cuts.shards)) == (None, 3)
    place_of(tmp_path / "results/b/backfill.json").write_text("[]")
    with pytest.raises(ConfigError, match="not a zarrmill/backfill/1 record"):
        read_cuts(backfill)


def test_a_backfill_does_not_take_the_name_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its shards would be told instead of the run's products, and its report written over the run's."""
    monkeypatch.chdir(tmp_path)
    settings = fake_run(tmp_path, 1, thumbnails=False).settings
    with pytest.raises(ConfigError, match="demo is a run"):
        cuts_of(settings, DAY, DAY, 5)
    assert read_cuts(settings) is None
