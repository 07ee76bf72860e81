"""Pixel grids: edges, centres and levels."""

import math

import numpy as np
from numpy.typing import NDArray

from zarrmill.model import Grid

Transform = tuple[float, float, float, float, float, float]


def level_transform(native: Transform, factor: int) -> Transform:
    """Return the pixel-to-CRS transform of a level coarser by ``factor``.

    Keeps the outer corner (not the centre) of pixel (0, 0).
    Raises: ValueError: ``factor`` < 1.
    Source: zarr-conventions/multiscales v0.1, "transform object".
    """
    if factor < 1:
        raise ValueError(f"factor {factor} is below 1")
    a, b, c, d, e, f = native
    return (a * factor, b * factor, c, d * factor, e * factor, f)


def level_grid(native: Grid, factor: int) -> Grid:
    """Return the grid of a level coarser by ``factor``, which must divide the native shape exactly.

    Raises: ValueError: it does not divide.
    """
    height, width = native.shape
    if height % factor or width % factor:
        raise ValueError(f"factor {factor} does not divide {native.shape}")
    return Grid(native.crs, level_transform(native.transform, factor), (height // factor, width // factor))


def divides(shape: tuple[int, int], factor: int) -> bool:
    """Return whether a level coarser by ``factor`` covers exactly the same ground."""
    return shape[0] % factor == 0 and shape[1] % factor == 0


def centres(grid: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the pixel centres ``(x, y)`` in CRS units, float64, shapes ``(width,)`` and ``(height,)``."""
    a, _, c, _, e, f = grid.transform
    height, width = grid.shape
    x, y = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)
    return np.asarray(c + a * (x + 0.5), np.float64), np.asarray(f + e * (y + 0.5), np.float64)


def grid_from_centres(x: NDArray[np.float64], y: NDArray[np.float64], pixel: float, crs: str) -> Grid:
    """Return the grid whose pixel centres are ``x`` (rising) and ``y`` (falling), both in CRS units.

    ``pixel`` is the pixel size that the group's name announces; edges are whole millionths of it, so that noise of sums is none.
    Raises: ValueError: the centres are not regular, not north-up, or not ``pixel`` apart.
    """
    for name, values, step in (("x", x, pixel), ("y", y, -pixel)):
        steps = np.diff(values)
        if values.size == 0 or not np.allclose(steps, step, rtol=0, atol=1e-3 * pixel):
            found = sorted(set(np.round(steps, 3).tolist()))[:4]
            raise ValueError(f"{name}: steps {found}, expected {step} everywhere")
    places = 6 - math.floor(math.log10(pixel))
    west, north = round(float(x[0]) - pixel / 2, places), round(float(y[0]) + pixel / 2, places)
    return Grid(crs, (float(pixel), 0.0, west, 0.0, -float(pixel), north), (int(y.size), int(x.size)))
