"""Coarser levels of a raster from rows in memory.

A level's value is computed from the native pixels below it, once: sums and counts are carried from level to level, so the
mean of 36 x 36 pixels is exact and rounded once, never a mean of rounded means.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Stripe = NDArray[np.unsignedinteger]


def average_levels(stripe: Stripe, factors: Sequence[int], nodata: int = 0) -> list[Stripe]:
    """Return one array a factor: the mean of the valid pixels of each ``factor`` x ``factor`` block.

    Args:
        stripe: rows x width of DN, unsigned integers; both sides are multiples of every factor.
        factors: rising, each at least 2.
        nodata: the stored value that is not valid; every other value is, DN 1 to 999 (negative reflectance) and DN 1000
            (reflectance zero) too.
    Returns: arrays of the stripe's dtype; halves round to even; ``nodata`` only where no pixel of the block is valid.
    """
    valid = stripe != nodata
    complete = bool(valid.all())
    values: NDArray[np.unsignedinteger] = stripe if complete or nodata == 0 else np.where(valid, stripe, 0)
    sums: dict[int, NDArray[np.unsignedinteger]] = {1: values}
    counts: dict[int, NDArray[np.unsignedinteger]] = {1: valid.view(np.uint8)}
    levels = []
    for factor in factors:
        parent = max(known for known in sums if factor % known == 0)
        sums[factor] = block_sum(sums[parent], factor // parent, np.uint64 if factor > 256 else np.uint32)
        if complete:
            levels.append(_rounded(sums[factor], float(factor * factor), stripe.dtype))
            continue
        counts[factor] = block_sum(counts[parent], factor // parent, np.uint32)
        count = counts[factor]
        level = _rounded(sums[factor], np.maximum(count, 1), stripe.dtype)
        level[count == 0] = nodata
        levels.append(level)
    return levels


def average_float_levels(stripe: NDArray[np.float32], factors: Sequence[int]) -> list[NDArray[np.float32]]:
    """Return one array a factor: the mean of the values of each ``factor`` x ``factor`` block that are not NaN.

    Args: stripe: rows x width, both sides multiples of every factor; factors: as of ``average_levels``.
    Returns: float32, summed in float64 and rounded once; NaN only where the whole block is NaN.
    """
    valid = ~np.isnan(stripe)
    sums: dict[int, NDArray[np.float64]] = {1: np.where(valid, stripe, 0).astype(np.float64)}
    counts: dict[int, NDArray[np.float64]] = {1: valid.astype(np.float64)}
    levels = []
    for factor in factors:
        parent = max(known for known in sums if factor % known == 0)
        for parts in (sums, counts):
            rows, columns = (size // (factor // parent) for size in parts[parent].shape)
            parts[factor] = parts[parent].reshape(rows, factor // parent, columns, factor // parent).sum(axis=(1, 3))
        with np.errstate(invalid="ignore"):
            levels.append((sums[factor] / counts[factor]).astype(np.float32))
    return levels


def block_sum(values: NDArray[np.unsignedinteger], factor: int, dtype: type[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """Return the sum of each ``factor`` x ``factor`` block of ``values`` (rows x width), in ``dtype``.

    Strided additions, row-wise first: several times faster than a reshape with a reduction over two axes.
    """
    rows = np.add(values[0::factor], values[1::factor], dtype=dtype) if factor > 1 else values.astype(dtype)
    for offset in range(2, factor):
        np.add(rows, values[offset::factor], out=rows)
    if factor == 1:
        return rows
    out: NDArray[np.unsignedinteger] = np.add(rows[:, 0::factor], rows[:, 1::factor])
    for offset in range(2, factor):
        np.add(out, rows[:, offset::factor], out=out)
    return out


def _rounded(
    sums: NDArray[np.unsignedinteger], count: "NDArray[np.unsignedinteger] | float", dtype: np.dtype[np.unsignedinteger]
) -> Stripe:
    # Sums stay far below 2**53, so the quotient is the correctly rounded one and a half is met exactly.
    means = np.divide(sums, count, dtype=np.float64)
    np.rint(means, out=means)
    rounded: Stripe = means.astype(dtype)
    return rounded
