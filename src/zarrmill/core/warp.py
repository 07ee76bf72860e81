"""Radar images on a map grid, piece by piece, in bounded memory.

Backwards: for each pixel of the grid its position in the image is found, and the samples around it are weighed. Images with the
same control points (the polarisations of a product) share positions and weights. Positions are solved on a lattice of 16 pixels;
a block of 32 x 32 whose middles agree with straight lines between its corners takes these lines. Any other (ground control points
bend the map there) is cut into pieces of 8 x 8 that are looked at in the same way, and what still bends is solved pixel by pixel.
A position is kept in whole 1/65536 of a sample and all weights are integers, so equal inputs give equal bytes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zarrmill.core.geolocation import Geolocation
from zarrmill.core.sampling import bilinear, calibrated, nearest, taps
from zarrmill.model import Grid, RasterTask, Warp

BLOCK_PX = 32
"""Edge of the blocks inside which positions are taken as linear."""
PIECE_PX = 8
"""Edge of the pieces that a block is cut into where the map bends."""
TILE_PX = (256, 512)
"""Rows and columns that are resampled at a time: few enough for the cache, and so many that threads seldom wait for Python."""
LINEAR_PX = 0.005
"""Largest distance of a block's middles from straight lines; between them the map is at most twice as far off.

That holds where a block is smaller than a cell of control points; those of products are a thousand samples wide."""
CROWDED_PX = LINEAR_PX / 10
"""The same for blocks that are larger, in which several edges of cells may meet."""
ONE = 65536
"""Positions per sample."""
SPAN_PX = 2048
"""Columns whose lattice is solved at a time."""
EDGE_ROWS = 256
"""Rows from one point of an outline to the next."""
_ROUNDED_PX = 384
"""By how much what is held of an image is larger than what is needed of it, along each side."""
_NARROW_PX = 32_000
"""Positions up to here fit into 32 bits."""
Floats = NDArray[np.float64]
Ints = NDArray[np.integer]
Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]  # Any: what is run, and what comes of it
"""``map``, or that of a pool of threads."""


@dataclass(frozen=True, slots=True)
class Window:
    """A part of an image; it may reach beyond its edges."""

    top: int
    bottom: int
    left: int
    right: int


class Windows(Protocol):
    """An image that is read by window."""

    def begin(self, left: Floats, right: Floats) -> None:
        """Be told where the next windows lie: mostly between two lines, each ``(points, 2)`` of line and pixel."""
        ...

    def prepare(self, windows: Sequence[Window], run: Run) -> None:
        """Be told what will be read before the next call of this; what can be done at one time may be ``run``."""
        ...

    def read(self, window: Window) -> NDArray[np.uint32]:
        """Return the samples of a window; 0 beyond the edges of the image."""
        ...


@dataclass(frozen=True, slots=True)
class _Tile:
    """A piece of the grid that meets the image."""

    rows: slice
    """Rows of the grid."""
    columns: slice
    """Columns of the grid."""
    window: Window
    """The samples that it needs."""
    corner: tuple[int, int]
    """Row and column of the grid at which its first block begins."""
    nodes: Floats
    """Line and pixel at the corners of its blocks, shape ``(2, n, m)``."""
    bent: NDArray[np.bool_]
    """Which of its blocks bend."""
    exact: Ints
    """Line and pixel of every pixel of those, in 1/65536 samples, shape ``(2, blocks, 32, 32)``."""


def image_groups(tasks: Iterable[RasterTask]) -> list[list[RasterTask]]:
    """Return the tasks on images, those together that share shape, control points and grid."""
    groups: list[list[RasterTask]] = []
    for task in tasks:
        if task.warp is not None:
            same = [group for group in groups if _share_positions(group[0], task)]
            if same:
                same[0].append(task)
            else:
                groups.append([task])
    return groups


def _share_positions(one: RasterTask, other: RasterTask) -> bool:
    a, b = one.warp, other.warp
    if a is None or b is None or one.source.shape != other.source.shape:
        return False
    points = ("lines", "pixels", "longitude", "latitude")
    same = all(np.array_equal(getattr(a.gcps, name), getattr(b.gcps, name)) for name in points)
    return same and (a.grid, a.utm, a.resampling) == (b.grid, b.utm, b.resampling)


def held_px(warp: Warp, shape: tuple[int, int], columns: slice, n_rows: int) -> int:
    """Return about the most samples of an image that are held while a band of columns is made, ``n_rows`` at a time."""
    image = _Map(warp, shape)
    left, right = (image.edge(column) for column in (columns.start, columns.stop - 1))
    along = np.abs(np.diff(left[:, 0])).max() * n_rows / EDGE_ROWS
    n_lines = np.abs(left[:, 0] - right[:, 0]).max() + along + _ROUNDED_PX
    sides = [np.interp(np.arange(shape[0]), *edge[np.argsort(edge[:, 0])].T) for edge in (left, right)]
    n_pixels = np.abs(sides[0] - sides[1]).max() + _ROUNDED_PX
    return int(min(n_lines, shape[0]) * min(n_pixels, shape[1]))


class WarpedImages:
    """Images on the grid that they share, read in stripes of rows, band of columns after band."""

    def __init__(self, warps: Sequence[Warp], shape: tuple[int, int], windows: Sequence[Windows], run: Run = map) -> None:
        """Take how each image comes onto the grid (only calibration may differ), its shape and where its samples come from."""
        self._warps, self._windows, self._run = warps, windows, run
        self._map = _Map(warps[0], shape)

    def begin(self, columns: slice) -> None:
        """Be told of the band of columns in which rows will be read next."""
        edges = [self._map.edge(column) for column in (columns.start, columns.stop - 1)]
        for windows in self._windows:
            windows.begin(*edges)

    def read(self, rows: slice, columns: slice) -> list[NDArray[Any]]:
        """Return a part of the grid for each image, shape ``(rows, columns)``.

        uint16 DN, 0 without data; with a calibration table float32 backscatter, NaN without data.
        Raises: SourceError: as ``Geolocation.locate``, or a chunk of the image cannot be read.
        """
        first, last = columns.start // SPAN_PX, -(-columns.stop // SPAN_PX)
        spans = [slice(max(i * SPAN_PX, columns.start), min((i + 1) * SPAN_PX, columns.stop)) for i in range(first, last)]
        tiles = [tile for found in self._run(lambda span: list(self._map.tiles(rows, span)), spans) for tile in found]
        for windows in self._windows:
            windows.prepare([tile.window for tile in tiles], self._run)
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        out = [
            np.zeros(shape, np.uint16) if warp.calibration is None else np.full(shape, np.nan, np.float32) for warp in self._warps
        ]

        def fill(tile: _Tile) -> None:
            y, x = tile.rows.start - rows.start, tile.columns.start - columns.start
            for target, pixels in zip(out, self._pixels(tile), strict=True):
                target[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels

        list(self._run(fill, tiles))
        return out

    def _pixels(self, tile: _Tile) -> Iterator[NDArray[Any]]:
        """Yield the pixels of a tile for each image."""
        line, pixel = self._map.positions(tile)
        weighed = self._warps[0].resampling == "bilinear"
        at = taps(line, pixel, tile.window.right - tile.window.left, weighed=weighed)
        for warp, windows in zip(self._warps, self._windows, strict=True):
            samples = windows.read(tile.window)
            dn = bilinear(samples, at) if weighed else nearest(samples, at)
            if warp.calibration is None:
                yield dn
            else:
                yield calibrated(dn, warp.calibration, line / ONE + tile.window.top, pixel / ONE + tile.window.left)


class _Map:
    """Where the pixels of a grid lie in an image."""

    def __init__(self, warp: Warp, shape: tuple[int, int]) -> None:
        self._size = shape
        self._grid: Grid = warp.grid
        self._geolocation = Geolocation(warp.gcps, warp.grid.crs, warp.utm)
        self._cell = (float(np.diff(warp.gcps.lines).min()), float(np.diff(warp.gcps.pixels).min()))

    def edge(self, column: int) -> Floats:
        """Return line and pixel of points along a column, shape ``(points, 2)``."""
        rows = np.append(np.arange(0, self._grid.shape[0], EDGE_ROWS), self._grid.shape[0])
        return self._lattice(rows, np.array([column]))[:2, :, 0].T

    def tiles(self, rows: slice, columns: slice) -> Iterator[_Tile]:
        """Yield the tiles of a part of the grid that meet the image."""
        top, left = (s.start // BLOCK_PX * BLOCK_PX for s in (rows, columns))
        bottom, right = (-(-s.stop // BLOCK_PX) * BLOCK_PX for s in (rows, columns))
        half, (height, width) = BLOCK_PX // 2, TILE_PX
        lattice = self._lattice(np.arange(top, bottom + 1, half), np.arange(left, right + 1, half))
        bend = _bend(lattice[:2])
        bent = self._bends(lattice[:2], bend) & self._meets(lattice[:2], bend)
        exact, number = self._straighten(lattice, bent), np.cumsum(bent).reshape(bent.shape) - 1
        for y in range(top, bottom, height):
            for x in range(left, right, width):
                blocks = (slice((y - top) // BLOCK_PX, (y - top + height) // BLOCK_PX),
                          slice((x - left) // BLOCK_PX, (x - left + width) // BLOCK_PX))  # fmt: skip
                nodes = lattice[:2, 2 * blocks[0].start : 2 * blocks[0].stop + 1, 2 * blocks[1].start : 2 * blocks[1].stop + 1]
                window = self._window(nodes, float(bend[:, *blocks].max()))
                if window is not None:
                    own = (slice(max(y, rows.start), min(y + height, rows.stop)),
                           slice(max(x, columns.start), min(x + width, columns.stop)))  # fmt: skip
                    chosen = bent[blocks]
                    yield _Tile(*own, window, (y, x), nodes[:, ::2, ::2], chosen, exact[:, number[blocks][chosen]])

    def positions(self, tile: _Tile) -> tuple[Ints, Ints]:
        """Return line and pixel of each pixel of a tile in 1/65536 samples, counted from its window's first sample.

        What lies outside the window lies outside the image and is told as lying on the window's edge, where there is no data.
        """
        window = tile.window
        origin = np.array([window.top, window.left])[:, None, None]
        nodes = tile.nodes - origin
        found = _spread(nodes, BLOCK_PX, np.dtype(np.int32 if np.abs(nodes).max() < _NARROW_PX else np.int64))
        if tile.exact.size:
            n_rows, n_columns = tile.bent.shape
            blocks = found.reshape(2, n_rows, BLOCK_PX, n_columns, BLOCK_PX).swapaxes(2, 3)
            blocks[:, tile.bent] = tile.exact - origin[..., None] * ONE
        y, x = (s.start - c for s, c in zip((tile.rows, tile.columns), tile.corner, strict=True))
        found = found[:, y : y + tile.rows.stop - tile.rows.start, x : x + tile.columns.stop - tile.columns.start]
        for positions, size in zip(found, (window.bottom - window.top, window.right - window.left), strict=True):
            if positions.min() < 0 or positions.max() > (size - 2) * ONE:
                np.clip(positions, 0, (size - 2) * ONE, out=positions)
        return found[0], found[1]

    def _lattice(self, row: NDArray[np.integer], column: NDArray[np.integer]) -> Floats:
        """Return line, pixel, and x and y in the UTM zone, of the pixels of some rows and columns.

        Line and pixel are whole 1/65536, so all that is interpolated between them is exact: it does not depend on the tile.
        """
        a, _, c, _, e, f = self._grid.transform
        x, y = self._geolocation.to_plane(*np.meshgrid(c + a * (column + 0.5), f + e * (row + 0.5)))
        return np.stack([*(np.rint(part * ONE) / ONE for part in self._geolocation.locate(x, y)), x, y])

    def _window(self, nodes: Floats, bend: float) -> Window | None:
        """Return the samples that a tile needs, with their neighbours, at most one beyond the edges; None when there are none.

        Between nodes positions may reach further out than on them, by as much as the map bends.
        """
        edges: list[int] = []
        for positions, size in zip(nodes, self._size, strict=True):
            low, high = float(positions.min()) - 1 - 2 * bend, float(positions.max()) + 1 + 2 * bend
            if high < -1 or low > size:
                return None
            edges += [max(int(np.floor(low)), -1), min(int(np.floor(high)), size) + 2]
        return Window(*edges)

    def _meets(self, nodes: Floats, bend: Floats) -> NDArray[np.bool_]:
        """Return for each block whether it comes near the image."""
        n, m = (size // 2 * 2 - 1 for size in nodes.shape[1:])
        blocks = np.stack([nodes[:, i : n + i : 2, j : m + j : 2] for i in range(3) for j in range(3)])
        slack, size = 4 + 2 * bend, np.array(self._size)[:, None, None]
        near: NDArray[np.bool_] = ((blocks.max(axis=0) > -slack) & (blocks.min(axis=0) < size + slack)).all(axis=0)
        return near

    def _bends(self, nodes: Floats, bend: Floats) -> NDArray[np.bool_]:
        """Return for each block whether it bends; one larger than a cell of control points may bend more beside its middles."""
        corners = nodes[..., ::2, ::2]
        found: NDArray[np.bool_] = bend.max(axis=0) > np.where(self._crowded(_quads(corners)), CROWDED_PX, LINEAR_PX)
        return found

    def _crowded(self, quads: Floats) -> NDArray[np.bool_]:
        """Return which blocks, of line and pixel at four corners ``(2, ..., 4)``, are larger than a cell of control points."""
        spans = quads.max(axis=-1) - quads.min(axis=-1)
        found: NDArray[np.bool_] = (spans[0] > self._cell[0]) | (spans[1] > self._cell[1])
        return found

    def _straighten(self, lattice: Floats, bent: NDArray[np.bool_]) -> Ints:
        """Return line and pixel of every pixel of the blocks that bend, in 1/65536 samples, shape ``(2, blocks, 32, 32)``."""
        i, j = np.nonzero(bent)
        corners = lattice[:, ::2, ::2]
        quads = np.stack([corners[:, i, j], corners[:, i, j + 1], corners[:, i + 1, j], corners[:, i + 1, j + 1]], axis=-1)
        quads = quads.reshape(4, i.size, 2, 2)
        line, pixel, x, y = _between(quads, BLOCK_PX * 2 // PIECE_PX + 1)
        nodes = np.rint(np.stack(self._geolocation.locate(x, y, (line, pixel))) * ONE) / ONE
        exact = _spread(nodes[..., ::2, ::2], PIECE_PX, np.dtype(np.int64))
        still = self._bends(nodes, _bend(nodes)) | self._crowded(quads[:2].reshape(2, i.size, 4))[:, None, None]
        at = np.repeat(np.repeat(still, PIECE_PX, axis=1), PIECE_PX, axis=2)
        x, y = (plane[..., :-1, :-1][at] for plane in _between(quads[2:], BLOCK_PX + 1))
        line, pixel = exact[:, at] / ONE
        exact[:, at] = np.rint(np.stack(self._geolocation.locate(x, y, (line, pixel))) * ONE)
        return exact


def _quads(corners: Floats) -> Floats:
    """Return the four corners of each block, on a last axis."""
    above, below = corners[..., :-1, :], corners[..., 1:, :]
    return np.stack([above[..., :-1], above[..., 1:], below[..., :-1], below[..., 1:]], axis=-1)


def _between(quads: Floats, n: int) -> Floats:
    """Return ``n`` x ``n`` values on and between the corners ``(..., 2, 2)`` of blocks, bilinear."""
    part = np.arange(n) / (n - 1)
    down = quads[..., :1, :] * (1 - part)[:, None] + quads[..., 1:, :] * part[:, None]
    across: Floats = down[..., :1] * (1 - part) + down[..., 1:] * part
    return across


def _spread(corners: Floats, step: int, dtype: np.dtype[Any]) -> Ints:
    """Return the value at each pixel of blocks of ``step`` pixels between ``corners`` ``(..., n, m)``, bilinear, in 1/65536."""
    part = np.arange(step) / step
    *lead, n, m = corners.shape
    across = corners[..., :-1, None] * (1 - part) + corners[..., 1:, None] * part
    rows = across.reshape(*lead, n, (m - 1) * step) * ONE
    start = np.rint(rows[..., :-1, :]).astype(dtype)[..., None, :]
    slope = np.rint(np.diff(rows, axis=-2) / step).astype(dtype)[..., None, :]
    values: Ints = (start + slope * np.arange(step, dtype=dtype)[:, None]).reshape(*lead, (n - 1) * step, (m - 1) * step)
    return values


def _bend(nodes: Floats) -> Floats:
    """Return for each block how far the nodes at its middles lie off the lines between its corners."""
    corners = nodes[..., ::2, ::2]
    top_mid = (corners[..., :-1] + corners[..., 1:]) / 2
    left_mid = (corners[..., :-1, :] + corners[..., 1:, :]) / 2
    centre = np.abs(nodes[..., 1::2, 1::2] - (top_mid[..., :-1, :] + top_mid[..., 1:, :]) / 2)
    across, down = np.abs(nodes[..., ::2, 1::2] - top_mid), np.abs(nodes[..., 1::2, ::2] - left_mid)
    off: Floats = np.stack([centre, across[..., :-1, :], across[..., 1:, :], down[..., :-1], down[..., 1:]]).max(axis=0)
    return off
