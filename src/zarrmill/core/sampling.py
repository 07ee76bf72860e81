"""What a pixel is made of: the samples around its position in an image, and backscatter of them.

All weights are integers and every sum is exact, so equal inputs give equal bytes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zarrmill.model import CalibrationTable

Ints = NDArray[np.integer]
Samples = NDArray[np.uint32]
"""A window of DN, in 32 bits: sums of weighed samples fit."""


@dataclass(frozen=True, slots=True)
class Taps:
    """Where pixels take their samples, and by how much; good for every image of one shape."""

    index: NDArray[np.intp]
    """Flat index of the upper left sample in a window."""
    width: int
    """Width of the window."""
    weights: tuple[NDArray[np.uint32], ...]
    """Of the samples upper left, upper right, lower left, lower right; 65536 in all. Empty where the first is all."""


def taps(line: Ints, pixel: Ints, width: int, *, weighed: bool = True) -> Taps:
    """Return taps at positions in 1/65536 of a sample, counted from a window's first sample.

    Weights go by 1/256; positions are rounded to that, or to the nearest sample where it alone is taken.
    """
    half = line.dtype.type(128 if weighed else 32768)
    line, pixel = line + half, pixel + half
    index = (line >> 16) * line.dtype.type(width) + (pixel >> 16)
    if not weighed:
        return Taps(index.astype(np.intp), width, ())
    down, right = ((position >> 8 & 255).astype(np.uint32) for position in (line, pixel))
    both, above, before = down * right, np.uint32(256) - down, np.uint32(256) - right
    return Taps(index.astype(np.intp), width, (above * before, above * right, down * before, both))


def bilinear(samples: Samples, at: Taps) -> NDArray[np.uint16]:
    """Return the mean of the four samples around each position, weighed by nearness; a sample of DN 0 has no weight.

    Args: samples: window; each position has both its neighbours in it.
    Returns: DN, halves up; 0 where samples with data have less than half of the weight, so the data neither grow nor shrink.
    """
    flat = samples.ravel()
    corners = [flat[offset:].take(at.index, mode="clip") for offset in (0, 1, at.width, at.width + 1)]
    if samples.all():
        total = corners[0] * at.weights[0]
        for corner, weight in zip(corners[1:], at.weights[1:], strict=True):
            np.multiply(corner, weight, out=corner)
            total += corner
        total += 32768
        total >>= 16
        complete: NDArray[np.uint16] = total.astype(np.uint16)
        return complete
    share = np.zeros(at.index.shape, np.uint32)
    total = np.zeros(at.index.shape, np.uint32)
    for corner, weight in zip(corners, at.weights, strict=True):
        total += corner * weight
        share += weight * (corner != 0)
    wide = (total.astype(np.uint64) + (share >> 1)) // np.maximum(share, 1)  # the sum can reach 2**32 - 65536
    found: NDArray[np.uint16] = np.where(share >= 32768, wide, 0).astype(np.uint16)
    return found


def nearest(samples: Samples, at: Taps) -> NDArray[np.uint16]:
    """Return the sample at each position; positions are those of the nearest."""
    found: NDArray[np.uint16] = samples.ravel().take(at.index, mode="clip").astype(np.uint16)
    return found


def calibrated(
    dn: NDArray[np.uint16], table: CalibrationTable, line: NDArray[np.float64], pixel: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return backscatter DN**2 / LUT**2 in linear power, NaN where DN is 0.

    Source: Sentinel-1 Level 1 Detailed Algorithm Definition, radiometric calibration; the table is bilinear in line and pixel.
    """
    row = np.interp(line, table.lines, np.arange(table.lines.size))
    column = np.interp(pixel, table.pixels, np.arange(table.pixels.size))
    i = np.minimum(row.astype(np.intp), table.lines.size - 2)
    j = np.minimum(column.astype(np.intp), table.pixels.size - 2)
    t, u, values = row - i, column - j, table.values
    above = values[i, j] * (1 - u) + values[i, j + 1] * u
    below = values[i + 1, j] * (1 - u) + values[i + 1, j + 1] * u
    power = (dn / (above * (1 - t) + below * t)) ** 2
    return np.where(dn == 0, np.nan, power).astype(np.float32)
