"""The benchmark's harness runs from end to end on a tiny product."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


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
    assert [row["size_px"] for row in result["sizes"]] == [90]
    text = (report / "README.md").read_text()
    assert all(name in text for name in result["ratios"])
    assert (report / "wall.svg").read_text().startswith("<svg xmlns=")
    assert sum(file.stat().st_size for file in report.iterdir()) < 300_000
