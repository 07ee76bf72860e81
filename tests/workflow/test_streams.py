"""A stdout that is lost takes no work with it: a reader that has enough, a full disk, one that was never there."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from workspace import ROOT, Workspace

from zarrmill.errors import EXIT_BROKEN, EXIT_OK

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


def test_a_backfill_ends_with_its_report_whoever_reads_it(work: Workspace) -> None:
    done = run(work, "| head -n 1", *RANGE, *HOW)
    assert done.returncode == EXIT_OK, done.stdout + done.stderr
    assert "stdout takes nothing more (Broken pipe): what is done goes on to its end" in done.stderr
    told = run(work, "", "status", "b")
    assert told.stdout.startswith("1/1 ok")
    assert (Path(work.path) / "results/b/report/index.html").exists()
