"""A backfill as a user runs it: shards, canary, bounds, a killed driver, another run of it, and replay of what failed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from fake_run import price_list
from products import garble_chunk
from workspace import ROOT, Workspace

from zarrmill.core.cost import planned_cost
from zarrmill.errors import EXIT_BOUND, EXIT_CONFIG, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_NOTHING, EXIT_OK
from zarrmill.io.manifest import read_manifest
from zarrmill.io.state import PRODUCT_STAGES, State
from zarrmill.prices import Prices, euros

RANGE = ("--from", "2025-01-12", "--to", "2025-01-16")
HOW = ("--profile", str(ROOT / "profiles/ci"), "--snakefile", str(ROOT / "workflow/Snakefile"))
NAME = "test-20250112-20250116"
BAND = "measurements/reflectance/r10m/b02"


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Three days of two products, nothing planned."""
    return Workspace.create(tmp_path_factory.mktemp("backfill") / "work", n_days=3, products_per_day=2)


@pytest.fixture
def work(untouched: Workspace, tmp_path: Path) -> Workspace:
    return untouched.copy(tmp_path / "work")


def backfill(work: Workspace, *options: str) -> "subprocess.CompletedProcess[str]":
    return work.zarrmill("backfill", *RANGE, "--shard-products", "2", *HOW, *options)


def stores(work: Workspace) -> dict[str, int]:
    """Return when each sealed store was written."""
    root = work.path / work.settings.store_root
    return {path.parent.name: path.stat().st_mtime_ns for path in root.rglob("*.zarr/zarr.json")}


def working_in(folder: Path) -> list[str]:
    """Return the processes that work in a folder (Linux)."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "cwd").readlink() == folder and (process / "cmdline").read_bytes():
                found.append(process.name)
    return found


def newest(work: Workspace) -> list[Path]:
    """Return source products, newest first."""
    items = json.loads((work.path / "archive/items.json").read_text())["features"]
    ordered = sorted(items, key=lambda item: item["properties"]["datetime"], reverse=True)
    return [work.path / "archive/products" / f"{item['id']}.zarr" for item in ordered]


def test_a_range_is_built_in_shards_and_a_rerun_builds_nothing(work: Workspace) -> None:
    shown = backfill(work, "--dry-run")
    assert (shown.returncode, shown.stdout.count(", 2 products")) == (EXIT_OK, 3), shown.stdout + shown.stderr
    assert not (work.path / "results" / NAME).exists()
    too_few = backfill(work, "--completions", "2", "--dry-run")
    assert too_few.returncode == EXIT_CONFIG
    assert "3 shards, but the Job has 2 completions" in too_few.stderr
    done = backfill(work)
    assert done.returncode == EXIT_OK, done.stdout + done.stderr
    assert "6 of 6 products ok, 0 failed" in done.stdout
    assert done.stdout.index(f"zarrmill status {NAME}") < done.stdout.index("6 of 6")
    built = stores(work)
    assert len(built) == 6
    assert all((work.path / "results" / f"{NAME}-{index:04d}/report/index.html").exists() for index in range(3))
    summary = json.loads((work.path / "results" / NAME / "summary.json").read_text())
    assert summary["counts"] == {"listed": 6, "planned": 6, "ok": 6, "failed": 0, "left": 0}
    assert [row["state"] for row in summary["shards"]] == ["done"] * 3
    assert (summary["exit_code"], summary["reason"], len(summary["measured"]["slowest"])) == (EXIT_OK, "", 5)
    page = (work.path / "results" / NAME / "report/index.html").read_text()
    assert all(f'href="../../{NAME}-{index:04d}/report/index.html"' in page for index in range(3))
    told = work.zarrmill("status", NAME)
    assert (told.returncode, told.stdout.startswith("6/6 ok")) == (EXIT_OK, True), told.stdout + told.stderr
    again = backfill(work)
    assert again.returncode == EXIT_OK, again.stdout + again.stderr
    assert stores(work) == built


def test_one_index_is_one_shard_and_another_range_needs_another_name(work: Workspace) -> None:
    assert backfill(work, "--shard-index", "1", "--canary", "0").returncode == EXIT_OK
    assert len(stores(work)) == 2
    assert (work.path / "results" / f"{NAME}-0001/manifest.csv").exists()
    cuts = (work.path / "results" / NAME / "backfill.json").read_bytes()
    other_size = work.zarrmill("backfill", *RANGE, "--shard-products", "500", "--shard-index", "0", "--dry-run", *HOW)
    assert "in 3 shards" in other_size.stdout, "where the range was cut stays"
    assert "--shard-products 500 changes nothing" in other_size.stdout
    assert (work.path / "results" / NAME / "backfill.json").read_bytes() == cuts
    assert backfill(work, "--shard-index", "9").returncode == EXIT_NOTHING
    other = work.zarrmill("backfill", "--from", "2025-01-13", "--to", "2025-01-16", "--name", NAME, *HOW)
    assert other.returncode == EXIT_CONFIG
    assert "take another --name" in other.stderr


def test_a_failing_canary_stops_the_bulk_and_replay_builds_exactly_what_failed(work: Workspace) -> None:
    broken = newest(work)[0]
    good = broken.with_suffix(".good")
    shutil.copytree(broken, good)
    garble_chunk(broken, BAND, "0.0")
    stopped = backfill(work, "--canary", "1")
    assert stopped.returncode == EXIT_BOUND, stopped.stdout + stopped.stderr
    assert "the canary of 1 product failed" in stopped.stdout
    assert "1 source-corrupt: zarrmill failures" in stopped.stdout
    assert stores(work) == {}
    told = work.zarrmill("summary", NAME)
    assert (told.returncode, "Ended early: the canary of 1 product failed" in told.stdout) == (EXIT_BOUND, True), told.stderr
    assert f"zarrmill replay {NAME}" in told.stdout
    state = State.of(work.settings.model_copy(update={"run": f"{NAME}-0000"}), work.path)
    assert len(read_manifest(state.manifest)) == 2, "the canary is a part of the whole shard, not a plan of its own"
    done = backfill(work, "--canary", "0")
    assert done.returncode == EXIT_FAILED, done.stdout + done.stderr
    assert "5 of 6 products ok, 1 failed" in done.stdout
    before = stores(work)
    assert len(before) == 5
    still = work.zarrmill("replay", NAME, *HOW, "--execute")
    assert (still.returncode, "0 products built again, 1 not" in still.stdout) == (EXIT_FAILED, True), still.stdout + still.stderr
    shutil.rmtree(broken)
    good.rename(broken)
    dry = work.zarrmill("replay", NAME, *HOW, "--class", "source-corrupt")
    assert (dry.returncode, "1 product would be built again" in dry.stdout) == (EXIT_OK, True), dry.stdout + dry.stderr
    assert stores(work) == before
    assert work.zarrmill("replay", NAME, *HOW, "--class", "conformance", "--execute").returncode == EXIT_NOTHING
    replayed = work.zarrmill("replay", NAME, *HOW, "--execute")
    assert replayed.returncode == EXIT_OK, replayed.stdout + replayed.stderr
    after = stores(work)
    assert set(after) - set(before) == {name for name in after if name.startswith(broken.stem)}
    assert len(after) == 6
    assert {name: when for name, when in after.items() if name in before} == before
    assert work.zarrmill("replay", NAME, *HOW).returncode == EXIT_NOTHING


def test_bounds_end_it_cleanly(work: Workspace) -> None:
    ended = backfill(work, "--max-products", "3")
    assert ended.returncode == EXIT_BOUND, ended.stdout + ended.stderr
    assert "3 products were begun (--max-products)" in ended.stdout
    assert len(stores(work)) == 3
    failing = newest(work)[3]
    garble_chunk(failing, BAND, "0.0")
    ended = backfill(work, "--max-failures", "1")
    assert ended.returncode == EXIT_BOUND, ended.stdout + ended.stderr
    assert "1 product failed (--max-failures)" in ended.stdout
    assert len(stores(work)) < 6


def test_oldest_days_are_built_first_when_asked_for(work: Workspace) -> None:
    ended = backfill(work, "--canary", "1", "--oldest-first", "--max-products", "1")
    assert ended.returncode == EXIT_BOUND, ended.stdout + ended.stderr
    (built,) = stores(work)
    assert built.startswith(newest(work)[-1].stem)
    shown = backfill(work, "--dry-run").stdout
    assert shown.index(f"{NAME}-0002: 2025-01-15/") < shown.index(f"{NAME}-0000: 2025-01-12/"), "numbers stay, the order does not"


def test_drivers_of_other_shards_obey_the_verdict_on_the_canary(work: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZARRMILL_BACKFILL_SESSION", "first")
    broken = newest(work)[0]
    good = broken.with_suffix(".good")
    shutil.copytree(broken, good)
    garble_chunk(broken, BAND, "0.0")
    backfill(work, "--dry-run")
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(backfill, work, "--canary", "1", "--shard-index", "1")
        failed = backfill(work, "--canary", "1", "--shard-index", "0")
        told = other.result()
    assert (failed.returncode, told.returncode) == (EXIT_BOUND, EXIT_BOUND), told.stdout + told.stderr
    assert "the canary of 1 product failed" in told.stdout
    assert stores(work) == {}
    shutil.rmtree(broken)
    good.rename(broken)
    monkeypatch.setenv("ZARRMILL_BACKFILL_SESSION", "second")
    assert backfill(work, "--canary", "1", "--shard-index", "0").returncode == EXIT_OK
    done = backfill(work, "--canary", "1", "--shard-index", "1")
    assert (done.returncode, len(stores(work))) == (EXIT_OK, 4), done.stdout + done.stderr


def test_the_second_night_of_a_forward_run_posts_no_job_for_what_is_done(work: Workspace) -> None:
    def night(first: str, last: str) -> Counter[str]:
        log.unlink(missing_ok=True)
        done = work.zarrmill("backfill", "--forward", "--from", first, "--to", last, "--canary", "0", *HOW)
        assert done.returncode == EXIT_OK, done.stdout + done.stderr
        events = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        return Counter({rule: n for event in events if event["event"] == "start" for rule, n in event["jobs"].items()})

    log = work.path / ".snakemake/backfill/test-forward.log"
    assert night("2025-01-12", "2025-01-14")["convert"] == 4
    before = stores(work)
    jobs = night("2025-01-13", "2025-01-15")
    assert [jobs[stage] for stage in PRODUCT_STAGES] == [2, 2, 2]
    after = stores(work)
    assert (len(after), {name: after[name] for name in before}) == (6, before)
    plan = json.loads((work.path / "results/test-forward/plan.json").read_text())
    assert (plan["totals"]["up to date"], plan["totals"]["new"]) == (4, 2)
    jobs = night("2025-01-15", "2025-01-16")
    assert not any(jobs[stage] for stage in PRODUCT_STAGES)
    assert work.zarrmill("status", "test-forward").stdout.startswith("2/2 ok")
    assert work.zarrmill("audit").returncode == EXIT_OK, "what left the window is still known"


def test_shards_at_once_begin_no_more_products_than_asked_for(work: Workspace) -> None:
    ended = backfill(work, "--canary", "0", "--shards", "3", "--max-products", "3")
    assert ended.returncode == EXIT_BOUND, ended.stdout + ended.stderr
    assert "3 of 3 products ok" in ended.stdout
    assert len(stores(work)) == 3
    done = backfill(work, "--canary", "0", "--shards", "3", "--max-products", "9")
    assert (done.returncode, len(stores(work))) == (EXIT_OK, 6), done.stdout + done.stderr


def test_the_same_command_goes_on_after_a_bound_on_failures(work: Workspace) -> None:
    bound = "--max-consecutive-failures"
    broken = newest(work)[1]
    good = broken.with_suffix(".good")
    shutil.copytree(broken, good)
    garble_chunk(broken, BAND, "0.0")
    ended = backfill(work, "--canary", "0", bound, "1")
    assert (ended.returncode, f"({bound})" in ended.stdout) == (EXIT_BOUND, True), ended.stdout + ended.stderr
    shutil.rmtree(broken)
    good.rename(broken)
    again = backfill(work, "--canary", "0", bound, "1")
    assert (again.returncode, "6 of 6 products ok, 0 failed" in again.stdout) == (EXIT_OK, True), again.stdout + again.stderr


def test_cost_is_bounded_before_a_product_is_begun_also_with_shards_side_by_side(work: Workspace) -> None:
    refused = backfill(work, "--max-cost", "25")
    assert (refused.returncode, "set `prices`" in refused.stderr) == (EXIT_CONFIG, True), refused.stdout + refused.stderr
    assert not (work.path / "results" / NAME).exists()
    (work.path / "prices.yaml").write_text(yaml.safe_dump(prices := price_list(core_hour_eur=1e6)))
    work.configure(prices="prices.yaml")
    work.plan()
    ordered = sorted(work.products, key=lambda product: product.datetime, reverse=True)
    costs = [planned_cost(product, Prices.model_validate(prices)).eur for product in ordered]
    bound = f"{sum(costs[:3]) + costs[3] / 2:.2f}"
    ended = backfill(work, "--max-cost", bound, "--shards", "3", "--canary", "0")
    assert ended.returncode == EXIT_BOUND, ended.stdout + ended.stderr
    told = f"3 products with a planned cost of {euros(sum(costs[:3]))} were begun, the next would exceed {euros(float(bound))}"
    assert f"{told} (--max-cost)" in ended.stdout
    assert len(stores(work)) == 3
    assert not (work.path / "results" / f"{NAME}-0002").exists(), "the third shard was not even planned"
    line = work.zarrmill("status", NAME).stdout
    assert line.startswith("3/3 ok"), line
    assert f"{euros(sum(costs[:3]))} of €" in line
    built = stores(work)
    assert backfill(work, "--max-cost", bound, "--shard-index", "0").returncode == EXIT_OK
    assert stores(work) == built


def test_a_driver_that_is_interrupted_twice_cancels_what_is_at_work_and_is_run_again(work: Workspace) -> None:
    command = [sys.executable, "-m", "zarrmill", "backfill", *RANGE, "--canary", "0", *HOW]
    env = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        command, cwd=work.path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as driver:
        until = time.monotonic() + 120
        while not stores(work) and time.monotonic() < until:
            time.sleep(0.05)
        driver.terminate()
        assert driver.stderr is not None
        assert any("interrupt again to cancel them" in line for line in driver.stderr)
        driver.terminate()
        told = driver.stderr.read()
        assert driver.wait(timeout=120) == EXIT_INTERRUPTED, told
    until = time.monotonic() + 60
    while working_in(work.path) and time.monotonic() < until:
        time.sleep(0.2)  # jobs that were cancelled end at their next stripe
    assert not working_in(work.path)
    again = backfill(work)
    assert (again.returncode, len(stores(work))) == (EXIT_OK, 6), again.stdout + again.stderr


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_an_ended_driver_leaves_nothing_running_and_is_run_again(work: Workspace, kill: int) -> None:
    command = [sys.executable, "-m", "zarrmill", "backfill", *RANGE, "--canary", "0", *HOW]
    driver = subprocess.Popen(command, cwd=work.path, env={**os.environ, "PYTHONWARNINGS": "ignore"}, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not stores(work) and time.monotonic() < until:
        time.sleep(0.05)
    driver.send_signal(kill)
    code = driver.wait(timeout=60)
    assert code == (-signal.SIGKILL if kill == signal.SIGKILL else EXIT_INTERRUPTED)
    summary = work.path / "results" / NAME / "summary.json"
    assert summary.exists() == (kill == signal.SIGTERM)
    assert kill == signal.SIGKILL or json.loads(summary.read_text())["reason"] == "interrupted"
    assert work.zarrmill("report", NAME).returncode == EXIT_OK
    assert json.loads(summary.read_text())["counts"]["left"] > 0
    until = time.monotonic() + 60
    while working_in(work.path) and time.monotonic() < until:
        time.sleep(0.2)  # the jobs that were at work are finished
    assert not working_in(work.path)
    before = stores(work)
    assert len(before) < 6, "the driver is gone, nothing new is begun"
    again = backfill(work)
    assert again.returncode == EXIT_OK, again.stdout + again.stderr
    after = stores(work)
    assert len(after) == 6
    assert {name: after[name] for name in before} == before
    state = State.of(work.settings.model_copy(update={"run": f"{NAME}-0000"}), work.path)
    assert state.summary.exists()
