"""Levels against a naive reference that loops over cells with fractions."""

import math
from fractions import Fraction
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from zarrmill.config import Pixels
from zarrmill.core.array_plans import fill_value, map_attributes
from zarrmill.core.pyramids import map_pyramids, pyramid_tasks
from zarrmill.core.resample import average_levels, block_sum, coarser_levels, mode_levels, or_levels
from zarrmill.core.rules import Rule
from zarrmill.model import Grid, SourceArray, SourceTree

SPECIAL = np.array([0, 1, 17, 999, 1000, 1001, 65534, 65535], np.uint16)
RULES = sorted(get_args(Rule))
GROUPS = {
    "average": "quality/probability",
    "mode": "conditions/mask/l2a_classification",
    "nearest": "conditions/mask/detector_footprint",
    "or": "quality/mask",
}


def naive_average(pixels, factor):
    """Mean of the valid pixels of each block; exact fractions, halves to even."""
    height, width = pixels.shape
    out = np.zeros((height // factor, width // factor), np.uint16)
    for row in range(out.shape[0]):
        for column in range(out.shape[1]):
            block = pixels[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
            valid = [int(value) for value in block.ravel() if value != 0]
            out[row, column] = round(Fraction(sum(valid), len(valid))) if valid else 0
    return out


def naive_level(pixels, factor, rule, nodata):
    """Loop over cells and pixels; ties of classes to the smallest, class 0 only where it is alone."""
    height, width = pixels.shape
    out = np.zeros((height // factor, width // factor), pixels.dtype)
    for row, column in np.ndindex(out.shape):
        cell = [int(pixels[row * factor + i, column * factor + j]) for i in range(factor) for j in range(factor)]
        if rule == "average":
            valid = [value for value in cell if value != nodata]
            out[row, column] = round(Fraction(sum(valid), len(valid))) if valid else nodata
        elif rule == "mode":
            classes = sorted({value for value in cell if value})
            out[row, column] = max(classes, key=lambda value: (cell.count(value), -value)) if classes else 0
        elif rule == "or":
            for value in cell:
                out[row, column] |= value
        else:
            out[row, column] = cell[factor // 2 * factor + factor // 2]
    return out


def some_pixels(data, shape, dtype):
    """Pixels with few values, so that cells have ties, and with many."""
    top = int(np.iinfo(dtype).max)
    few = st.sampled_from([0, 1, 2, 3, top])
    return data.draw(arrays(dtype, shape, elements=data.draw(st.sampled_from([few, st.integers(0, top)]))))


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_rule_equals_the_naive_reference_at_any_shape_however_cut(rule, data):
    factors = data.draw(st.sampled_from([(2,), (3,), (2, 6), (3, 6, 18), (2, 3), (4, 6), (5,), (17,), (2, 6, 12)]))
    unit = math.lcm(*factors)
    shape = tuple(unit * data.draw(st.integers(1, max(1, 24 // unit))) for _ in range(2))
    dtype = data.draw(st.sampled_from([np.uint8, np.uint16]))
    pixels, nodata = some_pixels(data, shape, dtype), data.draw(st.sampled_from([None, 0, 1, int(np.iinfo(dtype).max)]))
    step = unit * data.draw(st.integers(1, shape[0] // unit))
    stripes = [coarser_levels(pixels[top : top + step], factors, rule, nodata) for top in range(0, shape[0], step)]
    for factor, *parts in zip(factors, *stripes, strict=True):
        level = np.concatenate(parts)
        assert level.dtype == dtype
        np.testing.assert_array_equal(level, naive_level(pixels, factor, rule, nodata))


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_map_of_any_shape_gets_the_levels_that_fit_and_no_other(rule, data):
    sizes = st.one_of(st.integers(1, 40), st.sampled_from([6, 12, 36, 72]))
    shape, finest = (data.draw(sizes), data.draw(sizes)), data.draw(st.sampled_from([10, 20, 60]))
    group, nodata = GROUPS[rule], data.draw(st.sampled_from([None, 0]))
    attributes = {} if nodata is None else {"_FillValue": nodata}
    path = f"{group}/r{finest}m/m"
    array = SourceArray(path, shape, "|u1", shape, ("y", "x"), 0, attributes, {"zarr_format": 3})
    tree = SourceTree(3, "", {"": {}}, {path: array})
    grids = {array.group: Grid("EPSG:32632", (float(finest), 0.0, 0.0, 0.0, -float(finest), 0.0), shape)}
    chosen = Pixels(overviews=(group,))
    (pyramid,) = map_pyramids(tree, chosen, grids, "measurements/reflectance")
    fitting = [m for m in (20, 60, 120, 360) if m > finest and all(size * finest % m == 0 for size in shape)]
    assert list(pyramid.levels_m) == [finest, *fitting]
    assert {grid.bbox for grid in pyramid.grids.values()} == {grids[array.group].bbox}
    (task,) = pyramid_tasks(tree, pyramid, chosen, lambda array: (map_attributes(array), fill_value(array)))
    assert task.rule == rule
    pixels = some_pixels(data, shape, np.uint8)
    made = coarser_levels(pixels, [factor for factor, _ in task.outputs if factor > 1], task.rule, task.nodata)
    for (factor, plan), level in zip(task.outputs[1:], made, strict=True):
        assert plan.shape == level.shape == (shape[0] // factor, shape[1] // factor)
        np.testing.assert_array_equal(level, naive_level(pixels, factor, rule, nodata))


def test_more_equal_pixels_than_a_byte_counts_are_still_the_mode():
    pixels = np.full((36, 36), 4, np.uint8)  # 1296 pixels
    pixels[:14] = 5  # 504
    assert [level[0, 0] for level in mode_levels(pixels, [36])] == [4]
    assert mode_levels(pixels, [2, 12, 36])[2][0, 0] == 4


def test_class_0_wins_only_where_it_is_alone_and_ties_go_to_the_smallest():
    (level,) = mode_levels(np.array([[0, 0, 7, 4, 0, 0], [0, 9, 4, 7, 0, 0]], np.uint8), [2])
    np.testing.assert_array_equal(level, [[9, 4, 0]])


def test_union_keeps_a_bit_that_one_pixel_of_many_has():
    pixels = np.zeros((36, 36), np.uint8)
    pixels[35, 0], pixels[0, 35] = 32, 1
    assert [level.max() for level in or_levels(pixels, [2, 6, 36])] == [32, 32, 33]


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    factors=st.sampled_from([(2,), (2, 6), (3,), (2, 6, 12), (3, 6, 18), (5, 10), (2, 4, 8, 16, 32)]),
    data=st.data(),
)
def test_average_equals_the_naive_reference(blocks, factors, data):
    shape = (blocks[0] * factors[-1], blocks[1] * factors[-1])
    special = st.sampled_from([int(v) for v in SPECIAL])
    low, around = st.integers(1, 2**15 - 1), st.integers(2**15 - 2, 2**15 + 1)  # two of them fit into 16 bits, or hardly do not
    values = data.draw(st.sampled_from([st.one_of(special, st.integers(0, 65535)), low, around]))
    pixels = data.draw(arrays(np.uint16, shape, elements=values))
    for factor, level in zip(factors, average_levels(pixels, factors), strict=True):
        np.testing.assert_array_equal(level, naive_average(pixels, factor))


def test_lone_valid_pixel_is_the_mean_of_its_block():
    for factor in (2, 3, 6):
        pixels = np.zeros((6, 6), np.uint16)
        pixels[factor - 1, 0] = 1234
        (level,) = average_levels(pixels, [factor])
        assert level[0, 0] == 1234
        assert np.count_nonzero(level) == 1


def test_dn_1000_is_valid_although_its_reflectance_is_zero():
    (level,) = average_levels(np.full((4, 4), 1000, np.uint16), [2])
    assert (level == 1000).all()


def test_block_without_valid_pixel_stays_nodata():
    pixels = np.full((4, 4), 500, np.uint16)
    pixels[:2, :2] = 0
    (level,) = average_levels(pixels, [2])
    np.testing.assert_array_equal(level, [[0, 500], [500, 500]])


def test_halves_round_to_even():
    (level,) = average_levels(np.array([[1, 2, 3, 4], [1, 2, 3, 4]], np.uint16), [2])
    np.testing.assert_array_equal(level, [[2, 4]])  # 1.5 -> 2, 3.5 -> 4


def test_mean_of_many_large_values_is_rounded_once():
    pixels = np.full((32, 32), 65534, np.uint16)
    pixels.ravel()[:513] = 65535
    (level,) = average_levels(pixels, [32])
    assert level[0, 0] == 65535  # 65534.501: a sum in float32 would be one of exactly a half


def test_coarse_mean_is_exact_not_a_mean_of_rounded_means():
    pixels = np.zeros((4, 4), np.uint16)
    pixels[:2, :2] = [[1, 0], [0, 0]]
    pixels[2:, 2:] = [[10, 10], [10, 10]]
    (_, coarse) = average_levels(pixels, [2, 4])
    assert coarse[0, 0] == round(41 / 5)  # the mean of the two means would be 5.5


@pytest.mark.parametrize("factor", [1, 2, 3, 5])
def test_block_sum_keeps_the_total(factor):
    pixels = np.arange(30 * 60, dtype=np.uint16).reshape(30, 60)
    assert block_sum(pixels, factor, np.uint32).sum() == pixels.sum()
    assert block_sum(pixels, factor, np.uint32).shape == (30 // factor, 60 // factor)
