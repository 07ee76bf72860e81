"""Validation of Sentinel-1 GRD stores: an intact one passes, and pixels that are elsewhere or otherwise do not."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from products import product_row
from test_convert_s1 import GRD, grd_recipe

from zarrmill.core.checks_s1 import placed
from zarrmill.model import Verdict
from zarrmill.sample.s1 import GrdSpec, build_grd
from zarrmill.stages.convert import convert
from zarrmill.stages.validate import validate


def made(root: Path, form: str = "grid", **grd):
    source = build_grd(GrdSpec(shape=(200, 300), form=form), root / "source")
    recipe = grd_recipe(grd=grd)
    return source, convert(product_row(source, recipe, "S01SIWGRH"), recipe=recipe, store_root=str(root)).store, recipe


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    return made(tmp_path_factory.mktemp("intact"))


@pytest.mark.parametrize(
    ("form", "grd"),
    [("grid", {}), ("flat", {"resampling": "nearest"}), ("flat", {"crs": "EPSG:4326"}), ("grid", {"calibration": "sigma0"})],
)
def test_intact_store_passes(tmp_path, form, grd):
    source, store, recipe = made(tmp_path, form, **grd)
    report = validate(store, source=str(source), recipe=recipe)
    assert report.verdict is Verdict.PASS, report.findings
    assert not [f for f in report.findings if f.severity != "info"]
    told = "is not compared with its image" if "calibration" in grd else "98304 pixels of measurements/grd/r10m/vv with its image"
    assert told in report.sample
    assert validate(store, recipe=recipe).verdict is Verdict.PASS


def changed(intact, tmp_path, change):
    source, store, recipe = intact
    copy = tmp_path / Path(store).name
    shutil.copytree(store, copy)
    change(zarr.open_group(copy, mode="r+")[GRD])
    report = validate(str(copy), source=str(source), recipe=recipe)
    return {(f.code, f.path) for f in report.findings if f.code.startswith("values.")}


def test_pixels_one_place_off_are_told(intact, tmp_path):
    def change(group):
        for level in ("r10m",):
            group[f"{level}/vv"][:, 1:] = group[f"{level}/vv"][:, :-1]

    assert ("values.native", "/measurements/grd/r10m/vv") in changed(intact, tmp_path, change)


def test_border_that_grew_is_told(intact, tmp_path):
    def change(group):
        pixels = group["r10m/vh"][:]
        holes = (pixels > 0) & (np.roll(pixels, 3, axis=1) == 0)
        group["r10m/vh"][:] = np.where(holes, 0, pixels)

    assert ("values.native", "/measurements/grd/r10m/vh") in changed(intact, tmp_path, change)


def test_wrong_level_is_told(intact, tmp_path):
    def change(group):
        group["r80m/vh"][20, 20] += 1

    assert changed(intact, tmp_path, change) == {("values.level", "/measurements/grd/r80m/vh")}


def test_changed_copy_is_told(intact, tmp_path):
    def change(group):
        zarr.open_group(group.store_path.store, mode="r+")["quality/vv/calibration/gamma"][3, 3] += 1

    assert changed(intact, tmp_path, change) == {("values.native", "/quality/vv/calibration/gamma")}


def test_arrays_go_below_their_polarisation_and_others_stay():
    paths = ["a_VV/measurements/grd", "a_VV/measurements/line", "a_VV/conditions/gcp/line", "a_VV/other/x", "b/y"]
    found = placed({path: path for path in paths})
    assert found == {
        "conditions/vv/sensor_grid/line": "a_VV/measurements/line",
        "conditions/vv/gcp/line": "a_VV/conditions/gcp/line",
        "conditions/vv/other/x": "a_VV/other/x",
        "b/y": "b/y",
    }
