"""What the pixels of a coarser level must be, computed from the finest level with plain numpy, independent of the converter.

Partial results ("layers") are additive: integer sums and counts, unions of bits, or counts by class. They can be folded again
to a coarser grid without rounding in between.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zarrmill.core.rules import Rule

Pixels = NDArray[Any]  # Any: pixels keep the dtype of the source
Layers = dict[int, Pixels]
"""``average``: 0 the sum and 1 the count of valid pixels; ``or``: 0 the bits; ``mode``: count by class."""

_BAND_ROWS = 72
"""Rows folded at a time: few enough to stay in cache."""
_FEW_CLASSES = 32


def expected_levels(pixels: Pixels, levels: Sequence[tuple[int, Rule, int | None]]) -> list[Pixels]:
    """Return what each level must hold.

    Args: pixels: ``(y, x)`` of the finest level; both sides are multiples of every factor. levels: fine to coarse, each with
    factor, rule, and the integer that means no data in a mean.
    Returns: one array a level, in the dtype of ``pixels``.
    """
    unit = math.lcm(*(factor for factor, _, _ in levels))
    band = max(_BAND_ROWS // unit, 1) * unit
    bands = [_band_levels(pixels[start : start + band], levels) for start in range(0, len(pixels), band)]
    return [np.concatenate(parts) for parts in zip(*bands, strict=True)]


def _band_levels(pixels: Pixels, levels: Sequence[tuple[int, Rule, int | None]]) -> list[Pixels]:
    """Fold each level from the coarsest partial result that its cells are made of."""
    known: dict[tuple[Rule, int | None], dict[int, Layers]] = {}
    out = []
    for factor, rule, nodata in levels:
        if rule == "nearest":
            out.append(pixels[factor // 2 :: factor, factor // 2 :: factor])
            continue
        made = known.setdefault((rule, nodata), {})
        if not made:
            made[1] = first_layers(pixels, rule, nodata)
        finer = max(f for f in made if factor % f == 0)
        made[factor] = fold(made[finer], rule, factor // finer, {key: _room(layer, factor) for key, layer in made[1].items()})
        out.append(expected(made[factor], rule, pixels.dtype, nodata))
    return out


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
        # Looking for each of a few classes is several times faster than sorting.
        few = pixels.dtype.itemsize == 1 and pixels.size and pixels.min() >= 0 and pixels.max() < _FEW_CLASSES
        classes = range(int(pixels.max()) + 1) if few else np.unique(pixels).tolist()
        return {value: layer for value in classes if (layer := pixels == value).any()} or {0: pixels == 0}
    return {0: pixels}


def fold(layers: Layers, rule: Rule, factor: int, dtypes: Mapping[int, np.dtype[Any]]) -> Layers:
    """Combine ``factor`` x ``factor`` cells; both sides are multiples of it.

    Args: dtypes: of each layer of sums or counts; unions of bits keep theirs.
    """
    if rule == "or":
        return {key: _fold(layer, np.bitwise_or, factor, layer.dtype) for key, layer in layers.items()}
    return {key: _fold(layer, np.add, factor, dtypes[key]) for key, layer in layers.items()}


def _room(layer: Pixels, edge: int) -> np.dtype[Any]:
    """Return the narrowest dtype, for it is the fastest, of sums over ``edge`` x ``edge`` pixels of a layer of single pixels."""
    if layer.dtype.kind not in "bu":
        return layer.dtype
    most = 1 if layer.dtype.kind == "b" else int(np.iinfo(layer.dtype).max)
    return np.min_scalar_type(most * edge * edge)


def _fold(values: Pixels, ufunc: np.ufunc, factor: int, dtype: np.dtype[Any]) -> Pixels:
    """Combine rows, then columns."""
    for axis in (0, 1):
        if values.dtype.kind == "b" and ufunc is np.add:
            values = values.view(np.uint8)
        parts = [values[offset::factor] if axis == 0 else values[:, offset::factor] for offset in range(factor)]
        out = parts[0].astype(dtype)
        for part in parts[1:]:
            ufunc(out, part, out=out)
        values = out
    return values


def expected(layers: Layers, rule: Rule, dtype: np.dtype[Any], nodata: int | None) -> Pixels:
    """Return the level's pixels: mean rounded half to even, most frequent class (ties to the smallest), or union of bits.

    A mean is ``nodata`` only where no pixel is valid. Class 0 wins only where there is no other.
    """
    if rule == "average":
        total, count = layers[0], layers[1]
        mean = np.divide(total, np.maximum(count, 1), dtype=np.float64)
        if dtype.kind == "f":
            return np.where(count > 0, mean, np.nan).astype(dtype)
        pixels = np.rint(mean, out=mean).astype(dtype)
        if nodata:  # without it, or with 0, the sum of no pixel says it already
            pixels[count == 0] = nodata
        return pixels
    if rule == "mode":
        first = next(iter(layers.values()))
        best, most = np.zeros(first.shape, dtype), np.zeros_like(first)
        for value in sorted(set(layers) - {0}):
            np.copyto(best, value, where=layers[value] > most)
            np.maximum(most, layers[value], out=most)
        return best
    return layers[0].astype(dtype)


@dataclass(slots=True)
class Comparison:
    """How found pixels differ from expected ones, over all blocks of an array."""

    n: int = 0
    n_different: int = 0
    nodata_found: int = 0
    """Pixels without data in the blocks that are not equal."""
    nodata_expected: int = 0
    first: str = ""
    """Place, found and expected value of the first difference."""

    def add(self, found: Pixels, wanted: Pixels, start: tuple[int, ...]) -> Pixels | None:
        """Compare one block that starts at ``start``; return the mask of different pixels, or None when all are equal."""
        self.n += found.size
        if np.array_equal(found, wanted):
            return None
        if found.dtype.kind in "biuf":
            self.nodata_found += _n_nodata(found)
            self.nodata_expected += _n_nodata(wanted)
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
