"""The benchmark's harness runs from end to end on a tiny product."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))

from benchmarks.limits import GRD, L1C, L2A, LIMITS, limits, row

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the report of one round at 180 px, without others."""
    root = tmp_path_factory.mktemp("bench")
    options = (
        "--size",
        "180",
        "--repeats",
        "1",
        "--pixels",
        "synthetic",
        "--radar",
        "300x400",
        "--work",
        str(root / "work"),
        "--out",
        str(root / "out"),
    )
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.engine", *options], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return root / "out"


def test_the_floor_writes_the_same_bytes_as_convert(report: Path) -> None:
    same = json.loads((report / "engine.json").read_text())["same_bytes"]
    assert same["n_objects"] > 80
    assert same["n_same"] == same["n_objects"]


def test_every_case_has_costs_and_the_report_is_small(report: Path) -> None:
    result = json.loads((report / "engine.json").read_text())
    assert set(result["cases"]) == {
        "floor",
        "zarrmill",
        "zarrmill-1",
        "validate-full",
        "validate-sampled",
        "grd",
        "grd-validate",
    }
    for case in result["cases"].values():
        assert case["wall_s"] > 0
        assert case["cpu_s"] > 0
        assert case["peak_bytes"] > 10_000_000
    for name in ("validate-full", "grd-validate"):
        assert result["cases"][name]["told"]["verdict"] == "PASS"
    found = {(row["what"], row["size"]): row for row in result["memory"]}
    assert set(found) == {
        ("Sentinel-2 L2A", "full"),
        ("Sentinel-2 L2A", "half"),
        ("Sentinel-2 L1C", "full"),
        ("Sentinel-2 L2A into a bucket", "full"),
        ("Sentinel-1 GRD", "full"),
        ("Sentinel-1 GRD", "half"),
    }
    for one in result["memory"]:
        assert one["peak_bytes"] > 10_000_000
        assert one["n_objects"] > 60
    in_bucket, on_disk = found["Sentinel-2 L2A into a bucket", "full"], found["Sentinel-2 L2A", "full"]
    assert [in_bucket[key] for key in ("n_bytes", "n_objects")] == [on_disk[key] for key in ("n_bytes", "n_objects")]
    text = (report / "README.md").read_text()
    assert all(name in text for name in [*result["ratios"], *result["limits"]])
    assert (report / "wall.svg").read_text().startswith("<svg xmlns=")
    assert sum(file.stat().st_size for file in report.iterdir()) < 300_000


def test_every_limit_is_a_row_of_the_goals_met_or_missed(report: Path) -> None:
    result = json.loads((report / "engine.json").read_text())
    assert set(LIMITS) < set(result["limits"])
    lines = (report / "README.md").read_text().splitlines()
    for name, (found, most) in {**result["ratios"], **result["limits"]}.items():
        verdict = "met" if found <= most else "**missed**"
        assert f"| {name} | {found} | {most} | {verdict} |" in lines


def test_limits_are_those_of_the_project_and_flat_is_the_double_to_the_whole() -> None:
    rows = [
        row(what, size, "", {"wall_s": 1, "cpu_s": 1, "peak_bytes": peak}, 914_000_000, 442)
        for what, size, peak in ((L2A, "full", 4e8), (L2A, "double", 5.2e8), (L1C, "full", 9e8), (GRD, "full", 3.5e8))
    ]
    found = limits(rows)
    assert found["Sentinel-2 L2A: convert, peak memory, GB"] == [0.4, 0.8]
    assert found["Sentinel-2 L1C: convert, peak memory, GB"] == [0.9, 0.8]
    assert found["Sentinel-1 GRD: convert, peak memory, GB"] == [0.35, 1.0]
    assert found["Sentinel-2 L2A: objects"] == [442, 450]
    assert found["Sentinel-2 L2A: output, GB"] == [0.914, 1.0]
    assert found["Sentinel-2 L2A: peak memory, double / full edge"] == [1.3, 1.25]
    assert "Sentinel-1 GRD: peak memory, full / half edge" not in found
