"""Where ground lies in a radar image and which DN it may have, computed apart from the converter, for its validation.

The cell between ground control points that holds a place is found by trying all of them, and the position in it by solving the
quadratic of the bilinear form.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zarrmill.core.checks_values import Readable

Floats = NDArray[np.float64]

SLACK_PX = 0.1
"""How far the converter's position may be off, in samples."""


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
        self._utm = f"EPSG:{(32600 if north else 32700) + int(middle // 6) + 1}"
        self._code = code
        x, y = Transformer.from_crs("EPSG:4326", self._utm, always_xy=True).transform(lon, lat)
        at = {key: (float(a), float(b)) for *key_, a, b in zip(line, pixel, x, y, strict=True) for key in [tuple(key_)]}
        self._lines, self._pixels = np.unique(line), np.unique(pixel)
        self._at = np.array([[at[a, b] for b in self._pixels] for a in self._lines])

    def locate(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return line and sample of places in map units; NaN more than two samples outside the control points."""
        from pyproj import Transformer

        if self._code != self._utm:
            x, y = Transformer.from_crs(self._code, self._utm, always_xy=True).transform(x, y)
        line, sample = np.full(x.shape, np.nan), np.full(x.shape, np.nan)
        for i in range(self._lines.size - 1):
            for j in range(self._pixels.size - 1):
                t, u = _in_cell(self._at[i : i + 2, j : j + 2], x, y)
                height, width = self._lines[i + 1] - self._lines[i], self._pixels[j + 1] - self._pixels[j]
                low_t, high_t = _reach(i, self._lines.size, 2 / height)
                low_u, high_u = _reach(j, self._pixels.size, 2 / width)
                inside = (t >= low_t) & (t <= high_t) & (u >= low_u) & (u <= high_u)
                line[inside] = self._lines[i] + t[inside] * height
                sample[inside] = self._pixels[j] + u[inside] * width
        return line, sample


def _reach(index: int, n: int, more: float) -> tuple[float, float]:
    """Return from where to where a cell goes; the outer ones go on a little."""
    return (-more if index == 0 else -1e-9), (1 + more if index == n - 2 else 1 + 1e-9)


def _in_cell(corners: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Solve P00 + t a + u b + t u c = (x, y): u from the quadratic that is left when t is eliminated."""
    (p00, p01), (p10, p11) = corners
    a, b, c = p10 - p00, p01 - p00, p11 - p10 - p01 + p00
    qx, qy = x - p00[0], y - p00[1]
    square, linear = -_cross(b[0], b[1], c), _cross(qx, qy, c) - _cross(b[0], b[1], a)
    rest = _cross(qx, qy, a)
    root = np.sqrt(np.maximum(linear**2 - 4 * square * rest, 0))
    u = -2 * rest / (linear + np.copysign(root, linear))
    ax, ay = a[0] + u * c[0], a[1] + u * c[1]
    return ((qx - u * b[0]) * ax + (qy - u * b[1]) * ay) / (ax**2 + ay**2), u


def _cross(x: Any, y: Any, vector: Floats) -> Any:  # Any: numbers or arrays
    return x * vector[1] - y * vector[0]


def allowed(image: Readable, line: Floats, sample: Floats, method: str) -> tuple[Floats, Floats] | str:
    """Return least and greatest value that each position may have."""
    height, width = image.shape
    inside = (line > -1.5) & (line < height + 0.5) & (sample > -1.5) & (sample < width + 0.5)
    low, high = np.zeros(line.shape), np.zeros(line.shape)
    if not inside.any():
        return low, high
    top, left = int(np.floor(line[inside].min())) - 2, int(np.floor(sample[inside].min())) - 2
    bottom, right = int(line[inside].max()) + 4, int(sample[inside].max()) + 4
    region = (slice(max(top, 0), max(min(bottom, height), 1)), slice(max(left, 0), max(min(right, width), 1)))
    values = image.read(region)
    if isinstance(values, str):
        return values
    padded = np.zeros((bottom - top, right - left))
    padded[region[0].start - top : region[0].stop - top, region[1].start - left : region[1].stop - left] = values
    make = _nearest if method == "nearest" else _bilinear
    shifts = (-SLACK_PX, 0.0, SLACK_PX)
    made = [make(padded, line[inside] - top + dl, sample[inside] - left + ds) for dl in shifts for ds in shifts]
    least, most = np.min([m[0] for m in made], axis=0), np.max([m[1] for m in made], axis=0)
    between = 0.2 * (most - least)  # extremes may lie between the places that were tried
    low[inside], high[inside] = np.where(least > 0, least - between, 0), most + between
    return low, high


def _nearest(values: Floats, line: Floats, sample: Floats) -> tuple[Floats, Floats]:
    found = values[np.floor(line + 0.5).astype(int), np.floor(sample + 0.5).astype(int)]
    return found, found


def _bilinear(values: Floats, line: Floats, sample: Floats) -> tuple[Floats, Floats]:
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
