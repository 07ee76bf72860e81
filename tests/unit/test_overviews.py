"""Overviews of maps: which groups get levels, how they are made, what the store says of them."""

from pathlib import Path

import geozarr_reference as ref
import numpy as np
import pytest
import xarray as xr
import zarr
from builders import set_array_field, set_attr
from products import product_row, recipe_for

from zarrmill.core.estimate import estimate, read_tree
from zarrmill.errors import SourceError
from zarrmill.io import source as source_io
from zarrmill.io.objects import Objects
from zarrmill.model import ConvertReceipt, Severity, Verdict
from zarrmill.stages.convert import convert, plan_store
from zarrmill.stages.validate import validate

ALL = ("conditions/mask/*", "quality/*")
SCL = "conditions/mask/l2a_classification"
RULES = {
    "conditions/mask/detector_footprint": "nearest",
    "conditions/mask/l1c_classification": "or",
    SCL: "mode",
    "quality/atmosphere": "average",
    "quality/mask": "or",
    "quality/probability": "average",
}


def run(source: Path, root: Path, threads: int = 2, **pixels: object) -> ConvertReceipt:
    recipe = recipe_for("S02MSIL2A", **pixels)
    return convert(product_row(source, recipe), recipe=recipe, store_root=str(root), threads=threads)


@pytest.fixture(scope="module")
def receipt(shared_sources: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> ConvertReceipt:
    return run(shared_sources["l2a"], tmp_path_factory.mktemp("all"), overviews=ALL)


@pytest.fixture(scope="module")
def store(receipt: ConvertReceipt) -> zarr.Group:
    return zarr.open_group(receipt.store, mode="r")


def rasters(group: zarr.Group) -> set[str]:
    return {name for name, array in group.arrays() if array.ndim == 2}


@pytest.mark.parametrize(("path", "rule"), RULES.items())
def test_every_map_is_on_every_coarser_level_made_by_its_rule(
    shared_sources: dict[str, Path], store: zarr.Group, path: str, rule: str
) -> None:
    given = zarr.open_group(shared_sources["l2a"], mode="r")[path]
    levels = {int(name[1:-1]): group for name, group in store[path].groups()}
    native = {int(name[1:-1]): group for name, group in given.groups()}
    assert sorted(levels) == [m for m in (10, 20, 60, 120, 360) if m >= min(native)]
    computed = 0
    for name in {name for group in native.values() for name in rasters(group)}:
        finest = min(m for m in native if name in rasters(native[m]))
        for metres in (m for m in levels if m >= finest):
            found = levels[metres][name]
            if metres in native and name in native[metres]:
                assert (found[:] == native[metres][name][:]).all()
                continue
            base = native[finest][name][:]
            np.testing.assert_array_equal(found[:], ref.slow_level(base, metres // finest, rule, nodata=False), str(found))
            assert found.dtype == base.dtype
            assert found.attrs["derived_from"] == f"{path}/r{finest}m/{name}"
            assert found.attrs["resampling_method"] == rule
            computed += 1
    assert computed >= 2


def test_layout_says_what_was_done(store: zarr.Group) -> None:
    for path, rule in RULES.items():
        group = store[path]
        layout = group.attrs["multiscales"]["layout"]
        assert [entry["asset"] for entry in layout] == sorted(group.group_keys(), key=lambda name: int(name[1:-1]))
        assert not list(group.array_keys())
        finest = layout[0]
        for entry in layout[1:]:
            factor = finest["spatial:shape"][0] / entry["spatial:shape"][0]
            assert (entry["derived_from"], entry["transform"]["scale"]) == (finest["asset"], [factor, factor])
            made = [a for _, a in group[entry["asset"]].arrays() if "resampling_method" in a.attrs]
            assert entry.get("resampling_method") == (rule if made else None)
        assert store.metadata.consolidated_metadata is not None


def test_arrays_name_the_auxiliary_coordinates_that_their_group_has(
    shared_sources: dict[str, Path], receipt: ConvertReceipt
) -> None:
    given = xr.open_datatree(shared_sources["l2a"], engine="zarr", chunks=None)
    made = xr.open_datatree(receipt.store, engine="zarr", chunks=None)
    for path, some in (("conditions/meteorology/cams", "time"), ("quality/probability/r20m", "band")):
        assert set(made[path].coords) == set(given[path].coords) >= {some}
    assert "coordinates" not in zarr.open_array(receipt.store, path="quality/probability/r60m/cld", mode="r").attrs


def test_method_is_not_claimed_for_levels_that_the_producer_made(store: zarr.Group) -> None:
    scales = store[SCL].attrs["multiscales"]
    assert [entry.get("resampling_method") for entry in scales["layout"]] == [None, None, "mode", "mode"]
    assert "resampling_method" not in scales
    assert store["quality/mask"].attrs["multiscales"]["resampling_method"] == "or"


def test_groups_without_a_pattern_stay_as_they_are(shared_sources: dict[str, Path], tmp_path: Path) -> None:
    made = zarr.open_group(run(shared_sources["l2a"], tmp_path).store, mode="r")
    assert sorted(made[SCL].group_keys()) == ["r120m", "r20m", "r360m", "r60m"]
    assert sorted(made["quality/mask"].group_keys()) == ["r10m", "r20m", "r60m"]
    assert "multiscales" not in made["quality/mask"].attrs


def test_store_with_every_overview_passes_and_readers_see_the_measurements(
    shared_sources: dict[str, Path], receipt: ConvertReceipt
) -> None:
    recipe = recipe_for("S02MSIL2A", overviews=ALL)
    recipe = recipe.model_copy(update={"validation": recipe.validation.model_copy(update={"max_objects": 2000})})
    report = validate(receipt.store, source=str(shared_sources["l2a"]), recipe=recipe, threads=2)
    told = [finding for finding in report.findings if finding.severity is not Severity.INFO]
    assert (report.verdict, told) == (Verdict.PASS, [])
    assert {report.readers[name] for name in ("xarray", "rioxarray", "rio-tiler")} == {"ok"}


def test_overviews_have_the_same_bytes_at_any_number_of_threads(
    shared_sources: dict[str, Path], receipt: ConvertReceipt, tmp_path: Path
) -> None:
    assert run(shared_sources["l2a"], tmp_path, threads=1, overviews=ALL).tree_sha256 == receipt.tree_sha256


@pytest.mark.parametrize("overviews", [(), (SCL,), ALL])
@pytest.mark.parametrize("kind", ["l2a", "l2a-v3"])
def test_estimate_counts_the_arrays_and_groups_of_the_plan(
    shared_sources: dict[str, Path], kind: str, overviews: tuple[str, ...]
) -> None:
    recipe = recipe_for("S02MSIL2A", overviews=overviews)
    objects = Objects(str(shared_sources[kind]))
    plan = plan_store(objects, source_io.read_tree(objects), "S02MSIL2A", recipe)
    data = {plan.path: int(np.prod([-(-n // c) for n, c in zip(plan.shape, plan.shards or plan.chunks, strict=True)]))
            for plan in plan.arrays if not plan.path.endswith("/spatial_ref")}  # fmt: skip
    name = ".zmetadata" if kind == "l2a" else "zarr.json"
    size = estimate(read_tree(objects.get(name), kind), recipe.pixels)
    assert size.n_objects == sum(data.values()) + len(plan.arrays) + len(plan.groups)


def test_nodata_counts_in_a_mean_only_where_the_source_declares_it(source_copy, tmp_path: Path) -> None:
    source = source_copy("l2a")
    path = "quality/probability/r20m/cld"
    values = zarr.open_array(source, path=path, mode="r")[:]
    assert (values == 0).any()
    for declared, nodata in ((None, False), (0, True)):
        set_array_field(source, path, "fill_value", declared)
        made = zarr.open_group(run(source, tmp_path / str(declared), overviews=ALL).store, mode="r")
        wanted = ref.slow_level(values, 3, "average", nodata=nodata)
        np.testing.assert_array_equal(made["quality/probability/r60m/cld"][:], wanted)
        assert made["quality/probability/r60m/cld"].attrs.get("_FillValue") == declared


@pytest.mark.parametrize("masked", [0, 255.0])
def test_value_that_only_an_attribute_masks_is_no_data_too(source_copy, tmp_path: Path, masked: float) -> None:
    source = source_copy("l2a")
    path = "quality/probability/r20m/cld"
    set_array_field(source, path, "fill_value", None)  # readers of Zarr v2 then take the attribute
    set_attr(source, path, "_FillValue", masked)
    receipt = run(source, tmp_path, overviews=ALL)
    made = zarr.open_group(receipt.store, mode="r")
    for level in (path, "quality/probability/r60m/cld"):
        assert (made[level].attrs["_FillValue"], made[level].fill_value) == (masked, masked)
    if masked == 0:
        wanted = ref.slow_level(made[path][:], 3, "average", nodata=True)
        np.testing.assert_array_equal(made["quality/probability/r60m/cld"][:], wanted)


def test_pattern_that_matches_nothing_is_told(shared_sources: dict[str, Path], tmp_path: Path) -> None:
    receipt = run(shared_sources["l2a"], tmp_path, overviews=("quality/maks", SCL))
    (finding,) = receipt.findings
    assert (finding.code, finding.severity) == ("source.overviews", Severity.WARNING)
    assert "'quality/maks' matches no group of maps" in finding.message
    assert "'quality/mask'" in finding.message


def test_map_of_another_dtype_is_refused_with_a_way_out(source_copy, tmp_path: Path) -> None:
    source = source_copy("l2a")
    set_array_field(source, "quality/mask/r60m/b09", "dtype", "<i8")
    with pytest.raises(SourceError, match=r"quality/mask/r60m/b09: dtype <i8, expected unsigned .* leave the group off"):
        run(source, tmp_path, overviews=ALL)


def test_level_that_does_not_fit_is_left_out_for_maps_too(shared_sources: dict[str, Path], tmp_path: Path) -> None:
    made = zarr.open_group(run(shared_sources["l2a"], tmp_path, overviews=ALL, levels_m=(10, 20, 120, 720)).store, mode="r")
    # 1800 m are 15 pixels of 120 m and 2.5 of 720 m; r60m is the source's own, so every mask has it too.
    assert sorted(made["quality/mask"].group_keys()) == ["r10m", "r120m", "r20m", "r60m"]
    assert rasters(made["quality/mask/r60m"]) == rasters(made["quality/mask/r120m"])
    assert len(rasters(made["quality/mask/r60m"])) == 13
