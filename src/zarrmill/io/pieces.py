"""Chunks that are decoded in part: memory holds what is asked for, not what it is cut from, and each is fetched once."""

import os
import threading
from tempfile import TemporaryFile
from typing import IO
from weakref import finalize

import numcodecs.blosc
import numpy as np
from numpy.typing import NDArray

from zarrmill.io.blosc import HEADER_BYTES, header
from zarrmill.io.objects import Objects
from zarrmill.io.places import write_error

_STORED = 2
"""Flag of a blosc chunk that is not compressed: it has no blocks (c-blosc 1 chunk format, third byte)."""


class PiecewiseObjects:
    """Objects that are read in pieces: local ones where they lie, others from one temporary file that holds them meanwhile."""

    def __init__(self, objects: Objects) -> None:
        self._objects, self._is_local = objects, objects.local is not None
        self._places: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._spool: IO[bytes] | None = None
        self._n_bytes = 0

    def size(self, key: str) -> int:
        """Return the size of an object in bytes. Raises: as ``read``."""
        return self._objects.size(key) if self._is_local else self._place(key)[1]

    def read(self, key: str, start: int, length: int) -> bytes:
        """Return a part of an object, which does not reach beyond its end.

        Raises: as ``Objects.get``; CapacityError: there is no room for the temporary file.
        """
        if self._is_local:
            return self._objects.get_range(key, start, length)
        first, _ = self._place(key)
        assert self._spool is not None, "made with the first place"
        return os.pread(self._spool.fileno(), length, first + start)

    def _place(self, key: str) -> tuple[int, int]:
        """Return where in the temporary file an object lies, and its size; fetch it when it is not there."""
        with self._lock:
            if key in self._places:
                return self._places[key]
        size, parts = self._objects.stream(key)
        try:
            with self._lock:
                if self._spool is None:
                    self._spool = TemporaryFile(buffering=0)  # noqa: SIM115 - closed with this
                    finalize(self, self._spool.close)
                first, self._n_bytes = self._n_bytes, self._n_bytes + size
            at = first
            for part in parts:
                at += os.pwrite(self._spool.fileno(), part, at)
        except OSError as error:
            raise write_error(error, "temporary file for chunks of the source") from error
        with self._lock:
            self._places[key] = (first, at - first)
        return first, at - first


class BloscPieces:
    """A blosc chunk of which only those blocks are read and decoded that are asked for."""

    def __init__(self, objects: PiecewiseObjects, key: str, n_bytes: int) -> None:
        """Read where its blocks lie; it must decode to ``n_bytes``.

        Raises: as ``PiecewiseObjects.read``; ValueError: the chunk is cut or decodes to something else.
        """
        self._objects, self._key, size = objects, key, objects.size(key)
        self._raw = objects.read(key, 0, HEADER_BYTES) if size >= HEADER_BYTES else b""
        head = header(self._raw) if self._raw else None
        if head is None or head.n_compressed != size:
            expected = head.n_compressed if head else f"a header of {HEADER_BYTES}"
            raise ValueError(f"truncated: {size} bytes, expected {expected}")
        if head.n_bytes != n_bytes:
            raise ValueError(f"decodes to {head.n_bytes} bytes, expected {n_bytes}")
        self._n_bytes, self._block = head.n_bytes, max(head.blocksize, 1)
        self._starts = self._ends = np.empty(0, np.int64)
        if not self._raw[2] & _STORED:
            n_blocks = -(-n_bytes // self._block)
            table = np.frombuffer(objects.read(key, HEADER_BYTES, 4 * n_blocks), "<u4").astype(np.int64)
            if table.min() < HEADER_BYTES + 4 * n_blocks or table.max() >= size:
                raise ValueError("its block table points out of it")
            after = np.append(np.sort(table), size)
            # Several threads may have written the blocks in any order.
            self._starts, self._ends = table, after[np.searchsorted(after, table, side="right")]

    def decode(self, low: int, high: int) -> NDArray[np.uint8]:
        """Return bytes ``low`` to ``high`` of the decoded chunk.

        Raises: as ``PiecewiseObjects.read``; ValueError: they cannot be decoded.
        """
        if not self._starts.size:
            return np.frombuffer(self._objects.read(self._key, HEADER_BYTES + low, high - low), np.uint8)
        first, last = low // self._block, -(-high // self._block)
        if first and first * self._block + self._block > self._n_bytes:
            first -= 1  # the last block may be a short one, and c-blosc takes none that is alone
        begin, end = first * self._block, min(last * self._block, self._n_bytes)
        out = np.empty(end - begin, np.uint8)
        try:
            numcodecs.blosc.decompress(self._frame(first, last, end - begin), out)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        return out[low - begin : high - begin]

    def _frame(self, first: int, last: int, n_bytes: int) -> bytes:
        """Return some blocks as a chunk of their own."""
        starts, ends = self._starts[first:last], self._ends[first:last]
        begin, end = int(starts.min()), int(ends.max())
        if end - begin == int((ends - starts).sum()):
            data = self._objects.read(self._key, begin, end - begin)
            places = starts - begin
        else:
            data = b"".join(self._objects.read(self._key, int(a), int(b - a)) for a, b in zip(starts, ends, strict=True))
            places = np.cumsum(ends - starts) - (ends - starts)
        room = HEADER_BYTES + 4 * (last - first)
        sizes = np.array([n_bytes, self._block, room + len(data)], "<u4").tobytes()
        return b"".join((self._raw[:4], sizes, (places + room).astype("<u4").tobytes(), data))
