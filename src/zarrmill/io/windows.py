"""Reading a large source array by window, for work that wanders through it in a slanted line.

A radar image lies turned on the map: one row of the map crosses thousands of its lines. The image is cut into bands of
columns, and of each band only the lines are held that the present rows of the map need. Compressed chunks are held while one
of the bands reads from them, so each is fetched about once.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zarrmill.io.objects import Objects
from zarrmill.io.source import ChunkRows, Missing, object_keys, open_v3, read_zarr
from zarrmill.model import SourceArray, SourceTree

BAND_PX = 8192
"""Widest band: a chunk that is wider is decoded once for each of its bands."""


class Window(Protocol):
    """A part of an array; it may reach beyond the edges."""

    @property
    def top(self) -> int: ...
    @property
    def bottom(self) -> int: ...
    @property
    def left(self) -> int: ...
    @property
    def right(self) -> int: ...


class BandedArray:
    """A two-dimensional array that is read by window; samples beyond its edges are 0."""

    def __init__(self, objects: Objects, tree: SourceTree, array: SourceArray, on_missing: Missing) -> None:
        """``on_missing`` is told the key of each chunk that is not there, once."""
        self._height, self._width = array.shape
        self._dtype = np.dtype(array.dtype)
        self._bands = _bands(self._width, array.chunks[1])
        self._held: dict[int, tuple[int, NDArray[Any]]] = {}
        reader = _ChunkLines if tree.zarr_format == 2 else _ZarrLines
        self._lines: _Lines = reader(objects, array, on_missing)

    def prepare(self, windows: Sequence[Window]) -> None:
        """Hold the lines that ``windows`` need, band by band, and let the others go."""
        self._lines.turn()
        for number, (left, right) in enumerate(self._bands):
            over = [window for window in windows if window.left < right and window.right > left]
            top = max(min((window.top for window in over), default=0), 0)
            bottom = min(max((window.bottom for window in over), default=0), self._height)
            self._hold(number, top, max(bottom, top))

    def read(self, window: Window) -> NDArray[Any]:
        """Return the samples of a window, shape ``(bottom - top, right - left)``.

        Raises: SourceError: a chunk cannot be decoded or fetched.
        """
        out = np.zeros((window.bottom - window.top, window.right - window.left), self._dtype)
        top, bottom = max(window.top, 0), min(window.bottom, self._height)
        for number, (first, last) in enumerate(self._bands):
            left, right = max(window.left, first), min(window.right, last)
            if top < bottom and left < right:
                lines = self._take(number, top, bottom)[:, left - first : right - first]
                out[top - window.top : bottom - window.top, left - window.left : right - window.left] = lines
        return out

    def _take(self, number: int, top: int, bottom: int) -> NDArray[Any]:
        start, lines = self._held.get(number, (0, np.empty((0, 0))))
        if start <= top and bottom <= start + len(lines):
            return lines[top - start : bottom - start]
        left, right = self._bands[number]
        return self._lines.read(top, bottom, left, right)

    def _hold(self, number: int, top: int, bottom: int) -> None:
        """Make ``top`` to ``bottom`` the lines that are held of a band; decode only those that were not."""
        left, right = self._bands[number]
        start, old = self._held.pop(number, (top, np.empty((0, right - left), self._dtype)))
        if top == bottom:
            return
        keep_top, keep_bottom = max(start, top), min(start + len(old), bottom)
        new = np.empty((bottom - top, right - left), self._dtype)
        if keep_top < keep_bottom:
            new[keep_top - top : keep_bottom - top] = old[keep_top - start : keep_bottom - start]
            parts = [(top, keep_top), (keep_bottom, bottom)]
        else:
            parts = [(top, bottom)]
        for first, last in parts:
            if first < last:
                new[first - top : last - top] = self._lines.read(first, last, left, right)
        self._held[number] = (top, new)


def _bands(width: int, chunk: int) -> list[tuple[int, int]]:
    """Return the columns of each band: a chunk, or equal parts of a chunk that is wider than ``BAND_PX``."""
    edges = [0]
    for start in range(0, width, chunk):
        size = min(chunk, width - start)
        n = math.ceil(size / BAND_PX)
        edges += [start + size * k // n for k in range(1, n + 1)]
    return list(pairwise(edges))


class _Lines(Protocol):
    """Lines of an array, in any order."""

    def turn(self) -> None:
        """Let go of chunks that were not read since the last call of this."""
        ...

    def read(self, top: int, bottom: int, left: int, right: int) -> NDArray[Any]:
        """Return a part of the array; ``left`` and ``right`` are in one column of chunks."""
        ...


class _ChunkLines:
    """Lines of a Zarr v2 array, from its compressed chunks."""

    def __init__(self, objects: Objects, array: SourceArray, on_missing: Missing) -> None:
        self._told: set[str] = set()
        self._on_missing = on_missing
        self._chunks = ChunkRows(objects, array, self._tell)
        self._array = array
        self._pieces: dict[tuple[int, int], Any] = {}
        self._used: set[tuple[int, int]] = set()

    def turn(self) -> None:
        self._pieces = {place: piece for place, piece in self._pieces.items() if place in self._used}
        self._used = set()

    def read(self, top: int, bottom: int, left: int, right: int) -> NDArray[Any]:
        chunk_y, chunk_x = self._array.chunks
        column = left // chunk_x
        parts = []
        for row in range(top // chunk_y, (bottom - 1) // chunk_y + 1):
            start, stop = max(top - row * chunk_y, 0), min(bottom - row * chunk_y, chunk_y)
            if (row, column) not in self._pieces:
                self._pieces[row, column] = self._chunks.fetch(0, row, column)
            self._used.add((row, column))
            lines = self._chunks.decode(self._pieces[row, column], 0, row, column, start, stop)
            parts.append(lines[:, left - column * chunk_x : right - column * chunk_x])
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _tell(self, key: str) -> None:
        if key not in self._told:
            self._told.add(key)
            self._on_missing(key)


class _ZarrLines:
    """Lines of a Zarr v3 array through zarr-python."""

    def __init__(self, objects: Objects, array: SourceArray, on_missing: Missing) -> None:
        self._objects, self._array = objects, array
        for key in object_keys(array):
            if not objects.exists(key):
                on_missing(key)
        self._zarr = open_v3(objects, array)

    def turn(self) -> None:
        """Nothing is held."""

    def read(self, top: int, bottom: int, left: int, right: int) -> NDArray[Any]:
        return read_zarr(self._objects, self._array, self._zarr, (slice(top, bottom), slice(left, right)))
