"""What lies below a place, asked for once."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from threading import RLock
from typing import Any

from zarrmill.io.places import Place, reading, store_and_key, whole


@dataclass(frozen=True, slots=True)
class Found:
    """What a listing says of one object."""

    size: int
    """Bytes."""
    modified: float
    """Seconds since the epoch."""
    e_tag: str = ""
    """Entity tag without quotes; empty on disk."""


class Listing:
    """What lies below a place, as it was when first asked: one scan a folder on disk, one request a thousand objects in a bucket.

    In a bucket the unit that is listed is a folder directly below the root, with everything in it.
    """

    def __init__(self, root: Place) -> None:
        self.root = root
        self._files: dict[str, dict[str, Found]] = {}
        self._folders: dict[str, set[str]] = {}
        self._known: set[str] = set()
        self._guard = RLock()

    def files(self, folder: Place) -> Mapping[str, Found]:
        """Return name and facts of the objects directly in a folder, sorted by name; a folder that is not there has none.

        Raises: UnknownStateError: it cannot be listed.
        """
        key = self._fill(folder)
        return self._files.get(key, {})

    def folders(self, folder: Place) -> list[str]:
        """Return the names of the folders directly in a folder, sorted. Raises: as ``files``."""
        key = self._fill(folder)
        return sorted(self._folders.get(key, ()))

    def get(self, place: Place) -> Found | None:
        """Return what is known of one object; None when it is not there, or holds nothing: no file of ours is empty.

        Raises: as ``files``.
        """
        found = self.files(place.parent).get(place.name)
        return found if found is not None and found.size else None

    def holds(self, place: Place, data: bytes) -> bool:
        """Return whether the object certainly holds ``data``, in a bucket without reading it.

        The entity tag of an object that was put in one piece is its md5; in a bucket that encrypts with keys of its own it is
        not, and the answer is False.
        """
        found = self.get(place)
        if found is None or found.size != len(data):
            return False
        if place.remote:
            return found.e_tag == hashlib.md5(data, usedforsecurity=False).hexdigest()
        try:
            return place.read_bytes() == data
        except FileNotFoundError:
            return False

    def below(self, folder: Place) -> Iterator[tuple[Place, Found]]:
        """Yield every object below a folder, sorted. Raises: as ``files``."""
        for name, found in self.files(folder).items():
            yield folder / name, found
        for name in self.folders(folder):
            yield from self.below(folder / name)

    def _fill(self, folder: Place) -> str:
        key = "" if folder == self.root else folder.key_in(self.root)
        unit = key.partition("/")[0] if self.root.remote else key
        with self._guard:
            if unit not in self._known:
                if self.root.remote:
                    with reading(folder):
                        self._list(unit)
                elif not key or folder.name in self._folders.get(self._fill(folder.parent), ()):
                    with reading(folder):
                        self._scan(folder, key)
                self._known.add(unit)
        return key

    def _scan(self, folder: Place, key: str) -> None:
        files, folders = {}, set()
        try:
            with os.scandir(folder.href) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue  # a lock, or a file that is being written
                    if entry.is_dir():
                        folders.add(entry.name)
                        continue
                    try:
                        facts = entry.stat()
                    except FileNotFoundError:
                        continue  # removed since: Snakemake removes outputs before a job
                    files[entry.name] = Found(facts.st_size, facts.st_mtime)
        except (FileNotFoundError, NotADirectoryError):
            pass
        self._files[key] = dict(sorted(files.items()))
        self._folders[key] = folders

    def _list(self, unit: str) -> None:
        import obstore

        store, prefix = store_and_key(self.root)
        start = len(prefix) + 1 if prefix else 0
        if not unit:
            answer = whole(lambda: obstore.list_with_delimiter(store, prefix))
            self._folders[""] = {path[start:] for path in answer["common_prefixes"]}
            self._add(answer["objects"], start)
            return
        for page in whole(lambda: list(obstore.list(store, f"{prefix}/{unit}" if prefix else unit))):
            self._add(page, start)
        for key in [key for key in self._files if key == unit or key.startswith(f"{unit}/")]:
            # The server's order is not ours: some do not sort by bytes.
            self._files[key] = dict(sorted(self._files[key].items()))

    def _add(self, objects: Any, start: int) -> None:  # obstore's page type is generic over arrow and lists
        for meta in objects:
            folder, _, name = str(meta["path"])[start:].rpartition("/")
            facts = Found(int(meta["size"]), meta["last_modified"].timestamp(), (meta["e_tag"] or "").strip('"'))
            self._files.setdefault(folder, {})[name] = facts
            while folder:
                above, _, name = folder.rpartition("/")
                self._folders.setdefault(above, set()).add(name)
                folder = above
