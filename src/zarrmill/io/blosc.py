"""Decoding a range of a blosc chunk without the rest, with the range decoder that numcodecs ships but does not wrap."""

import ctypes
import lzma
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numcodecs.blosc
import numpy as np
from numpy.typing import NDArray

DECODE_ERRORS = (RuntimeError, ValueError, TypeError, EOFError, OSError, zlib.error, lzma.LZMAError)
"""What codecs, blosc and the others that numcodecs has, raise for bytes that are not theirs."""
HEADER_BYTES = 16
"""Length of a chunk's header (c-blosc 1 chunk format)."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a chunk says of itself."""

    typesize: int
    """Bytes of one element for the shuffle filters."""
    n_bytes: int
    """Decoded bytes."""
    blocksize: int
    """Decoded bytes of a block, the least that can be decoded."""
    n_compressed: int
    """Bytes of the chunk, header and all."""


def header(data: bytes) -> Header:
    """Return the header of a chunk of at least ``HEADER_BYTES`` bytes: four of one byte, three little-endian uint32."""
    n_bytes, blocksize, n_compressed = (int.from_bytes(data[at : at + 4], "little") for at in (4, 8, 12))
    return Header(data[3], n_bytes, blocksize, n_compressed)


def can_decode_ranges() -> bool:
    """Return whether numcodecs still ships the range decoder; without it chunks are decoded whole."""
    return _getitem() is not None


class BloscChunk:
    """A compressed chunk, decoded by whole blocks; who reads it forward has each block decoded once."""

    def __init__(self, data: bytes, dtype: np.dtype[Any]) -> None:
        head = header(data)
        self._data, self._dtype, self._typesize = data, dtype, max(head.typesize, 1)
        self._n, self._block = head.n_bytes // dtype.itemsize, max(head.blocksize // dtype.itemsize, 1)
        self._first, self._decoded = 0, np.empty(0, dtype)

    def items(self, low: int, high: int) -> NDArray[Any]:
        """Return items ``low`` to ``high`` of the chunk in C order.

        Raises: ValueError: they cannot be decoded.
        """
        last = self._first + len(self._decoded)
        if not self._first <= low <= last:
            self._first = last = low // self._block * self._block
            self._decoded = self._decoded[:0]
        if high > last:
            start = min(low, last)
            kept = self._decoded[start - self._first :]
            room = np.empty(min(math.ceil(high / self._block) * self._block, self._n) - start, self._dtype)
            room[: len(kept)] = kept
            self._decode(last, room[len(kept) :])
            self._first, self._decoded = start, room
        return self._decoded[low - self._first : high - self._first]

    def _decode(self, start: int, out: NDArray[Any]) -> None:
        """Decode from item ``start``, the first of a block."""
        function = _getitem()
        assert function is not None, "asked for with can_decode_ranges"
        if out.nbytes % self._typesize:  # the end of a chunk whose elements are not the array's items
            out[:] = np.frombuffer(numcodecs.blosc.decompress(self._data), self._dtype)[start : start + out.size]
            return
        first, n = start * out.itemsize // self._typesize, out.nbytes // self._typesize
        got = function(self._data, first, n, out.ctypes.data_as(ctypes.c_void_p))
        if got != out.nbytes:
            raise ValueError(f"blosc error {got}")


@cache
def _getitem() -> Callable[..., int] | None:
    """Return ``blosc_getitem`` of the library that numcodecs ships, or None. ctypes releases the GIL around the call."""
    library = ctypes.CDLL(numcodecs.blosc.__file__)
    function = getattr(library, "blosc_getitem", None)
    if function is not None:
        function.restype = ctypes.c_int
        function.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    return function
