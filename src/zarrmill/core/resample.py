"""Coarser levels of a raster from rows in memory.

A level's value is computed from the native pixels below it, once: sums, counts, unions and counts by class are carried from
level to level, so the mean of 36 x 36 pixels is exact and rounded once, never a mean of rounded means.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Stripe = NDArray[np.unsignedinteger]
Pixels = NDArray[Any]  # Any: pixels keep the dtype of the source


def coarser_levels(stripe: Pixels, factors: Sequence[int], rule: str, nodata: int | None) -> list[Pixels]:
    """Return one array a factor, made by ``rule`` from each ``factor`` x ``factor`` block.

    Args:
        stripe: rows x width of unsigned integers, or of floats for the rule ``average``; both sides are multiples of every
            factor.
        factors: rising, each at least 2.
        nodata: the stored value that is not valid, for the rule ``average`` on integers; None when every value is.
    """
    levels: list[Pixels] = []
    if rule == "average" and stripe.dtype.kind == "f":
        levels += average_float_levels(stripe, factors)
    elif rule == "average":
        levels += average_levels(stripe, factors, nodata)
    elif rule == "mode":
        levels += mode_levels(stripe, factors)
    elif rule == "or":
        levels += or_levels(stripe, factors)
    else:
        levels += [stripe[factor // 2 :: factor, factor // 2 :: factor] for factor in factors]
    return levels


def average_levels(stripe: Stripe, factors: Sequence[int], nodata: int | None = 0) -> list[Stripe]:
    """Return one array a factor: the mean of the valid pixels of each ``factor`` x ``factor`` block.

    Args:
        stripe: rows x width of DN, unsigned integers; both sides are multiples of every factor.
        factors: rising, each at least 2.
        nodata: the stored value that is not valid; every other value is, DN 1 to 999 (negative reflectance) and DN 1000
            (reflectance zero) too. None: every value is valid.
    Returns: arrays of the stripe's dtype; halves round to even; ``nodata`` only where no pixel of the block is valid.
    """
    # The least value tells soonest that none is 0.
    valid = np.array(True) if nodata is None or (nodata == 0 and stripe.min() > 0) else stripe != nodata
    complete = bool(valid.all())
    values: NDArray[np.unsignedinteger] = stripe if complete or nodata == 0 else np.where(valid, stripe, 0).astype(stripe.dtype)
    sums: dict[int, NDArray[np.unsignedinteger]] = {1: values}
    counts: dict[int, NDArray[np.unsignedinteger]] = {1: valid.view(np.uint8)}
    levels = []
    for factor in factors:
        parent = _parent(sums, factor)
        sums[factor] = block_sum(sums[parent], factor // parent, np.uint64 if factor > 256 else np.uint32)
        if complete:
            levels.append(_rounded(sums[factor], float(factor * factor), stripe.dtype))
            continue
        counts[factor] = block_sum(counts[parent], factor // parent, np.uint32)
        count = counts[factor]
        level = _rounded(sums[factor], np.maximum(count, 1), stripe.dtype)
        level[count == 0] = nodata or 0
        levels.append(level)
    return levels


def average_float_levels(stripe: NDArray[np.floating], factors: Sequence[int]) -> list[NDArray[np.floating]]:
    """Return one array a factor: the mean of the values of each ``factor`` x ``factor`` block that are finite.

    Args: stripe: rows x width, both sides multiples of every factor; factors: as of ``average_levels``.
    Returns: arrays of the stripe's dtype, summed in float64 and rounded once; NaN only where no value of the block is finite.
    """
    valid = np.isfinite(stripe)
    sums: dict[int, NDArray[np.float64]] = {1: np.where(valid, stripe, 0).astype(np.float64)}
    counts: dict[int, NDArray[np.float64]] = {1: valid.astype(np.float64)}
    levels = []
    for factor in factors:
        parent = _parent(sums, factor)
        for parts in (sums, counts):
            rows, columns = (size // (factor // parent) for size in parts[parent].shape)
            parts[factor] = parts[parent].reshape(rows, factor // parent, columns, factor // parent).sum(axis=(1, 3))
        with np.errstate(invalid="ignore"):
            levels.append((sums[factor] / counts[factor]).astype(stripe.dtype))
    return levels


def mode_levels(stripe: Stripe, factors: Sequence[int]) -> list[Stripe]:
    """Return one array a factor: the most frequent class of each ``factor`` x ``factor`` block.

    Class 0 is no data: it is taken only where the block has no other. Of classes equally frequent the smallest is taken.
    """
    levels = [np.zeros([size // factor for size in stripe.shape], stripe.dtype) for factor in factors]
    most = [np.zeros(level.shape, _count_dtype(factor)) for factor, level in zip(factors, levels, strict=True)]
    for value in _classes(stripe):
        here = stripe == value
        if not here.any():
            continue
        counts: dict[int, Stripe] = {1: here.view(np.uint8)}
        for factor, level, best in zip(factors, levels, most, strict=True):
            parent = _parent(counts, factor)
            counts[factor] = block_sum(counts[parent], factor // parent, _count_dtype(factor))
            np.copyto(level, value, where=counts[factor] > best)  # rising values: a later one wins only by more
            np.maximum(best, counts[factor], out=best)
    return levels


def or_levels(stripe: Stripe, factors: Sequence[int]) -> list[Stripe]:
    """Return one array a factor: the union of the bits of each ``factor`` x ``factor`` block."""
    if not stripe.any():  # most stripes of most masks
        return [np.zeros([size // factor for size in stripe.shape], stripe.dtype) for factor in factors]
    unions: dict[int, Stripe] = {1: stripe}
    for factor in factors:
        parent = _parent(unions, factor)
        unions[factor] = _reduced(unions[parent], factor // parent, np.bitwise_or, stripe.dtype)
    return [unions[factor] for factor in factors]


def block_sum(values: NDArray[np.unsignedinteger], factor: int, dtype: DTypeLike) -> NDArray[np.unsignedinteger]:
    """Return the sum of each ``factor`` x ``factor`` block of ``values`` (rows x width), in ``dtype``."""
    if factor == 2 and values.dtype == np.uint16 and dtype == np.uint32 and values.flags.c_contiguous and not values.shape[1] % 2:
        return _sum_of_fours(values)
    return _reduced(values, factor, np.add, dtype)


def _sum_of_fours(values: NDArray[np.uint16]) -> NDArray[np.uint32]:
    """Return the sum of each 2 x 2 block, 1.6 times faster: two neighbours are the halves of one word in either byte order."""
    low, width = np.uint32(0xFFFF), np.uint32(16)
    above, below = values.view(np.uint32)[0::2], values.view(np.uint32)[1::2]
    out: NDArray[np.uint32] = above & low
    for part in (above >> width, below & low, below >> width):
        out += part
    return out


def _reduced(values: Pixels, factor: int, ufunc: np.ufunc, dtype: DTypeLike) -> Pixels:
    """Reduce each ``factor`` x ``factor`` block.

    Strided operations, row-wise first: several times faster than a reshape with a reduction over two axes.
    """
    if factor == 1:
        return values.astype(dtype)
    rows: Pixels = ufunc(values[0::factor], values[1::factor], dtype=dtype)
    for offset in range(2, factor):
        ufunc(rows, values[offset::factor], out=rows)
    out: Pixels = ufunc(rows[:, 0::factor], rows[:, 1::factor])
    for offset in range(2, factor):
        ufunc(out, rows[:, offset::factor], out=out)
    return out


def _parent(known: dict[int, Any], factor: int) -> int:
    """Return the coarsest level so far that ``factor`` is a multiple of."""
    return max(finer for finer in known if factor % finer == 0)


def _count_dtype(factor: int) -> type[np.unsignedinteger]:
    """Return the narrowest dtype that counts the pixels of a block."""
    return np.uint8 if factor < 16 else np.uint16 if factor < 256 else np.uint32


def _classes(stripe: Stripe) -> list[int]:
    """Return the classes that a stripe may hold but 0, rising."""
    if stripe.dtype.itemsize > 1:
        return [int(value) for value in np.unique(stripe) if value]
    return list(range(1, int(stripe.max()) + 1))  # looking for each is several times faster than sorting


def _rounded(
    sums: NDArray[np.unsignedinteger], count: "NDArray[np.unsignedinteger] | float", dtype: np.dtype[np.unsignedinteger]
) -> Stripe:
    # Sums stay far below 2**53, so the quotient is the correctly rounded one and a half is met exactly.
    means = np.divide(sums, count, dtype=np.float64)
    np.rint(means, out=means)
    rounded: Stripe = means.astype(dtype)
    return rounded
