"""Rows of a radar image on a map grid, in bounded memory.

Backwards: for each pixel of the grid its position in the image is found, and the samples around it are weighed. Positions are
solved on a lattice of 16 pixels; a block of 32 x 32 whose middles agree with straight lines between its corners takes these
lines, any other (ground control points bend the map there) is solved pixel by pixel.
A position is kept in 1/256 of a sample and all weights are integers, so equal inputs give equal bytes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zarrmill.core.geolocation import Geolocation
from zarrmill.model import CalibrationTable, Warp

BLOCK_PX = 32
"""Edge of the blocks inside which positions are taken as linear."""
TILE_PX = 512
"""Width of the pieces that are resampled at a time: few enough to stay in cache."""
LINEAR_PX = 0.02
"""Largest distance of a block's middles from straight lines; where the map bends, the bend is at most twice as far off."""
_ONE = 256
Floats = NDArray[np.float64]
Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Window:
    """A part of an image; it may reach beyond its edges."""

    top: int
    bottom: int
    left: int
    right: int


class Windows(Protocol):
    """An image that is read by window."""

    def prepare(self, windows: Sequence[Window]) -> None:
        """Be told what will be read before the next call of this."""
        ...

    def read(self, window: Window) -> NDArray[Any]:
        """Return the samples of a window; 0 beyond the edges of the image."""
        ...


class WarpedRows:
    """Rows of an image on the grid of ``warp``, read in any order."""

    def __init__(self, warp: Warp, shape: tuple[int, int], windows: Windows) -> None:
        """Take the image's shape ``(lines, samples)`` and where its samples come from."""
        self._warp, self._windows = warp, windows
        self._height, self._width = shape
        self._geolocation = Geolocation(warp.gcps, warp.grid.crs, warp.utm)

    def read(self, plane: int, start: int, stop: int) -> NDArray[Any]:
        """Return rows ``start`` to ``stop`` (of plane 0, there is one only), shape ``(stop - start, width)``.

        uint16 DN, 0 without data; with a calibration table float32 backscatter, NaN without data.
        """
        stop = min(stop, self._warp.grid.shape[0])
        first, last = start // BLOCK_PX, -(-stop // BLOCK_PX)
        lattice = self._lattice(first, last)
        tiles = [tile for tile in self._tiles(lattice) if self._touches(tile)]
        self._windows.prepare([self._window(*tile.nodes) for tile in tiles])
        width, table = self._warp.grid.shape[1], self._warp.calibration
        out = np.zeros((stop - start, width), np.uint16) if table is None else np.full((stop - start, width), np.nan, np.float32)
        inside = slice(start - first * BLOCK_PX, stop - first * BLOCK_PX)
        for tile in tiles:
            line, pixel = self._positions(tile, first)
            columns = slice(tile.column, min(tile.column + line.shape[1], width))
            out[:, columns] = self._resampled(line, pixel)[inside, : columns.stop - columns.start]
        return out

    def _lattice(self, first: int, last: int) -> tuple[Floats, Floats]:
        """Return positions (1/256 px) at corners and middles of the blocks in block rows ``first`` to ``last``."""
        half = BLOCK_PX // 2
        rows = np.arange(first * BLOCK_PX, last * BLOCK_PX + 1, half)
        columns = np.arange(0, -(-self._warp.grid.shape[1] // BLOCK_PX) * BLOCK_PX + 1, half)
        return self._solve(*np.meshgrid(rows, columns, indexing="ij"))

    def _solve(self, row: NDArray[Any], column: NDArray[Any], near: tuple[Floats, Floats] | None = None) -> tuple[Floats, Floats]:
        """Return positions (1/256 px) of pixels of the grid; ``near`` are positions to start from."""
        a, _, c, _, e, f = self._warp.grid.transform
        start = (near[0] / _ONE, near[1] / _ONE) if near else None
        line, pixel = self._geolocation.inverse(c + a * (column + 0.5), f + e * (row + 0.5), start)
        return line * _ONE, pixel * _ONE

    def _tiles(self, lattice: tuple[Floats, Floats]) -> "Iterator[_Tile]":
        step = TILE_PX // BLOCK_PX * 2
        for start in range(0, lattice[0].shape[1] - 1, step):
            line, pixel = (part[:, start : start + step + 1] for part in lattice)
            yield _Tile(start * BLOCK_PX // 2, (line, pixel))

    def _touches(self, tile: "_Tile") -> bool:
        return bool(_meets(tile.nodes[0], self._height) and _meets(tile.nodes[1], self._width))

    def _window(self, line: NDArray[Any], pixel: NDArray[Any]) -> Window:
        """Return the samples that positions (1/256 px) need, with their neighbours, at most one beyond the image's edges."""
        top, left = (max(int(v.min()) // _ONE - 1, -1) for v in (line, pixel))
        bottom, right = (min(int(v.max()) // _ONE + 3, n + 2) for v, n in ((line, self._height), (pixel, self._width)))
        return Window(min(top, self._height), max(bottom, top + 2), min(left, self._width), max(right, left + 2))

    def _positions(self, tile: "_Tile", first: int) -> tuple[Ints, Ints]:
        """Return the position of each pixel of a tile in whole 1/256 px."""
        line, pixel = (_linear(nodes) for nodes in tile.nodes)
        bent = (_bend(tile.nodes[0]) | _bend(tile.nodes[1])) & self._blocks_inside(tile)
        if bent.any():
            at = np.repeat(np.repeat(bent, BLOCK_PX, axis=0), BLOCK_PX, axis=1)
            row, column = np.nonzero(at)
            near = (line[at], pixel[at])
            line[at], pixel[at] = self._solve(row + first * BLOCK_PX, column + tile.column, near)
        return self._whole(line, self._height), self._whole(pixel, self._width)

    def _blocks_inside(self, tile: "_Tile") -> NDArray[np.bool_]:
        """Return for each block whether it meets the image."""
        inside = np.ones((tile.nodes[0].shape[0] // 2, tile.nodes[0].shape[1] // 2), np.bool_)
        for nodes, size in zip(tile.nodes, (self._height, self._width), strict=True):
            blocks = np.stack([nodes[i : nodes.shape[0] - 2 + i : 2, j : nodes.shape[1] - 2 + j : 2] for i, j in _NINE])
            inside &= _meets(blocks, size, axis=0)
        return inside

    def _whole(self, position: Floats, size: int) -> Ints:
        """Return positions as whole 1/256 px; those beyond an edge as lying one sample beyond it, where there is no data."""
        np.rint(position, out=position)
        np.clip(position, -_ONE, size * _ONE, out=position)
        return position.astype(np.int32)

    def _resampled(self, line: Ints, pixel: Ints) -> NDArray[Any]:
        window = self._window(line, pixel)
        samples = self._windows.read(window)
        line_in, pixel_in = line - window.top * _ONE, pixel - window.left * _ONE
        method = nearest if self._warp.resampling == "nearest" else bilinear
        dn = method(samples, line_in, pixel_in)
        if self._warp.calibration is None:
            return dn
        return calibrated(dn, self._warp.calibration, line / _ONE, pixel / _ONE)


@dataclass(frozen=True, slots=True)
class _Tile:
    column: int
    """First column on the grid."""
    nodes: tuple[Floats, Floats]
    """Line and pixel at corners (even) and middles (odd) of its blocks, in 1/256 px."""


_NINE = [(i, j) for i in range(3) for j in range(3)]


def _meets(nodes: Floats, size: int, axis: int | None = None) -> Any:  # np.bool_ or an array of it
    """Return whether positions (1/256 px) reach into an image of ``size``, give or take what lies between them."""
    slack = 4 * _ONE
    return (nodes.max(axis=axis) > -slack) & (nodes.min(axis=axis) < size * _ONE + slack)


def _linear(nodes: Floats) -> Floats:
    """Return the value at each pixel of the blocks whose corners are the even nodes, bilinear between the corners."""
    corners = nodes[::2, ::2]
    part = np.arange(BLOCK_PX) / BLOCK_PX
    down = corners[:-1, None, :] + np.diff(corners, axis=0)[:, None, :] * part[:, None]
    rows = down.reshape(-1, corners.shape[1])
    across = rows[:, :-1, None] + (np.diff(rows, axis=1) / BLOCK_PX)[:, :, None] * np.arange(BLOCK_PX, dtype=np.float64)
    return across.reshape(rows.shape[0], -1)


def _bend(nodes: Floats) -> NDArray[np.bool_]:
    """Return for each block whether the nodes at its middles lie off the lines between its corners."""
    corners = nodes[::2, ::2]
    top_mid = (corners[:, :-1] + corners[:, 1:]) / 2
    left_mid = (corners[:-1] + corners[1:]) / 2
    off = [np.abs(nodes[1::2, 1::2] - (top_mid[:-1] + top_mid[1:]) / 2)]
    across, down = np.abs(nodes[::2, 1::2] - top_mid), np.abs(nodes[1::2, ::2] - left_mid)
    off += [across[:-1], across[1:], down[:, :-1], down[:, 1:]]
    bent: NDArray[np.bool_] = np.max(off, axis=0) > LINEAR_PX * _ONE
    return bent


def bilinear(samples: NDArray[np.uint16], line: Ints, pixel: Ints) -> NDArray[np.uint16]:
    """Return the mean of the four samples around each position, weighed by nearness; a sample of DN 0 has no weight.

    Args: samples: window of DN; line, pixel: positions in it in 1/256 px; each has both its neighbours in the window.
    Returns: DN, halves up; 0 where samples with data have less than half of the weight, so the data neither grow nor shrink.
    """
    width = samples.shape[1]
    index = (line >> 8).astype(np.intp) * width + (pixel >> 8)
    down, right = (line & 255).astype(np.uint32), (pixel & 255).astype(np.uint32)
    flat = samples.ravel()
    corners = [flat.take(index + offset, mode="clip") for offset in (0, 1, width, width + 1)]
    both = down * right
    weights = [65536 - (down << 8) - (right << 8) + both, (right << 8) - both, (down << 8) - both, both]
    total = corners[0] * weights[0]
    for corner, weight in zip(corners[1:], weights[1:], strict=True):
        total += corner * weight
    if samples.all():
        total += 32768
        total >>= 16
        complete: NDArray[np.uint16] = total.astype(np.uint16)
        return complete
    share = np.zeros(total.shape, np.uint32)
    for corner, weight in zip(corners, weights, strict=True):
        share += weight * (corner != 0)
    known = share >= 32768
    total = (total.astype(np.uint64) + (share >> 1)) // np.maximum(share, 1)  # the sum can reach 2**32 - 65536
    found: NDArray[np.uint16] = np.where(known, total, 0).astype(np.uint16)
    return found


def nearest(samples: NDArray[np.uint16], line: Ints, pixel: Ints) -> NDArray[np.uint16]:
    """Return the sample nearest to each position; arguments as of ``bilinear``."""
    index = ((line + 128) >> 8).astype(np.intp) * samples.shape[1] + ((pixel + 128) >> 8)
    found: NDArray[np.uint16] = samples.ravel().take(index, mode="clip")
    return found


def calibrated(dn: NDArray[np.uint16], table: CalibrationTable, line: Floats, pixel: Floats) -> NDArray[np.float32]:
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
