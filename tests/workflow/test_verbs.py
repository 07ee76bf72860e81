"""What a verb has to do with its surroundings: streams that are lost or mixed, signals, a profile that is not there."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from stac_server import Fault, stac_server
from until import until
from workspace import ROOT, Workspace

from zarrmill.errors import EXIT_BROKEN, EXIT_CONFIG, EXIT_INTERRUPTED, EXIT_OK, ConfigError
from zarrmill.runs.part import Command

HOW = ("--profile", str(ROOT / "profiles/ci"), "--snakefile", str(ROOT / "workflow/Snakefile"))
RANGE = ("backfill", "--from", "2025-01-13", "--to", "2025-01-13", "--name", "b", "--canary", "0")
FULL = os.strerror(errno.ENOSPC)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One day with one product."""
    return Workspace.create(tmp_path_factory.mktemp("streams") / "work", n_days=1, products_per_day=1)


def run(work: Workspace, redirection: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line in a shell with a redirection; ``$?`` is that of the command."""
    code = f"{sys.executable} -c 'from zarrmill.cli import main; main()' \"$@\" {redirection}; exit ${{PIPESTATUS[0]}}"
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    command = ["bash", "-c", code, "zarrmill", *arguments]
    return subprocess.run(command, cwd=work.path, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("redirection", "code", "told"),
    [
        ("| true", EXIT_OK, "Broken pipe"),
        ("2>&1 | true", EXIT_OK, ""),
        (">/dev/full", EXIT_BROKEN, FULL),
        (">&-", EXIT_OK, ""),
        ("2>/dev/full", EXIT_OK, ""),
    ],
)
def test_a_plan_is_written_whoever_reads_it(work: Workspace, redirection: str, code: int, told: str) -> None:
    work.state.manifest.unlink()
    done = run(work, redirection, "plan")
    assert (done.returncode, work.state.manifest.exists()) == (code, True), done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_logs_are_on_stderr_and_what_was_asked_for_on_stdout(work: Workspace) -> None:
    done = run(work, "", "plan")
    assert "catalogue read" in done.stderr
    assert "catalogue read" not in done.stdout
    assert done.stdout.startswith("Plan of run test")


def test_a_plan_that_is_told_to_end_is_interrupted(work: Workspace) -> None:
    before = Path(work.state.manifest).read_bytes() if work.state.manifest.exists() else None
    with stac_server(faults=[Fault("hang", path="")]) as server:
        work.edit("config/away.yaml", **yaml.safe_load((work.path / "config/config.yaml").read_text()))
        work.edit("config/away.yaml", source={"catalogue": server.url})
        command = [sys.executable, "-c", "from zarrmill.cli import main; main()", "plan", "--config", "config/away.yaml"]
        process = subprocess.Popen(command, cwd=work.path, stderr=subprocess.PIPE, text=True)
        until(lambda: server.requests)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    assert (process.returncode, "interrupted; run the same command again" in told) == (EXIT_INTERRUPTED, True), told
    assert "Traceback" not in told
    assert (Path(work.state.manifest).read_bytes() if work.state.manifest.exists() else None) == before


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (("--profile", "nope", *HOW[2:]), "--profile nope: no such profile"),
        ((*HOW[:2], "--snakefile", "nope"), "--snakefile nope: no such file"),
    ],
)
def test_a_profile_or_snakefile_that_is_not_there_is_told_before_anything_is_written(
    work: Workspace, how: tuple[str, ...], told: str
) -> None:
    done = run(work, "", *RANGE[:-4], "--name", "never", *how)
    assert (done.returncode, told in done.stderr) == (EXIT_CONFIG, True), done.stdout + done.stderr
    assert not (work.path / "results/never").exists()


def test_profiles_are_found_where_snakemake_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    for folder, name in (("profiles", "mine"), ("", "here"), ("home/snakemake", "named")):
        (tmp_path / folder / name).mkdir(parents=True)
        Command(Path("c.yaml"), name).check()
    Command(Path("c.yaml"), str(tmp_path / "here"), "https://host.example/Snakefile").check()
    with pytest.raises(ConfigError, match=r"those below \./profiles are: mine"):
        Command(Path("c.yaml"), "nope").check()


def test_a_backfill_ends_with_its_report_whoever_reads_it(work: Workspace) -> None:
    done = run(work, "| head -n 1", *RANGE, *HOW)
    assert done.returncode == EXIT_OK, done.stdout + done.stderr
    assert "stdout takes nothing more (Broken pipe): what is done goes on to its end" in done.stderr
    told = run(work, "", "status", "b")
    assert told.stdout.startswith("1/1 ok")
    assert (Path(work.path) / "results/b/report/index.html").exists()
