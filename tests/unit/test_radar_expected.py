"""Expectations of the validation, beside the converter: they take what it makes of any image, and nothing else."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_warp import UTM, points, thinned, warped, whole

from zarrmill.core import radar_expected as expected
from zarrmill.core.checks_s1 import Pair, _every_tile
from zarrmill.core.geolocation import Geolocation


class InMemory:
    """An array in memory, as the validation reads one."""

    def __init__(self, values, inner=(64, 128)):
        self.values, self.shape, self.inner, self.chunks = values, values.shape, inner, inner
        self.path = "here"
        self.read_regions = []

    def read(self, region):
        self.read_regions.append(region)
        return self.values[region]


def ignored(n_bytes: int) -> None:
    """Progress that nobody asks for."""


def values_of(gcps):
    return {"line": gcps.lines, "pixel": gcps.pixels, "latitude": gcps.latitude, "longitude": gcps.longitude}


@pytest.mark.parametrize("crs", [UTM, "EPSG:4326"])
@pytest.mark.parametrize("heading", [-12.0, -168.0, 80.0])
def test_places_are_found_as_the_converter_has_them(crs, heading):
    gcps, spec = points(heading_deg=heading)
    rng = np.random.default_rng(1)
    line, pixel = rng.uniform(0, spec.shape[0] - 1, 500), rng.uniform(0, spec.shape[1] - 1, 500)
    x, y = Geolocation(gcps, crs, UTM).forward(line, pixel)
    found = expected.Cells(values_of(gcps), crs).locate(x, y)
    np.testing.assert_allclose(found, (line, pixel), rtol=0, atol=1e-4)


def test_places_far_outside_have_no_position():
    gcps, _ = points(relief_m=0.0)
    line, pixel = np.array([-50.0, -80.0, 299 + 63, 150, 150]), np.array([100.0, 100, 100, -62, 419 + 66])
    x, y = Geolocation(gcps, UTM, UTM).forward(line, pixel)
    found = expected.Cells(values_of(gcps), UTM).locate(x, y)[0]
    assert np.isnan(found).tolist() == [False, True, False, False, True]


def pair_of(image, gcps, out, grid, method):
    located = expected.lattice(expected.Cells(values_of(gcps), grid.crs), grid.transform, grid.shape, image.shape)
    return Pair(InMemory(image, (30, image.shape[1])), InMemory(out), located, method, None)


@given(
    shape=st.tuples(st.integers(41, 190), st.integers(41, 190)),
    heading=st.floats(-180, 180),
    relief=st.sampled_from([0.0, 500.0, 3_000.0]),
    method=st.sampled_from(["bilinear", "nearest"]),
    crs=st.sampled_from([UTM, "EPSG:4326"]),
    share=st.sampled_from([0.0, 0.1, 0.7]),
    apart_px=st.sampled_from([16, 30, 60]),
    seed=st.integers(0, 1000),
)
@example(  # a pixel that lies almost on a bright sample beside one without data
    shape=(89, 147), heading=1.0, relief=3_000.0, method="bilinear", crs=UTM, share=0.1, apart_px=16, seed=2
)
@settings(max_examples=60, deadline=None)
def test_what_the_converter_makes_is_taken(shape, heading, relief, method, crs, share, apart_px, seed):
    gcps = thinned(points(shape=shape, heading_deg=heading, relief_m=relief)[0], apart_px)
    rng = np.random.default_rng(seed)
    image = np.where(rng.random(shape) < share, 0, rng.choice([1, 50, 900, 65535], shape)).astype(np.uint16)
    images, grid, _ = warped(image, gcps, method, crs=crs)
    out = whole(images, grid)
    n = 0
    for _, dn, off in _every_tile(pair_of(image, gcps, out, grid, method), ignored):
        assert not off.any()
        n += dn.size
    assert n == out.size


@pytest.mark.parametrize("method", ["bilinear", "nearest"])
def test_other_values_are_not_taken(method):
    gcps, spec = points(relief_m=30.0)
    gcps = thinned(gcps, 40)
    rng = np.random.default_rng(5)
    image = rng.integers(100, 1000, spec.shape).astype(np.uint16)
    image[:, :40] = 0
    images, grid, _ = warped(image, gcps, method)
    out = whole(images, grid)

    def n_off(wrong):
        return sum(int(off.sum()) for _, _, off in _every_tile(pair_of(image, gcps, wrong, grid, method), ignored))

    inside = int((out > 0).sum())
    assert n_off(out) == 0
    assert n_off(np.roll(out, 1, axis=1)) > 0.8 * inside
    assert n_off(np.where(out > 0, out + 60, 0).astype(np.uint16)) > 0.8 * inside
    assert n_off(np.where(out == 0, 1, out).astype(np.uint16)) > 0.95 * (out.size - inside)
    assert n_off(np.zeros_like(out)) > 0.95 * inside


def test_every_line_is_read_once_and_few_are_held():
    gcps, spec = points(shape=(2000, 400))
    image = np.random.default_rng(0).integers(1, 9, spec.shape).astype(np.uint16)
    images, grid, _ = warped(image, gcps)
    pair = pair_of(image, gcps, whole(images, grid), grid, "bilinear")
    assert not any(off.any() for _, _, off in _every_tile(pair, ignored))
    starts = [region[0].start for region in pair.image.read_regions]
    assert starts == list(range(0, 2000, 510))
    read = [tuple((s.start, s.stop) for s in region) for region in pair.native.read_regions]
    assert len(read) == len(set(read)) == (grid.shape[0] // 64) * -(-grid.shape[1] // 128)
