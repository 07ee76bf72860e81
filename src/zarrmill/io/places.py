"""Places: where the state of a run is read and written, on disk or in a bucket, with one behaviour.

A place is spelled as in ``pathlib``, so that who knows one knows the other. Present, absent and unknown are three answers:
``FileNotFoundError`` and False mean that the object is certainly not there; whatever leaves that open is an
``UnknownStateError``. A write is whole or not at all, also across a crash: on disk a temporary file that is renamed, in a
bucket one PUT.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import batched
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from zarrmill.errors import CapacityError, ConfigError, StoreError, UnknownStateError
from zarrmill.io import bucket
from zarrmill.io.patience import is_final, patiently, status_of

if TYPE_CHECKING:
    from obstore.store import S3Store


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """One object, or a folder of them."""

    href: str
    """Local path, or ``s3://bucket/key`` without a slash at the end."""

    @property
    def local(self) -> Path | None:
        """The same on this machine's disk; None in a bucket."""
        return None if self.remote else Path(self.href)

    @property
    def remote(self) -> bool:
        """Whether this is in a bucket."""
        return self.href.startswith("s3://")

    @property
    def name(self) -> str:
        """Last part."""
        return self.href.rpartition("/")[2]

    @property
    def parent(self) -> "Place":
        """The folder that this is in."""
        return Place(self.href.rpartition("/")[0] or ("/" if self.href.startswith("/") else "."))

    @property
    def n_reads(self) -> int:
        """Reads that pay off at once: a disk answers at once, a bucket after its latency."""
        return N_REQUESTS if self.remote else 1

    def __truediv__(self, key: str) -> "Place":
        return Place(f"{self.href.rstrip('/')}/{key}")

    def __str__(self) -> str:
        return self.href

    def __fspath__(self) -> str:
        if self.remote:
            raise TypeError(f"{self.href} is not on this machine's disk")
        return self.href

    def key_in(self, folder: "Place") -> str:
        """Return this place relative to ``folder``.

        Raises: ValueError: it is not below it.
        """
        if not self.href.startswith(f"{folder.href.rstrip('/')}/"):
            raise ValueError(f"{self} is not below {folder}")
        return self.href[len(folder.href.rstrip("/")) + 1 :]

    def now(self) -> float:
        """Return the present, seconds since the epoch, by the clock that tells when objects here were written.

        Raises: UnknownStateError: it cannot be asked.
        """
        return bucket.clock(bucket.split(self.href)[0]) if self.remote else time.time()

    def exists(self) -> bool:
        """Return whether an object is here.

        Raises: UnknownStateError: it cannot be told.
        """
        with reading(self):
            if not self.remote:
                try:
                    os.stat(self.href)
                except (FileNotFoundError, NotADirectoryError):
                    return False
                return True
            import obstore

            try:
                whole(lambda: obstore.head(*store_and_key(self)))
            except FileNotFoundError:
                # The answer to HEAD does not tell a missing object from a missing bucket, which a listing does.
                whole(lambda: obstore.list_with_delimiter(*store_and_key(self)))
                return False
        return True

    def read_bytes(self) -> bytes:
        """Return the object.

        Raises: FileNotFoundError: it is certainly not there; UnknownStateError: it cannot be read.
        """
        with reading(self):
            if not self.remote:
                with open(self.href, "rb") as stream:
                    return stream.read()
            import obstore

            return whole(lambda: bytes(obstore.get(*store_and_key(self)).bytes()))

    def read_text(self) -> str:
        """Return the object as text (UTF-8).

        Raises: as ``read_bytes``; UnicodeDecodeError.
        """
        return self.read_bytes().decode()

    def write_bytes(self, data: bytes) -> None:
        """Write the object whole or not at all.

        Raises: CapacityError: the disk is full; StoreError: the place cannot be written.
        """
        with _writing(self):
            if not self.remote:
                with _draft(self, data) as draft:
                    os.replace(draft, self.href)
                return
            import obstore

            whole(lambda: obstore.put(*store_and_key(self), data, use_multipart=False))

    def write_text(self, text: str) -> None:
        """Write text (UTF-8) whole or not at all. Raises: as ``write_bytes``."""
        self.write_bytes(text.encode())

    def create(self, data: bytes) -> bool:
        """Write the object unless there is one, and tell whether it was written; of many at once, one wins.

        Raises: as ``write_bytes``.
        """
        if self.remote:
            return self._create_remote(data)
        with _writing(self):
            with _draft(self, data) as draft:
                try:
                    os.link(draft, self.href)
                except FileExistsError:
                    return False
        return True

    def _create_remote(self, data: bytes) -> bool:
        # boto3's PUT: obstore does not repeat a conditional one whose connection broke.
        name, key = bucket.split(self.href)
        with bucket.writing(self.href):
            try:
                bucket.client(name).put_object(Bucket=name, Key=key, Body=data, IfNoneMatch="*")
            except bucket.failures() as error:
                if bucket.reason_of(error)[0] != "exists":
                    raise
                # The answer to an earlier try may have been lost: then the object is ours.
                return bucket.n_repeated(error) > 0 and self.read_bytes() == data
        return True

    def unlink(self) -> None:
        """Remove the object; nothing when there is none.

        Raises: StoreError: it cannot be removed.
        """
        if self.remote:
            name, key = bucket.split(self.href)
            with bucket.writing(self.href):  # boto3's DELETE: obstore removes by POST, which not every service knows
                bucket.client(name).delete_object(Bucket=name, Key=key)
            return
        with _writing(self):
            Path(self.href).unlink(missing_ok=True)

    def write_changed(self, data: bytes) -> bool:
        """Write the object unless it holds the same already, and tell whether it was written.

        Raises: as ``read_bytes`` but for a missing object, and as ``write_bytes``.
        """
        try:
            if self.read_bytes() == data:
                return False
        except FileNotFoundError:
            pass
        self.write_bytes(data)
        return True


def place_of(address: str | os.PathLike[str]) -> Place:
    """Return the place at a local path, a ``file://`` or an ``s3://`` address.

    Raises: ValueError: the address is of another kind.
    """
    text = os.fspath(address)
    if "://" not in text:
        return Place(PurePosixPath(text).as_posix())
    scheme, _, rest = text.partition("://")
    if scheme == "file":
        from urllib.parse import unquote, urlsplit

        return Place(unquote(urlsplit(text).path))
    if scheme == "s3" and rest.strip("/"):
        return Place(f"s3://{rest.strip('/')}")
    raise ValueError(f"{text}: neither a path nor an s3:// address")


N_REQUESTS = 32
"""Requests to a bucket that are under way at once."""


def together[T, A](work: Callable[[T], A], things: Iterable[T], n: int) -> Iterator[A]:
    """Yield ``work(thing)`` in order, ``n`` under way at once; what is ready waits for at most a few ``n`` more."""
    if n == 1:
        yield from map(work, things)
        return
    with ThreadPoolExecutor(n) as pool:
        for part in batched(things, 4 * n):
            yield from pool.map(work, part)


def store_and_key(place: Place) -> "tuple[S3Store, str]":
    """Return the obstore store of a place's bucket, and its key there."""
    name, key = bucket.split(place.href)
    return bucket.shared_store(name), key


def whole[T](ask: Callable[[], T]) -> T:
    """Return what a request to a bucket returns, asking again after what may pass, ``s3.retries`` times."""
    return patiently(ask, bucket.settings().retries)


@contextmanager
def _draft(place: Place, data: bytes) -> Iterator[str]:
    """Write ``data`` to a temporary file beside the place, safe on disk; what is left of it is removed."""
    folder = os.path.dirname(place.href) or "."
    os.makedirs(folder, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        yield temporary
    finally:
        Path(temporary).unlink(missing_ok=True)


@contextmanager
def reading(place: Place) -> Iterator[None]:
    """Translate what a read raises; a missing object stays ``FileNotFoundError``, a wrong region is a ``ConfigError``."""
    try:
        yield
    except StoreError as error:  # no credentials: nothing was asked
        raise UnknownStateError(f"{place}: cannot read the state: {error.message}; nothing was decided", kind="outage") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        if _is_no_bucket(error):
            raise _unknown(place, error) from error
        raise FileNotFoundError(place.href) from error
    except _errors(place) as error:
        raise _unknown(place, error) from error


def _unknown(place: Place, error: Exception) -> UnknownStateError | ConfigError:
    text = f"{place}: cannot read the state: {_words(error)}; nothing was decided"
    return bucket.wrong_region(str(place), error) or UnknownStateError(text, kind="outage")


@contextmanager
def _writing(place: Place) -> Iterator[None]:
    try:
        yield
    except _errors(place) as error:
        if not place.remote and isinstance(error, OSError):
            raise write_error(error, str(place)) from error
        elsewhere = bucket.wrong_region(str(place), error)
        if elsewhere:
            raise elsewhere from error
        refused = _is_denied(error) or (is_final(error) and not _is_no_bucket(error))
        kind = "denied" if refused else "bucket" if _is_no_bucket(error) else "lost"
        raise StoreError(f"{place}: cannot write: {_words(error)}", kind=kind) from error


def _errors(place: Place) -> tuple[type[Exception], ...]:
    if not place.remote:
        return (OSError,)
    from obstore.exceptions import BaseError

    return (BaseError, OSError)


def _is_denied(error: Exception) -> bool:
    # Of a listing, obstore tells the status in words alone.
    names = ("PermissionDeniedError", "UnauthenticatedError", "PermissionError")
    return type(error).__name__ in names or status_of(error) in (401, 403) or "ExpiredToken" in str(error)


def _is_no_bucket(error: Exception) -> bool:
    return "NoSuchBucket" in str(error)


def _words(error: Exception) -> str:
    if bucket.CLOCK_WRONG in str(error):
        return "the clock of this machine is wrong; set it, then run again"
    if _is_denied(error):
        return "access denied; check credentials and rights"
    if _is_no_bucket(error):
        return "there is no such bucket; correct the address, or create it"
    reason = str(error).partition("\n")[0][:300]
    if is_final(error):
        return f"the service refuses the request ({reason}); check the address and the settings below s3"
    return f"no answer ({reason}); run again when it is back"


def write_error(error: OSError, place: str) -> CapacityError | StoreError:
    """Translate a failed local write into our tree."""
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return CapacityError(f"{place}: {error.strerror}; free some space, then run again", kind="disk")
    return StoreError(f"{place}: cannot write: {error.strerror or error}; check path and rights", kind="denied")
