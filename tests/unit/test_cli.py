"""The command line: options are named as they were typed, and every verb that a text names is there."""

import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from zarrmill.cli import app
from zarrmill.cli_common import parse_duration
from zarrmill.cli_runs import command_that_goes_on
from zarrmill.errors import CODES, EXIT_OK, UNKNOWN_CODE, ConfigError, StoreError

ROOT = Path(__file__).parents[2]
NAMED = re.compile(
    r"`zarrmill ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?[^`]*`|^ *zarrmill ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?", re.MULTILINE
)


def verbs() -> dict[str, set[str]]:
    """Return every verb with the verbs below it."""
    from typer.main import get_command

    command = get_command(app)
    return {name: set(getattr(one, "commands", {})) for name, one in command.commands.items()}  # type: ignore[attr-defined]


def texts() -> dict[str, str]:
    """Return every text that tells people what to type."""
    places = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src/zarrmill").rglob("*.py")]
    return {**CODES, **{place.relative_to(ROOT).as_posix(): place.read_text() for place in places}}


def unknown_in(text: str) -> list[str]:
    """Return what a text calls a verb and is none."""
    found, known = [], verbs()
    for match in NAMED.finditer(text):
        verb, below = (match[1], match[2]) if match[1] else (match[3], match[4])
        if verb not in known or (known[verb] and below and below not in known[verb]):
            found.append(match.group().strip())
    return found


def test_every_verb_that_a_text_names_exists() -> None:
    assert {name: unknown_in(text) for name, text in texts().items() if unknown_in(text)} == {}


@pytest.mark.parametrize("text", ["`zarrmill config` lists all", "`zarrmill bucket mend`", "  zarrmill paln --limit 3"])
def test_a_verb_that_is_none_is_found(text: str) -> None:
    assert len(unknown_in(text)) == 1


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("12h", 43200), ("2d", 172800)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, "--deadline") == seconds


@pytest.mark.parametrize("text", ["0d", "abc", "2024-01-01", "d", "-1h", "1.5h", "12", "²h", "9999999999d"])
@pytest.mark.parametrize(
    ("option", "arguments"),
    [
        ("--deadline", ["backfill", "--from", "2025-01-01", "--to", "2025-01-02", "--deadline"]),
        ("--older-than", ["clean", "--older-than"]),
    ],
)
def test_a_time_that_is_none_is_refused_by_the_name_of_its_option(text: str, option: str, arguments: list[str]) -> None:
    option_and_value = [*arguments[:-1], f"{option}={text}", "--config", str(ROOT / "config/config.yaml")]
    done = CliRunner().invoke(app, option_and_value)
    assert isinstance(done.exception, ConfigError)
    assert done.exception.message == f"{option} {text!r} is not a time like 30m, 12h or 2d"


def test_a_run_that_does_not_exist_gets_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ["--config", str(ROOT / "config/config.yaml")]
    done = CliRunner().invoke(app, ["report", "dmeo", *config])
    assert isinstance(done.exception, ConfigError)
    assert done.exception.message == "results/dmeo/manifest.csv: no such manifest; check the name of the run"
    assert not Path("results").exists()
    assert CliRunner().invoke(app, ["report", *config]).exit_code == EXIT_OK, "what was not planned yet has a report that says so"


def test_a_run_without_a_name_is_not_the_run_of_the_configuration() -> None:
    done = CliRunner().invoke(app, ["plan", "--run", "", "--config", str(ROOT / "config/config.yaml")])
    assert isinstance(done.exception, ConfigError)


def test_a_plan_whose_recipes_are_wrong_leaves_nothing_behind(tmp_path: Path) -> None:
    text = f"run: r\nsource: {{catalogue: items.json}}\nstate_root: {tmp_path}/runs\nrecipes: [{tmp_path}/none.yaml]\n"
    (tmp_path / "config.yaml").write_text(text)
    done = CliRunner().invoke(app, ["plan", "--config", str(tmp_path / "config.yaml")])
    assert isinstance(done.exception, ConfigError), done.output
    assert not (tmp_path / "runs").exists()


def test_a_sample_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, ["sample", str(tmp_path / "file"), "--size-px", "60", "--days", "1", "--per-day", "1"])
    assert isinstance(done.exception, StoreError)
    assert done.exception.message.startswith(f"{tmp_path}/file"), done.exception.message


@pytest.mark.parametrize(("kind", "days"), [("s2", "100000"), ("grd", "2"), ("all", "9999999999999"), ("s2", "99" * 20)])
def test_a_sample_beyond_the_calendar_is_an_error_of_usage(tmp_path: Path, kind: str, days: str) -> None:
    words = ["sample", str(tmp_path / "made"), "--days", days, "--start", "9999-12-31", "--kind", kind]
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, ConfigError), result.exception
    assert f"{days} days from 9999-12-31 go beyond 9999-12-31" in result.exception.message
    assert not (tmp_path / "made").exists()


def test_no_help_has_what_markdown_would_drop() -> None:
    from typer.main import get_command

    def texts_of(command: Any) -> list[str]:
        own = [command.help or "", *(getattr(one, "help", None) or "" for one in command.params)]
        return own + [text for below in getattr(command, "commands", {}).values() for text in texts_of(below)]

    assert [text for text in texts_of(get_command(app)) if "<" in text] == []


def test_every_code_of_the_reference_is_told() -> None:
    output = CliRunner().invoke(app, ["errors"]).output
    assert [line.split()[0] for line in output.splitlines()] == [*CODES, UNKNOWN_CODE]


@pytest.mark.parametrize("ends", [("--to", "today"), ("--to=today",)])
def test_the_command_that_goes_on_has_the_days_of_the_first_time(ends: tuple[str, ...]) -> None:
    """Tomorrow ``today`` is another day, and with it another backfill."""
    arguments = ("backfill", "--from", "2025-01-01", *ends, "--name", "today")
    told = command_that_goes_on(arguments, date(2025, 3, 31), moves=False)
    assert told == f"zarrmill {' '.join(arguments)}".replace("today", "2025-03-31", 1)
    assert "today --name" in command_that_goes_on(arguments, date(2025, 3, 31), moves=True)


@pytest.mark.parametrize("words", [["--shard-products", "9"], ["--shard-index", "0"], ["--completions", "2"], ["--shards", "2"]])
def test_a_forward_run_takes_no_word_of_shards(words: list[str], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("run: here\nsource: {catalogue: items.json}\nrecipes: [none.yaml]\n")
    days = ["--from", "2025-01-13", "--to", "2025-01-14", "--config", str(config)]
    result = CliRunner().invoke(app, ["backfill", "--forward", *days, *words])
    assert isinstance(result.exception, ConfigError)
    assert f"leave out {words[0]}" in str(result.exception)
