"""The objects of a GeoZarr store: they grow as pixels arrive, and the root ``zarr.json`` comes last.

A store without its root ``zarr.json`` is not a product. A journal beside the store notes how far each array is; a later attempt
with the same name goes on from what the journal proves and removes the rest. ``StoreWriter`` is for folders: every object is
written under a name ending in ``.part`` and renamed when whole, so nothing torn ever has an object's name.
``zarrmill.io.store_bucket`` does the same in a bucket.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Protocol

import google_crc32c

from zarrmill.config import Codec
from zarrmill.errors import StoreError
from zarrmill.io.journal import Journal, believed, digests_of_start, signed, translated
from zarrmill.io.written import Entry, Part, Written

_N_FLUSHES = 32
"""Flushes at a time: a file system writes what they have in common once."""
_LARGE_BYTES = 1 << 20
"""An object of this size is flushed as soon as it is whole, while others are computed; small ones go together at the end."""
_READ_BYTES = 1 << 20


class Sink(Protocol):
    """One object that grows by appending."""

    @property
    def n_bytes(self) -> int:
        """Bytes so far."""
        ...

    @property
    def sha256(self) -> str:
        """Digest of these bytes."""
        ...

    def append(self, data: bytes) -> None:
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
    keeps_parts: bool
    """Whether a later attempt can go on within an object that is only begun."""

    def is_sealed(self) -> bool: ...
    def locked(self, wait_s: float = 600.0) -> AbstractContextManager[None]: ...
    def noted(self, identity: str) -> list[Entry]: ...
    def finished(self, identity: str) -> dict[str, Entry]: ...
    def record(self, entry: Entry) -> None: ...
    def sink(self, key: str, begun: Part | None = None) -> Sink: ...
    def write(self, key: str, data: bytes) -> Written: ...
    def seal(self, root: bytes, written: Iterable[Written]) -> None: ...
    def remove_journal(self) -> None: ...
    def root(self) -> bytes: ...
    def read_back(self, threads: int) -> list[Written]: ...


class StoreWriter:
    """Objects below one local store folder, and the journal beside it."""

    keeps_parts = True

    def __init__(self, path: Path, codec: Codec) -> None:
        self.path, self.href, self.codec, self.buffer_bytes = path, str(path), codec, 0
        self.journal, self._identity = Journal(path), ""
        self._flushes: _Flushes | None = None
        self._sealed: dict[str, Written] = {}

    def is_sealed(self) -> bool:
        """Return whether the store is a product: its root ``zarr.json`` is there, and holds something."""
        root = self.path / "zarr.json"
        return root.exists() and root.stat().st_size > 0

    @contextmanager
    def locked(self, wait_s: float = 600.0) -> Iterator[None]:
        """Hold the store for this process alone; a killed process lets go by itself, one that outlived its driver is waited for.

        Raises: StoreError: another process still writes this store after ``wait_s``, or the place cannot be written.
        """
        with self.journal.locked(wait_s):
            self._flushes = _Flushes()
            try:
                yield
            finally:
                self._flushes.close()
                self._flushes = None

    def noted(self, identity: str) -> list[Entry]:
        """Return what the journal says for this identity, see ``finished``; nothing of it is proven."""
        return [entry for value in self.journal.entries() if (entry := believed(identity, value))]

    def finished(self, identity: str) -> dict[str, Entry]:
        """Return name to entry of what the journal proves: every object and begun shard is there with its size and sha256.

        ``identity`` stands for all that shapes the store's bytes: entries of another one are not believed, and what is recorded
        from now on is for this one.
        """
        self._identity = identity
        latest = {entry.name: entry for entry in self.noted(identity)}
        return {name: entry for name, entry in latest.items() if self._is_proven(entry)}

    def _is_proven(self, entry: Entry) -> bool:
        whole = all(_begins(self.path / item.key, item) == item.n_bytes for item in entry.objects)
        return whole and all(_begins(_begun(self.path / part.key), part) for part in entry.parts)

    def record(self, entry: Entry) -> None:
        """Note in the journal what is written; it replaces what was noted under this name."""
        self.journal.add(signed(self._identity, entry))

    def sink(self, key: str, begun: Part | None = None) -> Sink:
        """Begin an object that grows, or go on after the part of it that an earlier attempt wrote."""
        on_whole = self._flushes.begin if self._flushes else None
        return ObjectSink(self.path / key, key, begun.n_bytes if begun else 0, on_whole)

    def write(self, key: str, data: bytes) -> Written:
        """Write one object whole."""
        sink = self.sink(key)
        try:
            sink.append(data)
            return sink.close()
        finally:
            sink.release()

    def clear(self, keep: Iterable[str]) -> set[str]:
        """Remove every object but ``keep``, leftovers of attempts that did not finish; return those of ``keep`` that are there.

        Never called on a sealed store.
        """
        kept, start, there = set(keep), len(str(self.path)) + 1, set()
        with translated(self.path):
            for folder, _, names in os.walk(self.path, topdown=False):
                for path in (os.path.join(folder, name) for name in names):
                    if path[start:] in kept:
                        there.add(path[start:])
                    else:
                        os.unlink(path)
                if not os.listdir(folder):
                    os.rmdir(folder)
        return there

    def seal(self, root: bytes, written: Iterable[Written]) -> None:
        """Make sure that the store holds ``written`` and nothing else, then write the root: from here on it is a product.

        Everything is flushed to disk before and after.
        Raises: CapacityError, StoreError: the disk did not take what was written, or an object is gone.
        """
        known = {item.key: item for item in written}
        there = self.clear(known)
        with translated(self.path), ThreadPoolExecutor(_N_FLUSHES) as pool:
            flushed = self._flushes.wait() if self._flushes else set()
            list(pool.map(_flush, {self.path, *self.path.rglob("*")} - flushed))
        if gone := sorted(known.keys() - there):
            text = f"{self.path / gone[0]}: was written and is gone ({len(gone)} objects)"
            raise StoreError(f"{text}; find out who removes them, then run again", kind="lost")
        self._sealed = known | {"zarr.json": self.write("zarr.json", root)}
        with translated(self.path):
            _flush(self.path / "zarr.json")
            _flush(self.path)

    def remove_journal(self) -> None:
        """Remove the journal of a store that is sealed."""
        self.journal.remove()

    def root(self) -> bytes:
        """Return the root ``zarr.json``."""
        with translated(self.path):
            return (self.path / "zarr.json").read_bytes()

    def read_back(self, threads: int) -> list[Written]:
        """Return every object that is there now, read whole. Raises: StoreError: one cannot be read.

        What this process wrote and finds again by size and crc32c has the digest of the bytes that it wrote; anything else is
        digested anew.
        """
        files = sorted(item for item in self.path.rglob("*") if item.is_file())
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(self._found, files))

    def _found(self, file: Path) -> Written:
        key = file.relative_to(self.path).as_posix()
        known = self._sealed.get(key)
        try:
            if known and (known.n_bytes, known.etag) == (file.stat().st_size, _crc32c_of(file)):
                return known
            return Written(key, file.stat().st_size, sha256_of(file))
        except OSError as error:
            text = f"{file}: cannot be read back: {error.strerror or error}; look after the disk, then run again"
            raise StoreError(text, kind="lost") from error


class _Flushes:
    """Files on their way to disk while others are written."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_N_FLUSHES, "flush")
        self._under_way: dict[Path, Future[None]] = {}

    def begin(self, path: Path, n_bytes: int) -> None:
        """Flush a file that is whole, unless it is a small one."""
        if n_bytes >= _LARGE_BYTES:
            self._under_way[path] = self._pool.submit(_flush, path)

    def wait(self) -> set[Path]:
        """Return the files that were flushed, when all are. Raises: OSError: one could not be."""
        for flush in self._under_way.values():
            flush.result()
        return set(self._under_way)

    def close(self) -> None:
        """End what is under way and begin no other."""
        self._pool.shutdown(cancel_futures=True)


class ObjectSink:
    """One object that grows by appending and gets its name when it is whole."""

    def __init__(self, path: Path, key: str, keep_bytes: int = 0, on_whole: Callable[[Path, int], None] | None = None) -> None:
        """Begin anew, or go on after the first ``keep_bytes`` that an earlier attempt wrote.

        Args: on_whole: called with path and bytes of the object when it has its name.
        """
        self.key, self.n_bytes, self._on_whole = key, keep_bytes, on_whole
        self._path, self._part = path, path.with_name(f"{path.name}.part")
        with translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if keep_bytes:
                os.replace(_begun(path), self._part)
            self._stream: IO[bytes] = self._part.open("r+b" if keep_bytes else "wb", buffering=0)
            self._sha, self._crc = digests_of_start(self._stream, keep_bytes)
            self._stream.truncate(keep_bytes)

    @property
    def sha256(self) -> str:
        """Digest of what is written so far."""
        return self._sha.hexdigest()

    def append(self, data: bytes) -> None:
        """Write ``data`` at the end."""
        view = memoryview(data)
        with translated(self._path):
            while view.nbytes:
                view = view[self._stream.write(view) :]
        self._sha.update(data)
        self._crc = google_crc32c.extend(self._crc, data)
        self.n_bytes += len(data)

    def close(self) -> Written:
        """Give the object its name."""
        with translated(self._path):
            self._stream.close()
            os.replace(self._part, self._path)
        if self._on_whole is not None:
            self._on_whole(self._path, self.n_bytes)
        return Written(self.key, self.n_bytes, self.sha256, _hex(self._crc))

    def release(self) -> None:
        """Close the file; the part of an object that is not finished stays for ``StoreWriter.clear``."""
        self._stream.close()


def tree_digest(objects: Iterable[tuple[str, int, str]]) -> str:
    """Return the digest of a store: sha256 over ``<key> <size> <sha256>`` lines, sorted, without the root."""
    lines = sorted(f"{key} {size} {sha}\n" for key, size, sha in objects if key != "zarr.json")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, read in pieces."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _crc32c_of(path: Path) -> str:
    crc = 0
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(_READ_BYTES):
            crc = google_crc32c.extend(crc, piece)
    return _hex(crc)


def _hex(crc: int) -> str:
    return f"{crc:08x}"


def _begun(path: Path) -> Path:
    """Return where an object that an earlier attempt began is: it may have been finished after it was noted."""
    part = path.with_name(f"{path.name}.part")
    return part if part.exists() else path


def _begins(path: Path, item: Written | Part) -> int:
    """Return the size of a file that begins with the bytes of ``item``, else 0."""
    if not path.is_file() or path.stat().st_size < item.n_bytes:
        return 0
    with translated(path), path.open("rb", buffering=0) as stream:
        same = digests_of_start(stream, item.n_bytes)[0].hexdigest() == item.sha256
    return path.stat().st_size if same else 0


def _flush(path: Path) -> None:
    """Wait until a file or a folder is on disk; unlike ``os.sync`` this reports errors and waits for nobody else's data.

    A file that the disk did not take is removed: the kernel tells of it once and shows its bytes from memory for a while, so the
    next attempt would believe them.
    Raises: OSError: the disk did not take it.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if path.is_file():
            path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
