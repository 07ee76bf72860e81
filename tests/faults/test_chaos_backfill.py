"""A small backfill on Kubernetes while bucket, source, pods and API fail at random and drivers are killed: nothing is lost."""

import json
from pathlib import Path

import pytest
from chaos import story
from chaos.run import Result, chaos
from chaos.sizes import SMALL

SEED = 7


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return chaos(tmp_path_factory.mktemp("chaos"), SMALL, SEED)


def test_every_product_is_built_once_and_nothing_is_left_behind(result: Result) -> None:
    assert not result.wrong, "\n".join([*result.wrong, json.dumps(result.told["rounds"]), json.dumps(result.told["faults"])])


def test_the_report_tells_the_story(result: Result, tmp_path: Path) -> None:
    story.write({**result.told, "command": "make soak", "holds": not result.wrong}, tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert f"**{SMALL.n_products} of {SMALL.n_products} products**" in text
    assert "2 drivers were killed" in text
    assert all(name in text for name in (*result.told["faults"], *result.told["failure_classes"]))
    drawing = (tmp_path / "timeline.svg").read_text()
    assert drawing.startswith("<svg xmlns=")
    assert drawing.count("driver killed") == 1
    assert json.loads((tmp_path / "soak.json").read_text())["n_done"] == SMALL.n_products
