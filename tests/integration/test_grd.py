"""A Sentinel-1 GRD product through plan, convert, validate and stac, in process and without any network."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stac_stores import SCHEMAS
from test_stac import no_network  # noqa: F401 - nothing here may ask the network

from zarrmill.config import Recipe, Settings, load_recipe
from zarrmill.io.record import read_record
from zarrmill.io.state import State
from zarrmill.model import PlanRecord, Verdict
from zarrmill.sample.s1 import GrdSpec, build_grd, grd_item, synthetic_scene
from zarrmill.stages.convert import convert
from zarrmill.stages.plan import plan, write_plan
from zarrmill.stages.stac import build_catalog, check_item, stac, write_item
from zarrmill.stages.validate import validate

ROOT = Path(__file__).parents[2]
SPEC = GrdSpec(shape=(200, 300), form="flat")


def recipe_of(**grd: Any) -> Recipe:
    recipe = load_recipe(ROOT / "config/recipes/s1-grd.yaml")
    pixels = {**recipe.pixels.model_dump(), "chunk_px": 64, "shard_px": 128, "grd": grd or None}
    return Recipe.model_validate({**recipe.model_dump(), "pixels": pixels, "item": {"thumbnail_px": 40, "rescale_dn": [0, 400]}})


def through(root: Path, recipe: Recipe, listed: bool = True) -> dict[str, Any]:
    """Run all stages on one product; return its item."""
    scene = synthetic_scene(SPEC)
    source = build_grd(SPEC, root / "source", scene)
    items = root / "items"
    items.mkdir()
    (items / "item.json").write_text(json.dumps(grd_item(SPEC, scene, str(source))))
    (root / "list.csv").write_text(f"href\n{source}\n")
    catalogue = items if listed else root / "list.csv"
    settings = Settings(
        run="grd",
        state_root=str(root / "results"),
        store_root=str(root / "stores"),
        source={"catalogue": str(catalogue)},
        schema_cache=str(SCHEMAS) if SCHEMAS.exists() else None,
    )
    recipes = dict.fromkeys(recipe.product_types, recipe)
    result, state = plan(settings, recipes), State.of(settings)
    write_plan(result, state)
    (product,) = result.products
    receipt = convert(product, recipe=recipe, store_root=settings.store_root)
    assert product.n_bytes == receipt.n_bytes_source
    assert product.n_objects == pytest.approx(receipt.n_objects, rel=0.1)
    report = validate(receipt.store, source=str(source), recipe=recipe, product=product)
    assert report.verdict is Verdict.PASS, report.findings
    record = read_record(PlanRecord, state.target("plan", product))
    item = stac(record, receipt, report, settings=settings, recipe=recipe, state=state)
    check = check_item(item, settings)
    assert not SCHEMAS.exists() or not check.unchecked
    write_item(item, state.target("stac", product))
    catalog = build_catalog(settings, recipes, state, [product])
    collection = json.loads((catalog.parent / item["collection"] / "collection.json").read_text())
    assert collection["keywords"] == ["geozarr", "sentinel-1", "zarr"]
    assert collection["summaries"]["sar:polarizations"] == ["VH", "VV"]
    if "thumbnail" in item["assets"]:
        pixels = np.asarray(Image.open(io.BytesIO(state.thumbnail(product).read_bytes())))
        assert max(pixels.shape) == 40
        assert (pixels[..., 3] == 0).any()
        assert pixels[..., 0].max() > 60
    return item


def test_item_tells_mode_polarisations_orbit_and_bands_and_nothing_optical(tmp_path: Path) -> None:
    item = through(tmp_path, recipe_of())
    assert not [url for url in item["stac_extensions"] if "/eo/" in url]
    assert {url.split("/")[3] for url in item["stac_extensions"]} >= {"sar", "sat", "projection", "raster", "render"}
    properties = item["properties"]
    wanted = {
        "constellation": "sentinel-1",
        "platform": "sentinel-1a",
        "instruments": ["sar"],
        "gsd": 10,
        "processing:level": "L1",
        "product:type": "S01SIWGRH",
        "sar:instrument_mode": "IW",
        "sar:frequency_band": "C",
        "sar:polarizations": ["VV", "VH"],
        "sar:product_type": "GRD",
        "sat:orbit_state": "ascending",
        "sat:relative_orbit": 19,
        "sat:absolute_orbit": 58366,
        "sat:platform_international_designator": "2014-016A",
        "proj:code": "EPSG:32632",
    }
    assert {key: properties.get(key) for key in wanted} == wanted
    assert not [key for key in properties if key.startswith(("eo:", "view:"))]
    asset = item["assets"]["grd"]
    assert asset["type"] == "application/vnd.zarr; version=3; profile=multiscales"
    assert asset["href"].endswith("/measurements/grd")
    bands = {band["name"]: band for band in asset["bands"]}
    assert sorted(bands) == ["vh", "vv"]
    assert (bands["vv"]["data_type"], bands["vv"]["nodata"], bands["vv"]["unit"]) == ("uint16", 0, "1")
    assert not [key for key in bands["vv"] if key in ("raster:scale", "raster:offset")]
    assert properties["renders"]["vh"]["expression"] == "vh"
    assert "thumbnail" in item["assets"]


def test_degrees_keep_their_pixel_size_in_metres(tmp_path: Path) -> None:
    item = through(tmp_path, recipe_of(crs="EPSG:4326"), listed=False)
    assert item["properties"]["proj:code"] == "EPSG:4326"
    assert item["properties"]["gsd"] == 10
    assert item["assets"]["grd"]["bands"][0]["raster:spatial_resolution"] == 10
    assert item["properties"]["sar:instrument_mode"] == "IW"


def test_backscatter_has_no_picture_and_no_range_in_stored_values(tmp_path: Path) -> None:
    item = through(tmp_path, recipe_of(calibration="sigma0"))
    assert "thumbnail" not in item["assets"]
    assert "renders" not in item["properties"]
    assert {band["data_type"] for band in item["assets"]["grd"]["bands"]} == {"float32"}
    assert item["assets"]["grd"]["title"] == "Radar image: sigma nought, linear power (multiscales group)"
