"""Taking a store away: held as its one writer would hold it, the root first, then everything else, the journal last."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from zarrmill.errors import StoreError
from zarrmill.io import bucket
from zarrmill.io.journal import Journal
from zarrmill.io.lease import Lease
from zarrmill.io.listing import Listing
from zarrmill.io.places import N_REQUESTS, Place, together
from zarrmill.io.upload import abort_open

JOURNAL = ".journal"
"""What the journal of a store has behind the store's name."""


@dataclass(frozen=True, slots=True)
class Size:
    """What there is below one place."""

    n_objects: int
    n_bytes: int
    modified: float
    """Seconds since the epoch of the last change; 0 where there is nothing."""


def store_of(place: Place) -> Place:
    """Return the store that a store or a journal is of."""
    return Place(place.href.removesuffix(JOURNAL))


def journal_of(store: Place) -> Place:
    """Return the journal beside a store."""
    return Place(f"{store.href}{JOURNAL}")


def size_of(place: Place) -> Size:
    """Return what there is below a place. Raises: UnknownStateError: it cannot be listed."""
    if place.local is not None and place.local.is_file():
        facts = place.local.stat()
        return Size(1, facts.st_size, facts.st_mtime)
    found = [one for _, one in Listing(place).below(place)]
    return Size(len(found), sum(one.size for one in found), max((one.modified for one in found), default=0.0))


@contextmanager
def held(store: Place) -> Iterator[Callable[[], None]]:
    """Hold a store against every writer, and yield what removes it with its journal.

    Raises: StoreError: another process holds it, or it cannot be held or removed; UnknownStateError: it cannot be listed.
    """
    if store.local is not None:
        if store.local.is_symlink():
            raise StoreError(f"{store}: is a link to something elsewhere; remove the link by hand", kind="denied")
        with Journal(store.local).locked(wait_s=0):
            yield partial(_remove_local, store)
        return
    lease = Lease(*bucket.split(journal_of(store).href))
    lease.take(wait_s=0)
    try:
        yield partial(_remove_remote, store, lease)
    finally:
        lease.release()


def _remove_local(store: Place) -> None:
    assert store.local is not None
    try:
        with suppress(FileNotFoundError):
            (store.local / "zarr.json").unlink()
        if store.local.is_dir():
            shutil.rmtree(store.local)
        Journal(store.local).remove()
    except OSError as error:
        raise StoreError(f"{store}: cannot remove: {error.strerror}; check path and rights", kind="denied") from error


def _remove_remote(store: Place, lease: Lease) -> None:
    def unlink(place: Place) -> None:
        lease.check()
        place.unlink()

    unlink(store / "zarr.json")
    for _ in together(unlink, [place for place, _ in Listing(store).below(store)], N_REQUESTS):
        pass
    abort_open(*bucket.split(store.href))
    lease.remove()
