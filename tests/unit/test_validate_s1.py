"""Validation of Sentinel-1 GRD stores: an intact one passes, and pixels that are elsewhere or otherwise do not."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from products import product_row
from test_convert_s1 import GRD, grd_recipe

from zarrmill.core.checks_s1 import placed
from zarrmill.core.checks_values import reread
from zarrmill.model import Verdict
from zarrmill.sample.s1 import GrdSpec, build_grd
from zarrmill.stages.convert import convert
from zarrmill.stages.validate import validate

N_PIXELS = 384 * 320
"""Of the finest level of one polarisation."""


def made(root: Path, form: str = "grid", polarisations=("VV", "VH"), **grd):
    source = build_grd(GrdSpec(shape=(200, 300), form=form, polarisations=polarisations), root / "source")
    recipe = grd_recipe(grd=grd)
    return source, convert(product_row(source, recipe, "S01SIWGRH"), recipe=recipe, store_root=str(root)).store, recipe


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    return made(tmp_path_factory.mktemp("intact"))


@pytest.fixture(scope="module")
def backscatter(tmp_path_factory):
    return made(tmp_path_factory.mktemp("sigma0"), calibration="sigma0")


@pytest.mark.parametrize(
    ("form", "polarisations", "grd"),
    [
        ("grid", ("VV", "VH"), {}),
        ("flat", ("HH", "HV"), {"resampling": "nearest"}),
        ("flat", ("VV", "VH"), {"crs": "EPSG:4326"}),
        ("grid", ("HH",), {"calibration": "sigma0"}),
        ("grid", ("VH",), {"calibration": "gamma0", "resampling": "nearest"}),
    ],
)
def test_intact_store_passes_and_every_pixel_is_compared(tmp_path, form, polarisations, grd):
    source, store, recipe = made(tmp_path, form, polarisations, **grd)
    report = validate(store, source=str(source), recipe=recipe)
    assert report.verdict is Verdict.PASS, report.findings
    assert not [f for f in report.findings if f.severity != "info"]
    for name in polarisations:
        n = zarr.open_group(store, mode="r")[f"{GRD}/r10m/{name.lower()}"].size
        assert f"{n} of {n} pixels of measurements/grd/r10m/{name.lower()} with its image" in report.sample
    assert validate(store, recipe=recipe).verdict is Verdict.PASS


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("has_source", [True, False])
def test_an_array_of_every_kind_is_read_once_more_by_zarr_python(intact, monkeypatch, threads, has_source):
    (source, store, recipe), paths = intact, []
    monkeypatch.setattr("zarrmill.stages.validate.reread", lambda array, seed: paths.append(array.path) or reread(array, seed))
    validate(store, source=str(source) if has_source else None, recipe=recipe, threads=threads)
    members = dict(zarr.open_group(store, mode="r").members(max_depth=None))
    arrays = {path: member.metadata for path, member in members.items() if isinstance(member, zarr.Array)}
    kinds = {path: str((m.data_type, m.chunk_grid, m.chunk_key_encoding, m.codecs, m.fill_value)) for path, m in arrays.items()}
    assert len(paths) < len(arrays)
    assert sorted(kinds[path] for path in paths) == sorted(set(kinds.values()))


def test_progress_reaches_the_total_with_the_last_lines_of_the_images(intact):
    (source, store, recipe), seen = intact, []
    validate(store, source=str(source), recipe=recipe, threads=2, on_progress=lambda done, total: seen.append((done, total)))
    images = sum(
        array.nbytes
        for _, array in zarr.open_group(source, mode="r").members(max_depth=None)
        if array.name.endswith("/measurements/grd") and isinstance(array, zarr.Array)
    )
    assert seen[-1][0] == seen[-1][1] > images > 0
    assert len([done for done, total in seen if done == total]) == 1


def test_scene_across_the_antimeridian_passes_and_its_root_box_must_be_right(tmp_path):
    source = build_grd(GrdSpec(shape=(120, 140), polarisations=("VV",), centre=(180.0, -16.5)), tmp_path / "source")
    recipe = grd_recipe()
    store = convert(product_row(source, recipe, "S01SIWGRH"), recipe=recipe, store_root=str(tmp_path)).store
    root = zarr.open_group(store, mode="r+", use_consolidated=False)
    west, south, east, north = root.attrs["spatial:bbox"]
    assert 179.9 < west < 180
    assert -180 < east < -179.9
    report = validate(store, source=str(source), recipe=recipe)
    assert report.verdict is Verdict.PASS, report.findings
    for wrong in ([east, south, west, north], [west - 1, south, east, north], [west, south, east + 1, north]):
        root.attrs["spatial:bbox"] = wrong
        assert "georef.root" in [f.code for f in validate(store, recipe=recipe).findings], wrong


def test_scene_whose_cells_are_smaller_than_a_block_passes_where_a_degree_is_narrow(tmp_path):
    source = build_grd(GrdSpec(shape=(150, 200), centre=(10.0, 83.0)), tmp_path / "source")
    recipe = grd_recipe(grd={"crs": "EPSG:4326"})
    product = product_row(source, recipe, "S01SIWGRH")
    receipt = convert(product, recipe=recipe, store_root=str(tmp_path / "stores"), threads=2)
    assert validate(receipt.store, source=str(source), recipe=recipe, product=product).verdict is Verdict.PASS


def changed(intact, tmp_path, change, depth="full"):
    source, store, recipe = intact
    copy = tmp_path / Path(store).name
    shutil.copytree(store, copy)
    change(zarr.open_group(copy, mode="r+")[GRD])
    recipe = recipe.model_copy(update={"validation": recipe.validation.model_copy(update={"depth": depth, "readers": ()})})
    report = validate(str(copy), source=str(source), recipe=recipe)
    changed.report = report
    return {(f.code, f.path) for f in report.findings if f.code.startswith("values.")}


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_a_single_wrong_pixel_is_told(intact, tmp_path, where):
    def change(group):
        pixels = group["r10m/vv"][:]
        rows, columns = np.nonzero((pixels > 0) if where == "inside" else (pixels == 0))
        k = len(rows) // 2
        group["r10m/vv"][rows[k], columns[k]] = min(pixels[rows[k], columns[k]] * 3 + 40, 60_000)

    assert ("values.native", "/measurements/grd/r10m/vv") in changed(intact, tmp_path, change)
    (message,) = (f.message for f in changed.report.findings if f.code == "values.native")
    assert message.startswith(f"1 of {N_PIXELS} pixels are not what the image has")


def test_half_a_pixel_off_is_told(intact, tmp_path):
    def change(group):
        pixels = group["r10m/vh"][:].astype(float)
        group["r10m/vh"][:, 1:] = np.rint((pixels[:, 1:] + pixels[:, :-1]) / 2).astype(np.uint16)

    assert ("values.native", "/measurements/grd/r10m/vh") in changed(intact, tmp_path, change)


@pytest.mark.parametrize("factor", [1.1, -1.0])
def test_wrong_backscatter_is_told(backscatter, tmp_path, factor):
    def change(group):
        group["r10m/vv"][40:80, 100:140] *= factor

    assert ("values.native", "/measurements/grd/r10m/vv") in changed(backscatter, tmp_path, change)


def test_wrong_level_of_backscatter_is_told(backscatter, tmp_path):
    def change(group):
        group["r40m/vh"][20, 30] *= 1.001

    assert changed(backscatter, tmp_path, change) == {("values.level", "/measurements/grd/r40m/vh")}


def test_a_sample_tells_a_shift_too_and_what_it_looked_at(intact, tmp_path):
    def change(group):
        group["r10m/vv"][:, 1:] = group["r10m/vv"][:, :-1]

    assert ("values.native", "/measurements/grd/r10m/vv") in changed(intact, tmp_path, change, "sampled")
    assert f"of {N_PIXELS} pixels of measurements/grd/r10m/vh with its image" in changed.report.sample


@pytest.mark.parametrize(("place", "code"), [("store", "values.undecodable"), ("source", "values.source")])
def test_what_cannot_be_decoded_is_told_and_the_rest_is_compared(intact, tmp_path, place, code):
    source, store, recipe = intact
    copies = {"store": tmp_path / Path(store).name, "source": tmp_path / "source" / source.name}
    shutil.copytree(store, copies["store"])
    shutil.copytree(source, copies["source"])
    chunk = {"store": copies["store"] / GRD / "r10m/vv/c/0/1", "source": next(copies["source"].glob("*_VV")) / f"{GRD}/1.1"}[
        place
    ]
    data = bytearray(chunk.read_bytes())
    data[40:80] = b"\xff" * 40
    chunk.write_bytes(data)
    report = validate(str(copies["store"]), source=str(copies["source"]), recipe=recipe)
    assert code in {f.code for f in report.findings}
    assert f"{N_PIXELS} of {N_PIXELS} pixels of measurements/grd/r10m/vh with its image" in report.sample
    assert "measurements/grd/r10m/vv could not be compared" in report.sample


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
