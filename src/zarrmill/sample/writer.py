"""Write a product as a Zarr v2 directory store with consolidated metadata, the way CPM 2.x lays it out.

Written by hand, not by zarr-python: sorted JSON and single-threaded Blosc give the same bytes on every build. (Blosc with
threads stores its blocks in the order in which they finish.)
"""

import itertools
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs import Blosc
from numpy.typing import NDArray

from zarrmill.sample.attrs import Attrs
from zarrmill.sample.structure import ArrayDef, Structure, fill_of

BLOSC = Blosc(cname="zstd", clevel=3, shuffle=Blosc.BITSHUFFLE, blocksize=0)
PENDING_BYTES = 256 * 2**20
"""Raw bytes that may wait for their chunks to be encoded; bounds the memory of a full tile."""
SPLIT_BYTES = 8 * 2**20
"""Arrays beyond this are encoded one chunk a task, smaller ones in one task."""
Data = NDArray[Any]  # Any: every dtype of a product


@contextmanager
def finished_folder(target: Path) -> Iterator[Path]:
    """Give a hidden folder beside ``target`` that is renamed to it when the block ends well, and removed when not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.stem}-", dir=target.parent))
    try:
        yield work
        work.chmod(0o755)
        os.replace(work, target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


class Encoders:
    """Runs encoding tasks on a pool, with a bound on the raw bytes that wait.

    Encoding happens on the pool only: outside the main thread numcodecs uses Blosc without its own threads.
    """

    def __init__(self, pool: Executor) -> None:
        """Take ``pool``; it must not run anything that itself waits for ``submit``."""
        self._pool = pool
        self._tasks: list[Future[None]] = []
        self._pending = 0
        self._room = threading.Condition()

    def submit(self, work: Callable[[], None], n_bytes: int) -> None:
        """Queue ``work``, which holds ``n_bytes`` of raw data; waits while too much is queued."""
        with self._room:
            self._room.wait_for(lambda: self._pending == 0 or self._pending + n_bytes <= PENDING_BYTES)
            self._pending += n_bytes
        self._tasks.append(self._pool.submit(self._run, work, n_bytes))

    def wait(self) -> None:
        """Wait for all tasks; raises what a task raised."""
        for task in self._tasks:
            task.result()

    def _run(self, work: Callable[[], None], n_bytes: int) -> None:
        try:
            work()
        finally:
            with self._room:
                self._pending -= n_bytes
                self._room.notify_all()


class V2Writer:
    """Writes arrays in any order; ``close`` checks that all are there and writes the metadata."""

    def __init__(self, root: Path, tree: Structure, pool: Executor, *, separator_is_explicit: bool) -> None:
        """Begin an empty store at ``root``; newer products name ``dimension_separator``, older ones do not."""
        self._root = root
        self._tree = tree
        self._encoders = Encoders(pool)
        self._extra = {"dimension_separator": "."} if separator_is_explicit else {}
        self._metadata: Attrs = {}

    def put(self, path: str, data: Data) -> None:
        """Write one array; returns before its chunks are encoded, so ``data`` must not change afterwards.

        Raises: ValueError: shape or dtype is not that of the structure.
        """
        definition = self._tree.arrays[path]
        data = checked(definition, data)
        (self._root / path).mkdir(parents=True, exist_ok=True)
        self._put_metadata(f"{path}/.zarray", _zarray(definition) | self._extra)
        self._put_metadata(f"{path}/.zattrs", definition.attrs)
        keys = chunk_keys(definition)
        batches = [[key] for key in keys] if data.nbytes > SPLIT_BYTES else [keys]
        for batch in batches:
            self._encoders.submit(partial(self._encode, definition, data, batch), data.nbytes // len(batches))

    def close(self, root_attrs: Attrs) -> None:
        """Wait for all chunks, write groups and ``.zmetadata``. Raises: ValueError: an array was not written."""
        self._encoders.wait()
        missing = [path for path in self._tree.arrays if f"{path}/.zarray" not in self._metadata]
        if missing:
            raise ValueError(f"sample product: arrays not written: {missing}")
        for path, attrs in self._tree.groups.items():
            prefix = f"{path}/" if path else ""
            self._put_metadata(f"{prefix}.zgroup", {"zarr_format": 2})
            self._put_metadata(f"{prefix}.zattrs", attrs if path else root_attrs)
        consolidated = {"metadata": self._metadata, "zarr_consolidated_format": 1}
        (self._root / ".zmetadata").write_text(dump_json(consolidated))

    def _put_metadata(self, key: str, value: Attrs) -> None:
        self._metadata[key] = value
        (self._root / key).write_text(dump_json(value))

    def _encode(self, definition: ArrayDef, data: Data, keys: list[tuple[int, ...]]) -> None:
        for key in keys:
            chunk = chunk_at(data, key, definition.chunks, fill_of(definition))
            name = ".".join(map(str, key)) or "0"
            encoded = BLOSC.encode(chunk) if definition.shape else chunk.tobytes()
            (self._root / definition.path / name).write_bytes(encoded)


def checked(definition: ArrayDef, data: Data) -> Data:
    """``data`` as an array. Raises: ValueError: shape or dtype is not that of the definition."""
    data = np.asarray(data)
    if data.shape != definition.shape or data.dtype != np.dtype(definition.dtype):
        wanted = f"{definition.shape} {definition.dtype}"
        raise ValueError(f"{definition.path}: is {data.shape} {data.dtype.str}, structure has {wanted}")
    return data


def dump_json(value: Attrs) -> str:
    """JSON with sorted keys and four spaces, as zarr-python 2 wrote it."""
    return json.dumps(value, indent=4, sort_keys=True, ensure_ascii=True)


def _zarray(definition: ArrayDef) -> Attrs:
    return {
        "chunks": list(definition.chunks),
        "compressor": BLOSC.get_config() if definition.shape else None,
        "dtype": definition.dtype,
        "fill_value": definition.fill,
        "filters": None,
        "order": "C",
        "shape": list(definition.shape),
        "zarr_format": 2,
    }


def chunk_keys(definition: ArrayDef) -> list[tuple[int, ...]]:
    """Indices of all chunks in C order; one empty index for a scalar."""
    counts = (range(-(-n // c)) for n, c in zip(definition.shape, definition.chunks, strict=True))
    return list(itertools.product(*counts))


def chunk_at(data: Data, key: tuple[int, ...], chunks: tuple[int, ...], fill: int | float) -> Data:
    """One chunk, contiguous; a chunk over the edge is full size and padded with ``fill`` (Zarr v2 and v3)."""
    region = tuple(slice(k * c, (k + 1) * c) for k, c in zip(key, chunks, strict=True))
    part = data[region]
    if part.shape != chunks:
        padded = np.full(chunks, fill, data.dtype)
        padded[tuple(slice(0, n) for n in part.shape)] = part
        return padded
    return np.ascontiguousarray(part) if chunks else part
