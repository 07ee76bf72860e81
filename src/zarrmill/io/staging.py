"""Sources as they are read: straight from their host, or from a folder on this machine into which a product is fetched once.

The folder is shared by retries, stages, recipes and processes. A product is fetched beside its place and renamed when whole. Who
uses it holds a shared lock, who fetches or removes it an exclusive one, and a killed process lets go of either. Each use compares
count, bytes and digests of the files with what was fetched. What was not used for longest goes first when there is too much.

Whoever fetches first reserves room for the most that the product can have, and waits until there is: what is kept, in use and on
its way never has more than ``max_gb`` together.
"""

import fcntl
import hashlib
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from zarrmill.config import Source
from zarrmill.errors import CapacityError, SourceError
from zarrmill.io.answers import MissingObjectError
from zarrmill.io.logs import logger
from zarrmill.io.objects import Objects
from zarrmill.io.places import write_error
from zarrmill.io.source import parse_tree, product_keys, read_metadata

DONE = "complete.json"
"""What a folder of the cache holds, beside its ``data``; written last."""
RESERVED = "reserved"
"""File in the folder of a product that is being fetched: bytes that it may have."""
_WAIT_S = 0.2
_WAIT_ROOM_S = 3600.0
"""Longest wait for room that products in use or on their way take."""
_TRIES = 5


@contextmanager
def opened(href: str, fingerprint: str, source: Source | None) -> Iterator[Objects]:
    """Yield the objects of a product as ``source`` says: at ``href``, or on this machine after they were fetched.

    Args: fingerprint: what the product was planned with; part of its name on this machine.
    Raises: SourceError: it cannot be fetched, or changed meanwhile; CapacityError: it does not fit.
    """
    objects = Objects(href, source.timeout_s, source.retries) if source else Objects(href)
    if source is None or source.fetch == "direct" or objects.local is not None:
        yield objects
        return
    cache = _Cache(source)
    with cache.used(objects, fingerprint) as folder:
        yield Objects(str(folder / "data"))


@dataclass(frozen=True, slots=True)
class _Fetched:
    key: str
    n_bytes: int
    sha256: str


class _Cache:
    """The folder of staged products."""

    def __init__(self, source: Source) -> None:
        """``source``: ``Settings.source``."""
        self._settings = source.staging
        self._root = Path(source.staging.folder)
        self._max_bytes = int(source.staging.max_gb * 1e9)
        self._n_bytes, self._reserved = 0, 0
        self._adding = threading.Lock()

    @contextmanager
    def used(self, objects: Objects, fingerprint: str) -> Iterator[Path]:
        """Yield the folder of a product, fetched and verified; it is not removed while it is used."""
        digest = hashlib.sha256(f"{objects.href} {fingerprint}".encode()).hexdigest()[:16]
        folder = self._root / f"{objects.href.rstrip('/').rpartition('/')[2][:120]}-{digest}"
        self.make_room()
        for _ in range(_TRIES):
            with _locked(folder, fcntl.LOCK_SH):
                if _is_whole(folder):
                    os.utime(folder / DONE)
                    yield folder
                    return
            with _locked(folder, fcntl.LOCK_EX):
                if not _is_whole(folder):
                    self._fetch(objects, fingerprint, folder)
        text = f"{folder}: was removed or damaged each of {_TRIES} times after it was fetched; look what else writes there"
        raise CapacityError(text, kind="disk")

    def _fetch(self, objects: Objects, fingerprint: str, folder: Path) -> None:
        """Fetch every object of a product into ``folder``; the lock is held."""
        part = folder.with_name(f"{folder.name}.part")
        self._remove(folder, part)
        started = time.monotonic()
        try:
            key, raw = read_metadata(objects)
            _check(objects, raw, fingerprint)
            keys, most = _expected(objects, key, raw)
            self._reserve(part, most)
            found = self._fetch_all(objects, keys, part)
            objects.check_unchanged()
            _check(objects, read_metadata(objects)[1], hashlib.sha256(raw).hexdigest())
            document = {"href": objects.href, "objects": [[one.key, one.n_bytes, one.sha256] for one in found]}
            (part / RESERVED).unlink()
            (part / DONE).write_text(json.dumps(document))
            os.replace(part, folder)
        except OSError as error:
            self._remove(part)
            raise write_error(error, str(folder)) from error
        except BaseException:
            self._remove(part)
            raise
        n_bytes = sum(one.n_bytes for one in found)
        wall_s = round(time.monotonic() - started, 1)
        logger().info("staged", href=objects.href, n_objects=len(found), n_bytes=n_bytes, wall_s=wall_s)
        self.make_room()

    def _fetch_all(self, objects: Objects, keys: Sequence[str], part: Path) -> list[_Fetched]:
        self._n_bytes = 0
        with ThreadPoolExecutor(self._settings.concurrency) as pool:
            futures = [pool.submit(self._fetch_one, objects, key, part) for key in keys]
            try:
                found = [future.result() for future in futures]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return [one for one in found if one is not None]

    def _fetch_one(self, objects: Objects, key: str, part: Path) -> _Fetched | None:
        """Fetch one object; None when the source does not have it."""
        path = part / "data" / key
        try:
            n_bytes, parts = objects.stream(key)
        except MissingObjectError:
            return None
        self._count(objects.href, part, n_bytes)
        sha = hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb", buffering=0) as stream:
            for piece in parts:
                view = memoryview(piece)
                while view.nbytes:
                    view = view[stream.write(view) :]
                sha.update(piece)
        return _Fetched(key, n_bytes, sha.hexdigest())

    def _count(self, href: str, part: Path, n_bytes: int) -> None:
        """Add to what is fetched, and reserve more when the product has more than its metadata let expect."""
        with self._adding:
            self._n_bytes += n_bytes
            if self._n_bytes <= self._reserved:
                return
            with self._room():
                if self._n_bytes <= self._max_bytes and self._make_room(self._n_bytes - self._reserved):
                    self._note(part, self._n_bytes)
                    return
        found = f"{href}: more than source.staging.max_gb {self._settings.max_gb:g}"
        raise CapacityError(f"{found}; raise it, or set source.fetch: direct", kind="disk")

    def _reserve(self, part: Path, most: int) -> None:
        """Wait until ``most`` bytes fit beside what is kept, in use and on its way; nothing is held meanwhile.

        Raises: CapacityError: it does not for too long.
        """
        deadline, n_bytes, told = time.monotonic() + _WAIT_ROOM_S, min(most, self._max_bytes), False
        while True:
            with self._room():
                if self._make_room(n_bytes):
                    part.mkdir(parents=True)
                    self._note(part, n_bytes)
                    return
            if time.monotonic() > deadline:
                text = f"{part}: no room for {n_bytes / 1e9:.1f} GB within {_WAIT_ROOM_S:g} s; raise source.staging.max_gb"
                raise CapacityError(text, kind="disk")
            if not told:
                logger().info("waits for room", folder=str(self._root), n_bytes=n_bytes)
            told = True
            time.sleep(_WAIT_S)

    def _note(self, part: Path, n_bytes: int) -> None:
        self._reserved = n_bytes
        (part / RESERVED).write_text(str(n_bytes))

    def make_room(self) -> None:
        """Remove what is too old, then what was not used for longest, until the rest fits; what is in use stays."""
        with self._room():
            self._make_room(0)

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Let no other process count or reserve room."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            handle = os.open(self._root, os.O_RDONLY)
        except OSError as error:
            raise write_error(error, str(self._root)) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _make_room(self, n_bytes: int) -> bool:
        """Return whether ``n_bytes`` more fit after all was removed that may go."""
        now = time.time()
        for part in self._root.glob("*.part"):
            with suppress(BlockingIOError), _locked(part.with_suffix(""), fcntl.LOCK_EX, wait=False):
                self._remove(part)
        found = sorted(_staged(self._root), key=lambda one: one[1])
        kept = n_bytes + sum(_reserved(part) for part in self._root.glob("*.part")) + sum(size for _, _, size in found)
        for folder, used, size in found:
            if now - used > self._settings.max_age_hours * 3600 or kept > self._max_bytes:
                with suppress(BlockingIOError), _locked(folder, fcntl.LOCK_EX, wait=False) as lock:
                    self._remove(folder)
                    lock.unlink(missing_ok=True)
                    kept -= size
        return kept <= self._max_bytes

    def _remove(self, *folders: Path) -> None:
        for folder in folders:
            try:
                # Without this file it counts for nothing, however far the rest gets.
                (folder / DONE).unlink(missing_ok=True)
                shutil.rmtree(folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise write_error(error, str(folder)) from error


def _check(objects: Objects, raw: bytes, fingerprint: str) -> None:
    found = hashlib.sha256(raw).hexdigest()
    if len(fingerprint) == 64 and found != fingerprint:
        text = f"{objects.href}: metadata digest {found[:12]}, expected {fingerprint[:12]}; plan again"
        raise SourceError(text, kind="changed")


def _expected(objects: Objects, key: str, raw: bytes) -> tuple[list[str], int]:
    """Return the key of every object that a product may have, and the most bytes that they can have together.

    Listed they are exact; a plain http server cannot list, there the chunks are taken as if they did not compress.
    """
    if not objects.href.startswith("http"):
        sizes = dict(objects.keys())
        return list(sizes), sum(sizes.values())
    keys = product_keys(objects, key, raw)
    arrays = parse_tree(objects, key, raw).arrays.values()
    # Chunks at the edge are stored whole.
    whole = [math.prod(-(-n // c) * c for n, c in zip(one.shape, one.chunks, strict=True)) for one in arrays]
    n_bytes = sum(one.n_bytes * n // max(math.prod(one.shape), 1) for one, n in zip(arrays, whole, strict=True))
    return keys, 2 * len(raw) + n_bytes + n_bytes // 100 + len(keys) * 64


def _reserved(part: Path) -> int:
    """Return what a product on its way may have; what does not say so is counted as it is."""
    try:
        return int((part / RESERVED).read_text())
    except (OSError, ValueError):
        return sum((Path(folder) / name).stat().st_size for folder, _, names in os.walk(part) for name in names)


def _staged(root: Path) -> list[tuple[Path, float, int]]:
    """Return folder, time of last use and bytes of every product that is whole."""
    found = []
    for done in root.glob(f"*/{DONE}"):
        if done.parent.suffix == ".part":
            continue
        with suppress(OSError, ValueError, KeyError, TypeError):
            n_bytes = sum(int(n) for _, n, _ in json.loads(done.read_text())["objects"])
            found.append((done.parent, done.stat().st_mtime, n_bytes))
    return found


def _is_whole(folder: Path) -> bool:
    """Return whether a folder holds what was fetched: as many files, of the same sizes and digests."""
    try:
        objects = json.loads((folder / DONE).read_text())["objects"]
        paths = [folder / "data" / key for key, _, _ in objects]
        n_files = sum(len(files) for _, _, files in os.walk(folder / "data"))
        sizes_fit = all(path.stat().st_size == n for path, (_, n, _) in zip(paths, objects, strict=True))
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if n_files != len(objects) or not sizes_fit:
        return False
    with ThreadPoolExecutor(2) as pool:
        return all(digest == sha for digest, (_, _, sha) in zip(pool.map(_sha256, paths), objects, strict=True))


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _locked(folder: Path, how: int, *, wait: bool = True) -> Iterator[Path]:
    """Hold the lock of a folder and yield its file. Raises: BlockingIOError: another process has it and ``wait`` is off."""
    path = folder.with_name(f"{folder.name}.lock")
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = path.open("a")
        except OSError as error:
            raise write_error(error, str(path)) from error
        with handle:
            fcntl.flock(handle, how | (0 if wait else fcntl.LOCK_NB))
            if _is_current(handle, path):
                yield path
                return
        time.sleep(_WAIT_S)


def _is_current(handle: IO[str], path: Path) -> bool:
    """Return whether the locked file still has its name: who held it before may have removed it."""
    try:
        return os.fstat(handle.fileno()).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
