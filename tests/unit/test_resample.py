"""Levels against a naive reference that loops over cells with fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from zarrmill.core.resample import average_levels, block_sum

SPECIAL = np.array([0, 1, 17, 999, 1000, 1001, 65534, 65535], np.uint16)


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


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    factors=st.sampled_from([(2,), (2, 6), (3,), (2, 6, 12), (3, 6, 18), (5, 10)]),
    data=st.data(),
)
def test_average_equals_the_naive_reference(blocks, factors, data):
    shape = (blocks[0] * factors[-1], blocks[1] * factors[-1])
    values = st.one_of(st.sampled_from([int(v) for v in SPECIAL]), st.integers(0, 65535))
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
