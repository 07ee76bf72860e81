"""Damage to converted stores whose digest was renewed after it: only what the store says of itself is wrong."""

import shutil
from pathlib import Path

import geozarr_reference as ref
import pytest
import zarr
from products import grd_recipe, product_row, recipe_for

from zarrmill import stages
from zarrmill.config import Validation
from zarrmill.io.store_reader import ArrayReader
from zarrmill.model import Severity, Verdict
from zarrmill.sample.s1 import GrdSpec, build_grd
from zarrmill.stages.convert import convert
from zarrmill.stages.validate import validate

GRD = "measurements/grd"


def converted(source, product_type, recipe, root):
    limits = recipe.validation.model_copy(update={"readers": (), "depth": "structure", "max_objects": 5000})
    recipe = recipe.model_copy(update={"validation": limits})
    row = product_row(source, recipe, product_type)
    return source, row, recipe, Path(convert(row, recipe=recipe, store_root=str(root)).store)


@pytest.fixture(scope="module")
def radar(tmp_path_factory):
    root = tmp_path_factory.mktemp("radar")
    return converted(build_grd(GrdSpec(shape=(120, 140)), root / "source"), "S01SIWGRD", grd_recipe(), root)


@pytest.fixture(scope="module")
def backscatter(tmp_path_factory):
    root, recipe = tmp_path_factory.mktemp("sigma0"), grd_recipe(grd={"calibration": "sigma0"})
    return converted(build_grd(GrdSpec(shape=(120, 140)), root / "source"), "S01SIWGRD", recipe, root)


@pytest.fixture(scope="module")
def tile(tmp_path_factory, shared_sources):
    recipe = recipe_for("S02MSIL2A", overviews=["conditions/mask/*", "quality/*"])
    return converted(shared_sources["l2a"], "S02MSIL2A", recipe, tmp_path_factory.mktemp("tile"))


def told(made, root, node=None, change=lambda document: None):
    source, row, recipe, store = made
    copy = root / store.name
    shutil.copytree(store, copy)
    if node is not None:
        ref.edit(copy, node, change)
    for file in sorted(copy.rglob("zarr.json"), reverse=True):
        if "consolidated_metadata" in file.read_text() and file.parent != copy:
            ref.consolidate(copy, file.parent.relative_to(copy).as_posix())
    ref.consolidate(copy, "")
    stamp = {"tree_sha256": ref.tree_sha256(copy), **ref.counts(copy)}
    ref.edit(copy, "", lambda document: document["attributes"]["zarrmill"].update(stamp))
    report = validate(str(copy), source=str(source), recipe=recipe, product=row)
    return {(f.code, f.path) for f in report.findings if f.severity is not Severity.INFO}


def said(**values):
    return lambda document: document["attributes"].update(values)


def unsaid(key):
    return lambda document: document["attributes"].pop(key)


@pytest.mark.parametrize("made", ["radar", "backscatter", "tile"])
def test_store_that_is_only_sealed_anew_is_as_good_as_before(request, tmp_path, made):
    assert told(request.getfixturevalue(made), tmp_path) == set()


@pytest.mark.parametrize("level", ["r10m", "r40m"])
@pytest.mark.parametrize(
    "change",
    [
        said(scale_factor=0.1, add_offset=0.0),
        said(polarization="VH"),
        said(units="dB"),
        said(standard_name="surface_backwards_scattering_coefficient_of_radar_wave"),
        said(calibration="DN**2 / sigma_nought**2, with noise"),
        said(long_name="detected amplitude, DN, VH"),
        said(resampling="nearest, DN amplitude, from ground control points, no terrain correction"),
        said(derived_from="measurements/grd/r10m/vh"),
        unsaid("resampling"),
        unsaid("polarization"),
    ],
)
def test_radar_image_says_what_it_is(radar, tmp_path, level, change):
    path = f"{GRD}/{level}/vv"
    assert ("arrays.attributes", f"/{path}") in told(radar, tmp_path, path, change)


@pytest.mark.parametrize("change", [said(standard_name="toa_brightness"), said(scale_factor=10.0), unsaid("standard_name")])
def test_backscatter_says_what_it_is(backscatter, tmp_path, change):
    path = f"{GRD}/r20m/vh"
    assert ("arrays.attributes", f"/{path}") in told(backscatter, tmp_path, path, change)


@pytest.mark.parametrize(
    ("code", "path", "change"),
    [
        ("arrays.attributes", "conditions/vv/gcp/azimuth_time", said(units="microseconds since 1970-01-01")),
        ("arrays.attributes", "conditions/vv/orbit/position", said(units="km")),
        ("arrays.dimension_names", "quality/vv/calibration/gamma", lambda node: node.update(dimension_names=["pixel", "line"])),
        ("structure.root_metadata", "", said(stac_discovery={})),
    ],
)
def test_tables_of_a_radar_product_say_what_the_source_says(radar, tmp_path, code, path, change):
    assert (code, f"/{path}") in told(radar, tmp_path, path, change)


@pytest.mark.parametrize("key", ["source_fingerprint", "recipe_sha256"])
def test_store_of_another_source_or_recipe_is_told(tile, tmp_path, key):
    def change(document):
        document["attributes"]["zarrmill"][key] = "0" * 64

    assert told(tile, tmp_path, "", change) == {("structure.stamp", "/")}


@pytest.mark.parametrize(
    ("code", "path", "change"),
    [
        ("arrays.fill_value", "quality/mask/r120m/b02", said(_FillValue=0)),
        ("arrays.fill_value", "quality/atmosphere/r10m/aot", said(_FillValue=0)),
        ("arrays.flags", "conditions/mask/l2a_classification/r360m/scl", said(flag_values=list(range(1, 13)))),
        ("arrays.dimension_names", "conditions/geometry/sun_angles", lambda node: node["dimension_names"].reverse()),
        ("arrays.attributes", "measurements/reflectance/r120m/b8a", said(long_name="something else")),
        ("structure.root_metadata", "", lambda node: node["attributes"]["other_metadata"].popitem()),
        ("structure.root_metadata", "", lambda node: node["attributes"]["stac_discovery"].update(id="another")),
    ],
)
def test_tile_says_what_the_source_says(tile, tmp_path, code, path, change):
    assert (code, f"/{path}") in told(tile, tmp_path, path, change)


LEVEL = "measurements/reflectance/r10m/b02"


def lost(store):
    max((store / LEVEL / "c").rglob("*"), key=lambda file: file.is_file()).unlink()


def cut(store):
    file = max((store / LEVEL / "c").rglob("*"), key=lambda file: file.is_file())
    file.write_bytes(file.read_bytes()[:-1])


def strange(store):
    (store / "preview.png").write_bytes(b"image")


@pytest.mark.parametrize("change", [lost, cut, strange])
@pytest.mark.parametrize("depth", ["structure", "sampled"])
def test_object_that_is_lost_cut_or_added_is_found_by_a_listing(tile, tmp_path, change, depth):
    store = tmp_path / "s.zarr"
    shutil.copytree(tile[3], store)
    change(store)
    limits = Validation(readers=(), depth=depth, sample_share=0.0001)
    report = validate(str(store), recipe=tile[2].model_copy(update={"validation": limits}))
    assert next(f for f in report.findings if f.code == "structure.objects").severity is Severity.ERROR
    assert report.verdict is Verdict.FAIL


def test_stamp_of_this_format_without_numbers_is_told(tile, tmp_path):
    store = tmp_path / "s.zarr"
    shutil.copytree(tile[3], store)
    ref.edit(store, "", lambda node: [node["attributes"]["zarrmill"].pop(key) for key in ("n_objects", "n_bytes")])
    assert "structure.objects" in {f.code for f in validate(str(store), recipe=tile[2]).findings}


def test_chunk_that_the_source_did_not_have_when_it_was_converted_is_looked_for(tmp_path, source_copy):
    """A provider may publish chunks late, under the same metadata."""
    source, band = source_copy("l2a"), "quality/mask/r10m/b02"
    made = zarr.open_array(source / band, mode="r+")
    made[...] = 0
    made[:5, :5] = 1
    chunk = next(file for file in (source / band).iterdir() if file.name.startswith("0"))
    late = chunk.read_bytes()
    chunk.unlink()
    source, row, recipe, store = converted(source, "S02MSIL2A", recipe_for("S02MSIL2A"), tmp_path)
    few = recipe.validation.model_copy(update={"depth": "sampled", "sample_share": 1e-9})
    sparse = recipe.model_copy(update={"validation": few})
    chunk.write_bytes(late)
    found = {f.code for f in validate(str(store), source=str(source), recipe=sparse, product=row).findings}
    assert "structure.missing_chunk" in found


def test_axis_of_another_size_is_told_and_not_read(tile, tmp_path, monkeypatch):
    store = tmp_path / "s.zarr"
    shutil.copytree(tile[3], store)
    ref.edit(store, "measurements/reflectance/r10m/x", lambda node: node.update(shape=[10**11]))
    read = []
    monkeypatch.setattr(ArrayReader, "read", lambda self, region: read.append(self.path) or "not read")
    found = validate(str(store), recipe=tile[2]).findings
    assert ("georef.coordinates", "/measurements/reflectance/r10m/x") in {(f.code, f.path) for f in found}
    assert "measurements/reflectance/r10m/y" in read
    assert "measurements/reflectance/r10m/x" not in read


@pytest.mark.parametrize("stamp", [{"n_objects": None}, {"n_bytes": "many"}, {"n_objects": True, "n_bytes": 1.5}])
def test_numbers_of_a_stamp_that_are_none_are_told(tile, tmp_path, stamp):
    changed = told(tile, tmp_path)
    assert changed == set()
    store = tmp_path / tile[3].name
    ref.edit(store, "", lambda document: document["attributes"]["zarrmill"].update(stamp))
    assert "structure.objects" in {f.code for f in validate(str(store), recipe=tile[2]).findings}


def test_store_of_an_earlier_format_says_no_numbers_and_is_as_good(tile, tmp_path):
    store = tmp_path / "s.zarr"
    shutil.copytree(tile[3], store)

    def earlier(document):
        stamp = document["attributes"]["zarrmill"]
        stamp |= {"format": 2}
        for key in ("n_objects", "n_bytes"):
            stamp.pop(key)

    ref.edit(store, "", earlier)
    report = validate(str(store), source=str(tile[0]), recipe=tile[2], product=tile[1])
    assert {f.code for f in report.findings if f.severity is not Severity.INFO} == set()
    absent = {f.code: f.severity for f in validate(str(store), recipe=sampled(tile[2])).findings}
    assert absent["structure.absent_chunk"] is Severity.WARNING


def test_absent_chunks_of_a_store_that_is_complete_are_no_data(tile):
    found = {f.code: f.severity for f in validate(str(tile[3]), recipe=sampled(tile[2])).findings}
    assert found["structure.absent_chunk"] is Severity.INFO


def test_what_was_written_in_a_complete_store_is_not_searched_for_lost_chunks(tile, monkeypatch):
    asked = []
    run_job = stages.validate.run_job
    monkeypatch.setattr(stages.validate, "run_job", lambda job, *rest: asked.append(job.suspects) or run_job(job, *rest))
    report = validate(str(tile[3]), source=str(tile[0]), recipe=sampled(tile[2]), product=tile[1])
    assert report.verdict is Verdict.PASS
    assert set(asked) == {()}


@pytest.mark.parametrize("threads", [1, 2])
def test_check_beside_the_pixels_that_breaks_is_not_taken_for_passed(tile, monkeypatch, threads):
    def breaks(tree, checks):
        raise RuntimeError("broken")

    monkeypatch.setattr(stages.validate, "check_conventions", breaks)
    with pytest.raises(RuntimeError, match="broken"):
        validate(str(tile[3]), recipe=sampled(tile[2]), threads=threads)


def sampled(recipe):
    return recipe.model_copy(
        update={"validation": recipe.validation.model_copy(update={"depth": "sampled", "sample_share": 0.01})}
    )
