"""What an attempt that did not finish has proven: entries that the next attempt goes on from, in a file beside the store.

An entry says how far one plane of an array is written, with size and sha256 of every object and of every shard that is only
begun. In a bucket the entries travel with the lease (``zarrmill.io.lease``).
"""

import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import google_crc32c
from pydantic import TypeAdapter, ValidationError

from zarrmill.errors import StoreError
from zarrmill.io.places import write_error
from zarrmill.io.written import Entry
from zarrmill.model import Json

_ENTRY = TypeAdapter(Entry)


def signed(identity: str, entry: Entry) -> Json:
    """Return the JSON form of an entry of a store; ``identity`` stands for all that shapes the store's bytes."""
    return {"of": identity, "entry": _ENTRY.dump_python(entry, mode="json")}


def believed(identity: str, value: Json) -> Entry | None:
    """Return the entry in ``value``, or None: what is garbled or of another identity proves nothing."""
    if not isinstance(value, dict) or value.get("of") != identity:
        return None
    try:
        return _ENTRY.validate_python(value.get("entry"))
    except ValidationError:
        return None


class Journal:
    """A file beside one store on disk; it is also the lock of whoever writes the store."""

    def __init__(self, store: Path) -> None:
        self.path, self._store = store.with_name(f"{store.name}.journal"), store
        self._adding = threading.Lock()

    def add(self, entry: Json) -> None:
        """Add an entry.

        Raises: CapacityError, StoreError: it cannot be written.
        """
        line = f"\n{json.dumps(entry)}\n"  # the line break in front ends a line that a kill cut short
        with self._adding, translated(self.path), self.path.open("ab", buffering=0) as stream:
            stream.write(line.encode())

    def entries(self) -> Iterator[Json]:
        """Yield every line that is JSON, the oldest first; one that a kill cut short is not."""
        with translated(self.path):
            lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:
                continue

    @contextmanager
    def locked(self, wait_s: float) -> Iterator[None]:
        """Hold the store for this process alone; a killed process lets go by itself, one that outlived its driver is waited for.

        Raises: StoreError: another process still writes this store after ``wait_s``, or the place cannot be written.
        """
        deadline = time.monotonic() + wait_s
        while True:
            with translated(self._store):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                handle = self.path.open("a")
            with handle:
                with translated(self._store):
                    is_ours = _try_lock(handle) and self._is_current(handle)
                if is_ours:
                    yield
                    return
            if time.monotonic() > deadline:
                raise StoreError(f"{self._store}: another process is writing this store; let it finish", kind="denied")
            time.sleep(0.2)

    def _is_current(self, handle: IO[str]) -> bool:
        """Return whether the locked file still has the journal's name: who held it before may have removed it."""
        try:
            return os.fstat(handle.fileno()).st_ino == self.path.stat().st_ino
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Remove the file."""
        with translated(self.path):
            if self.path.exists():
                self.path.unlink(missing_ok=True)


def digests_of_start(stream: IO[bytes], n_bytes: int) -> "tuple[hashlib._Hash, int]":
    """Return the running sha256 and crc32c of the next ``n_bytes`` of a file, or of what there is of them."""
    sha, crc = hashlib.sha256(), 0
    while n_bytes and (piece := stream.read(min(n_bytes, 1 << 20))):
        sha.update(piece)
        crc = google_crc32c.extend(crc, piece)
        n_bytes -= len(piece)
    return sha, crc


def _try_lock(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def translated(place: Path) -> Iterator[None]:
    """Translate a failed write to ``place`` into our tree."""
    try:
        yield
    except OSError as error:
        raise write_error(error, str(place)) from error
