"""Arrays and groups as objects of a store: chunks encoded and put into shards as pixels arrive, and their metadata."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numcodecs.blosc
import numpy as np
from numcodecs.vlen import VLenUTF8
from numpy.typing import NDArray

from zarrmill.config import Codec
from zarrmill.io.store import Writer
from zarrmill.io.written import Entry, Part, Written
from zarrmill.model import ArrayPlan

_BATCH = 32
"""Small objects that are noted in the journal together."""
_EMPTY = 2**64 - 1
"""Offset and length that mark an absent inner chunk in a shard's index (zarr sharding codec, binary format)."""
_SHUFFLE = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


class PlaneWriter:
    """Writes one ``(y, x)`` plane of an array from blocks of pixels; a chunk is encoded as soon as it is complete.

    What an earlier attempt wrote is not written again: blocks may be put once more, their chunks are dropped.
    """

    def __init__(
        self, writer: Writer, plan: ArrayPlan, plane: tuple[int, ...] = (), finished: Mapping[str, Entry] | None = None
    ) -> None:
        """Begin, or go on where ``finished`` (of ``StoreWriter``) says that an earlier attempt ended."""
        self._writer, self._plan, self._codec = writer, plan, writer.codec.of(plan.path)
        self._chunk_y, self._chunk_x = plan.chunks[-2:]
        self._n_rows, n_columns = (math.ceil(size / n) for size, n in zip(plan.shape[-2:], plan.chunks[-2:], strict=True))
        self._name = "/".join(map(str, (plan.path, "c", *plane)))
        before = (finished or {}).get(self._name, Entry(self._name, (0,) * n_columns))
        self._rows, self.written = list(before.rows), list(before.objects)
        self._parts = {part.key: part for part in before.parts}
        self._chunks: dict[tuple[int, int], _Chunk] = {}
        self._spare: list[NDArray[Any]] = []
        self._shards: dict[tuple[int, int], _ShardSink] = {}
        self._noted = list(self._rows)

    def needed(self, left: int, right: int) -> int:
        """Return the first row of pixels whose chunks in columns ``left`` to ``right`` are not all written, or the height."""
        columns = self._rows[left // self._chunk_x : math.ceil(right / self._chunk_x)]
        return min(min(columns) * self._chunk_y, self._plan.shape[-2])

    def put(self, blocks: Sequence[NDArray[Any]], top: int, left: int = 0) -> None:
        """Take the pixels of blocks that lie side by side, each of shape ``(rows, columns)``; the first one is at ``top, left``.

        Each pixel comes once, in each column from the top down.
        """
        done, bottom = sum(self._rows), top + blocks[0].shape[0]
        for row in range(top // self._chunk_y, math.ceil(bottom / self._chunk_y)):
            at = left
            for block in blocks:
                self._put(block, top, at, row)
                at += block.shape[1]
        if sum(self._rows) > done:
            self._record()

    def _put(self, block: NDArray[Any], top: int, left: int, row: int) -> None:
        """Take what one row of chunks has of a block."""
        right, y = left + block.shape[1], row * self._chunk_y
        y0, y1 = max(top, y), min(top + block.shape[0], y + self._chunk_y)
        for column in range(left // self._chunk_x, math.ceil(right / self._chunk_x)):
            if row < self._rows[column]:
                continue
            x = column * self._chunk_x
            x0, x1 = max(left, x), min(right, x + self._chunk_x)
            chunk = self._chunks.get((row, column)) or self._open(row, column)
            chunk.values[y0 - y : y1 - y, x0 - x : x1 - x] = block[y0 - top : y1 - top, x0 - left : x1 - left]
            chunk.n_missing -= (y1 - y0) * (x1 - x0)
            if not chunk.n_missing:
                self._finish(row, column)

    def release(self) -> None:
        """Close the shards that are not whole; nothing when all are."""
        for shard in self._shards.values():
            shard.release()

    def _record(self) -> None:
        if self._writer.keeps_parts:
            rows = list(self._rows)
            begun = [part for shard in self._shards.values() if (part := shard.part())]
            self._parts |= {part.key: part for part in begun}
        else:
            rows = self._whole_rows()
            if rows == self._noted:
                return
        self._noted = rows
        self._writer.record(Entry(self._name, tuple(rows), tuple(self.written), tuple(self._parts.values())))

    def _whole_rows(self) -> list[int]:
        """Return the rows of chunks in each column that objects hold which are whole: down to the first shard that is open."""
        rows = list(self._rows)
        for row, column in self._shards:
            per_y, per_x = self._per_shard
            for n in range(column * per_x, min((column + 1) * per_x, len(rows))):
                rows[n] = min(rows[n], row * per_y)
        return rows

    def _open(self, row: int, column: int) -> "_Chunk":
        plan = self._plan
        inside = [min(n, size - i * n) for i, n, size in zip((row, column), plan.chunks[-2:], plan.shape[-2:], strict=True)]
        values = self._spare.pop() if self._spare else np.empty(plan.chunks[-2:], plan.dtype)
        if (*inside,) != values.shape:  # beyond the array's edge a chunk holds the fill value (zarr v3 core, chunk grids)
            values[:] = plan.fill_value
        chunk = self._chunks[row, column] = _Chunk(values, math.prod(inside))
        return chunk

    def _finish(self, row: int, column: int) -> None:
        values = self._chunks.pop((row, column)).values
        data = encode(values, self._codec) if _has_data(values, self._plan.fill_value) else None
        self._spare.append(values)
        if self._plan.shards:
            self._to_shard(row, column, data)
        elif data is not None:
            self.written.append(self._writer.write(self._key(row, column), data))
        self._rows[column] = row + 1

    def _to_shard(self, row: int, column: int, data: bytes | None) -> None:
        per_y, per_x = self._per_shard
        place = (row // per_y, column // per_x)
        if place not in self._shards:
            key, first = self._key(*place), place[0] * per_y
            last = min(first + per_y, self._n_rows)
            n_missing = sum(last - min(max(first, done), last) for done in self._rows[place[1] * per_x : (place[1] + 1) * per_x])
            self._shards[place] = _ShardSink(self._writer, per_y * per_x, n_missing, self._parts.get(key, Part(key)))
        shard = self._shards[place]
        shard.put((row % per_y) * per_x + column % per_x, data)
        if shard.is_whole:
            self._parts.pop(self._key(*place), None)
            self.written += [written for written in (self._shards.pop(place).close(),) if written]

    @property
    def _per_shard(self) -> tuple[int, int]:
        """Chunks of a shard, down and across."""
        shards, chunks = self._plan.shards or self._plan.chunks, self._plan.chunks
        return shards[-2] // chunks[-2], shards[-1] // chunks[-1]

    def _key(self, row: int, column: int) -> str:
        return f"{self._name}/{row}/{column}"


@dataclass(slots=True)
class _Chunk:
    """An inner chunk that is not complete."""

    values: NDArray[Any]
    n_missing: int
    """Pixels that have not come."""


class _ShardSink:
    """A shard: inner chunks one after the other, then their index with its checksum (``index_location: end``)."""

    def __init__(self, writer: Writer, n_chunks: int, n_missing: int, begun: Part) -> None:
        """``n_chunks`` has the index; ``n_missing`` of them, which lie in the array, are still to come; ``begun`` is there."""
        self._writer, self._key, self._chunks = writer, begun.key, list(begun.chunks)
        self._n_chunks, self._n_missing = n_chunks, n_missing
        self._sink = writer.sink(begun.key, begun) if begun.n_bytes else None

    @property
    def is_whole(self) -> bool:
        """Whether every chunk came."""
        return not self._n_missing

    def put(self, position: int, data: bytes | None) -> None:
        """Append a chunk; None is one that holds nothing but the fill value."""
        self._n_missing -= 1
        if data is not None:
            self._sink = self._sink or self._writer.sink(self._key)
            self._chunks.append((position, self._sink.n_bytes, len(data)))
            self._sink.append(data)

    def part(self) -> Part | None:
        """Return what is written so far; None where that is nothing."""
        return Part(self._key, self._sink.n_bytes, self._sink.sha256, tuple(self._chunks)) if self._sink else None

    def close(self) -> Written | None:
        """Write the index; None where no chunk holds data: then there is no object."""
        if self._sink is None:
            return None
        places = np.full((self._n_chunks, 2), _EMPTY, "<u8")
        for position, offset, length in self._chunks:
            places[position] = (offset, length)
        index = places.tobytes()
        self._sink.append(index + google_crc32c.value(index).to_bytes(4, "little"))
        return self._sink.close()

    def release(self) -> None:
        """Close the file of a shard that will not be finished."""
        if self._sink is not None:
            self._sink.release()


def _has_data(part: NDArray[Any], fill: Any) -> bool:
    """Return whether any value is not the fill value; a chunk that holds nothing else is not stored."""
    if fill == "NaN":
        return not np.isnan(part).all()
    # NumPy looks for extremes several times faster than it compares or makes truth values.
    return bool(part.flat[0] != fill or part.max() != fill or part.min() != fill)


def encode(chunk: NDArray[Any], codec: Codec) -> bytes:
    """Return one chunk compressed as its array's metadata says; ``chunk`` is C-contiguous and little endian."""
    shuffle = _SHUFFLE[codec.shuffle] if chunk.dtype.itemsize > 1 else 0
    return bytes(numcodecs.blosc.compress(chunk, codec.cname.encode(), codec.clevel, shuffle, codec.blocksize))


class SmallObjects:
    """Objects that are written whole, unless an earlier attempt wrote them; the journal notes many together."""

    def __init__(self, writer: Writer, finished: Mapping[str, Entry]) -> None:
        self._writer = writer
        self._there = {item.key: item for item in finished.get("small", Entry("small")).objects}

    def write(self, key: str, data: bytes) -> Written:
        """Write one object, unless it is there with these bytes."""
        there = self._there.get(key)
        if there and (there.n_bytes, there.sha256) == (len(data), hashlib.sha256(data).hexdigest()):
            return there
        written = self._there[key] = self._writer.write(key, data)
        if len(self._there) % _BATCH == 0:
            self._writer.record(Entry("small", objects=tuple(self._there.values())))
        return written

    def write_array(self, plan: ArrayPlan, values: NDArray[Any]) -> list[Written]:
        """Write a small array as its single chunk; scalars and text as their metadata says."""
        key, codec = "/".join([plan.path, "c", *("0" for _ in plan.shape)]), self._writer.codec.of(plan.path)
        if 0 in plan.shape:
            return []
        if plan.dtype == "string":
            text = np.array(values.tolist(), dtype=object).reshape(plan.shape)
            return [self.write(key, bytes(VLenUTF8().encode(text.ravel())))]
        data = np.ascontiguousarray(values.astype(plan.dtype, copy=False))
        return [self.write(key, encode(data, codec) if plan.shape else data.tobytes())]


def array_document(plan: ArrayPlan, codec: Codec) -> dict[str, Any]:
    """Return the ``zarr.json`` of an array (zarr v3 core; sharding_indexed, blosc, vlen-utf8); ``codec`` of the recipe."""
    if plan.document is not None:
        return dict(plan.document)
    inner = _inner_codecs(plan, codec.of(plan.path))
    if plan.shards:
        index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        sharding = {"chunk_shape": list(plan.chunks), "codecs": inner, "index_codecs": index, "index_location": "end"}
        codecs = [{"name": "sharding_indexed", "configuration": sharding}]
    else:
        codecs = inner
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(plan.shape),
        "data_type": "string" if plan.dtype == "string" else np.dtype(plan.dtype).name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(plan.shards or plan.chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": plan.fill_value,
        "codecs": codecs,
        "dimension_names": list(plan.dims),
        "attributes": dict(plan.attributes),
        "storage_transformers": [],
    }


def _inner_codecs(plan: ArrayPlan, codec: Codec) -> list[dict[str, Any]]:
    if plan.dtype == "string":
        return [{"name": "vlen-utf8"}]
    size = np.dtype(plan.dtype).itemsize
    to_bytes: dict[str, Any] = {"name": "bytes"}
    if size > 1:
        to_bytes["configuration"] = {"endian": "little"}
    if not plan.shape:
        return [to_bytes]
    shuffle = codec.shuffle if size > 1 else "noshuffle"
    level = {"cname": codec.cname, "clevel": codec.clevel, "shuffle": shuffle, "blocksize": codec.blocksize}
    return [to_bytes, {"name": "blosc", "configuration": {"typesize": size, **level}}]


def group_document(attributes: Mapping[str, Any], members: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Return the ``zarr.json`` of a group; ``members`` (relative path to document) become its consolidated metadata."""
    document: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    if members is not None:
        inner = {path: {k: v for k, v in node.items() if k != "consolidated_metadata"} for path, node in sorted(members.items())}
        document["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": inner}
    return document
