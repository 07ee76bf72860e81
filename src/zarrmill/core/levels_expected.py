"""What the pixels of a coarser level must be, computed from the finest level with plain numpy, independent of the converter.

Partial results ("layers") are additive: integer sums and counts, unions of bits, or counts by class. They can be folded again
to a coarser grid without rounding in between, and pieces of one cell that lie in different blocks can be put together.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zarrmill.core.rules import Rule

Pixels = NDArray[Any]  # Any: pixels keep the dtype of the source
Layers = dict[int, Pixels]
"""``average``: 0 the sum and 1 the count of valid pixels; ``or``: 0 the bits; ``mode``: count by class."""
Cell = tuple[int, int]
"""Row and column on some grid."""


_BAND_ROWS = 252
"""Rows folded at a time."""


def first_layers(pixels: Pixels, rule: Rule, nodata: int | None) -> Layers:
    """Return the layers of single pixels ``(y, x)``.

    Args: nodata: the integer that means no data, None where every one is valid; a float that is not finite is never valid.
    """
    if rule == "average":
        if pixels.dtype.kind == "f":
            valid = np.isfinite(pixels)
            return {0: np.where(valid, pixels, 0).astype(np.float64), 1: valid}
        valid = np.ones(pixels.shape, bool) if nodata is None else pixels != nodata
        narrow = pixels.dtype.itemsize <= 2 and pixels.dtype.kind == "u"
        values = pixels if narrow else pixels.astype(np.int64)
        return {0: np.where(valid, values, 0).astype(values.dtype) if nodata else values, 1: valid}
    if rule == "mode":
        return {int(value): pixels == value for value in np.unique(pixels)}
    return {0: pixels}


def fold(layers: Layers, rule: Rule, factor: int, start: Cell) -> Layers:
    """Combine ``factor`` x ``factor`` cells; cells cut by the block's edge hold what lies inside.

    Args: start: row and column of the block's first cell on the finer grid.
    """
    ufunc = np.bitwise_or if rule == "or" else np.add
    n_rows = len(next(iter(layers.values())))
    band = max(factor, _BAND_ROWS // factor * factor)
    if n_rows > band and start[0] % factor == 0 and n_rows % factor == 0:
        # In bands of rows that stay in cache: several times faster on a block of thousands of rows.
        bands = [{key: layer[i : i + band] for key, layer in layers.items()} for i in range(0, n_rows, band)]
        folded = [fold(part, rule, factor, (start[0] + i * band, start[1])) for i, part in enumerate(bands)]
        return {key: np.concatenate([part[key] for part in folded]) for key in layers}
    return {key: _fold(_fold(layer, ufunc, factor, start[0], 0), ufunc, factor, start[1], 1) for key, layer in layers.items()}


def _fold(values: Pixels, ufunc: np.ufunc, factor: int, start: int, axis: int) -> Pixels:
    if factor == 1:
        return values
    if values.dtype.kind == "b" and ufunc is np.add:
        values = values.view(np.uint8)
    # uint32 holds the sum of 65535 pixels of 16 bits, so factors up to 255 are exact.
    narrow = values.dtype.itemsize < 4 and values.dtype.kind in "bu"
    dtype = np.dtype(np.uint32) if narrow and ufunc is np.add else values.dtype
    length = values.shape[axis]
    if start % factor == 0 and length % factor == 0:
        pick = [slice(None), slice(None)]
        pick[axis] = slice(0, None, factor)
        out = values[tuple(pick)].astype(dtype)
        for offset in range(1, factor):
            pick[axis] = slice(offset, None, factor)
            ufunc(out, values[tuple(pick)], out=out)
        return out
    edges = np.maximum(np.arange(start // factor, (start + length - 1) // factor + 1) * factor - start, 0)
    return np.asarray(ufunc.reduceat(values, edges, axis=axis, dtype=dtype))


def expected(layers: Layers, rule: Rule, dtype: np.dtype[Any], nodata: int | None) -> Pixels:
    """Return the level's pixels: mean rounded half to even, most frequent class (ties to the smallest), or union of bits.

    A mean is ``nodata`` only where no pixel is valid. Class 0 wins only where there is no other.
    """
    if rule == "average":
        total, count = layers[0], layers[1]
        mean = total / np.maximum(count, 1)
        if dtype.kind == "f":
            return np.where(count > 0, mean, np.nan).astype(dtype)
        return np.where(count > 0, np.rint(mean), nodata or 0).astype(dtype)
    if rule == "mode":
        shape = next(iter(layers.values())).shape
        best, most = np.zeros(shape, dtype), np.zeros(shape, np.int64)
        for value in sorted(set(layers) - {0}):
            ahead = layers[value] > most
            best[ahead], most[ahead] = value, layers[value][ahead]
        return best
    return layers[0].astype(dtype)


def pick_nearest(pixels: Pixels, factor: int, start: Cell) -> tuple[Pixels, Cell]:
    """Return the pixels at index ``factor // 2`` of their cells, and the first cell that has its pixel in this block."""
    first = tuple(-(-(s - factor // 2) // factor) for s in start)
    offset = [cell * factor + factor // 2 - s for cell, s in zip(first, start, strict=True)]
    return pixels[offset[0] :: factor, offset[1] :: factor], (first[0], first[1])


@dataclass(slots=True)
class Accumulator:
    """A whole coarse level put together from blocks whose edges cut its cells."""

    rule: Rule
    shape: Cell
    """Shape of the level."""
    layers: Layers = field(default_factory=dict)

    def add(self, layers: Mapping[int, Pixels], cell: Cell) -> None:
        """Add the layers of one block; ``cell`` is its first cell on the level."""
        for key, layer in layers.items():
            if key not in self.layers:
                self.layers[key] = np.zeros(self.shape, layer.dtype)
            rows, columns = layer.shape
            place = self.layers[key][cell[0] : cell[0] + rows, cell[1] : cell[1] + columns]
            if self.rule == "or":
                place |= layer
            else:
                place += layer


@dataclass(slots=True)
class Comparison:
    """How found pixels differ from expected ones, over all blocks of an array."""

    n: int = 0
    n_different: int = 0
    nodata_found: int = 0
    nodata_expected: int = 0
    first: str = ""
    """Place, found and expected value of the first difference."""

    def add(self, found: Pixels, wanted: Pixels, start: tuple[int, ...]) -> Pixels | None:
        """Compare one block that starts at ``start``; return the mask of different pixels, or None when all are equal."""
        self.n += found.size
        if found.dtype.kind in "biuf":
            self.nodata_found += _n_nodata(found)
            self.nodata_expected += _n_nodata(wanted)
        if np.array_equal(found, wanted):
            return None
        different = np.asarray(found != wanted)
        if found.dtype.kind == "f" and wanted.dtype.kind == "f":
            different &= ~(np.isnan(found) & np.isnan(wanted))
        n_different = int(np.count_nonzero(different))
        if not n_different:
            return None
        if not self.first:
            index = np.unravel_index(int(np.argmax(different)), different.shape)
            place = tuple(int(i) + s for i, s in zip(index, start, strict=True))
            self.first = f"at {place} found {found[index]}, expected {wanted[index]}"
        self.n_different += n_different
        return different


def _n_nodata(pixels: Pixels) -> int:
    if pixels.dtype.kind == "f":
        return int(np.count_nonzero(~np.isfinite(pixels)))
    return int(pixels.size - np.count_nonzero(pixels))
