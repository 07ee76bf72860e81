"""Reading objects: one small face over local folders, http(s) and S3, with timeouts, retries and our errors.

After 429, 5xx, resets, silence and answers that break off in their body it is asked again, with growing random pauses
(``io.patience``). What was read twice must be the same both times. Servers without HEAD, or that do not tell how long an
answer is, are read too.
Buckets are reached as ``io.bucket`` says.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from zarrmill.errors import SourceError, has_user, hidden
from zarrmill.io import bucket as buckets
from zarrmill.io.answers import MissingObjectError, Translated
from zarrmill.io.patience import BrokenOffError, patiently, status_of
from zarrmill.io.places import together

if TYPE_CHECKING:
    from zarr.storage import ObjectStore

N_CHECKS = 8
"""Requests under way at once when it is asked whether objects are unchanged."""

N_RANGES = 10
"""Parts of one object under way at once."""


@dataclass(frozen=True)
class Objects:
    """Objects below one address; keys are relative, without a leading slash."""

    href: str
    """Local path, ``file://``, ``http(s)://`` or ``s3://``."""
    timeout_s: float = 60.0
    """Time that a connection may be silent."""
    retries: int = 4
    """Further tries of a request that failed in a way that may pass."""

    @cached_property
    def local(self) -> Path | None:
        """Folder on this machine, or None for a remote address."""
        return local_path(self.href)

    @cached_property
    def backend(self) -> Any:  # obstore's store classes share no public base type
        """The obstore store; made on first use."""
        from obstore.store import HTTPStore, LocalStore

        if self.local is not None:
            return LocalStore(self.local)
        if has_user(self.href):
            raise SourceError(f"{self.href}: an address must not hold a user or password; take them out", kind="item")
        scheme = urlsplit(self.href).scheme
        if scheme in ("http", "https"):
            return HTTPStore.from_url(self.href, **buckets.transport(self.timeout_s, 0))
        if scheme == "s3":
            bucket, prefix = buckets.split(self.href)
            return buckets.object_store(bucket, prefix, timeout_s=self.timeout_s, retries=self.retries)
        raise SourceError(f"{self.href}: scheme {scheme!r} is not one of local path, file, http, https, s3", kind="missing")

    @cached_property
    def _seen(self) -> dict[str, tuple[int, str | None]]:
        """Size and entity tag of every remote object that was read; None where the server gives no tags."""
        return {}

    @cached_property
    def _watchers(self) -> list[Callable[[str, int, str | None], None]]:
        return []

    def get(self, key: str) -> bytes:
        """Return one object whole.

        Raises: MissingObjectError: it is not there; SourceError: access denied, no answer in time, or it is not what it was
            when it was read before.
        """
        if self.local is not None:
            with Translated(f"{self.href}/{key}"):
                return (self.local / key).read_bytes()
        with Translated(f"{self.href}/{key}"):
            return self._patiently(lambda: self._body(key))

    def stream(self, key: str) -> tuple[int, Iterator[bytes]]:
        """Return the size of one object, and its bytes part by part. Raises: as ``get``, on the way too."""
        with Translated(f"{self.href}/{key}"):
            answer = self._patiently(lambda: self._answer(key))
            if answer is None:
                data, _ = self._patiently(lambda: self._unmeasured(key))
                return len(data), iter([data])
            n_bytes = int(answer.meta["size"])
            if self.local is None:
                self._note(key, n_bytes, answer.meta["e_tag"])
        return n_bytes, self._parts(key, answer, n_bytes)

    def _parts(self, key: str, answer: Any, n_bytes: int) -> Iterator[bytes]:  # obstore's answer has no public type
        done = 0
        with Translated(f"{self.href}/{key}"):
            try:
                for part in answer.stream():
                    done += len(part)
                    yield bytes(part)
            except _broken():
                pass  # the rest is asked for
            while done < n_bytes:
                start, size = done, min(n_bytes - done, _PIECE_BYTES)
                data = self._patiently(lambda start=start, size=size: self._body(key, (start, start + size)))  # type: ignore[misc]
                done += len(data)
                yield data

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return ``length`` bytes of one object from ``start``, fewer when it ends before.

        Raises: as ``get``.
        """
        return self.get_ranges(key, [(start, length)])[0]

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return several ranges ``(start, length)`` of one object; near ones are fetched together.

        A server that knows no ranges, or answers them in a way that obstore does not read, is asked for the whole object.
        Raises: as ``get``.
        """
        if self.local is not None:
            with Translated(f"{self.href}/{key}"):
                return _read_at(f"{self.local}/{key}", ranges)
        from obstore.exceptions import GenericError, NotSupportedError

        with Translated(f"{self.href}/{key}"):
            try:
                return self._near(key, ranges)
            except (NotSupportedError, GenericError) as error:
                if not isinstance(error, NotSupportedError) and not _is_no_range(error):
                    raise
                whole = self.get(key)
                return [whole[start : start + length] for start, length in ranges]

    def _near(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        # Not obstore's get_ranges: it panics where a body is shorter than its head says, and compares no entity tags.
        spans = _joined(ranges)
        asks = [partial(self._body, key, span) for span in spans]
        data = list(together(self._patiently, asks, max(1, min(len(asks), N_RANGES))))
        found = []
        for start, length in ranges:
            place = bisect_right(spans, start, key=lambda span: span[0]) - 1
            first = start - spans[place][0]
            found.append(data[place][first : first + length])
        return found

    def _body(self, key: str, span: tuple[int, int] | None = None) -> bytes:
        """Return one object, or ``span`` (start and end) of it, by one request.

        Raises: BrokenOffError: the body ended early.
        """
        answer = self._answer(key, span)
        if answer is None:
            data, _ = self._unmeasured(key)
            return data[slice(*span)] if span else data
        n_bytes = int(answer.meta["size"])
        self._note(key, n_bytes, answer.meta["e_tag"])
        try:
            data = bytes(answer.bytes())
        except _broken() as error:
            raise BrokenOffError(str(error)) from error
        first, last = span or (0, n_bytes)
        if len(data) != min(last, n_bytes) - first:
            raise BrokenOffError(f"{len(data)} bytes, expected {min(last, n_bytes) - first}")
        return data

    def _answer(self, key: str, span: tuple[int, int] | None = None) -> Any:  # obstore's answer has no public type
        """Ask for one object, or ``span`` of it; None where the server does not tell its length, which obstore cannot read."""
        import obstore

        try:
            answer = obstore.get(self.backend, key, options={"range": span} if span else None)
        except _broken() as error:
            if _NO_LENGTH not in str(error):
                raise
            return None
        coding = answer.attributes.get("Content-Encoding", "identity")
        if coding not in ("identity", "aws-chunked"):  # the latter is how it came to its bucket
            text = f"{self.href}/{key}: the host sends it {coding}-encoded, unasked; it has to send what is there as it is"
            raise SourceError(text, kind="denied")
        return answer

    def _unmeasured(self, key: str) -> tuple[bytes, str | None]:
        """Return one object whole, and its entity tag, from a server that does not tell its length.

        Raises: BrokenOffError: the body ended before the end that the server marks; HTTP/1.0 marks none.
        """
        import requests

        address = f"{self.href.rstrip('/')}/{quote(key)}"
        try:
            answer = requests.get(address, timeout=self.timeout_s, headers={"Accept-Encoding": "identity"})
            answer.raise_for_status()
        except requests.RequestException as error:
            raise BrokenOffError(hidden(str(error))) from error
        data, tag = answer.content, answer.headers.get("ETag")
        self._note(key, len(data), tag)
        return data, tag

    def _patiently[R](self, request: Callable[[], R]) -> R:
        """Return what ``request`` returns, asking again after what may pass."""
        return patiently(request, self.retries)

    def watch(self, see: Callable[[str, int, str | None], None]) -> None:
        """Let ``see`` be told key, bytes and entity tag of every remote object that was read, and of others when they are."""
        self._watchers.append(see)
        for key, facts in list(self._seen.items()):
            see(key, *facts)

    def _note(self, key: str, n_bytes: int, e_tag: str | None) -> None:
        is_new = key not in self._seen
        before = self._seen.setdefault(key, (n_bytes, e_tag))
        if before != (n_bytes, e_tag):
            raise self._changed(key, before, (n_bytes, e_tag))
        for see in self._watchers if is_new else ():
            see(key, n_bytes, e_tag)

    def _changed(self, key: str, before: object, now: object) -> SourceError:
        text = f"{self.href}/{key}: was {before} when it was read, is {now} now; somebody writes there, plan again"
        return SourceError(text, kind="changed")

    def check_unchanged(self) -> None:
        """Compare every object that was read with what is there now, where the server gives entity tags.

        Raises: SourceError: one is gone or another (``changed``), or as ``get``.
        """
        tagged = {key: seen for key, seen in self._seen.items() if seen[1]}
        if not tagged:
            return
        now = self.facts(sorted(tagged))
        for key, seen in sorted(tagged.items()):
            if now.get(key) != seen:
                raise self._changed(key, seen, now.get(key, "gone"))

    def facts(self, keys: Sequence[str]) -> dict[str, tuple[int, str | None]]:
        """Return bytes and entity tag of remote objects as they are now, without those that are not there. Raises: as ``get``."""
        return self._listed() if urlsplit(self.href).scheme == "s3" else self._heads(keys)

    def _heads(self, keys: Sequence[str]) -> dict[str, tuple[int, str | None]]:
        with ThreadPoolExecutor(N_CHECKS) as pool:
            found = pool.map(self._head, keys)
            return {key: facts for key, facts in zip(keys, found, strict=True) if facts}

    def _head(self, key: str) -> tuple[int, str | None] | None:
        import obstore

        try:
            with Translated(f"{self.href}/{key}"):
                try:
                    meta = self._patiently(lambda: obstore.head(self.backend, key))
                except _refused() as error:
                    if status_of(error) not in _NO_HEAD and _NO_LENGTH not in str(error):
                        raise
                    return self._first_look(key)
        except MissingObjectError:
            return None
        return int(meta["size"]), meta["e_tag"]

    def _first_look(self, key: str) -> tuple[int, str | None]:
        """Return size and entity tag by GET, of a server that answers no HEAD or tells no length by it; the body is left."""
        answer = self._patiently(lambda: self._answer(key))
        if answer is None:
            data, tag = self._patiently(lambda: self._unmeasured(key))
            return len(data), tag
        return int(answer.meta["size"]), answer.meta["e_tag"]

    def size(self, key: str) -> int:
        """Return the size of one object in bytes.

        Raises: as ``get``.
        """
        if self.local is not None:
            with Translated(f"{self.href}/{key}"):
                return (self.local / key).stat().st_size
        facts = self._head(key)
        if facts is None:
            if urlsplit(self.href).scheme == "s3":
                buckets.check_there(buckets.split(self.href)[0])  # a HEAD of a key does not tell that the bucket is missing
            raise MissingObjectError(f"{self.href}/{key}")
        return facts[0]

    def exists(self, key: str) -> bool:
        """Return whether an object is there; an outage is an error, never False."""
        try:
            self.size(key)
        except MissingObjectError:
            return False
        return True

    def is_empty(self) -> bool:
        """Return whether there is nothing at all, on disk not even a folder. Plain http servers cannot list.

        Raises: as ``get``, but for a missing one.
        """
        if self.local is not None:
            with suppress(MissingObjectError), Translated(self.href), os.scandir(self.local) as entries:
                return next(entries, None) is None
            return True
        import obstore

        with Translated(self.href):
            return not self._patiently(lambda: next((list(page) for page in obstore.list(self.backend) if page), []))

    def keys(self) -> Iterator[tuple[str, int]]:
        """Yield key and size of every object, in sorted order. Plain http servers cannot list."""
        if self.local is not None:
            yield from sorted(_files(str(self.local), ""))
            return
        yield from sorted((key, n_bytes) for key, (n_bytes, _) in self._listed().items())

    def _listed(self) -> dict[str, tuple[int, str | None]]:
        import obstore

        with Translated(self.href):
            items = self._patiently(lambda: [item for page in obstore.list(self.backend) for item in page])
        return {str(item["path"]): (int(item["size"]), item["e_tag"]) for item in items}

    def translated(self, key: str) -> AbstractContextManager[None]:
        """Turn what obstore raises at ``key`` into a ``SourceError``, for those who read through ``zarr_store``."""
        return Translated(f"{self.href}/{key}")

    def zarr_store(self) -> "ObjectStore[Any]":
        """Return a read-only store for zarr-python."""
        if self.local is None:
            from zarrmill.io.zarr_objects import ZarrObjects

            return ZarrObjects(self)
        from zarr.storage import ObjectStore

        return ObjectStore(self.backend, read_only=True)


def _files(folder: str, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield key and size of every file below a folder; what is not there has none.

    Raises: SourceError: a folder may not be read.
    """
    entries: list[os.DirEntry[str]] = []
    with suppress(MissingObjectError), Translated(folder), os.scandir(folder) as found:
        entries += found
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path, f"{prefix}{entry.name}/")
        elif entry.is_file():
            with suppress(FileNotFoundError):
                yield f"{prefix}{entry.name}", entry.stat().st_size


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return start and end of what is fetched for ``ranges`` (start, length), in order; near ones are one."""
    spans: list[tuple[int, int]] = []
    for start, length in sorted(ranges):
        if spans and start - spans[-1][1] <= _NEAR_BYTES:
            spans[-1] = (spans[-1][0], max(spans[-1][1], start + length))
        else:
            spans.append((start, start + length))
    return spans


_NEAR_BYTES = 1 << 20
"""Bytes between two ranges that are fetched too, rather than that they are asked for one by one."""

_PIECE_BYTES = 8 << 20
"""Bytes asked for at a time of an answer that broke off."""


_NO_LENGTH = "Content-Length Header missing"
"""obstore's words for an answer that does not tell how long it is."""

_NO_RANGES = ("non-partial response", "CONTENT_RANGE header", "Content-Range header not present", ", got ")
"""obstore's words for an answer that is not the range that was asked for, or does not say which one it is."""

_NO_HEAD = (400, 403, 405, 501)
"""Statuses of a server that is asked by GET what HEAD does not tell there; some addresses are signed for GET alone."""


def _is_no_range(error: Exception) -> bool:
    """Return whether the answer was no range that can be read, as that to one behind the end of the object."""
    return any(words in str(error) for words in _NO_RANGES) or status_of(error) == 416


def _broken() -> tuple[type[Exception], ...]:
    from obstore.exceptions import GenericError

    return (GenericError,)


def _refused() -> tuple[type[Exception], ...]:
    from obstore.exceptions import NotFoundError, PermissionDeniedError

    return (*_broken(), NotFoundError, FileNotFoundError, PermissionDeniedError)


def local_path(href: str) -> Path | None:
    """Return the local folder that ``href`` names, or None when it is remote."""
    parts = urlsplit(href)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if "://" in href else Path(href)


def _read_at(path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return [os.pread(file, length, start) for start, length in ranges]
    finally:
        os.close(file)
