"""Where ground lies in a radar image and which DN it may have, computed apart from the converter, for its validation.

The cell between ground control points that holds a place is found by trying all of them, and the position in it by solving the
quadratic of the bilinear form. That is done for every 16th pixel of the map; between them positions are taken as linear, and as
known to ``SLACK_PX`` and as much more as they bend there. A pixel must then be as near to the mean of its four samples as a
position so well known allows: half a DN, and twice the slack times the range of these samples (the slope of the surface).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Mask = NDArray[np.bool_]

NODE_PX = 16
"""Pixels from one solved position to the next at most; fewer where control points are closer than ``BENDS_PX`` of these."""
BENDS_PX = 2.5
"""Least distance of control points, in nodes, at which each bend of the map is seen."""
SLACK_PX = 0.02
"""How far the converter's position may be off, in samples: it promises an eightieth, and weighs in steps of 1/256."""
EXACT_DN = 0.55
"""How far a DN may be from a mean at its position: it is rounded, and means are of 32 bits here."""
OUTSIDE = 0.1
"""By how much less positions are known for each sample that they lie outside the control points."""
METRES_PER_DEGREE = 111_320
"""About, along a meridian."""
LOCATED = 1 << 18
"""Places that are located at a time."""
REACH_PX = 64
"""How far outside the control points the outer cells go on; a product with samples that far out is refused."""


class Cells:
    """The cells between ground control points, on the plane of the scene's UTM zone."""

    def __init__(self, points: Mapping[str, Floats], code: str) -> None:
        from pyproj import Transformer

        lat, lon = points["latitude"].ravel(), points["longitude"].ravel()
        lon = lon[0] + (lon - lon[0] + 540) % 360 - 180
        line, pixel = points["line"], points["pixel"]
        if points["latitude"].ndim == 2:
            line, pixel = np.repeat(line, pixel.size), np.tile(pixel, line.size)
        middle = ((lon.min() + lon.max()) / 2 + 180) % 360
        north = (lat.min() + lat.max()) >= 0
        utm = f"EPSG:{(32600 if north else 32700) + int(middle // 6) + 1}"
        self._to_utm = Transformer.from_crs(code, utm, always_xy=True) if code != utm else None
        x, y = Transformer.from_crs("EPSG:4326", utm, always_xy=True).transform(lon, lat)
        at = {(float(a), float(b)): (float(c), float(d)) for a, b, c, d in zip(line, pixel, x, y, strict=True)}
        self.lines, self.pixels = np.unique(line), np.unique(pixel)
        self._at = np.array([[at[a, b] for b in self.pixels] for a in self.lines])
        sides = (np.hypot(*np.moveaxis(np.diff(self._at, axis=axis), -1, 0)) for axis in (0, 1))
        self.least_distance_m = min(float(side.min()) for side in sides)
        self.in_degrees = self._to_utm is not None

    def locate(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return line and sample of places in map units; NaN further than ``REACH_PX`` outside the control points."""
        shape, (x, y) = x.shape, (part.ravel() for part in (self._to_utm.transform(x, y) if self._to_utm else (x, y)))
        line, sample, order = np.full(x.size, np.nan), np.full(x.size, np.nan), np.argsort(x)
        x_sorted = x[order]
        for i in range(self.lines.size - 1):
            for j in range(self.pixels.size - 1):
                corners = self._at[i : i + 2, j : j + 2]
                size = (self.lines[i + 1] - self.lines[i], self.pixels[j + 1] - self.pixels[j])
                reach = (*_reach(i, self.lines.size, REACH_PX / size[0]), *_reach(j, self.pixels.size, REACH_PX / size[1]))
                low, high = _box(corners, reach)
                near = order[np.searchsorted(x_sorted, low[0]) : np.searchsorted(x_sorted, high[0], side="right")]
                near = near[(y[near] >= low[1]) & (y[near] <= high[1])]
                t, u = _in_cell(corners, x[near], y[near])
                inside = (t >= reach[0]) & (t <= reach[1]) & (u >= reach[2]) & (u <= reach[3])
                line[near[inside]] = self.lines[i] + t[inside] * size[0]
                sample[near[inside]] = self.pixels[j] + u[inside] * size[1]
        return line.reshape(shape), sample.reshape(shape)


def _reach(index: int, n: int, more: float) -> tuple[float, float]:
    """Return from where to where a cell goes; the outer ones go on."""
    return (-more if index == 0 else -1e-9), (1 + more if index == n - 2 else 1 + 1e-9)


def _box(corners: Floats, reach: tuple[float, float, float, float]) -> tuple[Floats, Floats]:
    """Return least and greatest x and y of a cell as far as it goes."""
    t, u = (part.ravel()[:, None] for part in np.meshgrid(reach[:2], reach[2:]))
    places = (1 - t) * ((1 - u) * corners[0, 0] + u * corners[0, 1]) + t * ((1 - u) * corners[1, 0] + u * corners[1, 1])
    return places.min(axis=0), places.max(axis=0)


def _in_cell(corners: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Solve P00 + t a + u b + t u c = (x, y): u from the quadratic that is left when t is eliminated."""
    (p00, p01), (p10, p11) = corners
    a, b, c = p10 - p00, p01 - p00, p11 - p10 - p01 + p00
    qx, qy = x - p00[0], y - p00[1]
    square = -(b[0] * c[1] - b[1] * c[0])
    linear = qx * c[1] - qy * c[0] - (b[0] * a[1] - b[1] * a[0])
    rest = qx * a[1] - qy * a[0]
    root = np.sqrt(np.maximum(linear**2 - 4 * square * rest, 0))
    u = -2 * rest / (linear + np.copysign(root, linear))
    ax, ay = a[0] + u * c[0], a[1] + u * c[1]
    return ((qx - u * b[0]) * ax + (qy - u * b[1]) * ay) / (ax**2 + ay**2), u


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """Where every 16th pixel of a map lies in an image, and how well that is known between them."""

    step: int
    """Pixels from node to node: 16, or a fraction of it."""
    nodes: Floats
    """Line and sample, shape ``(2, n, m)``; only roughly where ``blank``."""
    slack: Singles
    """How far positions in each block between four nodes may be off, in samples, shape ``(n - 1, m - 1)``."""
    blank: Mask
    """Blocks that lie so far outside the control points that there can be no data."""

    def part(self, rows: slice, columns: slice) -> "Lattice":
        """Return the blocks that hold a part of the map which begins on a node."""
        i, j = (slice(s.start // self.step, -(-s.stop // self.step)) for s in (rows, columns))
        nodes = self.nodes[:, i.start : i.stop + 1, j.start : j.stop + 1]
        return Lattice(self.step, nodes, self.slack[i, j], self.blank[i, j])

    @property
    def span(self) -> tuple[float, float]:
        """Least and greatest line."""
        return float(self.nodes[0].min()), float(self.nodes[0].max())


def lattice(cells: Cells, transform: tuple[float, ...], shape: tuple[int, int], image: tuple[int, int]) -> Lattice:
    """Return the lattice of a map of ``shape`` with this geotransform, for an image of some lines and samples."""
    apart = cells.least_distance_m / (abs(transform[4]) * (METRES_PER_DEGREE if cells.in_degrees else 1))
    step = next((step for step in (NODE_PX, 8, 4, 2) if BENDS_PX * step <= apart), 1)
    row, column = (np.arange(0, size + step, step, dtype=np.float64) + 0.5 for size in shape)
    x, y = np.asarray(transform[2] + transform[0] * column), np.asarray(transform[5] + transform[4] * row)
    nodes, n_rows = np.empty((2, row.size, column.size)), max(1, LOCATED // column.size)
    for first in range(0, row.size, n_rows):  # some at a time: they need several times the memory of what is kept
        nodes[:, first : first + n_rows] = cells.locate(*np.meshgrid(x, y[first : first + n_rows]))
    far, slack = np.isnan(nodes[0]), np.full((row.size - 1, column.size - 1), SLACK_PX, np.float32)
    for part, axis, size in zip(nodes, (cells.lines, cells.pixels), image, strict=True):
        reach = 2 + max(axis[0], size - 1 - axis[-1], 0)  # further out there are no samples
        doubt = OUTSIDE * np.clip(np.maximum(axis[0] - part, part - axis[-1]), 0, reach)
        doubt += _second_difference(part, 0) / 2
        doubt += _second_difference(part, 1) / 2
        for corner in (doubt[:-1, :-1], doubt[1:, :-1], doubt[:-1, 1:], doubt[1:, 1:]):
            np.maximum(slack, np.float32(SLACK_PX) + corner, out=slack, casting="same_kind")
        _fill(part, far, x, y)
    blank = far[:-1, :-1] | far[1:, :-1] | far[:-1, 1:] | far[1:, 1:]
    return Lattice(step, nodes, np.nan_to_num(slack, nan=1.0), blank)


def _second_difference(nodes: Floats, axis: int) -> Floats:
    """Return how much the map bends at each node; a block bends by at most half of the greatest at its corners."""
    nodes = np.moveaxis(nodes, axis, 0)
    out = np.zeros_like(nodes)
    out[1:-1] = np.abs(nodes[:-2] - 2 * nodes[1:-1] + nodes[2:])
    return np.moveaxis(out, 0, axis)


def _fill(nodes: Floats, far: Mask, x: Floats, y: Floats) -> None:
    """Put a plane through the known nodes into those that are not."""
    known = np.flatnonzero(~far)[:: max(1, int((~far).sum()) // 1000)]
    i, j = np.divmod(known, x.size)
    if not known.size:
        nodes[:] = -1e6
        return
    system = np.stack([np.ones(known.size), x[j] - x.mean(), y[i] - y.mean()], axis=1)
    a, b, c = np.linalg.lstsq(system, nodes[i, j], rcond=None)[0]
    np.copyto(nodes, a + b * (x - x.mean()) + c * (y[:, None] - y.mean()), where=far)


def spread(nodes: Floats, step: int, shape: tuple[int, int]) -> Singles:
    """Return the value at each pixel of a part of the map of ``shape``, linear between ``nodes`` ``(..., n, m)``."""
    part = np.arange(step) / step
    *lead, n, m = nodes.shape
    across = nodes[..., :-1, None] + np.diff(nodes, axis=-1)[..., None] * part
    rows = across.reshape(*lead, n, (m - 1) * step)[..., : shape[1]].astype(np.float32)
    pixels: Singles = rows[..., :-1, None, :] + np.diff(rows, axis=-2)[..., None, :] * part.astype(np.float32)[:, None]
    return pixels.reshape(*lead, (n - 1) * step, rows.shape[-1])[..., : shape[0], :]


def by_pixel(blocks: Mask, step: int, shape: tuple[int, int]) -> Mask:
    """Return for each pixel what its block has."""
    return np.repeat(np.repeat(blocks, step, axis=0), step, axis=1)[: shape[0], : shape[1]]


def differs(dn: NDArray[Any], at: Singles, part: Lattice, samples: Singles, method: str, doubt: float) -> Mask:
    """Return which pixels cannot be made of the samples at their positions.

    Args: dn: DN as found, 0 without data, never NaN; at: line and sample of each, counted from the first of ``samples`` (is
    written over); part: of the map, says how far they may be off; method: of resampling; doubt: share of a DN by which it may be
    off besides, for what was computed of it.
    """
    width, flat = samples.shape[1], samples.ravel()
    whole = np.floor(at)
    at -= whole
    down, right = at
    # 32 bits hold whole numbers up to here
    wide = whole if flat.size < 2**24 else whole.astype(np.float64)
    index = (wide[0] * width + wide[1]).astype(np.intp)
    if method == "nearest":
        gap = flat.take(index + (down >= 0.5) * width + (right >= 0.5), mode="clip")
    else:
        upper, gap = _between(flat, index, right), _between(flat[width:], index, right)
        gap -= upper
        gap *= down
        gap += upper
    gap -= dn
    np.abs(gap, out=gap)
    off: Mask = gap > np.float32(EXACT_DN)
    place = np.flatnonzero(off)
    if place.size:
        base = index.ravel()[place]
        where = base // width + down.ravel()[place], base % width + right.ravel()[place]
        row, column = np.divmod(place, off.shape[1])
        blocks, found = part.slack[row // part.step, column // part.step], np.asarray(dn.ravel()[place], np.float32)
        off.ravel()[place] = _cannot_be(found, gap.ravel()[place], where, blocks, samples, method, doubt)
    return off


def _between(flat: Singles, index: NDArray[np.intp], right: Singles) -> Singles:
    left, value = flat.take(index, mode="clip"), flat[1:].take(index, mode="clip")
    value -= left
    value *= right
    value += left
    return value


def _cannot_be(
    dn: Singles, gap: Singles, at: tuple[Floats, Floats], slack: Singles, samples: Singles, method: str, doubt: float
) -> Mask:
    """Return which of some pixels are further (``gap``) from the mean of their samples than their slack allows.

    Where samples have no data, or where the position may be in the square between other four, places around it are tried.
    """
    i, j = (np.floor(part).astype(np.intp) for part in at)
    corners = [samples[i + di, j + dj] for di in (0, 1) for dj in (0, 1)]
    least, most = np.minimum.reduce(corners), np.maximum.reduce(corners)
    allowed = np.float32(EXACT_DN) + np.float32(doubt) * np.abs(dn)
    if method != "nearest":
        allowed += 2 * slack * (most - least)
    off: Mask = gap > allowed
    rest = np.flatnonzero(off)
    line, sample, near = at[0][rest], at[1][rest], slack[rest]
    to_edge = np.minimum(np.abs(line - np.rint(line)), np.abs(sample - np.rint(sample)))
    unsure = (to_edge < near) | ((least[rest] == 0) & (most[rest] > 0))
    if method == "nearest":
        unsure |= np.minimum(np.abs(line - np.floor(line) - 0.5), np.abs(sample - np.floor(sample) - 0.5)) < near
    chosen = rest[unsure]
    if chosen.size:
        low, high = _allowed(samples, line[unsure], sample[unsure], near[unsure], method)
        off[chosen] = ~((dn[chosen] >= low * (1 - doubt)) & (dn[chosen] <= high * (1 + doubt)))
    return off


def _allowed(values: Singles, line: Floats, sample: Floats, slack: Singles, method: str) -> tuple[Floats, Floats]:
    """Return least and greatest DN that pixels may have whose positions are known to ``slack``, also beside no data."""
    make = _nearest if method == "nearest" else _bilinear
    edges = (np.array(values.shape) - 2).tolist()
    # A mean has its extremes where a sample lies, or at the ends of what is allowed.
    lines, samples = ([k, k - slack, k + slack, np.clip(np.rint(k), k - slack, k + slack)] for k in (line, sample))
    made = [make(values, np.clip(i, 0, edges[0]), np.clip(j, 0, edges[1])) for i in lines for j in samples]
    least, most = (np.stack(bounds).astype(np.float64) for bounds in zip(*made, strict=True))
    least, most = least.min(axis=0), most.max(axis=0)
    between = 0.2 * (most - least)  # extremes may lie between the places that were tried
    return np.where(least > 0, least - between, 0), most + between


def _nearest(values: Singles, line: Floats, sample: Floats) -> tuple[Singles, Singles]:
    found = values[np.floor(line + 0.5).astype(int), np.floor(sample + 0.5).astype(int)]
    return found, found


def _bilinear(values: Singles, line: Floats, sample: Floats) -> tuple[Floats, Floats]:
    """Return least and greatest mean of the four samples with data; 0 is among them where about half have none."""
    i, j = np.floor(line).astype(int), np.floor(sample).astype(int)
    total, weight = np.zeros(line.shape), np.zeros(line.shape)
    for di in (0, 1):
        for dj in (0, 1):
            near = (1 - np.abs(line - i - di)) * (1 - np.abs(sample - j - dj))
            known = values[i + di, j + dj]
            total += near * known
            weight += near * (known > 0)
    mean = total / np.maximum(weight, 1e-9)
    return np.where(weight < 0.52, 0, mean - 1), np.where(weight < 0.48, 0, mean + 1)
