"""A store that is written to a bucket: nothing is visible half, nothing foreign is sealed, one process writes.

The same steps as on disk (``zarrmill.io.store.StoreWriter``) by other means: an object appears when its upload is complete, the
lock is a lease, the journal lies below ``<store>.journal/``. Deleting is needed for two things only, what earlier attempts left
inside the store and the journal after sealing; without that right the first is an error, the second stays.
"""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from zarrmill.config import Codec
from zarrmill.errors import StoreError
from zarrmill.io import bucket as buckets
from zarrmill.io.journal import believed, signed
from zarrmill.io.lease import Lease
from zarrmill.io.objects import Objects
from zarrmill.io.upload import Upload, Uploads, abort_open, md5
from zarrmill.io.written import Entry, Part, Written

_READ_BYTES = 8 << 20
_N_OPEN = 16
"""Shards that are open at once, each with less than a part in memory."""


class BucketWriter:
    """Objects below one prefix of a bucket, and lease and journal beside it."""

    keeps_parts = False

    def __init__(self, href: str, codec: Codec, storage_class: str | None = None) -> None:
        """``storage_class`` of the objects; None is that of the settings."""
        self.href, self.codec, self._identity, self._class = href, codec, "", storage_class
        settings = buckets.settings()
        self.buffer_bytes = (settings.max_concurrency + _N_OPEN) * settings.part_mb << 20
        self._bucket, self._prefix = buckets.split(href)
        self._lease = Lease(self._bucket, f"{self._prefix}.journal")
        self._uploads: Uploads | None = None
        self._sealed: tuple[Written, ...] = ()

    def is_sealed(self) -> bool:
        """Return whether the store is a product: its root ``zarr.json`` is there.

        Raises: StoreError: it cannot be told.
        """
        with buckets.writing(self.href):
            return "zarr.json" in self._list("zarr.json")

    @contextmanager
    def locked(self, wait_s: float = 600.0) -> Iterator[None]:
        """Hold the store for this process alone. After a failure nothing stays under way.

        Raises: StoreError: another process still writes this store after ``wait_s``, or the bucket cannot be used.
        """
        self._entries = self._lease.take(wait_s)
        self._uploads = Uploads(self._bucket, self._prefix, self._lease.check, self._class)
        try:
            yield
        except BaseException:
            self._uploads.close()
            self._lease.release()
            raise
        self._uploads.close()
        self._lease.release()

    def noted(self, identity: str) -> list[Entry]:
        """Return what the journal says for this identity; nothing of it is proven."""
        return [entry for value in self._entries.values() if (entry := believed(identity, value))]

    def finished(self, identity: str) -> dict[str, Entry]:
        """Return name to entry of what the journal proves: every object is there with its size and entity tag.

        ``identity`` as of ``StoreWriter.finished``.
        """
        self._identity = identity
        with buckets.writing(self.href):
            there = self._list()
        entries = self.noted(identity)
        return {e.name: e for e in entries if all(there.get(item.key) == (item.n_bytes, item.etag) for item in e.objects)}

    def record(self, entry: Entry) -> None:
        """Note in the journal what is written as soon as its objects are whole; it replaces what was noted under this name."""
        self._under_way().submit(self._record, entry)

    def _record(self, entry: Entry) -> None:
        uploads = self._under_way()
        whole = tuple(replace(item, etag=uploads.tag(item)) for item in entry.objects)
        self._lease.record(entry.name, signed(self._identity, replace(entry, objects=whole)))

    def sink(self, key: str, begun: Part | None = None) -> Upload:
        """Begin an object that grows."""
        if begun:
            raise RuntimeError("nothing is left in a bucket of an object that was only begun")
        return self._under_way().sink(key)

    def write(self, key: str, data: bytes) -> Written:
        """Write one object whole."""
        sink = self.sink(key)
        sink.append(data)
        return sink.close()

    def seal(self, root: bytes, written: Iterable[Written]) -> None:
        """Make sure that the store holds ``written`` and nothing else, then write the root: from here on it is a product.

        Raises: StoreError: an object is missing, differs, or is foreign and may not be deleted.
        """
        uploads = self._under_way()
        uploads.wait()
        whole = tuple(Written(item.key, item.n_bytes, item.sha256, uploads.tag(item)) for item in written)
        abort_open(self._bucket, self._prefix)  # left by attempts that were killed
        with buckets.writing(self.href):
            there = self._list()
        self._compare(there, whole)
        self._delete(sorted(there.keys() - {item.key for item in whole} - {"zarr.json"}))
        self._lease.check()
        self._put_root(root)
        self._sealed = (*whole, Written("zarr.json", len(root), hashlib.sha256(root).hexdigest(), md5(root).hex()))

    def _compare(self, there: dict[str, tuple[int, str]], written: Iterable[Written]) -> None:
        for item in written:
            if there.get(item.key) != (item.n_bytes, item.etag):
                found = there.get(item.key, "nothing")
                text = f"{self.href}/{item.key}: found {found}, expected {(item.n_bytes, item.etag)}; run again"
                raise StoreError(text, kind="lost")

    def _put_root(self, root: bytes) -> None:
        """Write the root unless there is one; a second try of a request whose answer was lost finds its own."""
        uploads = self._under_way()
        arguments = {**uploads.protection(md5(root)), **uploads.storage()}
        try:
            uploads.client.put_object(
                Bucket=self._bucket, Key=f"{self._prefix}/zarr.json", Body=root, IfNoneMatch="*", **arguments
            )
        except buckets.failures() as error:
            if buckets.reason_of(error)[0] != "exists":
                raise buckets.write_failure(error, self.href) from error
            if self.root() != root:
                text = f"{self.href}: was sealed meanwhile with another root; move it away, then run again"
                raise StoreError(text, kind="denied") from None

    def _delete(self, keys: list[str]) -> None:
        uploads = self._under_way()
        for key in keys:
            try:
                uploads.call("delete_object", key)
            except StoreError as error:
                text = f"{self.href}: {len(keys)} objects of earlier attempts are not part of the store, such as {key}, "
                text += "and cannot be deleted; delete them or give the right to, then run again"
                raise StoreError(text, kind=error.kind) from error

    def remove_journal(self) -> None:
        """Remove lease and journal of a store that is sealed."""
        self._lease.remove()

    def root(self) -> bytes:
        """Return the root ``zarr.json``. Raises: StoreError: it cannot be read."""
        with buckets.writing(self.href):
            return buckets.read(buckets.client(self._bucket), self._bucket, f"{self._prefix}/zarr.json")

    def read_back(self, threads: int) -> list[Written]:
        """Return every object that is there now.

        Those that this process wrote are known by size and entity tag; a store that was found sealed is read whole.
        Raises: StoreError: an object differs from what was written, or cannot be read.
        """
        with buckets.writing(self.href):
            there = self._list()
        if not self._sealed:
            return self._digests(there, threads)
        self._compare(there, self._sealed)
        foreign = sorted(there.keys() - {item.key for item in self._sealed})
        if foreign:
            text = f"{self.href}: {len(foreign)} foreign objects came while it was sealed, such as {foreign[0]}; delete them"
            raise StoreError(text, kind="damaged")
        return list(self._sealed)

    def _digests(self, there: dict[str, tuple[int, str]], threads: int) -> list[Written]:
        objects = Objects(self.href)

        def digest(key: str) -> Written:
            (n_bytes, etag), sha = there[key], hashlib.sha256()
            for start in range(0, n_bytes, _READ_BYTES):
                sha.update(objects.get_range(key, start, min(_READ_BYTES, n_bytes - start)))
            return Written(key, n_bytes, sha.hexdigest(), etag)

        with ThreadPoolExecutor(2 * threads) as pool:  # one piece is fetched while another is digested
            return list(pool.map(digest, sorted(there)))

    def _list(self, key: str = "") -> dict[str, tuple[int, str]]:
        """Return size and entity tag of every object whose key begins with ``key``."""
        start = len(self._prefix) + 1
        pages = buckets.client(self._bucket).get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=self._bucket, Prefix=f"{self._prefix}/{key}")
        items = [item for page in found for item in page.get("Contents", ())]
        return {item["Key"][start:]: (int(item["Size"]), item["ETag"].strip('"')) for item in items}

    def _under_way(self) -> Uploads:
        if self._uploads is None:
            raise RuntimeError("a store is written inside `locked`")
        return self._uploads
