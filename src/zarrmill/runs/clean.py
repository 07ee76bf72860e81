"""``clean``: removing what an audit found to belong to no run, and only after it was shown, counted and looked at again.

A store whose runs keep their state elsewhere is an orphan here. So nothing goes without its number being typed, not more than a
share of all stores, nothing that is protected or young; what will go is written down first; and each store is held as its one
writer would hold it while all runs are asked once more whether they name it.
"""

import getpass
import json
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from zarrmill.config import Clean, Settings
from zarrmill.errors import ConfigError, StoreError
from zarrmill.io.places import N_REQUESTS, Place, place_of, together
from zarrmill.io.removal import Size, held, journal_of, size_of, store_of
from zarrmill.runs.audit import REMOVED, TARGETS, Audit, Found, runs_below

LOGS = "_removed"
"""Folder below ``state_root`` of what was removed, one file of JSON lines a time; no run can have this name."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One thing that belongs to no run."""

    found: Found
    size: Size
    """Of the store."""
    journal: Size
    """Of the journal beside it."""
    kept: str
    """Why it stays, in words; empty when it goes."""

    @property
    def store(self) -> Place:
        """The store, also of a journal without one."""
        return store_of(self.found.place)


def candidates(settings: Settings, told: Audit, older_than_s: float, words: str) -> tuple[Candidate, ...]:
    """Return what belongs to no run, and what of it stays because it is protected or was changed within ``words``.

    Raises: UnknownStateError: something cannot be listed.
    """
    root, limit = place_of(settings.store_root), datetime.now(UTC).timestamp() - older_than_s
    chosen = []
    for found in told.found:
        if found.kind not in REMOVED:
            continue
        store = store_of(found.place)
        size, journal = size_of(store), size_of(journal_of(store))
        kept = _protected(store.key_in(root), settings.clean)
        if not kept and max(size.modified, journal.modified) > limit:
            kept = f"changed within {words}"
        chosen.append(Candidate(found, size, journal, kept))
    return tuple(chosen)


def check_count(chosen: Sequence[Candidate], typed: int) -> None:
    """Raise ConfigError when what would be removed is not as much as was typed."""
    if len(chosen) != typed:
        text = f"{len(chosen)} would be removed, --execute {typed} was typed; nothing was removed: look at the list again"
        raise ConfigError(text, kind="usage")


def over_cap(chosen: Sequence[Candidate], told: Audit, max_share: float) -> str:
    """Return why so many are not removed, in words; empty when their share of all stores is within the cap."""
    n_stores = max(told.n_stores, len(chosen))  # journals can be without a store
    if len(chosen) <= max_share * n_stores:
        return ""
    text = f"{len(chosen)} of {n_stores} stores is more than clean.max_share {max_share:g}: does another state_root"
    return f"{text} share this store_root? Where it does not, allow it once with --max-share"


def remove(settings: Settings, chosen: Sequence[Candidate], show: Callable[[str], None]) -> int:
    """Remove what is chosen, one after the other, and return how many were left; ``show`` is told of each.

    What will be removed is written below ``state_root`` first, what became of it last.
    Raises: UnknownStateError: the state cannot be asked; StoreError, CapacityError: it cannot be written.
    """
    when = datetime.now(UTC)
    log = place_of(settings.state_root) / LOGS / f"{when:%Y%m%dT%H%M%SZ}-{os.urandom(3).hex()}.jsonl"
    outcomes = ["to be removed"] * len(chosen)
    log.write_text(_lines(chosen, outcomes, when))
    show(f"written down in {log}")
    try:
        for number, one in enumerate(chosen):
            outcomes[number] = _remove(settings, one)
            show(f"{outcomes[number]}: {one.found.kind} {one.found.place}")
    finally:
        log.write_text(_lines(chosen, outcomes, when))
    return sum(outcome != "removed" for outcome in outcomes)


def _remove(settings: Settings, one: Candidate) -> str:
    """Remove one store unless it is written, was changed, or is named by now; return what became of it."""
    try:
        with held(one.store) as take_away:
            if size_of(one.store) != one.size:
                return "left, changed meanwhile"
            named = named_by(settings, one.store)
            if named is not None:
                return f"left, {named} names it by now"
            take_away()
    except StoreError as error:
        return f"left, {error.message}"
    return "removed"


def named_by(settings: Settings, store: Place) -> Place | None:
    """Return a target of any run that names this store now. Raises: UnknownStateError: it cannot be told."""
    key = store.key_in(place_of(settings.store_root))
    collection, day, name = key.removesuffix(".zarr").split("/")
    folders = runs_below(place_of(settings.state_root), place_of(settings.store_root))
    places = [run / collection / day / stage / f"{name}.json" for run in folders for stage in TARGETS]
    answers = zip(places, together(Place.exists, places, N_REQUESTS), strict=True)
    return next((place for place, there in answers if there), None)


def _protected(key: str, clean: Clean) -> str:
    """Return that a store is protected and why; empty when it is not. ``key`` is below the store root."""
    for pattern, reason in sorted(clean.protected.items()):
        if fnmatchcase(key, pattern) or fnmatchcase(key.rpartition("/")[2], pattern):
            return f"protected by {pattern!r}: {reason}"
    return ""


def _lines(chosen: Sequence[Candidate], outcomes: Sequence[str], when: datetime) -> str:
    by = f"{_user()}@{socket.gethostname()}"
    told = [
        {
            "schema": "zarrmill/removal/1",
            "kind": one.found.kind,
            "store": one.store.href,
            "n_objects": one.size.n_objects + one.journal.n_objects,
            "n_bytes": one.size.n_bytes + one.journal.n_bytes,
            "when": when.isoformat(timespec="seconds"),
            "by": by,
            "outcome": outcome,
        }
        for one, outcome in zip(chosen, outcomes, strict=True)
    ]
    return "".join(f"{json.dumps(line, sort_keys=True)}\n" for line in told)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a pod's user has no name
        return str(os.getuid())
