"""Reading objects: one small face over local folders, http(s) and S3, with timeouts, retries and our errors.

Credentials for ``s3://`` come from the standard chain (environment, profile, web identity) and from nowhere else.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from zarrmill.errors import SourceError

if TYPE_CHECKING:
    from zarr.storage import ObjectStore


class MissingObjectError(KeyError):
    """The object is certainly not there; anything less certain is another error."""


@dataclass(frozen=True)
class Objects:
    """Objects below one address; keys are relative, without a leading slash."""

    href: str
    """Local path, ``file://``, ``http(s)://`` or ``s3://``."""
    timeout_s: float = 60.0
    """Time that one request may take."""
    retries: int = 4
    """Further tries of a request that failed in a way that may pass."""

    @property
    def local(self) -> Path | None:
        """Folder on this machine, or None for a remote address."""
        return local_path(self.href)

    @cached_property
    def backend(self) -> Any:  # obstore's store classes share no public base type
        """The obstore store; made on first use."""
        from obstore.store import HTTPStore, LocalStore, S3Store

        if self.local is not None:
            return LocalStore(self.local)
        options: Any = {
            "client_options": {"timeout": timedelta(seconds=self.timeout_s), "connect_timeout": timedelta(seconds=15)},
            "retry_config": {"max_retries": self.retries, "retry_timeout": timedelta(seconds=self.timeout_s * 3)},
        }
        scheme = urlsplit(self.href).scheme
        if scheme in ("http", "https"):
            options["client_options"]["allow_http"] = True
            return HTTPStore.from_url(self.href, **options)
        if scheme == "s3":
            options["client_options"]["allow_http"] = True
            return S3Store.from_url(self.href, **options)
        raise SourceError(f"{self.href}: scheme {scheme!r} is not one of local path, file, http, https, s3", kind="missing")

    def get(self, key: str) -> bytes:
        """Return one object whole.

        Raises: MissingObjectError: it is not there; SourceError: access denied, or no answer in time.
        """
        if self.local is not None:
            with _Translated(f"{self.href}/{key}"):
                return (self.local / key).read_bytes()
        import obstore

        with _Translated(f"{self.href}/{key}"):
            return bytes(obstore.get(self.backend, key).bytes())

    def stream(self, key: str) -> tuple[int, Iterator[bytes]]:
        """Return the size of one object, and its bytes part by part. Raises: as ``get``, on the way too."""
        import obstore

        with _Translated(f"{self.href}/{key}"):
            answer = obstore.get(self.backend, key)
        return int(answer.meta["size"]), self._parts(key, answer)

    def _parts(self, key: str, answer: Any) -> Iterator[bytes]:  # obstore's answer has no public type
        with _Translated(f"{self.href}/{key}"):
            for part in answer.stream():
                yield bytes(part)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return ``length`` bytes of one object from ``start``, fewer when it ends before.

        Raises: as ``get``.
        """
        return self.get_ranges(key, [(start, length)])[0]

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return several ranges ``(start, length)`` of one object; near ones are fetched together.

        A server that knows no ranges is asked for the whole object.
        Raises: as ``get``.
        """
        if self.local is not None:
            with _Translated(f"{self.href}/{key}"), (self.local / key).open("rb", buffering=0) as stream:
                return [_read_at(stream, start, length) for start, length in ranges]
        import obstore
        from obstore.exceptions import NotSupportedError

        with _Translated(f"{self.href}/{key}"):
            starts, lengths = [start for start, _ in ranges], [length for _, length in ranges]
            try:
                return [bytes(part) for part in obstore.get_ranges(self.backend, key, starts=starts, lengths=lengths)]
            except NotSupportedError:
                whole = self.get(key)
                return [whole[start : start + length] for start, length in ranges]

    def size(self, key: str) -> int:
        """Return the size of one object in bytes.

        Raises: as ``get``.
        """
        if self.local is not None:
            with _Translated(f"{self.href}/{key}"):
                return (self.local / key).stat().st_size
        import obstore

        with _Translated(f"{self.href}/{key}"):
            return int(obstore.head(self.backend, key)["size"])

    def exists(self, key: str) -> bool:
        """Return whether an object is there; an outage is an error, never False."""
        try:
            self.size(key)
        except MissingObjectError:
            return False
        return True

    def keys(self) -> Iterator[tuple[str, int]]:
        """Yield key and size of every object, in sorted order. Plain http servers cannot list."""
        import obstore

        if self.local is not None:
            yield from sorted(_files(str(self.local), ""))
            return
        with _Translated(self.href):
            found = [(str(meta["path"]), int(meta["size"])) for page in obstore.list(self.backend) for meta in page]
        yield from sorted(found)

    def zarr_store(self) -> "ObjectStore[Any]":
        """Return a read-only store for zarr-python."""
        from zarr.storage import ObjectStore

        return ObjectStore(self.backend, read_only=True)


def _files(folder: str, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield key and size of every file below a folder; what is not there has none.

    Raises: SourceError: a folder may not be read.
    """
    entries: list[os.DirEntry[str]] = []
    with suppress(MissingObjectError), _Translated(folder), os.scandir(folder) as found:
        entries += found
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(entry.path, f"{prefix}{entry.name}/")
        elif entry.is_file():
            with suppress(FileNotFoundError):
                yield f"{prefix}{entry.name}", entry.stat().st_size


def local_path(href: str) -> Path | None:
    """Return the local folder that ``href`` names, or None when it is remote."""
    parts = urlsplit(href)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if "://" in href else Path(href)


def _read_at(stream: IO[bytes], start: int, length: int) -> bytes:
    stream.seek(start)
    return stream.read(length)


class _Translated:
    """Turns errors of a place into ours. No generator: its frames would keep what a caller holds until the next collection."""

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            return
        from obstore import exceptions as known

        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError | known.NotFoundError):
            raise MissingObjectError(self._place) from error
        if isinstance(error, PermissionError | known.PermissionDeniedError | known.UnauthenticatedError):
            raise SourceError(f"{self._place}: access denied; check credentials and rights", kind="denied") from error
        if isinstance(error, known.BaseError | OSError):
            reason = str(error).split("\n")[0][:300]
            raise SourceError(f"{self._place}: no answer ({reason}); try again later", kind="timeout") from error
