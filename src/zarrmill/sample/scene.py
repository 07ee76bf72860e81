"""The picture: ground, clouds, shadows, snow, special pixels and nodata, band by band and consistent over levels."""

from collections.abc import Callable, Iterator
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from zarrmill.sample.bands import Band
from zarrmill.sample.clouds import Clouds
from zarrmill.sample.pixels import PixelSource, UInt16Array
from zarrmill.sample.spec import SampleSpec
from zarrmill.sample.swath import Swath

UInt8Array = NDArray[np.uint8]

NEGATIVE = {1: (4, 16, 4), 2: (2, 8, 2), 6: (0, 2, 1)}
"""By factor: row, column (from the anchor) and edge of the square with DN from 1 to 999."""
ZERO_REFLECTANCE = {1: ((14, 6), (14, 12), (15, 20)), 2: ((7, 3), (7, 10)), 6: ((2, 1),)}
"""By factor: isolated pixels of DN 1000."""
SATURATED = {1: ((22, 6), (22, 7), (23, 6), (23, 7), (23, 15)), 2: ((11, 3),), 6: ((3, 1),)}
"""By factor: pixels of DN 65535."""
SNOW_CELLS = (slice(4, 6), slice(3, 6))
"""The snow patch in 60 m pixels from the anchor."""
QUALITY_ROW = 2
"""Row, in 60 m pixels from the anchor, whose six pixels carry one quality bit each."""
QUALITY_BITS = (1, 2, 4, 8, 16, 64)
QT_NODATA, QT_SATURATED = 32, 128
DETECTORS = (3, 4, 5, 6, 7, 8)
"""Detectors that see the product, west to east."""
BLOCK_PX = 240
"""Rows worked on at a time, at any resolution: temporaries stay in the cache."""
Rows = tuple[int, int]


class Scene:
    """All rasters of one product. Arrays are whole and square; rows are computed in blocks on ``pool``."""

    def __init__(self, spec: SampleSpec, source: PixelSource, pool: Executor) -> None:
        """Prepare; computes nothing yet."""
        self.spec = spec
        self.swath = Swath(spec)
        self.clouds = Clouds(spec)
        self._source = source
        self._pool = pool

    def band(self, band: Band) -> UInt16Array:
        """DN of ``band`` at its native resolution; 0 = no data."""
        out = np.empty(self._shape(band.factor), np.uint16)

        def work(start: int, stop: int) -> None:
            out[start:stop] = self._rows(band, start, stop)

        self._in_blocks(out.shape[0], work)
        self._special(out, band.factor, band.snow_dn)
        self.swath.blank(out, 0, band.factor)
        return out

    def mean(self, dn: UInt16Array, factor: int) -> UInt16Array:
        """``dn`` at ``factor`` times the pixel size: see ``mean_of_valid``."""
        out = np.empty((dn.shape[0] // factor, dn.shape[1] // factor), np.uint16)

        def work(start: int, stop: int) -> None:
            out[start:stop] = mean_of_valid(dn[start * factor : stop * factor], factor)

        self._in_blocks(out.shape[0], work)
        return out

    def refine(self, dn: UInt16Array, factor: int, repeat: int) -> UInt16Array:
        """Repeat each pixel of ``dn`` ``repeat`` times in y and x, on the grid ``factor``; 0 where that has no data."""
        out = np.repeat(np.repeat(dn, repeat, axis=0), repeat, axis=1)
        self.swath.blank(out, 0, factor)
        return out

    def cloud_percent(self) -> UInt8Array:
        """Cloud probability at 20 m, percent; 0 on snow and where there is no data."""
        out = np.empty(self._shape(2), np.uint8)

        def work(start: int, stop: int) -> None:
            out[start:stop] = self.clouds.percent(2, start, stop)

        self._in_blocks(out.shape[0], work)
        out[self._snow(2)] = 0
        self.swath.blank(out, 0, 2)
        return out

    def snow_percent(self) -> UInt8Array:
        """Snow probability at 20 m, percent: 95 on the snow patch, else 0."""
        out = np.zeros(self._shape(2), np.uint8)
        out[self._snow(2)] = 95
        self.swath.blank(out, 0, 2)
        return out

    def classes(self, dn20: dict[str, UInt16Array], cloud: UInt8Array) -> UInt8Array:
        """Scene classes (SCL) at 20 m from b03, b04, b8a, b11 at 20 m and the cloud probability; 0 = no data."""
        out = np.empty(self._shape(2), np.uint8)

        def work(start: int, stop: int) -> None:
            b03, b04, b8a, b11 = (dn20[b][start:stop] for b in ("b03", "b04", "b8a", "b11"))
            shadow = self.clouds.shadow(2, start, stop)
            out[start:stop] = classify(b03, b04, b8a, b11, cloud[start:stop], shadow)

        self._in_blocks(out.shape[0], work)
        out[self._snow(2)] = 11
        top, left = self._anchor(2)
        for y, x in SATURATED[2]:
            out[top + y, left + x] = 1
        self.swath.blank(out, 0, 2)
        return out

    def classes_60(self, scl20: UInt8Array) -> UInt8Array:
        """SCL at 60 m: the middle one of 3 x 3; where that has no data and others have, the highest of them."""
        middle = scl20[1::3, 1::3].copy()
        gap = middle == 0
        n = middle.shape[0]
        middle[gap] = scl20.reshape(n, 3, n, 3).max(axis=(1, 3))[gap]
        return middle

    def cloud_flags_60(self) -> UInt8Array:
        """L1C classification at 60 m: bits 1 opaque cloud, 2 cirrus, 4 snow or ice; 0 where there is no data."""
        n = self.spec.shape_px(60)
        percent = self.clouds.percent(6, 0, n)
        flags = np.where(percent >= 35, 1, np.where((percent >= 25) & (percent < 35), 2, 0)).astype(np.uint8)
        flags[self._snow(6)] = 4
        self.swath.blank(flags, 0, 6)
        return flags

    def quality(self, factor: int) -> UInt8Array:
        """Quality mask of a band with ``factor``: nodata, saturated, and each other bit on one 60 m pixel."""
        flags = np.zeros(self._shape(factor), np.uint8)
        top, left = self._anchor(factor)
        cell = 6 // factor
        row = top + QUALITY_ROW * cell
        for k, bit in enumerate(QUALITY_BITS):
            flags[row : row + cell, left + k * cell : left + (k + 1) * cell] |= bit
        for y, x in SATURATED[factor]:
            flags[top + y, left + x] |= QT_SATURATED
        self.swath.blank(flags, 0, factor, value=QT_NODATA)
        return flags

    def detectors(self, band: Band) -> UInt8Array:
        """Detector number of each pixel: slanted stripes, a little shifted from band to band; 0 = no data."""
        n = self.spec.size_px // band.factor
        out = np.empty((n, n), np.uint8)
        shift = n * 0.002 * (int(band.wavelength_nm) % 7)
        bounds = np.arange(len(DETECTORS) + 1) * (n * 1.2 / len(DETECTORS)) - n * 0.1 + shift
        slant = np.rint(bounds[None, :] - 0.15 * (np.arange(n)[:, None] - n / 2)).clip(0, n).astype(np.int64)
        for y in range(n):
            for k, detector in enumerate(DETECTORS):
                out[y, 0 if k == 0 else slant[y, k] :] = detector
        self.swath.blank(out, 0, band.factor)
        return out

    def _rows(self, band: Band, start: int, stop: int) -> UInt16Array:
        dn = self._source.rows(band, start, stop)
        overlay = self.clouds.overlay(band.factor, start, stop)
        if overlay is None and self.spec.brightness == 1:
            return dn
        reflectance = dn.astype(np.float32)
        reflectance -= 1000
        reflectance *= np.float32(self.spec.brightness)
        if overlay is not None:
            overlay.apply(reflectance, band.cloud_dn - 1000)
        reflectance += 1000
        return np.clip(np.rint(reflectance), 1, 65535).astype(np.uint16)

    def _special(self, dn: UInt16Array, factor: int, snow_dn: int) -> None:
        top, left = self._anchor(factor)
        snow = self._snow(factor)
        dn[snow] = snow_dn + dn[snow] % 64
        y, x, edge = NEGATIVE[factor]
        square = np.linspace(1, 999, edge * edge).astype(np.uint16).reshape(edge, edge)
        dn[top + y : top + y + edge, left + x : left + x + edge] = square
        for y, x in ZERO_REFLECTANCE[factor]:
            dn[top + y, left + x] = 1000
        for y, x in SATURATED[factor]:
            dn[top + y, left + x] = 65535

    def _snow(self, factor: int) -> tuple[slice, slice]:
        cell = 6 // factor
        top, left = self._anchor(factor)
        y, x = SNOW_CELLS
        return (
            slice(top + y.start * cell, top + y.stop * cell),
            slice(left + x.start * cell, left + x.stop * cell),
        )

    def _anchor(self, factor: int) -> tuple[int, int]:
        top, left = self.swath.anchor_px
        return top // factor, left // factor

    def _shape(self, factor: int) -> tuple[int, int]:
        return self.spec.size_px // factor, self.spec.size_px // factor

    def _in_blocks(self, n_rows: int, work: Callable[[int, int], None]) -> None:
        list(self._pool.map(lambda rows: work(*rows), _blocks(n_rows)))


def _blocks(n_rows: int) -> Iterator[Rows]:
    for start in range(0, n_rows, BLOCK_PX):
        yield start, min(start + BLOCK_PX, n_rows)


def mean_of_valid(dn: UInt16Array, factor: int) -> UInt16Array:
    """Mean of the valid (not 0) DN of each ``factor`` x ``factor`` square, rounded half to even; 0 if none is valid."""
    parts = [dn[i::factor, j::factor] for i in range(factor) for j in range(factor)]
    total = np.zeros(parts[0].shape, np.uint32)
    for part in parts:
        total += part
    if dn.all():
        return np.rint(total / (factor * factor)).astype(np.uint16)
    count = np.zeros(total.shape, np.uint32)
    for part in parts:
        count += part != 0
    return np.rint(total / np.maximum(count, 1)).astype(np.uint16)


def classify(
    b03: UInt16Array,
    b04: UInt16Array,
    b8a: UInt16Array,
    b11: UInt16Array,
    cloud: UInt8Array,
    shadow: NDArray[np.float32],
) -> UInt8Array:
    """SCL class by simple rules: 4 vegetation, 5 bare, 6 water, 2 dark; 3 shadow; 7, 10, 8, 9 by cloud percent.

    ``cloud`` >= 65 is 9, 35-64 is 8, 25-34 is 10, 21-24 is 7; ``shadow`` (0 to 1) above 0.3 is 3.
    """
    green, red, nir, swir = (b.astype(np.float32) - 1000 for b in (b03, b04, b8a, b11))
    scl = np.full(b03.shape, 5, np.uint8)
    scl[nir - red > 0.4 * (nir + red)] = 4
    scl[(green < 600) & (nir < 900) & (green <= nir)] = 2
    scl[(green > nir) & (swir < green)] = 6
    scl[shadow > 0.3] = 3
    for least, value in ((21, 7), (25, 10), (35, 8), (65, 9)):
        scl[cloud >= least] = value
    return scl


def true_colour(dn: UInt16Array) -> UInt8Array:
    """Quick-look value of a band: 1 for DN <= 1000, 255 at reflectance 0.3558; 0 = no data."""
    table = np.clip(np.rint((np.arange(65536) - 1000.0) * (255 / 3558)), 1, 255).astype(np.uint8)
    table[0] = 0
    return table[dn]
