"""Grids, levels and chunk shapes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zarrmill.core.chunking import chunk_shape, shard_shape
from zarrmill.core.grid import centres, divides, grid_from_centres, level_grid, level_transform
from zarrmill.model import Grid

TILE = Grid("EPSG:32632", (10.0, 0.0, 699960.0, 0.0, -10.0, 4700040.0), (10980, 10980))


def test_level_keeps_the_outer_corner_and_the_extent():
    level = level_grid(TILE, 36)
    assert level.transform == (360.0, 0.0, 699960.0, 0.0, -360.0, 4700040.0)
    assert level.shape == (305, 305)
    assert level.bbox == TILE.bbox == (699960.0, 4590240.0, 809760.0, 4700040.0)


def test_level_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="72 does not divide"):
        level_grid(TILE, 72)
    with pytest.raises(ValueError, match="below 1"):
        level_transform(TILE.transform, 0)


def test_centres_lie_half_a_pixel_inside_the_edge():
    x, y = centres(TILE)
    assert (x[0], x[-1]) == (699965.0, 809755.0)
    assert (y[0], y[-1]) == (4700035.0, 4590245.0)
    assert x.dtype == y.dtype == np.float64


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from([10, 20, 60]))
def test_grid_and_centres_are_inverse(height, width, pixel):
    grid = Grid("EPSG:32618", (float(pixel), 0.0, 435780.0, 0.0, -float(pixel), 4179420.0), (height, width))
    x, y = centres(grid)
    assert grid_from_centres(x, y, pixel, grid.crs) == grid


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 40), st.sampled_from([10, 20, 60]))
def test_a_level_exists_only_where_it_divides_and_then_covers_the_same_ground(height, width, factor, pixel):
    grid = Grid("EPSG:32618", (float(pixel), 0.0, 435780.0, 0.0, -float(pixel), 4179420.0), (height, width))
    if height % factor or width % factor:
        assert not divides(grid.shape, factor)
        with pytest.raises(ValueError, match="does not divide"):
            level_grid(grid, factor)
        return
    level = level_grid(grid, factor)
    assert divides(grid.shape, factor)
    assert level.bbox == grid.bbox
    fine, coarse = centres(grid), centres(level)
    for axis, size in ((0, width), (1, height)):  # a coarse centre is the mean of the centres below it
        np.testing.assert_allclose(coarse[axis], fine[axis].reshape(size // factor, factor).mean(axis=1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("x", "y", "what"),
    [
        ([0.0, 10.0, 21.0], [20.0, 10.0], "x: steps"),
        ([0.0, 10.0], [10.0, 20.0], "y: steps"),
        ([0.0, 20.0], [20.0, 10.0], "x: steps"),
        ([], [20.0, 10.0], "x: steps"),
    ],
)
def test_irregular_south_up_or_other_sized_centres_are_refused(x, y, what):
    with pytest.raises(ValueError, match=what):
        grid_from_centres(np.array(x), np.array(y), 10, "EPSG:32632")


def test_shard_shape_rounds_small_array_up_to_whole_chunks():
    assert shard_shape((1098, 1098), chunk_shape((1098, 1098), 915), 5490) == (1830, 1830)


def test_full_tile_has_four_shards_a_band():
    chunks = chunk_shape((10980, 10980), 915)
    assert chunks == (915, 915)
    assert shard_shape((10980, 10980), chunks, 5490) == (5490, 5490)


def test_array_of_one_chunk_is_not_sharded():
    chunks = chunk_shape((305, 305), 915)
    assert chunks == (305, 305)
    assert shard_shape((305, 305), chunks, 5490) is None


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 1200), st.integers(1, 6), st.booleans())
def test_chunks_divide_shards_and_shards_cover_at_most_one_chunk_too_much(height, width, chunk_px, n, plane):
    shape = (3, height, width) if plane else (height, width)
    chunks = chunk_shape(shape, chunk_px)
    shards = shard_shape(shape, chunks, chunk_px * n)
    assert all(0 < chunk <= size for chunk, size in zip(chunks, shape, strict=True))
    if shards is None:
        assert chunks[-2:] == shape[-2:]
        return
    for size, chunk, shard in zip(shape[-2:], chunks[-2:], shards[-2:], strict=True):
        assert shard % chunk == 0
        assert shard < size + chunk
