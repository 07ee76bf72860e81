"""Geolocation from control points, resampling onto a map grid, and reading by window: against slow references."""

import warnings
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zarrmill.core import warp as module
from zarrmill.core.geolocation import Geolocation, gcp_grid, map_grid, utm_code
from zarrmill.core.resample import average_float_levels
from zarrmill.core.warp import WarpedRows, Window, bilinear, calibrated, nearest
from zarrmill.errors import SourceError
from zarrmill.io.objects import Objects
from zarrmill.io.source import read_tree
from zarrmill.io.windows import BandedArray
from zarrmill.model import CalibrationTable, Gcps, Warp
from zarrmill.sample.s1 import GrdSpec, build_grd, synthetic_scene

UTM = "EPSG:32633"


class InMemory:
    """An image in memory, read as the engine reads one."""

    def __init__(self, image):
        self.image = image

    def prepare(self, windows):
        self.prepared = windows

    def read(self, window):
        padded = np.pad(self.image, 4)
        assert window.top >= -4
        assert window.bottom <= self.image.shape[0] + 4
        return padded[window.top + 4 : window.bottom + 4, window.left + 4 : window.right + 4]


def points(**changes) -> tuple[Gcps, GrdSpec]:
    spec = GrdSpec(**{"shape": (300, 420), "centre": (13.5, 46.0), "relief_m": 3_000.0, **changes})
    scene = synthetic_scene(spec)
    return Gcps(scene.lines, scene.pixels, scene.longitude, scene.latitude), spec


def warped(image, gcps, resampling="bilinear", table=None, crs=UTM):
    geolocation = Geolocation(gcps, crs, UTM)
    grid = map_grid([(geolocation, image.shape)], crs, 10.0 if crs == UTM else 9e-5, 32, 64)
    rows = WarpedRows(Warp(grid, gcps, UTM, resampling, table), image.shape, InMemory(image))
    return rows, grid, geolocation


def positions(grid, geolocation):
    a, _, c, _, e, f = grid.transform
    row, column = np.indices(grid.shape)
    return geolocation.inverse(c + a * (column + 0.5), f + e * (row + 0.5))


@pytest.mark.parametrize("heading", [-12.0, -168.0, 75.0])
def test_control_points_are_met_exactly_and_found_again(heading):
    from pyproj import Transformer

    gcps, _ = points(heading_deg=heading)
    x, y = Transformer.from_crs("EPSG:4326", UTM, always_xy=True).transform(gcps.longitude, gcps.latitude)
    line, pixel = np.meshgrid(gcps.lines, gcps.pixels, indexing="ij")
    geolocation = Geolocation(gcps, UTM, UTM)
    np.testing.assert_allclose(geolocation.forward(line, pixel), (x, y), rtol=0, atol=1e-6)
    np.testing.assert_allclose(geolocation.inverse(x, y), (line, pixel), rtol=0, atol=1e-3)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_inverse_undoes_forward_also_beyond_the_points(seed):
    rng = np.random.default_rng(seed)
    gcps, spec = points(seed=seed % 1000, heading_deg=float(rng.uniform(-180, 180)))
    line, pixel = rng.uniform(-30, spec.shape[0] + 30, 500), rng.uniform(-30, spec.shape[1] + 30, 500)
    for crs in (UTM, "EPSG:4326"):
        geolocation = Geolocation(gcps, crs, UTM)
        np.testing.assert_allclose(geolocation.inverse(*geolocation.forward(line, pixel)), (line, pixel), rtol=0, atol=1e-3)


def test_both_forms_of_control_points_are_the_same_in_any_order():
    gcps, _ = points()
    line, pixel = (part.ravel() for part in np.meshgrid(gcps.lines, gcps.pixels, indexing="ij"))
    order = np.random.default_rng(3).permutation(line.size)
    flat = gcp_grid(line[order], pixel[order], gcps.latitude.ravel()[order], gcps.longitude.ravel()[order], "p")
    grid = gcp_grid(gcps.lines, gcps.pixels, gcps.latitude, gcps.longitude, "p")
    for name in ("lines", "pixels", "longitude", "latitude"):
        np.testing.assert_array_equal(getattr(flat, name), getattr(grid, name))
    np.testing.assert_allclose(flat.longitude, gcps.longitude, rtol=0, atol=1e-12)


def test_control_points_that_are_no_full_grid_are_refused():
    gcps, _ = points()
    line, pixel = (part.ravel() for part in np.meshgrid(gcps.lines, gcps.pixels, indexing="ij"))
    lat, lon = gcps.latitude.ravel(), gcps.longitude.ravel()
    for bad in ((line[1:], pixel[1:], lat[1:], lon[1:]), (line, pixel[::-1] * 0, lat, lon), (line, pixel[:5], lat, lon)):
        with pytest.raises(SourceError, match=r"^ZM-SRC-LAYOUT: here"):
            gcp_grid(*bad, "here")
    for value in (np.nan, 91.0):
        with pytest.raises(SourceError, match="degrees"):
            gcp_grid(line, pixel, np.where(line == 0, value, lat), lon, "here")


def test_control_points_that_fold_over_are_refused():
    gcps, _ = points()
    folded = gcps.longitude.copy()
    folded[:, [4, 5]] = folded[:, [5, 4]]
    with pytest.raises(SourceError, match="fold"):
        Geolocation(Gcps(gcps.lines, gcps.pixels, folded, gcps.latitude), UTM, UTM)


@pytest.mark.parametrize(
    ("centre", "code"),
    [
        ((12.0001, 45.0), "EPSG:32633"),
        ((11.9, 45.0), "EPSG:32632"),
        ((-179.9, -10.0), "EPSG:32701"),
        ((179.99, 10.0), "EPSG:32660"),
    ],
)
def test_zone_is_that_of_the_centre(centre, code):
    gcps, _ = points(centre=centre, relief_m=0.0)
    wrapped = (gcps.longitude + 180) % 360 - 180
    line, pixel = (part.ravel() for part in np.meshgrid(gcps.lines, gcps.pixels, indexing="ij"))
    assert utm_code(gcp_grid(line, pixel, gcps.latitude.ravel(), wrapped.ravel(), "p")) == code


def test_centre_beyond_utm_is_refused():
    with pytest.raises(SourceError, match="84"):
        utm_code(Gcps(np.arange(2.0), np.arange(2.0), np.full((2, 2), 5.0), np.full((2, 2), 85.0)))


def test_grid_covers_the_image_and_all_levels_are_exact():
    gcps, spec = points()
    _rows, grid, geolocation = warped(np.ones(spec.shape, np.uint16), gcps)
    x, y = geolocation.forward(np.array([-0.5, -0.5, 299.5, 299.5]), np.array([-0.5, 419.5, -0.5, 419.5]))
    west, south, east, north = grid.bbox
    assert west <= x.min()
    assert x.max() <= east
    assert south <= y.min()
    assert y.max() <= north
    assert west % 320 == 0
    assert north % 320 == 0
    assert grid.shape[0] % 64 == 0
    assert grid.shape[1] % 64 == 0
    assert x.min() - west < 320
    assert east - x.max() < 64 * 10 + 320


@pytest.mark.parametrize("crs", [UTM, "EPSG:4326"])
@pytest.mark.parametrize("relief", [0.0, 5_000.0])
def test_positions_are_right_to_a_twentieth_of_a_pixel(relief, crs):
    gcps, spec = points(relief_m=relief)
    image = np.zeros(spec.shape, np.uint16)
    rows, grid, geolocation = warped(image, gcps, crs=crs)
    line, pixel = positions(grid, geolocation)
    first, last = 0, grid.shape[0] // module.BLOCK_PX
    worst, n_inside = 0.0, 0
    for tile in rows._tiles(rows._lattice(first, last)):
        found = [part / 256 for part in rows._positions(tile, first)]
        columns = slice(tile.column, tile.column + found[0].shape[1])
        inside = (line[:, columns] > 0) & (line[:, columns] < 299) & (pixel[:, columns] > 0) & (pixel[:, columns] < 419)
        for have, want in zip(found, (line[:, columns], pixel[:, columns]), strict=True):
            worst = max(worst, float(np.abs(have - want)[inside].max(initial=0)))
        n_inside += int(inside.sum())
    assert n_inside > 100_000
    assert worst < 0.05


def naive_bilinear(samples, line, pixel):
    i, j = line // 256, pixel // 256
    total, weight = Fraction(0), Fraction(0)
    for di, dj in ((0, 0), (0, 1), (1, 0), (1, 1)):
        w = abs(1 - di - Fraction(line % 256, 256)) * abs(1 - dj - Fraction(pixel % 256, 256))
        value = int(samples[i + di, j + dj])
        if value:
            total, weight = total + w * value, weight + w
    return 0 if weight < Fraction(1, 2) else int(total / weight + Fraction(1, 2))


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(max_examples=40, deadline=None)
def test_bilinear_is_the_weighed_mean_of_samples_with_data(seed, holes):
    rng = np.random.default_rng(seed)
    samples = rng.choice(np.array([1, 2, 700, 65534, 65535] + [0] * (3 * holes), np.uint16), (6, 7))
    line = rng.integers(0, 5 * 256, (4, 9), dtype=np.int32)
    pixel = rng.integers(0, 6 * 256, (4, 9), dtype=np.int32)
    line[0, :3], pixel[0, :3] = (256, 384, 128), (512, 128, 128)
    wanted = [
        [naive_bilinear(samples, a, b) for a, b in zip(*row, strict=True)]
        for row in zip(line.tolist(), pixel.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(bilinear(samples, line, pixel), wanted)


def test_nearest_takes_the_sample_whose_square_holds_the_position():
    samples = np.arange(1, 13, dtype=np.uint16).reshape(3, 4)
    line, pixel = np.array([0, 127, 128, 256], np.int32), np.array([0, 128, 383, 384], np.int32)
    np.testing.assert_array_equal(nearest(samples, line, pixel), [1, 2, 6, 7])


def test_a_ramp_stays_a_ramp():
    gcps, spec = points()
    line, pixel = np.indices(spec.shape)
    rows, grid, geolocation = warped((100 + 8 * line + 4 * pixel).astype(np.uint16), gcps)
    out = rows.read(0, 0, grid.shape[0])
    at_line, at_pixel = positions(grid, geolocation)
    inside = (at_line > 0) & (at_line < 299) & (at_pixel > 0) & (at_pixel < 419)
    off = np.abs(out - (100 + 8 * at_line + 4 * at_pixel))[inside]
    assert off.max() < 0.5 + 12 * 0.05


@pytest.mark.parametrize("resampling", ["bilinear", "nearest"])
def test_features_at_control_points_land_within_a_pixel_of_their_coordinates(resampling):
    from pyproj import Transformer

    gcps, spec = points()
    image = np.ones(spec.shape, np.uint16)
    places = [(r, c) for r in range(1, gcps.lines.size - 1) for c in range(1, gcps.pixels.size - 1)]
    for r, c in places:
        line, pixel = int(gcps.lines[r]), int(gcps.pixels[c])
        image[line - 1 : line + 2, pixel - 1 : pixel + 2] = 1001
    rows, grid, _ = warped(image, gcps, resampling)
    out = np.where((seen := rows.read(0, 0, grid.shape[0])) == 0, 1, seen) - 1.0
    to_utm = Transformer.from_crs("EPSG:4326", UTM, always_xy=True)
    for r, c in places:
        x, y = to_utm.transform(gcps.longitude[r, c], gcps.latitude[r, c])
        row, column = (grid.transform[5] - y) / 10, (x - grid.transform[2]) / 10
        top, left = int(row) - 5, int(column) - 5
        near = out[top : top + 11, left : left + 11]
        at_row, at_column = np.indices(near.shape)
        centre = [float((near * at).sum() / near.sum()) + 0.5 for at in (at_row, at_column)]
        assert np.hypot(top + centre[0] - row, left + centre[1] - column) < 1, (r, c)


@pytest.mark.parametrize("resampling", ["bilinear", "nearest"])
def test_area_without_data_is_that_of_the_source_within_a_pixel(resampling):
    gcps, spec = points()
    image = np.full(spec.shape, 65535, np.uint16)
    image[:, :37] = 0
    image[-11:] = 0
    rows, grid, geolocation = warped(image, gcps, resampling)
    out = rows.read(0, 0, grid.shape[0])
    line, pixel = positions(grid, geolocation)
    depth = np.minimum.reduce([pixel - 36.5, 419.5 - pixel, line + 0.5, 288.5 - line])  # over 0 inside the data
    assert (out[depth > 0.6] == 65535).all()
    assert (out[depth < -0.6] == 0).all()
    assert (depth > 1).sum() > 50_000 < (depth < -1).sum()


def test_rows_do_not_depend_on_how_they_are_asked_for():
    gcps, spec = points()
    rows, grid, _ = warped(synthetic_scene(spec).dn["VV"], gcps)
    whole = rows.read(0, 0, grid.shape[0])
    for step in (7, 32, 100):
        parts = [rows.read(0, start, start + step) for start in range(0, grid.shape[0], step)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_calibration_is_the_square_of_dn_over_the_table():
    table = CalibrationTable(np.array([0.0, 10.0]), np.array([0.0, 4.0]), np.array([[100.0, 200.0], [300.0, 400.0]]))
    dn = np.array([[0, 100, 65535]], np.uint16)
    found = calibrated(dn, table, np.array([[0.0, 5.0, 20.0]]), np.array([[0.0, 1.0, 4.0]]))
    assert found.dtype == np.float32
    assert np.isnan(found[0, 0])
    np.testing.assert_allclose(found[0, 1:], [(100 / 225) ** 2, (65535 / 400) ** 2], rtol=1e-6)


def test_float_levels_are_means_of_values_that_are_not_nan():
    stripe = np.random.default_rng(0).random((8, 16)).astype(np.float32)
    stripe[:4, :4] = np.nan
    stripe[4, ::2] = np.nan
    for factor, level in zip((2, 4, 8), average_float_levels(stripe, (2, 4, 8)), strict=True):
        for (i, j), found in np.ndenumerate(level):
            cell = stripe[i * factor : (i + 1) * factor, j * factor : (j + 1) * factor].astype(np.float64)
            cell = cell[~np.isnan(cell)]
            assert np.isnan(found) if cell.size == 0 else found == np.float32(cell.sum() / cell.size)


@pytest.mark.parametrize("chunks", [(64, 100), (133, 420), (300, 420)])
def test_windows_are_slices_and_chunks_are_fetched_once(tmp_path, monkeypatch, chunks):
    from zarrmill.io import windows

    spec = GrdSpec(shape=(300, 420), chunks=chunks, form="flat")
    scene = synthetic_scene(spec)
    objects = Objects(str(build_grd(spec, tmp_path, scene)))
    tree = read_tree(objects)
    array = next(a for p, a in tree.arrays.items() if p.endswith("VH/measurements/grd"))
    monkeypatch.setattr(windows, "BAND_PX", 150)
    fetched = []
    get = Objects.get
    monkeypatch.setattr(Objects, "get", lambda self, key: fetched.append(key) or get(self, key))
    banded = BandedArray(objects, tree, array, pytest.fail)
    padded = np.pad(scene.dn["VH"], 64)
    for start in range(-4, 296, 12):  # a slanted line through the image
        asked = [Window(start + k // 10, start + k // 10 + 20, k, k + 50) for k in range(-5, 400, 41)]
        banded.prepare(asked)
        for w in asked:
            found = banded.read(w)
            np.testing.assert_array_equal(found, padded[w.top + 64 : w.bottom + 64, w.left + 64 : w.right + 64])
    data = [key for key in fetched if "measurements/grd/" in key]
    assert len(data) == len(set(data)) == -(-300 // chunks[0]) * -(-420 // chunks[1])
    np.testing.assert_array_equal(banded.read(Window(0, 300, 0, 420)), scene.dn["VH"])  # also what was not prepared


def test_windows_of_zarr_v3_are_slices_and_missing_chunks_are_told(tmp_path):
    import zarr

    values = np.random.default_rng(1).integers(1, 65535, (120, 90), dtype=np.uint16)
    root = zarr.open_group(tmp_path / "p.zarr", mode="w", zarr_format=3)
    array = root.create_array("grd", data=values, chunks=(32, 30), dimension_names=("azimuth_time", "ground_range"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(root.store, zarr_format=3)
    (tmp_path / "p.zarr/grd/c/1/2").unlink()
    objects, told = Objects(str(tmp_path / "p.zarr")), []
    tree = read_tree(objects)
    banded = BandedArray(objects, tree, tree.arrays["grd"], told.append)
    asked = [Window(-3, 40, -2, 50), Window(60, 124, 40, 95)]
    banded.prepare(asked)
    padded = np.pad(np.asarray(array[:]), 8)
    for w in asked:
        np.testing.assert_array_equal(banded.read(w), padded[w.top + 8 : w.bottom + 8, w.left + 8 : w.right + 8])
    assert told == ["grd/c/1/2"]
    assert (values[32:64, 60:] != 0).all()
    assert (banded.read(Window(32, 64, 60, 90)) == 0).all()
