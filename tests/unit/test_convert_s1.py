"""The whole conversion of small Sentinel-1 GRD products: grid, values, attributes, what is copied, faults, resume."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from builders import remove_node, set_array_field
from products import ROOT, grd_recipe, product_row
from stopped import StoppedError, stop_after
from test_resample import naive_average

from zarrmill.core.estimate import estimate, read_tree
from zarrmill.errors import SourceError
from zarrmill.io import arrays
from zarrmill.model import Verdict
from zarrmill.sample.s1 import GrdScene, GrdSpec, build_grd, synthetic_scene
from zarrmill.stages import convert as stage
from zarrmill.stages.convert import convert
from zarrmill.stages.validate import validate

REAL = ROOT.parent / "shared/data/real-pixels"
LEVELS = ("r10m", "r20m", "r40m", "r80m", "r160m", "r320m")
SPEC = GrdSpec(shape=(200, 300))
GRD = "measurements/grd"


def run(source: Path, root: Path, threads: int = 2, **changes):
    recipe = grd_recipe(**changes)
    product = product_row(source, recipe, "S01SIWGRH")
    return convert(product, recipe=recipe, store_root=str(root), threads=threads)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("grd")
    return {form: build_grd(GrdSpec(shape=SPEC.shape, form=form), root / form) for form in ("grid", "flat")}


@pytest.fixture(scope="module")
def stores(sources, tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("stores")
    return {form: run(source, root / form).store for form, source in sources.items()}


def files(store: str) -> dict[str, bytes]:
    return {p.relative_to(store).as_posix(): p.read_bytes() for p in sorted(Path(store).rglob("*")) if p.is_file()}


def edited_copy(sources, tmp_path: Path, form: str = "grid") -> Path:
    return build_grd(GrdSpec(shape=SPEC.shape, form=form), tmp_path / "source")


def test_both_polarisations_are_on_one_grid_with_six_exact_levels(stores):
    group = zarr.open_group(stores["grid"], mode="r")[GRD]
    assert [entry["asset"] for entry in group.attrs["multiscales"]["layout"]] == list(LEVELS)
    native = {name: group[f"r10m/{name}"][:] for name in ("vv", "vh")}
    assert native["vv"].shape == native["vh"].shape == tuple(group["r10m"].attrs["spatial:shape"])
    assert native["vv"].dtype == np.uint16
    assert ((native["vv"] == 0) == (native["vh"] == 0)).all()
    assert (native["vv"] == 65535).any() or native["vv"].max() > 20_000
    for factor, level in zip((2, 4, 8, 16, 32), LEVELS[1:], strict=True):
        for name, pixels in native.items():
            np.testing.assert_array_equal(group[f"{level}/{name}"][:], naive_average(pixels, factor))


def test_both_forms_of_control_points_give_the_same_pixels(stores):
    one, other = (zarr.open_group(stores[form], mode="r")[GRD] for form in ("grid", "flat"))
    for level in LEVELS:
        for name in ("vv", "vh", "x", "y"):
            np.testing.assert_array_equal(one[f"{level}/{name}"][:], other[f"{level}/{name}"][:])


@pytest.mark.parametrize("form", ["grid", "flat"])
def test_everything_else_is_copied_below_its_polarisation(sources, stores, form):
    source, store = zarr.open_group(sources[form], mode="r"), zarr.open_group(stores[form], mode="r")
    compared = 0
    for path, array in source.members(max_depth=None):
        if not isinstance(array, zarr.Array) or path.endswith("measurements/grd"):
            continue
        group, top, rest = path.split("/", 2)
        name = group[-2:].lower()
        place = f"conditions/{name}/sensor_grid/{rest}" if top == "measurements" else f"{top}/{name}/{rest}"
        assert store[place].metadata.dimension_names == tuple(array.attrs["_ARRAY_DIMENSIONS"])
        np.testing.assert_array_equal(np.asarray(store[place][...]), np.asarray(array[...]), err_msg=path)
        compared += 1
    assert compared == {"grid": 76, "flat": 58}[form]
    assert store["conditions/vv"].attrs["other_metadata"] == {"title": "sample VV"}
    assert store.attrs["stac_discovery"]["id"] == "SAR Standard L1 Product"
    assert not [path for path, _ in store.members(max_depth=1) if path not in ("measurements", "conditions", "quality")
                and path.partition("/")[0] not in ("measurements", "conditions", "quality")]  # fmt: skip


def test_attributes_of_an_array_say_what_was_done(stores):
    store = zarr.open_group(stores["grid"], mode="r")
    attributes = dict(store[f"{GRD}/r10m/vv"].attrs)
    assert attributes.pop("derived_from").endswith("_VV/measurements/grd")
    assert attributes == {
        "_FillValue": 0,
        "units": "1",
        "long_name": "detected amplitude, DN, VV",
        "polarization": "VV",
        "resampling": "bilinear, DN amplitude, from ground control points, no terrain correction",
        "grid_mapping": "spatial_ref",
    }
    coarse = store[f"{GRD}/r40m/vh"].attrs
    assert (coarse["resampling_method"], coarse["derived_from"]) == ("average", "measurements/grd/r10m/vh")
    assert store[GRD].attrs["proj:code"] == "EPSG:32632"  # the centre lies just west of 12 degrees
    assert store[f"{GRD}/r10m/vv"].shards == (128, 128)


def test_xarray_opens_the_tree_with_coordinates_in_metres(stores):
    with xr.open_datatree(stores["grid"], engine="zarr", chunks=None) as tree:
        level = tree["measurements/grd/r20m"]
        assert float(level.x[1] - level.x[0]) == 20
        assert float(level.y[1] - level.y[0]) == -20
        assert np.isnan(level.vv.values).any()
        assert tree["conditions/vv/gcp/latitude"].shape == (10, 21)


def test_tables_have_the_coordinates_that_the_source_names(sources, stores):
    (image,) = (name for name in sorted(zarr.open_group(sources["flat"], mode="r").group_keys()) if name.endswith("_VV"))
    with (
        xr.open_datatree(sources["flat"], engine="zarr", chunks=None) as given,
        xr.open_datatree(stores["flat"], engine="zarr", chunks=None) as made,
    ):
        for path in ("conditions/gcp", "quality/calibration"):
            top, _, rest = path.partition("/")
            assert set(made[f"{top}/vv/{rest}"].coords) == set(given[f"{image}/{path}"].coords) >= {"line"}
        assert "coordinates" not in made["measurements/grd/r10m/vv"].encoding


def test_same_bytes_on_every_run_and_any_thread_count(sources, stores, tmp_path):
    again = run(sources["grid"], tmp_path, threads=1)
    assert files(again.store) == files(stores["grid"])


@pytest.mark.parametrize("name", ["sigma0", "gamma0"])
def test_calibrated_values_are_dn_squared_over_the_table_squared(sources, stores, tmp_path, name):
    store = zarr.open_group(run(sources["grid"], tmp_path, grd={"calibration": name}).store, mode="r")
    dn = zarr.open_group(stores["grid"], mode="r")[f"{GRD}/r10m/vv"][:]
    array = store[f"{GRD}/r10m/vv"]
    found = array[:]
    np.testing.assert_array_equal(np.isnan(found), dn == 0)
    table = 330.0 if name == "sigma0" else 310.0  # rises by 60 along samples, by 2 along lines
    square = (dn[dn > 0].astype(float) ** 2) / found[dn > 0]
    assert table**2 * 0.999 < square.min() < (table + 6) ** 2
    assert (table + 55) ** 2 < square.max() < (table + 62) ** 2 * 1.001
    assert found.dtype == np.float32
    assert array.attrs["standard_name"] == "surface_backwards_scattering_coefficient_of_radar_wave"
    assert "_FillValue" not in array.attrs
    coarse = store[f"{GRD}/r20m/vv"][:]
    cells = found.reshape(coarse.shape[0], 2, coarse.shape[1], 2).transpose(0, 2, 1, 3).reshape(*coarse.shape, 4).astype(float)
    complete = ~np.isnan(cells).any(axis=2)
    assert complete.sum() > 10_000
    np.testing.assert_allclose(coarse[complete], cells[complete].mean(axis=1), rtol=1e-6)
    np.testing.assert_array_equal(np.isnan(coarse), np.isnan(cells).all(axis=2))


def test_degrees_are_a_switch(sources, tmp_path):
    store = zarr.open_group(run(sources["grid"], tmp_path, grd={"crs": "EPSG:4326"}).store, mode="r")
    level = store[f"{GRD}/r10m"]
    assert level.attrs["proj:code"] == "EPSG:4326"
    assert level.attrs["spatial:transform"][0] == pytest.approx(10 / 111319.49, rel=1e-6)
    assert level["x"].attrs["standard_name"] == "longitude"
    west, south, east, north = store.attrs["spatial:bbox"]
    assert west < 12.0 < east < 12.1
    assert south < 45.0 < north < 45.1


def test_one_polarisation_is_enough(tmp_path):
    source = build_grd(GrdSpec(shape=(120, 140), polarisations=("HH",)), tmp_path)
    store = zarr.open_group(run(source, tmp_path / "out").store, mode="r")
    assert sorted(store[f"{GRD}/r10m"].array_keys()) == ["hh", "spatial_ref", "x", "y"]


def broken(kind: str, sources, tmp_path: Path) -> Path:
    path = edited_copy(sources, tmp_path)
    group = next(path.glob("*_VH")).name
    if kind == "chunk":
        (path / group / "measurements/grd/1.1").unlink()
    elif kind == "garbled":
        chunk = path / group / "measurements/grd/1.1"
        data = chunk.read_bytes()
        chunk.write_bytes(data[:16] + b"\xa5" * 48 + data[64:])
    elif kind == "gcp":
        remove_node(path, f"{group}/conditions/gcp/latitude")
    elif kind == "dtype":
        set_array_field(path, f"{group}/measurements/grd", "dtype", "<i2")
    elif kind == "polarisations":
        for name in ("_VH", "_VV"):
            remove_node(path, f"{group[:-3]}{name}/measurements/grd")
    return path


@pytest.mark.parametrize(
    ("kind", "code", "text"),
    [
        ("chunk", "ZM-SRC-MISSING", "measurements/grd/1.1"),
        ("garbled", "ZM-SRC-CORRUPT", "measurements/grd"),
        ("gcp", "ZM-SRC-LAYOUT", "conditions/gcp/latitude"),
        ("dtype", "ZM-SRC-LAYOUT", "<i2"),
        ("polarisations", "ZM-SRC-LAYOUT", "polarisation"),
    ],
)
def test_broken_products_are_refused_and_nothing_is_sealed(sources, tmp_path, kind, code, text):
    with pytest.raises(SourceError, match=text) as caught:
        run(broken(kind, sources, tmp_path), tmp_path / "out")
    assert caught.value.code == code
    assert not list((tmp_path / "out").rglob("*.zarr/zarr.json"))


def test_image_that_its_control_points_do_not_cover_is_refused(tmp_path):
    spec = GrdSpec(shape=(800, 60), polarisations=("VV",))
    scene = synthetic_scene(spec)
    source = build_grd(spec, tmp_path, replace(scene, lines=np.rint(scene.lines / 4)))
    with pytest.raises(SourceError, match=r"lines 0 to 200 for an image of \(800, 60\); expected .* within 48") as caught:
        run(source, tmp_path / "out")
    assert caught.value.code == "ZM-SRC-LAYOUT"
    assert not list((tmp_path / "out").rglob("*.zarr/zarr.json"))


@pytest.mark.parametrize(("margin", "is_taken"), [(48, True), (49, False)])
def test_image_beyond_its_control_points_is_validated_or_refused(tmp_path, margin, is_taken):
    """What the converter takes the validation can follow: the last lines lie beyond the last control points."""
    spec = GrdSpec(shape=(800, 300), polarisations=("VV",))
    whole = synthetic_scene(spec)
    lines = np.rint(whole.lines * (800 - 1 - margin) / (800 - 1))
    moved = {
        name: np.stack([np.interp(lines, whole.lines, column) for column in getattr(whole, name).T], axis=1)
        for name in ("latitude", "longitude", "height")
    }
    source = build_grd(spec, tmp_path, replace(whole, lines=lines, **moved))
    if not is_taken:
        with pytest.raises(SourceError, match=r"expected control points within 48 of each edge"):
            run(source, tmp_path / "out")
        return
    receipt = run(source, tmp_path / "out")
    report = validate(receipt.store, source=str(source), recipe=grd_recipe(), product=receipt.product)
    assert report.verdict is Verdict.PASS, report.findings


def test_missing_chunk_is_told_once_when_not_mandatory(sources, tmp_path):
    receipt = run(broken("chunk", sources, tmp_path), tmp_path / "out", mandatory=())
    assert [(f.code, f.path[-2:]) for f in receipt.findings] == [("source.missing-chunk", "rd")]
    group = zarr.open_group(receipt.store, mode="r")[f"{GRD}/r10m"]
    assert (group["vh"][:] == 0).sum() > (group["vv"][:] == 0).sum() + 3000


@pytest.mark.parametrize("at", ["middle", "documents"])
def test_a_stopped_conversion_goes_on_where_it_ended(sources, stores, tmp_path, monkeypatch, at):
    encoded, encode = [], arrays.encode
    monkeypatch.setattr(arrays, "encode", lambda chunk, codec: encoded.append(chunk.shape) or encode(chunk, codec))
    with monkeypatch.context() as patched:
        names = stop_after(patched, 10_000)
        run(sources["grid"], tmp_path / "whole", threads=1)
    n_whole = len(encoded)
    assert {name.rpartition("/c")[0].rpartition("/")[2] for name in names if name.endswith("/c")} == {"vv", "vh"}
    with monkeypatch.context() as patched:
        stop_after(patched, {"middle": len(names) * 2 // 3, "documents": len(names) - 1}[at])
        with pytest.raises(StoppedError):
            run(sources["grid"], tmp_path / "out", threads=1)
    read, original = [], stage.WarpedImages.read
    monkeypatch.setattr(stage.WarpedImages, "read", lambda self, *place: read.append(place) or original(self, *place))
    encoded.clear()
    receipt = run(sources["grid"], tmp_path / "out", threads=1)
    assert files(receipt.store) == files(stores["grid"])
    assert bool(read) == (at == "middle")
    assert len(encoded) < 0.7 * n_whole


def test_polarisations_with_points_of_their_own_are_made_apart(tmp_path):
    spec = GrdSpec(shape=(120, 140))
    source = build_grd(spec, tmp_path)
    path = next(source.glob("*_VH")) / "conditions/gcp/latitude"
    array = zarr.open_array(path, mode="r+")
    array[:] += 1e-4  # 11 m to the north
    store = zarr.open_group(run(source, tmp_path / "out", mandatory=()).store, mode="r")[f"{GRD}/r10m"]
    vv, vh = (np.nonzero((store[name][:] > 0).any(axis=1))[0] for name in ("vv", "vh"))
    assert (vv[0] - vh[0], vv[-1] - vh[-1]) in {(1, 1), (1, 2), (2, 1)}


def test_progress_ends_at_the_bytes_of_the_source(sources, tmp_path):
    recipe = grd_recipe()
    told = []
    convert(
        product_row(sources["grid"], recipe, "S01SIWGRH"),
        recipe=recipe,
        store_root=str(tmp_path),
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1][0] == told[-1][1] > 2 * 2 * 200 * 300
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def real_scene() -> GrdScene:
    """Return the real product at 1/20 size: amplitude and its 210 control points, whose positions are scaled as it is."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    dn = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        for name in ("VV", "VH"):
            with rasterio.open(REAL / f"s1-grd_20180716_FD5B_iw-{name.lower()}.tiff") as dataset:
                dn[name], points = dataset.read(1), dataset.gcps[0]
    lines, pixels = (np.unique([getattr(point, axis) for point in points]) for axis in ("row", "col"))
    shape = (lines.size, pixels.size)
    planes = (np.array([getattr(point, axis) for point in points]).reshape(shape) for axis in ("x", "y", "z"))
    return GrdScene(dn, lines, pixels, *planes)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real radar image is not beside the project")
def test_real_image_keeps_its_border_and_its_control_points(tmp_path):
    from pyproj import Transformer

    scene = real_scene()
    rounded = GrdScene(scene.dn, np.rint(scene.lines), np.rint(scene.pixels), scene.longitude, scene.latitude, scene.height)
    spec = GrdSpec(shape=scene.dn["VV"].shape, spacing_m=200.0)
    source = build_grd(spec, tmp_path, rounded)
    receipt = run(source, tmp_path / "out", levels_m=(200, 400, 800))
    group = zarr.open_group(receipt.store, mode="r")[f"{GRD}/r200m"]
    assert group.attrs["proj:code"] == "EPSG:32643"
    a, _, c, _, e, f = group.attrs["spatial:transform"]
    x, y = Transformer.from_crs("EPSG:4326", "EPSG:32643", always_xy=True).transform(scene.longitude, scene.latitude)
    out, dn = group["vv"][:], scene.dn["VV"]
    near = []
    for (i, j), east in np.ndenumerate(x[1:-1, 1:-1]):
        row, column = int((y[i + 1, j + 1] - f) / e), int((east - c) / a)
        line, pixel = int(rounded.lines[i + 1]), int(rounded.pixels[j + 1])
        around = dn[line - 2 : line + 3, pixel - 2 : pixel + 3]
        near.append(around.min() <= out[row, column] <= around.max())
    assert len(near) == 152
    assert all(near)
    # 2 % of the image has no data; an image pixel of 203 x 197 m is about one of the grid
    assert (out > 0).sum() == pytest.approx((dn > 0).sum() * _area(x, y, rounded) / 200**2, rel=0.005)
    assert json.loads((Path(receipt.store) / "zarr.json").read_text())["attributes"]["proj:code"] == "EPSG:4326"


def _area(x, y, scene) -> float:
    """Return square metres of one image pixel: the area within the outermost control points, over the pixels between them."""
    ring = [(0, 0), (0, -1), (-1, -1), (-1, 0)]
    xs, ys = [x[p] for p in ring], [y[p] for p in ring]
    twice = sum(xs[k] * ys[k - 1] - xs[k - 1] * ys[k] for k in range(4))
    return abs(twice) / 2 / ((scene.lines[-1] - scene.lines[0]) * (scene.pixels[-1] - scene.pixels[0]))


@pytest.mark.parametrize("form", ["grid", "flat"])
def test_estimate_is_close_to_what_is_written(sources, tmp_path, form):
    recipe = grd_recipe()
    size = estimate(read_tree((sources[form] / ".zmetadata").read_bytes(), "x"), recipe.pixels)
    receipt = run(sources[form], tmp_path)
    assert size.n_bytes == pytest.approx(receipt.n_bytes_source, rel=0.01)  # text is counted in its own way
    assert abs(size.n_objects - receipt.n_objects) <= 0.05 * receipt.n_objects


def test_scene_must_fit_its_spec(tmp_path):
    with pytest.raises(ValueError, match="scene"):
        build_grd(GrdSpec(shape=(9, 9)), tmp_path, synthetic_scene(SPEC))
