"""Smooth random fields on a coarse lattice, evaluated for any rows and columns.

Only elementwise float32 arithmetic, no BLAS and no trigonometry: the same bits on every machine.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Field:
    """A lattice of values, linear in between and constant beyond its border."""

    nodes: Float32Array
    """Values at the lattice nodes, ``(y, x)``."""
    start_px: tuple[float, float]
    """Position ``(y, x)`` of node (0, 0) in 10 m pixels."""
    spacing_px: float
    """Distance of nodes in 10 m pixels."""

    def across(self, columns: NDArray[np.float64]) -> "FieldRows":
        """Interpolate all lattice rows to ``columns`` (positions in 10 m pixels), once for many blocks."""
        near = _neighbours(columns, self.start_px[1], self.spacing_px, self.nodes.shape[1])
        return FieldRows(lerp_columns(self.nodes, near), self.start_px[0], self.spacing_px)


@dataclass(frozen=True, slots=True)
class FieldRows:
    """A field already interpolated along x."""

    expanded: Float32Array
    """One row a lattice row, one column an output column."""
    start_px: float
    """Position of lattice row 0 in 10 m pixels."""
    spacing_px: float
    """Distance of lattice rows in 10 m pixels."""

    def rows(self, positions: NDArray[np.float64]) -> Float32Array:
        """Values for rows at ``positions`` (10 m pixels); float32 ``(len(positions), columns)``."""
        near = _neighbours(positions, self.start_px, self.spacing_px, self.expanded.shape[0])
        return lerp_rows(self.expanded, near)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """For each position along one axis: the two nodes beside it and the weight of the second."""

    low: NDArray[np.intp]
    """Index of the first node."""
    high: NDArray[np.intp]
    """Index of the second node."""
    weight: Float32Array
    """Weight of the second node, 0 to 1."""


def lerp_columns(nodes: Float32Array, near: Neighbours) -> Float32Array:
    """Interpolate ``nodes`` ``(y, x)`` along x; ``(y, len(near))``."""
    return nodes[:, near.low] * (1 - near.weight) + nodes[:, near.high] * near.weight


def lerp_rows(nodes: Float32Array, near: Neighbours) -> Float32Array:
    """Interpolate ``nodes`` ``(y, x)`` along y; ``(len(near), x)``."""
    out = nodes[near.high]
    base = nodes[near.low]
    out -= base
    out *= near.weight[:, None]
    out += base
    return out


def _neighbours(positions: NDArray[np.float64], start: float, spacing: float, n_nodes: int) -> Neighbours:
    place = np.clip((positions - start) / spacing, 0, n_nodes - 1)
    low = np.minimum(place.astype(np.intp), max(n_nodes - 2, 0))
    high = np.minimum(low + 1, n_nodes - 1)
    return Neighbours(low, high, (place - low).astype(np.float32))


def centres(start_px: int, stop_px: int, factor: int) -> NDArray[np.float64]:
    """Positions in 10 m pixels of the centres of pixels ``start_px`` to ``stop_px`` of a ``factor`` coarser grid."""
    return (np.arange(start_px, stop_px, dtype=np.float64) + 0.5) * factor - 0.5


def fractal(rng: np.random.Generator, n_nodes: int, octaves: tuple[int, ...]) -> Float32Array:
    """Square lattice of zero mean and unit deviation; each octave is a coarser random lattice, amplitude ~ 1/octave."""
    total = np.zeros((n_nodes, n_nodes), np.float32)
    for cells in octaves:
        coarse = Field(rng.standard_normal((cells + 1, cells + 1)).astype(np.float32), (0.0, 0.0), 1.0)
        at = np.linspace(0, cells, n_nodes)
        # Smoothstep between the nodes: straight lines would show as corners in the clouds.
        rest = at - np.floor(at)
        at = np.floor(at) + rest * rest * (3 - 2 * rest)
        total += coarse.across(at).rows(at) * np.float32(octaves[0] / cells)
    total -= total.mean()
    total /= total.std()
    return total
