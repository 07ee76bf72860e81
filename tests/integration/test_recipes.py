"""Every recipe that is shipped makes a valid store of a small product, and says what it is for."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from products import ROOT, product_row

from zarrmill.config import Recipe, load_recipe
from zarrmill.model import ConvertReceipt, Verdict
from zarrmill.sample import GrdSpec, build_grd
from zarrmill.stages.convert import convert
from zarrmill.stages.validate import validate

FILES = sorted((ROOT / "config/recipes").glob("*.yaml"))
SOURCES = {"s2-l2a-complete": "l2a-v3", "s2-l1c": "l1c"}
"""Name of a recipe to the source that it is for; the others of Sentinel-2 take an L2A product of today."""


@pytest.fixture(scope="module")
def radar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_grd(GrdSpec(shape=(150, 200), form="flat"), tmp_path_factory.mktemp("radar"))


def small(recipe: Recipe) -> Recipe:
    """Return a recipe that is the same but for its chunks, and asks one reader."""
    edge = {"chunk_px": 64, "shard_px": recipe.pixels.shard_px and 128}
    values = recipe.model_dump()
    validation = {**values["validation"], "readers": ["xarray"]}
    return Recipe.model_validate({**values, "pixels": {**values["pixels"], **edge}, "validation": validation})


def converted(recipe: Recipe, source: Path, root: Path) -> ConvertReceipt:
    """Convert a product by a recipe and expect that it is valid."""
    product_type = recipe.product_types[-1]
    product = product_row(source, recipe, product_type)
    receipt = convert(product, recipe=recipe, store_root=str(root))
    report = validate(receipt.store, source=str(source), recipe=recipe, product=product)
    assert report.verdict is Verdict.PASS, report.findings
    assert report.n_pixels_compared > 10_000
    return receipt


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_recipe_makes_a_valid_store(file: Path, shared_sources: dict[str, Path], radar: Path, tmp_path: Path) -> None:
    recipe = load_recipe(file)
    assert recipe.name == file.stem
    assert file.read_text().startswith("# Sentinel-")
    source = radar if file.stem.startswith("s1-") else shared_sources[SOURCES.get(file.stem, "l2a")]
    receipt = converted(small(recipe), source, tmp_path)
    store = zarr.open_group(receipt.store, mode="r")
    if file.stem == "s1-grd-degrees":
        assert store["measurements/grd"].attrs["proj:code"] == "EPSG:4326"
    if file.stem == "s1-grd-gamma0":
        grd = store["measurements/grd"]
        level = grd[grd.attrs["multiscales"]["layout"][0]["asset"]]
        assert {level[name].dtype for name in ("vv", "vh")} == {np.dtype("f4")}


def test_every_recipe_is_told_of_in_the_guide_of_the_configuration() -> None:
    text = (ROOT / "config/README.md").read_text()
    by_default = (ROOT / "config/config.yaml").read_text()
    assert [file.name for file in FILES if file.name not in text + by_default] == []
