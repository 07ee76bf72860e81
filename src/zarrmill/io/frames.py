"""Blosc chunks as they lie in an object: which compressed bytes hold which decoded ones, so that a part can be had alone.

Source: chunk format of c-blosc 1 (https://github.com/Blosc/c-blosc/blob/v1.21.6/README_CHUNK_FORMAT.rst): 16 bytes of header,
the offset of every block as little-endian int32, then the blocks, in any order. A plain chunk has its bytes after the header.
"""

from dataclasses import dataclass
from functools import cached_property

import numcodecs.blosc
import numpy as np
from numpy.typing import NDArray

from zarrmill.io.blosc import HEADER_BYTES, header

_VERSION, _PLAIN = 2, 0x2
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Frame:
    """One blosc chunk, known by its first bytes."""

    head: bytes
    """Header and offsets of the blocks."""
    n_bytes: int
    """Decoded bytes."""
    block_bytes: int
    """Decoded bytes of every block but the last."""
    n_compressed: int
    """Bytes of the chunk as it lies in the object."""

    @property
    def is_plain(self) -> bool:
        """Whether the bytes are stored as they are."""
        return bool(self.head[2] & _PLAIN)

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return -(-self.n_bytes // self.block_bytes)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.frombuffer(self.head, "<i4", self.n_blocks, HEADER_BYTES).astype(np.int64)

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        order = np.sort(self._starts)
        return np.append(order, self.n_compressed)[np.searchsorted(order, self._starts, side="right")]

    def _blocks(self, start: int, stop: int) -> tuple[int, int]:
        first, last = start // self.block_bytes, -(-stop // self.block_bytes)
        if last == self.n_blocks and last - first == 1 and first > 0:
            first -= 1  # c-blosc refuses a chunk that is shorter than one block of it
        return first, last

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Return the compressed bytes, first and behind the last, that decoding ``start`` to ``stop`` takes."""
        if self.is_plain:
            return HEADER_BYTES + start, HEADER_BYTES + stop
        if stop - start == self.n_bytes:
            return 0, self.n_compressed
        first, last = self._blocks(start, stop)
        return int(self._starts[first:last].min()), int(self._ends[first:last].max())

    def decode(self, data: memoryview, start: int, stop: int) -> Bytes:
        """Return the decoded bytes ``start`` to ``stop``; ``data`` is their ``span``.

        Raises: RuntimeError: blosc cannot decode them.
        """
        if self.is_plain:
            return np.frombuffer(data, np.uint8)
        if stop - start == self.n_bytes:
            whole = np.empty(self.n_bytes, np.uint8)
            numcodecs.blosc.decompress(data, whole)
            return whole
        first, last = self._blocks(start, stop)
        begin, end = first * self.block_bytes, min(last * self.block_bytes, self.n_bytes)
        head_bytes = HEADER_BYTES + 4 * (last - first)
        starts = self._starts[first:last] - self._starts[first:last].min() + head_bytes
        sizes = (end - begin, self.block_bytes, head_bytes + data.nbytes)
        head = b"".join((self.head[:4], *(size.to_bytes(4, "little") for size in sizes), starts.astype("<i4").tobytes()))
        out = np.empty(end - begin, np.uint8)
        numcodecs.blosc.decompress(b"".join((head, data)), out)
        return out[start - begin : stop - begin]


def head_bytes(data: bytes) -> int:
    """Return how many of a chunk's first bytes ``parse_frame`` takes; ``data`` has the first 16 at least.

    Raises: ValueError: it is no blosc chunk.
    """
    if len(data) < HEADER_BYTES or data[0] != _VERSION:
        raise ValueError(f"no blosc chunk of format {_VERSION}: it starts with {data[:HEADER_BYTES].hex()}")
    head = header(data)
    blocks = 0 if data[2] & _PLAIN else 4 * -(-head.n_bytes // max(head.blocksize, 1))
    if not head.blocksize or HEADER_BYTES + blocks > head.n_compressed:
        raise ValueError(f"blosc header: {head.n_compressed} bytes cannot hold the offsets of {head.n_bytes} decoded bytes")
    return HEADER_BYTES + blocks


def parse_frame(data: bytes) -> Frame:
    """Return the frame of a chunk from its first bytes, ``head_bytes`` at least.

    Raises: ValueError: it is no blosc chunk, or its header points outside of it.
    """
    n_head, head = head_bytes(data), header(data)
    frame = Frame(data[:n_head], head.n_bytes, head.blocksize, head.n_compressed)
    if len(frame.head) < n_head:
        raise ValueError(f"blosc header: {len(frame.head)} of {n_head} bytes are there")
    if frame.is_plain:
        if head.n_compressed != HEADER_BYTES + head.n_bytes:
            raise ValueError(f"blosc header: {head.n_compressed} bytes, expected {HEADER_BYTES + head.n_bytes} of a plain chunk")
    elif head.n_bytes and not n_head <= frame._starts.min() <= frame._starts.max() < head.n_compressed:
        raise ValueError("blosc header: a block lies outside of the chunk")
    return frame
