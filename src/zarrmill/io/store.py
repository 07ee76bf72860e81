"""Writing a GeoZarr store: shards appended as rows arrive, metadata after the pixels, the root ``zarr.json`` last.

A store without its root ``zarr.json`` is not a product. A journal beside the store lists finished arrays with size and sha256
of their objects; a later attempt with the same name keeps what the journal proves and removes the rest. ``StoreWriter`` is for
folders: every object is written under a name ending in ``.part`` and renamed when whole, so nothing torn ever has an object's
name. ``zarrmill.io.store_bucket`` does the same in a bucket.
"""

import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import google_crc32c
import numcodecs.blosc
import numpy as np
from numcodecs.vlen import VLenUTF8
from numpy.typing import NDArray

from zarrmill.config import Codec
from zarrmill.errors import StoreError
from zarrmill.io.places import write_error
from zarrmill.io.written import Written
from zarrmill.model import ArrayPlan

_EMPTY = 2**64 - 1
"""Offset and length that mark an absent inner chunk in a shard's index (zarr sharding codec, binary format)."""
_N_FLUSHES = 32
"""Flushes at a time: a file system writes what they have in common once."""
_SHUFFLE = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}


class Sink(Protocol):
    """One object that grows by appending."""

    @property
    def n_bytes(self) -> int:
        """Bytes so far."""
        ...

    def append(self, data: bytes | memoryview) -> None:
        """Add ``data`` at the end."""
        ...

    def close(self) -> Written:
        """End the object."""
        ...

    def release(self) -> None:
        """Let go of an object that will not be finished."""
        ...


class Writer(Protocol):
    """What writes the objects of one store, wherever it is; see ``StoreWriter`` for what each method promises."""

    href: str
    codec: Codec
    buffer_bytes: int
    """Most memory that what is on its way out takes."""

    def is_sealed(self) -> bool: ...
    def locked(self, wait_s: float = 600.0) -> AbstractContextManager[None]: ...
    def finished(self) -> dict[str, tuple[Written, ...]]: ...
    def record(self, source: str, written: Iterable[Written]) -> None: ...
    def sink(self, key: str) -> Sink: ...
    def write(self, key: str, data: bytes) -> Written: ...
    def seal(self, root: bytes, written: Iterable[Written]) -> None: ...
    def remove_journal(self) -> None: ...
    def root(self) -> bytes: ...
    def read_back(self, threads: int) -> list[Written]: ...


class StoreWriter:
    """Objects below one local store folder, and the journal beside it."""

    def __init__(self, path: Path, codec: Codec) -> None:
        self.path, self.href = path, str(path)
        self.codec, self.buffer_bytes = codec, 0
        self.journal = path.with_name(f"{path.name}.journal")

    def is_sealed(self) -> bool:
        """Return whether the store is a product: its root ``zarr.json`` is there."""
        return (self.path / "zarr.json").exists()

    @contextmanager
    def locked(self, wait_s: float = 600.0) -> Iterator[None]:
        """Hold the store for this process alone; a killed process lets go by itself, one that outlived its driver is waited for.

        Raises: StoreError: another process still writes this store after ``wait_s``, or the place cannot be written.
        """
        deadline = time.monotonic() + wait_s
        while True:
            with _translated(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                handle = self.journal.open("a")
            with handle:
                if _try_lock(handle) and self._is_current(handle):
                    yield
                    return
            if time.monotonic() > deadline:
                raise StoreError(f"{self.path}: another process is writing this store; let it finish", kind="denied")
            time.sleep(0.2)

    def _is_current(self, handle: IO[str]) -> bool:
        """Return whether the locked file still has the journal's name: who held it before may have removed it."""
        try:
            return os.fstat(handle.fileno()).st_ino == self.journal.stat().st_ino
        except FileNotFoundError:
            return False

    def finished(self) -> dict[str, tuple[Written, ...]]:
        """Return what the journal proves: source path to its objects, each on disk with the journalled size and sha256."""
        proven: dict[str, tuple[Written, ...]] = {}
        for line in self.journal.read_text().splitlines():
            try:
                entry = json.loads(line)
                written = tuple(Written(*item) for item in entry["objects"])
            except (ValueError, KeyError, TypeError):
                continue  # the line that a kill cut short proves nothing
            if all(self._is_whole(item) for item in written):
                proven[entry["source"]] = written
        return proven

    def _is_whole(self, item: Written) -> bool:
        path = self.path / item.key
        return path.is_file() and path.stat().st_size == item.n_bytes and sha256_of(path) == item.sha256

    def record(self, source: str, written: Iterable[Written]) -> None:
        """Add one finished source array to the journal."""
        entry = {"source": source, "objects": [[item.key, item.n_bytes, item.sha256] for item in written]}
        with _translated(self.journal), self.journal.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")

    def sink(self, key: str) -> Sink:
        """Begin an object that grows."""
        return ObjectSink(self.path / key, key)

    def write(self, key: str, data: bytes) -> Written:
        """Write one object whole."""
        sink = self.sink(key)
        sink.append(data)
        return sink.close()

    def clear(self, keep: Iterable[str]) -> None:
        """Remove every object but ``keep``: leftovers of attempts that did not finish. Never called on a sealed store."""
        kept = set(keep)
        with _translated(self.path):
            for folder, _, names in os.walk(self.path, topdown=False):
                for name in names:
                    path = Path(folder, name)
                    if path.relative_to(self.path).as_posix() not in kept:
                        path.unlink()
                if not os.listdir(folder):
                    os.rmdir(folder)

    def seal(self, root: bytes, written: Iterable[Written]) -> None:
        """Make sure that the store holds ``written`` and nothing else, then write the root: from here on it is a product.

        Everything is flushed to disk before and after.
        Raises: CapacityError, StoreError: the disk did not take what was written.
        """
        self.clear(item.key for item in written)
        with _translated(self.path), ThreadPoolExecutor(_N_FLUSHES) as pool:
            list(pool.map(_flush, [self.path, *self.path.rglob("*")]))
        self.write("zarr.json", root)
        with _translated(self.path):
            _flush(self.path / "zarr.json")
            _flush(self.path)

    def remove_journal(self) -> None:
        """Remove the journal of a store that is sealed."""
        with _translated(self.journal):
            self.journal.unlink(missing_ok=True)

    def root(self) -> bytes:
        """Return the root ``zarr.json``."""
        with _translated(self.path):
            return (self.path / "zarr.json").read_bytes()

    def read_back(self, threads: int) -> list[Written]:
        """Return every object that is there now, read whole."""
        files = sorted(item for item in self.path.rglob("*") if item.is_file())
        with ThreadPoolExecutor(threads) as pool:
            digests = list(pool.map(sha256_of, files))
        keys = (file.relative_to(self.path).as_posix() for file in files)
        return [Written(key, f.stat().st_size, digest) for key, f, digest in zip(keys, files, digests, strict=True)]


class ObjectSink:
    """One object that grows by appending and gets its name when it is whole."""

    def __init__(self, path: Path, key: str) -> None:
        self.key, self.n_bytes = key, 0
        self._path, self._part = path, path.with_name(f"{path.name}.part")
        self._sha = hashlib.sha256()
        with _translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream: IO[bytes] = self._part.open("wb", buffering=0)

    def append(self, data: bytes | memoryview) -> None:
        """Write ``data`` at the end."""
        view = memoryview(data)
        with _translated(self._path):
            while view.nbytes:
                view = view[self._stream.write(view) :]
        self._sha.update(data)
        self.n_bytes += len(data)

    def close(self) -> Written:
        """Give the object its name."""
        with _translated(self._path):
            self._stream.close()
            os.replace(self._part, self._path)
        return Written(self.key, self.n_bytes, self._sha.hexdigest())

    def release(self) -> None:
        """Close the file of an object that will not be finished; its part stays for ``StoreWriter.clear``."""
        self._stream.close()


class PlaneWriter:
    """Writes one ``(y, x)`` plane of an array from blocks of pixels; a chunk is encoded as soon as it is complete."""

    def __init__(self, writer: Writer, plan: ArrayPlan, plane: tuple[int, ...] = ()) -> None:
        self._writer, self._plan, self._plane = writer, plan, plane
        self._chunk_y, self._chunk_x = plan.chunks[-2:]
        self._chunks: dict[tuple[int, int], _Chunk] = {}
        self._spare: list[NDArray[Any]] = []
        self._shards: dict[tuple[int, int], _ShardSink] = {}
        self.written: list[Written] = []

    def put(self, block: NDArray[Any], top: int, left: int = 0) -> None:
        """Take the pixels of ``block``, shape ``(rows, columns)``, whose first is at ``top, left``; each pixel comes once."""
        bottom, right = top + block.shape[0], left + block.shape[1]
        for row in range(top // self._chunk_y, math.ceil(bottom / self._chunk_y)):
            y0, y1 = max(top, row * self._chunk_y), min(bottom, (row + 1) * self._chunk_y)
            for column in range(left // self._chunk_x, math.ceil(right / self._chunk_x)):
                x0, x1 = max(left, column * self._chunk_x), min(right, (column + 1) * self._chunk_x)
                chunk = self._chunks.get((row, column)) or self._open(row, column)
                y, x = row * self._chunk_y, column * self._chunk_x
                chunk.values[y0 - y : y1 - y, x0 - x : x1 - x] = block[y0 - top : y1 - top, x0 - left : x1 - left]
                chunk.n_missing -= (y1 - y0) * (x1 - x0)
                if not chunk.n_missing:
                    self._finish(row, column)

    def release(self) -> None:
        """Close the shards that are not whole; nothing when all are."""
        for shard in self._shards.values():
            shard.release()

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
        data = encode(values, self._writer.codec) if _has_data(values, self._plan.fill_value) else None
        self._spare.append(values)
        if self._plan.shards:
            self._to_shard(row, column, data)
        elif data is not None:
            self.written.append(self._writer.write(self._key(row, column), data))

    def _to_shard(self, row: int, column: int, data: bytes | None) -> None:
        assert self._plan.shards is not None
        per_y, per_x = (s // c for s, c in zip(self._plan.shards[-2:], self._plan.chunks[-2:], strict=True))
        place = (row // per_y, column // per_x)
        if place not in self._shards:
            sides = [math.ceil(size / chunk) for size, chunk in zip(self._plan.shape[-2:], self._plan.chunks[-2:], strict=True)]
            inside = [min(n, side - i * n) for i, n, side in zip(place, (per_y, per_x), sides, strict=True)]
            key = self._key(*place)
            self._shards[place] = _ShardSink(lambda: self._writer.sink(key), per_y * per_x, math.prod(inside))
        shard = self._shards[place]
        shard.put((row % per_y) * per_x + column % per_x, data)
        if shard.is_whole:
            self.written += [written for written in (self._shards.pop(place).close(),) if written]

    def _key(self, row: int, column: int) -> str:
        return "/".join(map(str, (self._plan.path, "c", *self._plane, row, column)))


@dataclass(slots=True)
class _Chunk:
    """An inner chunk that is not complete."""

    values: NDArray[Any]
    n_missing: int
    """Pixels that have not come."""


class _ShardSink:
    """A shard: inner chunks one after the other, then their index with its checksum (``index_location: end``)."""

    def __init__(self, begin: Callable[[], Sink], n_chunks: int, n_inside: int) -> None:
        """``n_chunks`` has the index; ``n_inside`` of them lie in the array."""
        self._begin, self._n_missing = begin, n_inside
        self._sink: Sink | None = None
        self._index = np.full((n_chunks, 2), _EMPTY, "<u8")

    @property
    def is_whole(self) -> bool:
        """Whether every chunk came."""
        return not self._n_missing

    def put(self, position: int, data: bytes | None) -> None:
        """Append a chunk; None is one that holds nothing but the fill value."""
        self._n_missing -= 1
        if data is not None:
            self._sink = self._sink or self._begin()
            self._index[position] = (self._sink.n_bytes, len(data))
            self._sink.append(data)

    def close(self) -> Written | None:
        """Write the index; None where no chunk holds data: then there is no object."""
        if self._sink is None:
            return None
        index = self._index.tobytes()
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
    return bool(np.any(part != fill) if fill else np.any(part))


def encode(chunk: NDArray[Any], codec: Codec) -> bytes:
    """Return one chunk compressed as its array's metadata says; ``chunk`` is C-contiguous and little endian."""
    shuffle = _SHUFFLE[codec.shuffle] if chunk.dtype.itemsize > 1 else 0
    return bytes(numcodecs.blosc.compress(chunk, codec.cname.encode(), codec.clevel, shuffle, codec.blocksize))


def write_small(writer: Writer, plan: ArrayPlan, values: NDArray[Any]) -> list[Written]:
    """Write a small array as its single chunk; scalars and text as their metadata says."""
    key = "/".join([plan.path, "c", *("0" for _ in plan.shape)])
    if 0 in plan.shape:
        return []
    if plan.dtype == "string":
        text = np.array(values.tolist(), dtype=object).reshape(plan.shape)
        return [writer.write(key, bytes(VLenUTF8().encode(text.ravel())))]
    data = np.ascontiguousarray(values.astype(plan.dtype, copy=False))
    return [writer.write(key, encode(data, writer.codec) if plan.shape else data.tobytes())]


def array_document(plan: ArrayPlan, codec: Codec) -> dict[str, Any]:
    """Return the ``zarr.json`` of an array (zarr v3 core; sharding_indexed, blosc, vlen-utf8 codecs)."""
    inner = _inner_codecs(plan, codec)
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


def tree_digest(objects: Iterable[tuple[str, int, str]]) -> str:
    """Return the digest of a store: sha256 over ``<key> <size> <sha256>`` lines, sorted, without the root."""
    lines = sorted(f"{key} {size} {sha}\n" for key, size, sha in objects if key != "zarr.json")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Wait until a file or a folder is on disk; unlike ``os.sync`` this reports errors and waits for nobody else's data."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _try_lock(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _translated(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_error(error, str(place)) from error
