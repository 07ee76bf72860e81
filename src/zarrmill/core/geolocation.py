"""Where the samples of a radar image lie on the ground, from its ground control points; and where ground lies in the image.

Between control points both map coordinates are bilinear in line and pixel, cell by cell, in the UTM zone of the scene: there
ground tracks are straight within a cell (under a metre over 20 km), in degrees they are not. So the map is continuous, exact
at every control point and as good as their heights allow; no terrain correction is made.
A whole line or pixel number is the centre of a sample (Sentinel-1 Product Specification, geolocation grid).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zarrmill.errors import SourceError
from zarrmill.model import Gcps, Grid

Floats = NDArray[np.float64]

MARGIN_PX = 512
"""How far outside the control points positions are told; what lies further out is told as lying there."""
COVERED_PX = 48
"""How far from each edge of an image control points may end: further out positions are guesses, here and in the validation
(``core.radar_expected.REACH_PX``)."""
CONVERGED_PX = 1e-3
"""Newton's step at which a position counts as found."""
_MAX_STEPS, _WHOLE_STEPS = 60, 10


def gcp_grid(line: Floats, pixel: Floats, latitude: Floats, longitude: Floats, place: str) -> Gcps:
    """Return the control points on their grid of lines and pixels, from either form that products have.

    Args: grid form: line (n,), pixel (m,), latitude and longitude (n, m); flat form: all of one length, in any order;
    place: says in errors where they come from.
    Raises: SourceError: the points are not a full grid of at least 2 x 2, or a coordinate is not finite or out of range.
    """
    if latitude.shape != longitude.shape or latitude.ndim not in (1, 2):
        raise SourceError(f"{place}: latitude {latitude.shape}, longitude {longitude.shape}; expected one shape", kind="layout")
    if latitude.ndim == 1:
        if not line.shape == pixel.shape == latitude.shape:
            raise SourceError(f"{place}: line {line.shape}, pixel {pixel.shape}, latitude {latitude.shape}", kind="layout")
    else:
        if (line.size, pixel.size) != latitude.shape:
            raise SourceError(f"{place}: {line.size} lines, {pixel.size} pixels, latitude {latitude.shape}", kind="layout")
        line, pixel = (part.ravel() for part in np.meshgrid(line.ravel(), pixel.ravel(), indexing="ij"))
    lines, rows = np.unique(line, return_inverse=True)
    pixels, columns = np.unique(pixel, return_inverse=True)
    order = np.argsort(rows * pixels.size + columns, kind="stable")
    cells = (rows * pixels.size + columns)[order]
    if min(lines.size, pixels.size) < 2 or not np.array_equal(cells, np.arange(lines.size * pixels.size)):
        text = f"{place}: {line.size} points on {lines.size} lines and {pixels.size} pixels are not a full grid"
        raise SourceError(f"{text}; expected each line with each pixel once, at least 2 x 2", kind="layout")
    shape = (lines.size, pixels.size)
    lat, lon = (values.ravel()[order].reshape(shape).astype(np.float64) for values in (latitude, longitude))
    if not (np.isfinite(lat).all() and np.isfinite(lon).all() and np.abs(lat).max() <= 90 and np.abs(lon).max() <= 360):
        raise SourceError(f"{place}: latitude or longitude is not a number of degrees", kind="layout")
    lon = (lon - lon[0, 0] + 180) % 360 - 180 + lon[0, 0]  # in one piece, also over the antimeridian
    return Gcps(lines.astype(np.float64), pixels.astype(np.float64), lon, lat)


def utm_code(gcps: Gcps) -> str:
    """Return the EPSG code of the UTM zone in which the centre of the control points lies.

    Raises: SourceError: the centre is north of 84 or south of 80 degrees, where UTM ends.
    """
    latitude = float(gcps.latitude.min() + gcps.latitude.max()) / 2
    longitude = (float(gcps.longitude.min() + gcps.longitude.max()) / 2 + 180) % 360 - 180
    if not -80 <= latitude <= 84:
        raise SourceError(f"the scene's centre, latitude {latitude:.2f}, is outside UTM (80 S to 84 N)", kind="crs")
    zone = int((longitude + 180) // 6) + 1
    return f"EPSG:{32600 + zone if latitude >= 0 else 32700 + zone}"


class Geolocation:
    """The map from line and pixel to x and y, and back."""

    def __init__(self, gcps: Gcps, crs: str, utm: str) -> None:
        """Prepare the map of ``gcps`` to coordinates in ``crs``; ``utm`` is the zone in which it is interpolated.

        Raises: SourceError: the control points fold over, so a place on the ground lies twice in the image.
        """
        from pyproj import Transformer

        self.gcps = gcps
        self._outward = Transformer.from_crs(utm, crs, always_xy=True) if crs != utm else None
        x, y = Transformer.from_crs("EPSG:4326", utm, always_xy=True).transform(gcps.longitude, gcps.latitude)
        line, pixel = np.meshgrid(gcps.lines, gcps.pixels, indexing="ij")
        self._guess = _plane(x, y, line), _plane(x, y, pixel)
        self._lines, self._pixels = (np.array([v[0] - MARGIN_PX, *v, v[-1] + MARGIN_PX]) for v in (gcps.lines, gcps.pixels))
        self._x, self._y = (_coefficients(_with_margin(v, _plane(line, pixel, v))) for v in (x, y))
        self._heights, self._widths = np.diff(self._lines), np.diff(self._pixels)
        self._check_one_to_one()

    def forward(self, line: Floats, pixel: Floats) -> tuple[Floats, Floats]:
        """Return x and y of positions in the image, in map units."""
        cell = self._cell(line, pixel)
        x, y = _value(_of(self._x, cell), cell), _value(_of(self._y, cell), cell)
        return self._outward.transform(x, y) if self._outward else (x, y)

    def inverse(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return line and pixel of places on the map; as ``locate``."""
        return self.locate(*self.to_plane(x, y))

    def to_plane(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return the places in metres of the UTM zone in which positions are interpolated."""
        return self._outward.transform(x, y, direction="INVERSE") if self._outward else (x, y)

    def locate(self, x: Floats, y: Floats, near: tuple[Floats, Floats] | None = None) -> tuple[Floats, Floats]:
        """Return line and pixel of places in the UTM zone, to ``CONVERGED_PX``, by Newton's method from ``near``, when known.

        Positions more than ``MARGIN_PX`` outside the control points are told as lying on that margin.
        Raises: SourceError: no position can be found, the control points contradict each other.
        """
        shape, x, y = x.shape, x.ravel(), y.ravel()
        line, pixel = (part.ravel() for part in near) if near else (a + b * x + c * y for a, b, c in self._guess)
        line, pixel = np.clip(line, self._lines[0], self._lines[-1]), np.clip(pixel, self._pixels[0], self._pixels[-1])
        left = np.arange(x.size)
        for step in range(_MAX_STEPS):
            d_line, d_pixel = self._step(line[left], pixel[left], x[left], y[left])
            share = 1.0 if step < _WHOLE_STEPS else 0.6  # a kink between cells may throw whole steps to and fro
            new_line = np.clip(line[left] + share * d_line, self._lines[0], self._lines[-1])
            new_pixel = np.clip(pixel[left] + share * d_pixel, self._pixels[0], self._pixels[-1])
            moves = np.maximum(np.abs(new_line - line[left]), np.abs(new_pixel - pixel[left])) > CONVERGED_PX
            line[left], pixel[left] = new_line, new_pixel
            left = left[moves]
            if not left.size:
                return line.reshape(shape), pixel.reshape(shape)
        text = f"ground control points: no position found for {left.size} of {x.size} places, expected one for each"
        raise SourceError(f"{text}; report it to the provider", kind="layout")

    def _step(self, line: Floats, pixel: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        cell = self._cell(line, pixel)
        x_form, y_form = _of(self._x, cell), _of(self._y, cell)
        miss_x, miss_y = x - _value(x_form, cell), y - _value(y_form, cell)
        (xl, xp), (yl, yp) = _slopes(x_form, cell), _slopes(y_form, cell)
        determinant = xl * yp - xp * yl
        d_line = (miss_x * yp - miss_y * xp) / determinant * self._heights[cell.row]
        return d_line, (miss_y * xl - miss_x * yl) / determinant * self._widths[cell.column]

    def _cell(self, line: Floats, pixel: Floats) -> "_Cell":
        row = np.clip(np.searchsorted(self._lines, line, side="right") - 1, 0, self._lines.size - 2)
        column = np.clip(np.searchsorted(self._pixels, pixel, side="right") - 1, 0, self._pixels.size - 2)
        t, u = (line - self._lines[row]) / self._heights[row], (pixel - self._pixels[column]) / self._widths[column]
        return _Cell(row, column, t, u)

    def _check_one_to_one(self) -> None:
        rows, columns = np.meshgrid(*(np.arange(size) for size in self._x.shape[1:]), indexing="ij")
        signs = set()
        for t, u in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0)):
            cell = _Cell(rows, columns, np.full(rows.shape, t), np.full(rows.shape, u))
            (xl, xp), (yl, yp) = _slopes(self._x, cell), _slopes(self._y, cell)
            signs |= set(np.sign(xl * yp - xp * yl).ravel().tolist())
        if signs not in ({-1.0}, {1.0}):
            text = "ground control points fold over, so some ground lies twice in the image; expected a map one to one"
            raise SourceError(f"{text}; report it to the provider", kind="layout")


def map_grid(places: list[tuple[Geolocation, tuple[int, int]]], crs: str, pixel: float, coarsest: int, multiple: int) -> Grid:
    """Return one grid that covers all images.

    Args: places: geolocation and shape ``(lines, pixels)`` of each image; pixel: pixel size in map units; coarsest: factor of
    the coarsest level; multiple: what height and width are multiples of (of ``coarsest`` too).
    The outer corner is a multiple of the coarsest pixel, so grids of one zone share their lattice on every level.
    """
    xs, ys = [], []
    for geolocation, (height, width) in places:
        edges = (_edge(geolocation.gcps.lines, height), _edge(geolocation.gcps.pixels, width))
        x, y = geolocation.forward(*np.meshgrid(*edges, indexing="ij"))
        xs += [float(x.min()), float(x.max())]
        ys += [float(y.min()), float(y.max())]
    step = pixel * coarsest
    west, north = math.floor(min(xs) / step), math.ceil(max(ys) / step)
    whole = math.lcm(multiple, coarsest)
    width_px = math.ceil((max(xs) - west * step) / pixel / whole) * whole
    height_px = math.ceil((north * step - min(ys)) / pixel / whole) * whole
    return Grid(crs, (pixel, 0.0, west * step, 0.0, -pixel, north * step), (height_px, width_px))


def _edge(values: Floats, size: int) -> Floats:
    """Return positions along an edge of the image: its ends, the control points, and seven between each two.

    Edges that are straight in UTM may bulge in degrees.
    """
    dense = np.interp(np.arange(8 * (values.size - 1) + 1) / 8, np.arange(values.size), values)
    return np.unique(np.concatenate([np.clip(dense, -0.5, size - 0.5), [-0.5, size - 0.5]]))


@dataclass(frozen=True, slots=True)
class _Cell:
    """Which cells hold some positions, and where in them they lie: 0 to 1 from point to point."""

    row: NDArray[np.intp]
    column: NDArray[np.intp]
    t: Floats
    u: Floats


def _with_margin(nodes: Floats, plane: tuple[float, float, float]) -> Floats:
    """Return nodes with one more on each side, ``MARGIN_PX`` out along the image's mean slopes: there nothing can fold."""
    down, across = plane[1] * MARGIN_PX, plane[2] * MARGIN_PX
    tall = np.concatenate([nodes[:1] - down, nodes, nodes[-1:] + down])
    return np.concatenate([tall[:, :1] - across, tall, tall[:, -1:] + across], axis=1)


def _coefficients(nodes: Floats) -> Floats:
    """Return the bilinear form of each cell, shape (4, rows, columns): value, slope along t, along u, and of their product."""
    a, b, c, d = nodes[:-1, :-1], nodes[1:, :-1], nodes[:-1, 1:], nodes[1:, 1:]
    return np.stack([a, b - a, c - a, d - b - c + a])


def _of(cells: Floats, at: _Cell) -> Floats:
    """Return the bilinear form at each position, shape (4, ...)."""
    forms: Floats = cells.reshape(4, -1).take(at.row * cells.shape[2] + at.column, axis=1)
    return forms


def _value(form: Floats, at: _Cell) -> Floats:
    value: Floats = form[0] + at.t * form[1] + at.u * (form[2] + at.t * form[3])
    return value


def _slopes(form: Floats, at: _Cell) -> tuple[Floats, Floats]:
    return form[1] + at.u * form[3], form[2] + at.t * form[3]


def _plane(x: Floats, y: Floats, value: Floats) -> tuple[float, float, float]:
    """Return ``a, b, c`` of the plane a + b x + c y that fits ``value`` best (least squares)."""
    origin_x, origin_y = float(x.mean()), float(y.mean())
    system = np.stack([np.ones(x.size), x.ravel() - origin_x, y.ravel() - origin_y], axis=1)
    a, b, c = np.linalg.lstsq(system, value.ravel(), rcond=None)[0].tolist()
    return a - b * origin_x - c * origin_y, b, c
