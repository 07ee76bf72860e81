"""The benchmark of the workflow runs from end to end on tiny products, few of them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
SMALL = {
    "size": 180,
    "small": 0,
    "repeats": 1,
    "pixels": "synthetic",
    "n-load": 2,
    "n-load-bucket": 1,
    "n-plan": 20,
    "n-backfill": 90,
    "shard": 20,
    "n-shards": 2,
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the report of one small call that measures everything."""
    root = tmp_path_factory.mktemp("bench-workflow")
    options = [f"--{name}={value}" for name, value in SMALL.items()]
    command = [sys.executable, "-m", "benchmarks.workflow", *options, "--work", str(root / "work"), "--out", str(root / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return root / "out"


@pytest.fixture(scope="module")
def result(report: Path) -> dict[str, Any]:
    """Return all that was measured, the goals and every case."""
    whole = json.loads((report / "workflow.json").read_text())
    assert list(whole["parts"]) == ["load", "one", "scale"]
    found = {key: value for part in whole["parts"].values() for key, value in part["found"].items()}
    return {
        **found,
        "goals": whole["goals"],
        "cases": [case for part in whole["parts"].values() for case in part["cases"].values()],
    }


def test_the_workflow_is_taken_apart_into_its_jobs_and_their_engine(result: dict[str, Any]) -> None:
    one = result["one"]["180"]
    in_a_row = one["job_convert"] + one["job_validate"] + one["job_stac"] + max(one["job_stac_catalog"], one["job_report"])
    assert in_a_row < one["wall"]
    assert one["wall"] == pytest.approx(one["engine"] + one["above_engine"], abs=0.1)
    assert 0 < one["above_items"] < one["items"]
    assert 0 < one["engine_convert"] < one["job_convert"] < one["wall"]
    assert set(result["load"]) == {"disk", "bucket"}
    for several in result["load"].values():
        assert several["share"] == pytest.approx(several["bare"] / several["workflow"], abs=0.001)


def test_planning_asks_the_bucket_by_listings_alone(result: dict[str, Any]) -> None:
    bucket = result["many"]["bucket"]
    assert bucket["requests_plan"]["put"] >= SMALL["n-plan"], "the proxy sees what is written"
    assert bucket["requests_dry_run"]["list"] > 0
    assert "put" not in bucket["requests_dry_run"]
    again = result["backfill"]["bucket"]["rerun"]
    assert again["requests_plan"]["head store"] == again["n"], "every finished store is looked at, by plan"
    assert "head store" not in again["requests_run"]
    few = [goal for goal in result["goals"] if "requests" in goal["name"]]
    assert len(few) == 3
    assert all(goal["met"] for goal in few)


def test_every_case_has_costs_and_the_report_is_small_and_knows_no_machine(report: Path, result: dict[str, Any]) -> None:
    for case in result["cases"]:
        assert case["wall_s"] > 0
        assert case["cpu_s"] > 0
    assert [shard["n"] for shard in result["backfill"]["disk"]["shards"]]
    text = (report / "README.md").read_text()
    assert all(goal["name"] in text for goal in result["goals"])
    assert str(ROOT) not in text + (report / "workflow.json").read_text()
    assert (report / "wall.svg").read_text().startswith("<svg xmlns=")
    assert sum(file.stat().st_size for file in report.iterdir()) < 300_000
