"""The sha256 of objects, taken on their bytes while they are read for other reasons, so that nothing is read twice."""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from zarrmill.io.answers import MissingObjectError
from zarrmill.io.objects import Objects

KEPT_BYTES = 65_536
"""Bytes read ahead of their turn (the index of a shard) are kept up to this size."""
REST_BYTES = 16_000_000
"""Bytes read at a time of what nobody asked for."""


class HashedObjects:
    """Objects that are hashed as they are read; one object is read by one thread at a time."""

    def __init__(self, objects: Objects, sizes: Mapping[str, int]) -> None:
        """``sizes``: key and bytes of every object."""
        self.objects, self._sizes = objects, sizes
        self._states: dict[str, _State] = {}
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes:
        """Return one object whole (see ``Objects``)."""
        data = self.objects.get(key)
        self._state(key).take(0, data)
        return data

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return several ranges of one object (see ``Objects``)."""
        parts = self.objects.get_ranges(key, ranges)
        state = self._state(key)
        for (start, _), data in sorted(zip(ranges, parts, strict=True)):
            state.take(start, data)
        return parts

    def size(self, key: str) -> int:
        """Return the size of one object."""
        return self.objects.size(key)

    def tree_sha256(self, threads: int) -> str:
        """Return the sha256 over ``<key> <size> <sha256>`` lines of every object but the root ``zarr.json``, sorted by key.

        Reads what was not read yet. Raises: SourceError: the place does not answer.
        """
        keys = sorted(key for key in self._sizes if key != "zarr.json")
        with ThreadPoolExecutor(max(threads, 1)) as pool:
            return hashlib.sha256("".join(pool.map(self._line, keys)).encode()).hexdigest()

    def _line(self, key: str) -> str:
        state = self._state(key)
        try:
            while state.n_bytes < self._sizes[key]:
                rest = min(self._sizes[key] - state.n_bytes, REST_BYTES)
                data = self.objects.get_ranges(key, [(state.n_bytes, rest)])[0]
                state.take(state.n_bytes, data)
                if len(data) < rest:
                    break
        except MissingObjectError:
            return f"{key} gone\n"
        return f"{key} {state.n_bytes} {state.sha.hexdigest()}\n"

    def _state(self, key: str) -> "_State":
        with self._lock:
            return self._states.setdefault(key, _State())


class _State:
    """How far one object is hashed."""

    def __init__(self) -> None:
        self.sha: Any = hashlib.sha256()  # Any: hashlib names no public type
        self.n_bytes = 0
        """Bytes hashed, from the begin."""
        self._early = (0, b"")
        """Place and bytes of what was read before its turn last."""

    def take(self, start: int, data: bytes) -> None:
        """Hash what is new of some bytes of the object."""
        if start > self.n_bytes:
            if len(data) <= KEPT_BYTES:
                self._early = (start, data)
            return
        for place, part in ((start, data), self._early):
            if place <= self.n_bytes < place + len(part):
                self.sha.update(memoryview(part)[self.n_bytes - place :])
                self.n_bytes = place + len(part)
