"""Products that are odd but accepted are converted right, so their validation must not fail."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from builders import remove_attr, set_attr
from products import grd_recipe, product_row, recipe_for
from test_odd_sources import edit_metadata

from zarrmill.model import Severity, Verdict
from zarrmill.sample.s1 import GrdSpec, build_grd
from zarrmill.stages.convert import convert
from zarrmill.stages.validate import validate

AOT = "quality/atmosphere/r20m/aot"


def told(source: Path, root: Path, **pixels: object) -> dict[str, str]:
    """Convert and validate; return code to severity of all that is told but infos."""
    recipe = recipe_for("S02MSIL2A", **pixels)
    limits = recipe.validation.model_copy(update={"readers": (), "max_objects": 5000})
    recipe = recipe.model_copy(update={"validation": limits})
    row = product_row(source, recipe)
    store = convert(row, recipe=recipe, store_root=str(root / "out"), threads=2).store
    report = validate(store, source=str(source), recipe=recipe, product=row)
    return {f.code: str(f.severity) for f in report.findings if f.severity is not Severity.INFO}


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_scale_that_strict_json_cannot_hold_is_null_in_the_store(source_copy, tmp_path, scale):
    source = source_copy("l2a")
    set_attr(source, AOT, "scale_factor", scale)
    assert told(source, tmp_path) == {}


def test_counts_are_no_unit_of_a_map(source_copy, tmp_path):
    source = source_copy("l2a")
    set_attr(source, AOT, "units", "digital_counts")
    assert told(source, tmp_path) == {}


def test_counts_are_no_unit_of_a_radar_table(tmp_path):
    source, table = build_grd(GrdSpec(shape=(120, 140), polarisations=("VV",)), tmp_path), "quality/calibration/gamma"
    set_attr(source, f"{next(source.glob('*_VV')).name}/{table}", "units", "digital_counts")
    recipe = grd_recipe()
    store = convert(product_row(source, recipe, "S01SIWGRD"), recipe=recipe, store_root=str(tmp_path / "out")).store
    assert "units" not in zarr.open_group(store, mode="r")["quality/vv/calibration/gamma"].attrs
    assert validate(store, source=str(source), recipe=recipe).verdict is Verdict.PASS


@pytest.mark.parametrize(
    "flags",
    [{"flag_masks": [1, 2, 4]}, {"flag_masks": [1, 2], "flag_meanings": "one"}, {"flag_values": "0 1", "flag_meanings": "a b"}],
)
@pytest.mark.parametrize("path", ["quality/mask/r60m/b01", "conditions/mask/l2a_classification/r20m/scl"])
def test_flags_without_a_meaning_each_are_told_of_the_source(source_copy, tmp_path, path, flags):
    source = source_copy("l2a")
    for key in ("flag_masks", "flag_meanings") if "mask/r60m" in path else ():
        remove_attr(source, path, key)
    for key, value in flags.items():
        set_attr(source, path, key, value)
    assert told(source, tmp_path, overviews=["conditions/mask/l2a_classification"]) == {"arrays.source_flags": "warning"}


@pytest.mark.parametrize("flags", [{"flag_values": list(range(12))}, {"flag_meanings": "a b"}])
def test_half_of_the_classes_of_a_source_is_told_of_the_source(source_copy, tmp_path, flags):
    source, path = source_copy("l2a"), "conditions/mask/l2a_classification/r20m/scl"
    for key, value in flags.items():
        set_attr(source, path, key, value)
    assert told(source, tmp_path) == {"arrays.source_flags": "warning"}


def add_array(source: Path, path: str, values: np.ndarray, dims: list[str]) -> None:
    group, _, name = path.rpartition("/")
    made = zarr.open_group(source / group, mode="a", zarr_format=2).create_array(name, data=values)
    made.attrs["_ARRAY_DIMENSIONS"] = dims
    zarr.consolidate_metadata(source, zarr_format=2)


def test_cube_of_maps_has_no_overviews(source_copy, tmp_path):
    source = source_copy("l2a")
    add_array(source, "quality/mask/r20m/all", np.ones((3, 90, 90), "u1"), ["detector", "y", "x"])
    assert told(source, tmp_path, overviews=["quality/mask"]) == {}


@pytest.mark.parametrize("levels_m", [(10, 30, 90), (10, 50), (20, 100)])
def test_band_is_only_on_levels_that_its_pixels_divide(source_copy, tmp_path, levels_m):
    assert told(source_copy("l2a"), tmp_path, levels_m=levels_m, overviews=["conditions/mask/*", "quality/*"]) == {}


@pytest.mark.parametrize("dims", [("y", "x", "angle"), ("band", "y"), ("x", "y")])
@pytest.mark.parametrize("group", ["conditions/geometry/", ""])
def test_small_arrays_have_any_dimensions(source_copy, tmp_path, dims, group):
    source = source_copy("l2a")
    add_array(source, f"{group}small", np.ones((23, 23, 2)[: len(dims)], "u1"), list(dims))
    assert told(source, tmp_path) == {}


@pytest.mark.parametrize("dims", [("y", "x"), ("band", "detector")])
def test_small_arrays_may_lie_beside_levels_as_in_the_source(source_copy, tmp_path, dims):
    source = source_copy("l2a")
    add_array(source, "quality/mask/response", np.ones((13, 2), "f4"), list(dims))
    assert told(source, tmp_path, overviews=["quality/mask"]) == {}
    store = next((tmp_path / "out").rglob("*.zarr"))
    alone = validate(str(store), recipe=recipe_for("S02MSIL2A", overviews=["quality/mask"]))
    assert "layout.arrays_in_group" not in {f.code for f in alone.findings}


def state_crs(source: Path, places: dict[str, object]) -> None:
    """Let only these places of a product state its CRS, ``<path>/<node document>`` to attributes."""

    def change(nodes: dict[str, dict[str, object]]) -> None:
        for path, attributes in nodes.items():
            if path.endswith(".zattrs"):
                for key in ("proj:epsg", "proj:code", "proj:wkt2"):
                    attributes.pop(key, None)
        nodes[".zattrs"]["other_metadata"].pop("horizontal_CRS_code", None)
        for key, value in places.items():
            path, _, name = key.rpartition("|")
            nodes.setdefault(f"{path}.zattrs", {})
            where = nodes[f"{path}.zattrs"]
            for step in name.split("/")[:-1]:
                where = where[step]
            where[name.split("/")[-1]] = value

    edit_metadata(source, change)


HORIZONTAL, DISCOVERY = "|other_metadata/horizontal_CRS_code", "|stac_discovery/properties/proj:code"


@pytest.mark.parametrize(
    "places",
    [
        {HORIZONTAL: "EPSG:32617", DISCOVERY: "EPSG:32618"},
        {"quality/mask/r10m/|proj:code": "EPSG:32617", DISCOVERY: "EPSG:32618"},
        {"measurements/reflectance/r10m/b02/|proj:epsg": 32617.0, DISCOVERY: "EPSG:32618"},
        {"measurements/reflectance/r10m/b02/|proj:epsg": "null", HORIZONTAL: "32617", DISCOVERY: "EPSG:32618"},
        {DISCOVERY: "EPSG:32617"},
    ],
)
def test_crs_is_taken_from_the_same_place_by_converter_and_validation(source_copy, tmp_path, places):
    source = source_copy("l2a")
    state_crs(source, places)
    assert told(source, tmp_path) == {}
    store = next((tmp_path / "out").rglob("*.zarr"))
    assert zarr.open_group(store / "measurements/reflectance", mode="r").attrs["proj:code"] == "EPSG:32617"


def test_crs_may_have_no_grid_mapping_of_cf(source_copy, tmp_path):
    source = source_copy("l2a")
    state_crs(source, {HORIZONTAL: "EPSG:3857"})
    assert told(source, tmp_path) == {}


def test_crs_that_a_radar_catalogue_states_is_not_that_of_the_map(tmp_path):
    source, recipe = build_grd(GrdSpec(shape=(120, 140), polarisations=("VV",)), tmp_path), grd_recipe()
    set_attr(source, "", "stac_discovery/properties/proj:epsg", 4326)
    store = convert(product_row(source, recipe, "S01SIWGRD"), recipe=recipe, store_root=str(tmp_path / "out")).store
    assert validate(store, source=str(source), recipe=recipe).verdict is Verdict.PASS


def test_coordinates_of_a_level_say_nothing_of_what_the_source_says_of_its_own(source_copy, tmp_path):
    source = source_copy("l2a")
    for key, value in {"flag_values": [0, 1], "scale_factor": 2.0, "units": "km", "long_name": "way"}.items():
        set_attr(source, "quality/mask/r10m/x", key, value)
    assert told(source, tmp_path) == {}
