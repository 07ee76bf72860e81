"""Decoding regions of an array straight from its objects, each part of a compressed chunk fetched and decoded when it is needed.

Reads Zarr v2 chunks, v3 chunks and the inner chunks of v3 shards alike. Written apart from the converter, which has its own way
of reading (``io.source``) and writing (``io.store``); zarr-python is the oracle of its tests.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, product
from typing import Any, Protocol

import google_crc32c
import numcodecs
import numpy as np
from numcodecs.vlen import VLenUTF8
from numpy.typing import NDArray

from zarrmill.io.answers import MissingObjectError
from zarrmill.io.blosc import DECODE_ERRORS
from zarrmill.io.chunk_layout import TEXT, ChunkLayout
from zarrmill.io.frames import Bytes, Frame, head_bytes, parse_frame

AHEAD_BYTES = 8_000_000
"""Compressed bytes fetched at a time of a chunk that is read from its begin to its end."""
HEAD_BYTES = 16_384
"""Compressed bytes fetched first of a chunk of which a part is needed: header and offsets of a few thousand blocks."""
SMALL_BYTES = 4_000_000
"""Inner chunks up to this size are fetched whole, together with those beside them."""
_ABSENT = 2**64 - 1
Values = NDArray[Any]  # Any: arrays keep the dtype that they are stored with
Region = tuple[slice, ...]
Index = tuple[int, ...]


class ByteReader(Protocol):
    """Objects that can be read in part (see ``io.objects.Objects``)."""

    def get(self, key: str) -> bytes: ...
    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]: ...
    def size(self, key: str) -> int: ...


class ChunkError(ValueError):
    """A chunk or a shard's index is not what it must be; the message names it."""


class ChunkReader:
    """Reads one array; the compressed chunks of the last region are kept, for the next one often needs more of them."""

    def __init__(
        self, objects: ByteReader, layout: ChunkLayout, sizes: Mapping[str, int] | None, ahead: bool, near: bool = False
    ) -> None:
        """Begin.

        Args: sizes: bytes of every object where they are known; ahead: the array is read from its begin to its end; near: its
        objects lie on this machine, nothing is gained by fetching more of them than is needed.
        """
        self._objects, self.layout, self._sizes, self._ahead = objects, layout, sizes, ahead
        self._ahead_bytes = AHEAD_BYTES if ahead and not near else 0
        self._keeps = ahead and 0 < layout.chunk_bytes <= SMALL_BYTES
        self._pieces: dict[Index, _Piece | None] = {}
        self._shards: dict[Index, list[list[int]] | None] = {}

    @property
    def keeps(self) -> bool:
        """Whether decoded chunks are kept for the next region, not only compressed ones."""
        return self._keeps or self.layout.compressor not in (None, "blosc")

    def read(self, region: Region) -> Values:
        """Return the values of a region; a chunk that is not there reads as fill value.

        Raises: ChunkError: a chunk cannot be decoded; SourceError: no answer.
        """
        whole = tuple(slice(0, s.stop - s.start) for s in region)
        out: Values | None = None
        for place, values in self.parts(region):
            if place == whole:
                return values
            if out is None:
                out = np.empty([s.stop for s in whole], self.layout.dtype)
            out[place] = values
        return np.empty([s.stop for s in whole], self.layout.dtype) if out is None else out

    def parts(self, region: Region) -> Iterator[tuple[Region, Values]]:
        """Return the values of a region chunk by chunk, each with its place in the region.

        Raises: as ``read``, on the way.
        """
        cells = list(product(*map(_along, region, self.layout.inner)))
        indexes = [tuple(i for i, _, _ in cell) for cell in cells]
        pieces = self._load(indexes)
        if not self._ahead or all(s.stop == n for s, n in zip(region, self.layout.shape, strict=True)):
            self._pieces, self._shards = {}, {}  # nothing comes after it
        for index, cell in zip(indexes, cells, strict=True):
            inside, place = tuple(inside for _, inside, _ in cell), tuple(place for _, _, place in cell)
            yield place, self._values(index, pieces[index], inside)

    def _load(self, indexes: list[Index]) -> "dict[Index, _Piece | None]":
        """Find the chunks of a region and forget those that it does not need."""
        pieces = {index: self._pieces[index] for index in indexes if index in self._pieces}
        new = [index for index in indexes if index not in pieces]
        if not self.layout.sharded:
            pieces |= {index: self._object_piece(index) for index in new}
        else:
            per = [o // i for o, i in zip(self.layout.outer, self.layout.inner, strict=True)]
            shards = {index: tuple(i // n for i, n in zip(index, per, strict=True)) for index in indexes}
            self._shards = {shard: found for shard, found in self._shards.items() if shard in shards.values()}
            for shard, members in groupby(sorted(new, key=shards.__getitem__), shards.__getitem__):
                pieces |= self._shard_pieces(shard, per, list(members))
        self._pieces = pieces
        return pieces

    def _object_piece(self, index: Index) -> "_Piece":
        key = self.layout.key(index)
        return _Piece(self._objects, key, 0, None, self.layout, self._ahead_bytes, self._keeps)

    def _shard_pieces(self, shard: Index, per: list[int], indexes: list[Index]) -> "dict[Index, _Piece | None]":
        """Return the inner chunks of one shard, with their bytes when they are small."""
        key = self.layout.key(shard)
        if shard not in self._shards:
            self._shards[shard] = self._shard_index(key, math.prod(per))
        table = self._shards[shard]
        if table is None:
            return dict.fromkeys(indexes)
        pieces: dict[Index, _Piece | None] = {}
        small: list[_Piece] = []
        for index in indexes:
            offset, length = table[_flat([i % n for i, n in zip(index, per, strict=True)], per)]
            if offset == length == _ABSENT:
                pieces[index] = None
                continue
            piece = _Piece(self._objects, key, offset, length, self.layout, self._ahead_bytes, self._keeps)
            pieces[index] = piece
            small += [piece] if length <= SMALL_BYTES else []
        small.sort(key=lambda piece: piece.offset)
        found = self._objects.get_ranges(key, [(piece.offset, piece.length or 0) for piece in small]) if small else []
        for piece, data in zip(small, found, strict=True):
            piece.give(data)
        return pieces

    def _shard_index(self, key: str, n_chunks: int) -> list[list[int]] | None:
        """Return offset and length of every chunk of a shard, None when the shard is not there."""
        length = 16 * n_chunks + 4
        if self._sizes is not None and key not in self._sizes:
            return None
        try:
            size = self._sizes[key] if self._sizes is not None else self._objects.size(key)
            start = max(size - length, 0) if self.layout.index_at_end else 0
            data = self._objects.get_ranges(key, [(start, length)])[0]
        except MissingObjectError:
            return None
        if len(data) != length:
            raise ChunkError(f"shard {key}: {size} bytes cannot hold an index of {length}")
        if int.from_bytes(data[-4:], "little") != google_crc32c.value(data[:-4]):
            raise ChunkError(f"shard {key}: the checksum of its index is wrong")
        table: NDArray[np.uint64] = np.frombuffer(data, "<u8", 2 * n_chunks).reshape(n_chunks, 2)
        there = table[(table != _ABSENT).any(axis=1)]
        if (there > size).any() or (there.sum(axis=1) > size).any():
            raise ChunkError(f"shard {key}: its index points behind its end")
        places: list[list[int]] = table.tolist()
        return places

    def _values(self, index: Index, piece: "_Piece | None", inside: Region) -> Values:
        """Return a part of one chunk: what is contiguous is decoded, all behind the first axis that is not one wide; then cut."""
        layout, shape = self.layout, tuple(s.stop - s.start for s in inside)
        axis = next((a for a, n in enumerate(shape) if n != 1), max(len(shape) - 1, 0))
        row = math.prod(layout.inner[axis + 1 :])
        start = _flat([s.start for s in inside[: axis + 1]], layout.inner) * row
        try:
            values = piece.items(start, start + (shape[axis] * row if shape else 1)) if piece else None
        except MissingObjectError:
            values = None
        except DECODE_ERRORS as error:
            raise ChunkError(f"inner chunk {index}: {type(error).__name__}: {error}") from error
        if values is None:
            return np.full(shape, layout.fill, layout.dtype)
        rest = tuple(slice(s.start, s.stop) for s in inside[axis + 1 :])
        return values.reshape(-1, *layout.inner[axis + 1 :])[(slice(None), *rest)].reshape(shape)


def _along(side: slice, chunk: int) -> list[tuple[int, slice, slice]]:
    """Return the chunks along one side of a region: index, the part that lies in the chunk, and its place in the region."""
    out = []
    for i in range(side.start // chunk, -(-side.stop // chunk)):
        origin = i * chunk - side.start
        start, stop = max(-origin, 0), min(side.stop - i * chunk, chunk)
        out.append((i, slice(start, stop), slice(origin + start, origin + stop)))
    return out


def _flat(index: Sequence[int], shape: Sequence[int]) -> int:
    """Return the place in C order of an index into the first axes of a shape."""
    place = 0
    for i, n in zip(index, shape, strict=False):
        place = place * n + i
    return place


class _Piece:
    """One compressed chunk: an object, or a part of a shard."""

    def __init__(
        self, objects: ByteReader, key: str, offset: int, length: int | None, layout: ChunkLayout, ahead_bytes: int, keeps: bool
    ) -> None:
        self._objects, self._key, self._layout = objects, key, layout
        self.offset, self.length = offset, length
        self._ahead_bytes, self._keeps = ahead_bytes, keeps
        self._at, self._data = 0, b""
        self._frame: Frame | None = None
        self._decoded: Values | None = None

    def give(self, data: bytes) -> None:
        """Take the bytes of the whole chunk."""
        self._data = data

    def items(self, start: int, stop: int) -> Values:
        """Return decoded items ``start`` to ``stop`` of the chunk."""
        layout, size = self._layout, self._layout.dtype.itemsize
        is_part = (stop - start) * size < layout.chunk_bytes
        # A small chunk of which the next region needs the rest is decoded once; of a large one only what is needed.
        if layout.dtype is TEXT or layout.compressor not in (None, "blosc") or (is_part and self._keeps):
            return self._whole()[start:stop]
        if layout.compressor is None:
            if self.length not in (None, layout.chunk_bytes):
                raise ValueError(f"{self.length} bytes, expected {layout.chunk_bytes}")
            return np.frombuffer(self._take(start * size, stop * size, layout.chunk_bytes), layout.dtype)
        return self._blosc(start * size, stop * size).view(layout.dtype)

    def _blosc(self, start: int, stop: int) -> Bytes:
        if self._frame is None:
            if not self._data:
                self._fetch(0, max(HEAD_BYTES, self._ahead_bytes))
            n_head = head_bytes(self._data)
            if len(self._data) < n_head:
                self._fetch(0, n_head)
            frame = parse_frame(self._data)
            if frame.n_bytes != self._layout.chunk_bytes:
                raise ValueError(f"decodes to {frame.n_bytes} bytes, expected {self._layout.chunk_bytes}")
            if self.length is not None and frame.n_compressed != self.length:
                raise ValueError(f"blosc header says {frame.n_compressed} bytes, the shard's index {self.length}")
            self._frame = frame
        first, last = self._frame.span(start, stop)
        return self._frame.decode(self._take(first, last, self._frame.n_compressed), start, stop)

    def _whole(self) -> Values:
        """Return all items of the chunk, decoded once."""
        if self._decoded is None:
            self._decoded = self._decode()
            self._data = b""
        return self._decoded

    def _decode(self) -> Values:
        layout = self._layout
        if layout.compressor == "blosc" and layout.dtype is not TEXT:
            return self._blosc(0, layout.chunk_bytes).view(layout.dtype)
        data: Any = self._objects.get(self._key) if self.length is None else self._take(0, self.length, self.length)
        if layout.compressor:
            data = numcodecs.get_codec({"id": layout.compressor}).decode(data)
        found: Values = VLenUTF8().decode(data) if layout.dtype is TEXT else np.frombuffer(data, layout.dtype)
        if found.size != math.prod(layout.inner):
            raise ValueError(f"decodes to {found.size} items, expected {math.prod(layout.inner)}")
        return found

    def _take(self, start: int, stop: int, size: int) -> memoryview:
        """Return compressed bytes of a chunk of ``size``; what was fetched ahead is kept from ``start`` on, not fetched again."""
        if start < self._at or stop > self._at + len(self._data):
            kept = self._data[start - self._at :] if start >= self._at and self._ahead_bytes else b""
            behind = start + len(kept)
            self._fetch(behind, min(max(stop - behind, self._ahead_bytes), size - behind))
            self._at, self._data = start, kept + self._data if kept else self._data
        part = memoryview(self._data)[start - self._at : stop - self._at]
        if part.nbytes < stop - start:
            raise ValueError(f"truncated: {self._at + len(self._data)} bytes, expected {size}")
        return part

    def _fetch(self, start: int, length: int) -> None:
        most = length if self.length is None else min(length, self.length - start)
        self._data = self._objects.get_ranges(self._key, [(self.offset + start, most)])[0]
        self._at = start
