"""Geolocation from control points, resampling onto a map grid, and reading by window: against slow references."""

import warnings
from fractions import Fraction

import numcodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zarrmill.core import warp as module
from zarrmill.core.geolocation import Geolocation, gcp_grid, map_grid, utm_code
from zarrmill.core.resample import average_float_levels
from zarrmill.core.sampling import bilinear, calibrated, nearest, taps
from zarrmill.core.warp import WarpedImages, Window
from zarrmill.errors import SourceError
from zarrmill.io.objects import Objects
from zarrmill.io.source import read_tree
from zarrmill.io.windows import WindowedArray
from zarrmill.model import CalibrationTable, Gcps, Warp
from zarrmill.sample.s1 import GrdSpec, build_grd, synthetic_scene

UTM = "EPSG:32633"


class InMemory:
    """An image in memory, read as the engine reads one."""

    def __init__(self, image):
        self.padded = np.pad(image, ((1, 2), (1, 2))).astype(np.uint32)

    def begin(self, left, right):
        self.outline = left, right

    def prepare(self, windows, run):
        self.prepared = windows

    def read(self, window):
        assert window in self.prepared
        assert min(window.top, window.left) >= -1
        found = self.padded[window.top + 1 : window.bottom + 1, window.left + 1 : window.right + 1]
        assert found.shape == (window.bottom - window.top, window.right - window.left)
        return found


def points(**changes) -> tuple[Gcps, GrdSpec]:
    spec = GrdSpec(**{"shape": (300, 420), "centre": (13.5, 46.0), "relief_m": 3_000.0, **changes})
    scene = synthetic_scene(spec)
    return Gcps(scene.lines, scene.pixels, scene.longitude, scene.latitude), spec


def warped(image, gcps, resampling="bilinear", table=None, crs=UTM):
    geolocation = Geolocation(gcps, crs, UTM)
    grid = map_grid([(geolocation, image.shape)], crs, 10.0 if crs == UTM else 9e-5, 32, 64)
    images = WarpedImages([Warp(grid, gcps, UTM, resampling, table)], image.shape, [InMemory(image)])
    return images, grid, geolocation


def whole(images, grid):
    """Return the one image of ``images`` on all of its grid."""
    (found,) = images.read(slice(0, grid.shape[0]), slice(0, grid.shape[1]))
    return found


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
    _, grid, geolocation = warped(np.ones(spec.shape, np.uint16), gcps)
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


ACCURACY_PX = 0.0125
"""How far positions may be off: twice what a block may bend, Newton's last step, and rounding."""


def told_positions(gcps, shape, crs):
    """Return the greatest error of positions inside an image, how many lie there, and how many blocks bend."""
    images, grid, geolocation = warped(np.zeros(shape, np.uint16), gcps, crs=crs)
    line, pixel = positions(grid, geolocation)
    worst, n_inside, n_bent = 0.0, 0, 0
    for tile in images._map.tiles(slice(0, grid.shape[0]), slice(0, grid.shape[1])):
        place, origin = (tile.rows, tile.columns), (tile.window.top, tile.window.left)
        wanted = line[place], pixel[place]
        inside = (wanted[0] > 0) & (wanted[0] < shape[0] - 1) & (wanted[1] > 0) & (wanted[1] < shape[1] - 1)
        for have, first, want in zip(images._map.positions(tile), origin, wanted, strict=True):
            worst = max(worst, float(np.abs(have / 65536 + first - want)[inside].max(initial=0)))
        n_inside, n_bent = n_inside + int(inside.sum()), n_bent + int(tile.bent.sum())
    return worst, n_inside, n_bent


@pytest.mark.parametrize("crs", [UTM, "EPSG:4326"])
@pytest.mark.parametrize("relief", [0.0, 100.0, 5_000.0])
def test_positions_are_right_to_an_eightieth_of_a_sample(relief, crs):
    gcps, spec = points(relief_m=relief)
    worst, n_inside, n_bent = told_positions(gcps, spec.shape, crs)
    assert n_inside > 100_000
    assert worst < ACCURACY_PX
    assert (n_bent > 0) == (relief > 0)


@pytest.mark.parametrize(("every_line", "every_pixel"), [(1, 10), (9, 1), (1, 1)])
def test_positions_in_cells_smaller_than_a_block_along_either_side_are_solved(every_line, every_pixel):
    gcps, spec = points(shape=(150, 260))
    lines, pixels = gcps.lines[::every_line], gcps.pixels[::every_pixel]
    few = Gcps(lines, pixels, *(part[::every_line, ::every_pixel] for part in (gcps.longitude, gcps.latitude)))
    worst, n_inside, _ = told_positions(few, spec.shape, UTM)
    assert n_inside > 30_000
    assert worst < ACCURACY_PX / 10


def naive_bilinear(samples, line, pixel):
    """Return the mean of four samples at a position in 1/256, a sample of 0 without weight, as a fraction; 0 without data."""
    i, j = line // 256, pixel // 256
    total, weight = Fraction(0), Fraction(0)
    for di, dj in ((0, 0), (0, 1), (1, 0), (1, 1)):
        w = abs(1 - di - Fraction(line % 256, 256)) * abs(1 - dj - Fraction(pixel % 256, 256))
        value = int(samples[i + di, j + dj])
        if value:
            total, weight = total + w * value, weight + w
    return 0 if weight < Fraction(1, 2) else int(total / weight + Fraction(1, 2))


@given(st.integers(0, 2**32 - 1), st.sampled_from([0, 1, 3, 60]), st.sampled_from([np.int32, np.int64]))
@settings(max_examples=60, deadline=None)
def test_bilinear_is_the_weighed_mean_of_samples_with_data(seed, holes, dtype):
    rng = np.random.default_rng(seed)
    samples = rng.choice(np.array([1, 2, 700, 65534, 65535] + [0] * holes, np.uint32), (6, 7))
    line = rng.integers(0, 5 * 256, (4, 9), dtype=dtype)
    pixel = rng.integers(0, 6 * 256, (4, 9), dtype=dtype)
    line[0, :4], pixel[0, :4] = (256, 384, 128, 4 * 256), (512, 128, 128, 5 * 256)
    wanted = [
        [naive_bilinear(samples, a, b) for a, b in zip(*row, strict=True)]
        for row in zip(line.tolist(), pixel.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(bilinear(samples, taps(line * 256, pixel * 256, 7)), wanted)


def test_nearest_takes_the_sample_whose_square_holds_the_position():
    samples = np.arange(1, 13, dtype=np.uint32).reshape(3, 4)
    line, pixel = np.array([0, 127, 128, 256], np.int32) * 256, np.array([0, 128, 383, 384], np.int32) * 256
    np.testing.assert_array_equal(nearest(samples, taps(line, pixel, 4, weighed=False)), [1, 2, 6, 7])


def naive_warp(image, line, pixel, resampling):
    """Return the least and greatest DN of one pixel of the map at a position known to ``ACCURACY_PX``; 0 is no data."""
    padded = np.pad(image, 3)
    found = []
    for dl in (-ACCURACY_PX, 0, ACCURACY_PX):
        for dp in (-ACCURACY_PX, 0, ACCURACY_PX):
            y, x = line + dl + 3, pixel + dp + 3
            if not (1 < y < padded.shape[0] - 2 and 1 < x < padded.shape[1] - 2):
                found.append(0)
            elif resampling == "nearest":
                found.append(int(padded[int(y + 0.5), int(x + 0.5)]))
            else:
                found += [naive_bilinear(padded, int(y * 256) + a, int(x * 256) + b) for a in (0, 1) for b in (0, 1)]
    data = [dn for dn in found if dn]
    return 0 in found, min(data, default=0), max(data, default=0)


def thinned(gcps: Gcps, apart_px: int) -> Gcps:
    """Return points at least ``apart_px`` samples apart, the outer ones too: between denser ones the map bends too often."""
    rows, columns = (
        np.unique(np.linspace(0, axis.size - 1, max(2, int(axis[-1]) // apart_px + 1)).astype(int))
        for axis in (gcps.lines, gcps.pixels)
    )
    place = np.ix_(rows, columns)
    return Gcps(gcps.lines[rows], gcps.pixels[columns], gcps.longitude[place], gcps.latitude[place])


@given(
    shape=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    heading=st.floats(-180, 180),
    relief=st.sampled_from([0.0, 500.0, 3_000.0]),
    resampling=st.sampled_from(["bilinear", "nearest"]),
    crs=st.sampled_from([UTM, "EPSG:4326"]),
    share=st.sampled_from([0.0, 0.1, 0.7]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_every_pixel_is_what_a_slow_reference_has(shape, heading, relief, resampling, crs, share, seed):
    gcps = thinned(points(shape=shape, heading_deg=heading, relief_m=relief)[0], 16)
    rng = np.random.default_rng(seed)
    image = np.where(rng.random(shape) < share, 0, rng.choice([1, 50, 900, 65535], shape)).astype(np.uint16)
    images, grid, geolocation = warped(image, gcps, resampling, crs=crs)
    out = whole(images, grid)
    line, pixel = positions(grid, geolocation)
    near = (line > -2) & (line < shape[0] + 1) & (pixel > -2) & (pixel < shape[1] + 1)
    assert not out[~near].any()
    for row, column in zip(*np.nonzero(near), strict=True):
        may_be_empty, low, high = naive_warp(image, float(line[row, column]), float(pixel[row, column]), resampling)
        found = int(out[row, column])
        # Extremes may lie between the places that were tried, or a step of the weights, 1/256, beyond them.
        slack = 0 if resampling == "nearest" else 1 + max((high - low) // 8, 65535 // 255)
        assert (may_be_empty and found == 0) or low - slack <= found <= high + slack, (row, column, found, low, high)


def test_polarisations_share_positions_and_each_has_its_own_samples_and_table():
    gcps, spec = points()
    scene = synthetic_scene(spec)
    table = CalibrationTable(np.array([0.0, 299.0]), np.array([0.0, 419.0]), np.full((2, 2), 200.0))
    images, grid, _ = warped(scene.dn["VV"], gcps)
    warps = [Warp(grid, gcps, UTM, "bilinear", t) for t in (None, table)]
    both = WarpedImages(warps, spec.shape, [InMemory(scene.dn[name]) for name in ("VV", "VH")])
    vv, vh = both.read(slice(0, grid.shape[0]), slice(0, grid.shape[1]))
    np.testing.assert_array_equal(vv, whole(images, grid))
    alone = whole(warped(scene.dn["VH"], gcps)[0], grid)
    np.testing.assert_array_equal(np.isnan(vh), alone == 0)
    np.testing.assert_allclose(vh[alone > 0], (alone[alone > 0] / 200.0) ** 2, rtol=1e-6)


def test_a_window_wider_than_32_bits_hold_gives_the_same(monkeypatch):
    gcps, spec = points()
    image = synthetic_scene(spec).dn["VV"]
    images, grid, _ = warped(image, gcps)
    narrow = whole(images, grid)
    monkeypatch.setattr(module, "_NARROW_PX", 0)
    np.testing.assert_array_equal(whole(images, grid), narrow)


def test_a_ramp_stays_a_ramp():
    gcps, spec = points()
    line, pixel = np.indices(spec.shape)
    images, grid, geolocation = warped((100 + 8 * line + 4 * pixel).astype(np.uint16), gcps)
    out = whole(images, grid)
    at_line, at_pixel = positions(grid, geolocation)
    inside = (at_line > 0) & (at_line < 299) & (at_pixel > 0) & (at_pixel < 419)
    off = np.abs(out - (100 + 8 * at_line + 4 * at_pixel))[inside]
    assert off.max() < 0.5 + 12 * (ACCURACY_PX + 1 / 512)


@pytest.mark.parametrize("resampling", ["bilinear", "nearest"])
def test_features_at_control_points_land_within_a_pixel_of_their_coordinates(resampling):
    from pyproj import Transformer

    gcps, spec = points()
    image = np.ones(spec.shape, np.uint16)
    places = [(r, c) for r in range(1, gcps.lines.size - 1) for c in range(1, gcps.pixels.size - 1)]
    for r, c in places:
        line, pixel = int(gcps.lines[r]), int(gcps.pixels[c])
        image[line - 1 : line + 2, pixel - 1 : pixel + 2] = 1001
    images, grid, _ = warped(image, gcps, resampling)
    out = np.where((seen := whole(images, grid)) == 0, 1, seen) - 1.0
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
    images, grid, geolocation = warped(image, gcps, resampling)
    out = whole(images, grid)
    line, pixel = positions(grid, geolocation)
    depth = np.minimum.reduce([pixel - 36.5, 419.5 - pixel, line + 0.5, 288.5 - line])  # over 0 inside the data
    assert (out[depth > 0.6] == 65535).all()
    assert (out[depth < -0.6] == 0).all()
    assert (depth > 1).sum() > 50_000 < (depth < -1).sum()


def test_pixels_do_not_depend_on_how_they_are_asked_for():
    gcps, spec = points()
    images, grid, _ = warped(synthetic_scene(spec).dn["VV"], gcps)
    once = whole(images, grid)
    height, width = grid.shape
    for step in (7, 32, 100, 513):
        parts = [images.read(slice(y, min(y + step, height)), slice(0, width))[0] for y in range(0, height, step)]
        np.testing.assert_array_equal(np.concatenate(parts), once)
        parts = [images.read(slice(0, height), slice(x, min(x + step, width)))[0] for x in range(0, width, step)]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), once)


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


def through_windows(tmp_path, spec, scene, monkeypatch, step=64, band=128):
    """Return an image on the map as the engine makes it, band by band, with the blocks decoded and the keys fetched."""
    from zarrmill.io import windows

    monkeypatch.setattr(windows, "LINES", 16)
    monkeypatch.setattr(windows._PieceLines, "step", 16)
    objects = Objects(str(build_grd(spec, tmp_path, scene)))
    tree = read_tree(objects)
    array = next(a for p, a in tree.arrays.items() if p.endswith("VH/measurements/grd"))
    source, decoded = WindowedArray(objects, tree, array, pytest.fail), []
    original = source._lines.read
    monkeypatch.setattr(source._lines, "read", lambda *place: decoded.append(place) or original(*place))
    gcps = Gcps(scene.lines, scene.pixels, scene.longitude, scene.latitude)
    _, grid, _ = warped(scene.dn["VH"], gcps)
    images = WarpedImages([Warp(grid, gcps, UTM, "bilinear", None)], spec.shape, [source])
    out = np.zeros(grid.shape, np.uint16)
    peak = 0
    for x in range(0, grid.shape[1], band):
        images.begin(slice(x, x + band))
        for y in range(0, grid.shape[0], step):
            out[y : y + step, x : x + band] = images.read(slice(y, y + step), slice(x, x + band))[0]
            peak = max(peak, sum(part.nbytes for _, part in source._held.values()))
    return out, grid, decoded, peak


@pytest.mark.parametrize("heading", [-12.0, -168.0, 60.0])
@pytest.mark.parametrize("chunks", [(64, 100), (133, 420), (300, 420)])
def test_windows_over_chunks_give_the_image_and_little_is_held_or_decoded_twice(tmp_path, monkeypatch, chunks, heading):
    spec = GrdSpec(shape=(300, 420), chunks=chunks, form="flat", centre=(13.5, 46.0), heading_deg=heading)
    scene = synthetic_scene(spec)
    out, grid, decoded, peak = through_windows(tmp_path, spec, scene, monkeypatch)
    gcps = Gcps(scene.lines, scene.pixels, scene.longitude, scene.latitude)
    np.testing.assert_array_equal(out, whole(warped(scene.dn["VH"], gcps)[0], grid))
    n_bands = grid.shape[1] // 128
    assert len(decoded) <= n_bands * len(set(decoded))
    assert all(decoded.count(place) <= n_bands for place in set(decoded))
    assert peak < 0.9 * scene.dn["VH"].nbytes


def test_what_was_not_prepared_is_read_all_the_same(tmp_path):
    spec = GrdSpec(shape=(300, 420), chunks=(64, 100))
    scene = synthetic_scene(spec)
    objects = Objects(str(build_grd(spec, tmp_path, scene)))
    tree = read_tree(objects)
    array = next(a for p, a in tree.arrays.items() if p.endswith("VV/measurements/grd"))
    windowed = WindowedArray(objects, tree, array, pytest.fail)
    np.testing.assert_array_equal(windowed.read(Window(0, 300, 0, 420)), scene.dn["VV"])
    np.testing.assert_array_equal(windowed.read(Window(-1, 2, 418, 422)), np.pad(scene.dn["VV"], 2)[1:4, 420:424])


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
    windowed = WindowedArray(objects, tree, tree.arrays["grd"], told.append)
    asked = [Window(-1, 40, -1, 50), Window(60, 122, 40, 92)]
    windowed.prepare(asked, map)
    padded = np.pad(np.asarray(array[:]), 2)
    for w in asked:
        np.testing.assert_array_equal(windowed.read(w), padded[w.top + 2 : w.bottom + 2, w.left + 2 : w.right + 2])
    assert told == ["grd/c/1/2"]
    assert (values[32:64, 60:] != 0).all()
    assert (windowed.read(Window(32, 64, 60, 90)) == 0).all()


@pytest.mark.parametrize("change", [{"compressor": {"id": "zlib", "level": 1}}, {"compressor": None}])
def test_chunks_of_other_codecs_are_read_whole(tmp_path, change):
    import zarr

    values = np.random.default_rng(1).integers(1, 65535, (120, 90), dtype=np.uint16)
    root = zarr.open_group(tmp_path / "p.zarr", mode="w", zarr_format=2)
    compressors = numcodecs.get_codec(change["compressor"]) if change["compressor"] else None
    root.create_array("grd", data=values, chunks=(50, 40), compressors=compressors, attributes={"_ARRAY_DIMENSIONS": ["a", "g"]})
    zarr.consolidate_metadata(root.store, zarr_format=2)
    objects = Objects(str(tmp_path / "p.zarr"))
    tree = read_tree(objects)
    windowed = WindowedArray(objects, tree, tree.arrays["grd"], pytest.fail)
    window = Window(40, 110, -1, 92)
    windowed.prepare([window], map)
    np.testing.assert_array_equal(windowed.read(window), np.pad(values, ((0, 0), (1, 2)))[40:110])
