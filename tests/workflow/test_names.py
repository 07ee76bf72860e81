"""One stage, one name, everywhere."""

import re
from pathlib import Path

import pytest

from zarrmill.io.state import PRODUCT_STAGES, STAGES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("stage", STAGES)
def test_stage_has_one_name_everywhere(stage):
    rules = (ROOT / f"workflow/rules/{stage}.smk").read_text()
    names = re.findall(r"^rule (\w+):", rules, re.MULTILINE)
    assert names[0] == stage
    assert all(name == stage or name.startswith(f"{stage}_") for name in names)
    assert all((ROOT / f"workflow/scripts/{name}.py").exists() for name in names)
    assert (ROOT / f"src/zarrmill/stages/{stage}.py").exists()
    assert f'include: "rules/{stage}.smk"' in (ROOT / "workflow/Snakefile").read_text()
    assert f"\n## {stage}\n" in (ROOT / "docs/architecture.md").read_text()
    tests = [path.stem for path in (ROOT / "tests").rglob("test_*.py")]
    assert f"test_{stage}" in tests


def test_no_stage_is_without_its_name():
    assert {path.stem for path in (ROOT / "src/zarrmill/stages").glob("*.py")} == {"__init__", *STAGES}
    assert {path.stem for path in (ROOT / "workflow/rules").glob("*.smk")} == {"common", *STAGES}
    assert set(PRODUCT_STAGES) < set(STAGES)


def test_scripts_are_short_and_translate_only():
    for path in (ROOT / "workflow/scripts").glob("*.py"):
        lines = path.read_text().splitlines()
        assert len(lines) <= 35, path
        assert not any(re.match(r"\s*(for|while|if (?!__name__))", line) for line in lines), path


def test_library_does_not_know_snakemake():
    for path in (ROOT / "src/zarrmill").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) snakemake", path.read_text(), re.MULTILINE), path
