"""Reading a large source array by window, for work that wanders through it in a slanted line.

A radar image lies turned on the map: one row of the map crosses thousands of its lines. The map is made in bands of columns; of
each chunk column of the image only what one band needs is held, in blocks of lines, while the present rows of the map need them.
"""

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zarrmill.errors import SourceError
from zarrmill.io.answers import MissingObjectError
from zarrmill.io.objects import Objects
from zarrmill.io.pieces import BloscPieces, PiecewiseObjects
from zarrmill.io.source import ChunkRows, Missing, object_keys, open_zarr, read_zarr
from zarrmill.model import SourceArray, SourceTree

LINES = 128
"""Lines that are decoded at a time."""
SLACK_PX = 64
"""How far beyond its outline a band may need samples before they are decoded once more."""
Run = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]  # Any: what is run, and what comes of it
Block = tuple[int, int]
"""First line, and column of chunks."""
Floats = NDArray[np.float64]


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


class WindowedArray:
    """A two-dimensional array that is read by window; samples beyond its edges are 0."""

    def __init__(self, objects: Objects, tree: SourceTree, array: SourceArray, on_missing: Missing) -> None:
        """``on_missing`` is told the key of each chunk that is not there, once."""
        self._shape, self._chunks = (array.shape[0], array.shape[1]), (array.chunks[0], array.chunks[1])
        self._lines = _open_lines(objects, tree, array, on_missing)
        self._step = self._lines.step
        self._outline: tuple[Floats, Floats] | None = None
        self._held: dict[Block, tuple[int, NDArray[Any]]] = {}

    def begin(self, left: Floats, right: Floats) -> None:
        """Be told where the next windows lie: mostly between two lines, each ``(points, 2)`` of line and pixel."""
        self._held = {}
        self._outline = (left[np.argsort(left[:, 0])], right[np.argsort(right[:, 0])])

    def prepare(self, windows: Sequence[Window], run: Run) -> None:
        """Hold what ``windows`` need and let the rest go; what is not held is decoded by ``run``.

        Raises: SourceError: a chunk cannot be decoded or fetched.
        """
        needed = {block for window in windows for block in self._blocks(window)}
        missing = sorted(needed - self._held.keys())
        self._lines.fetch(sorted({(line // self._chunks[0], column) for line, column in missing}), run)
        found = list(run(self._decode, missing))
        self._held = {block: part for block, part in self._held.items() if block in needed} | dict(
            zip(missing, found, strict=True)
        )

    def read(self, window: Window) -> NDArray[np.uint32]:
        """Return the samples of a window, shape ``(bottom - top, right - left)``.

        Raises: SourceError: a chunk cannot be decoded or fetched.
        """
        out = np.zeros((window.bottom - window.top, window.right - window.left), np.uint32)
        for block in self._blocks(window):
            first, last = self._columns(block)
            top, bottom = max(window.top, block[0]), min(window.bottom, self._end(block))
            left, right = max(window.left, first), min(window.right, last)
            start, part = self._held.get(block, (0, np.empty((0, 0))))
            if left < start or right > start + part.shape[1]:
                start, part = first, self._lines.read(block[0], self._end(block), block[1])
            lines = part[top - block[0] : bottom - block[0], left - start : right - start]
            out[top - window.top : bottom - window.top, left - window.left : right - window.left] = lines
        return out

    def _blocks(self, window: Window) -> list[Block]:
        """Return the blocks that a window meets."""
        (height, width), (chunk_y, chunk_x) = self._shape, self._chunks
        top, bottom = max(window.top, 0), min(window.bottom, height)
        lines: list[int] = []
        for start in range(top // chunk_y * chunk_y, bottom, chunk_y):
            first = start + max(top - start, 0) // self._step * self._step
            lines += range(first, min(start + chunk_y, bottom), self._step)
        left, right = max(window.left, 0), min(window.right, width)
        return list(product(lines, range(left // chunk_x, math.ceil(right / chunk_x))))

    def _end(self, block: Block) -> int:
        chunk_y = self._chunks[0]
        return min(block[0] + self._step, (block[0] // chunk_y + 1) * chunk_y, self._shape[0])

    def _columns(self, block: Block) -> tuple[int, int]:
        return block[1] * self._chunks[1], min((block[1] + 1) * self._chunks[1], self._shape[1])

    def _decode(self, block: Block) -> tuple[int, NDArray[Any]]:
        """Return the first column and the samples of the part of a block that lies in the outline."""
        first, last = self._columns(block)
        lines = self._lines.read(block[0], self._end(block), block[1])
        if self._outline is None:
            return first, lines
        at = (block[0], self._end(block))
        edges = [np.interp(at, edge[:, 0], edge[:, 1]) for edge in self._outline]
        left = min(max(first, math.floor(np.min(edges)) - SLACK_PX), last)
        right = max(min(last, math.ceil(np.max(edges)) + SLACK_PX), left)
        part = lines[:, left - first : right - first]
        return left, part if part.shape == lines.shape else part.copy()


class _Lines(Protocol):
    """Lines of one column of chunks."""

    @property
    def step(self) -> int:
        """Lines that are best read at a time, from the first of a chunk on."""
        ...

    def fetch(self, chunks: Sequence[tuple[int, int]], run: Run) -> None:
        """Be told row and column of the chunks that are read next."""
        ...

    def read(self, top: int, bottom: int, column: int) -> NDArray[Any]:
        """Return lines of one chunk."""
        ...


def _open_lines(objects: Objects, tree: SourceTree, array: SourceArray, on_missing: Missing) -> _Lines:
    if tree.zarr_format == 3:
        return _ZarrLines(objects, array, on_missing)
    node = array.encoding
    in_pieces = (node["compressor"] or {}).get("id") == "blosc" and not node["filters"] and node["order"] == "C"
    return (_PieceLines if in_pieces else _ChunkLines)(objects, array, _Once(on_missing))


class _Once:
    """Tells each key once."""

    def __init__(self, on_missing: Missing) -> None:
        self._on_missing, self._told, self._lock = on_missing, set[str](), threading.Lock()

    def __call__(self, key: str) -> None:
        with self._lock:
            is_new = key not in self._told
            self._told.add(key)
        if is_new:
            self._on_missing(key)


class _ChunkLines:
    """Lines of a Zarr v2 array whose chunks must be decoded whole."""

    def __init__(self, objects: Objects, array: SourceArray, on_missing: Missing) -> None:
        self._rows, self.step = ChunkRows(objects, array, on_missing), array.chunks[0]
        self._width = array.shape[1]

    def fetch(self, chunks: Sequence[tuple[int, int]], run: Run) -> None:
        """They are fetched when they are read."""

    def read(self, top: int, bottom: int, column: int) -> NDArray[Any]:
        row, start = divmod(top, self.step)
        lines = self._rows.decode(self._rows.fetch(0, row, column), 0, row, column, start, start + bottom - top)
        return lines[:, : self._width - column * lines.shape[1]]


class _PieceLines:
    """Lines of a Zarr v2 array from its blosc chunks, piece by piece."""

    step = LINES

    def __init__(self, objects: Objects, array: SourceArray, on_missing: Missing) -> None:
        self._objects, self._array, self._on_missing = PiecewiseObjects(objects), array, on_missing
        self._place = f"{objects.href}: array {array.path}"
        self._known: dict[tuple[int, int], BloscPieces | None] = {}

    def fetch(self, chunks: Sequence[tuple[int, int]], run: Run) -> None:
        new = [chunk for chunk in chunks if chunk not in self._known]
        self._known |= dict(zip(new, run(self._open, new), strict=True))

    def read(self, top: int, bottom: int, column: int) -> NDArray[Any]:
        chunk_y, chunk_x = self._array.chunks
        dtype, width = np.dtype(self._array.dtype), min(chunk_x, self._array.shape[1] - column * chunk_x)
        (row, start), row_bytes = divmod(top, chunk_y), chunk_x * dtype.itemsize
        piece = self._known[row, column] if (row, column) in self._known else self._open((row, column))
        if piece is None:
            return np.full((bottom - top, width), self._array.fill_value or 0, dtype)
        try:
            found = piece.decode(start * row_bytes, (start + bottom - top) * row_bytes)
        except ValueError as error:
            raise self._corrupt((row, column), error) from error
        return found.view(self._array.encoding["dtype"]).reshape(-1, chunk_x)[:, :width]

    def _open(self, chunk: tuple[int, int]) -> BloscPieces | None:
        n_bytes = math.prod(self._array.chunks) * np.dtype(self._array.dtype).itemsize
        try:
            return BloscPieces(self._objects, self._key(chunk), n_bytes)
        except MissingObjectError:
            self._on_missing(self._key(chunk))
            return None
        except ValueError as error:
            raise self._corrupt(chunk, error) from error

    def _key(self, chunk: tuple[int, int]) -> str:
        separator = str(self._array.encoding.get("dimension_separator", "."))
        return f"{self._array.path}/{chunk[0]}{separator}{chunk[1]}"

    def _corrupt(self, chunk: tuple[int, int], error: ValueError) -> SourceError:
        text = f"{self._place}, chunk {self._key(chunk)}: {error}"
        return SourceError(f"{text}; report it to the provider, run again when it is mended", kind="corrupt")


class _ZarrLines:
    """Lines of a Zarr v3 array through zarr-python."""

    def __init__(self, objects: Objects, array: SourceArray, on_missing: Missing) -> None:
        self._objects, self._array, self.step = objects, array, array.chunks[0]
        for key in object_keys(array):
            if not objects.exists(key):
                on_missing(key)
        self._zarr = open_zarr(objects, array)

    def fetch(self, chunks: Sequence[tuple[int, int]], run: Run) -> None:
        """They are fetched when they are read."""

    def read(self, top: int, bottom: int, column: int) -> NDArray[Any]:
        left = column * self._array.chunks[1]
        columns = slice(left, min(left + self._array.chunks[1], self._array.shape[1]))
        return read_zarr(self._objects, self._array, self._zarr, (slice(top, bottom), columns))
