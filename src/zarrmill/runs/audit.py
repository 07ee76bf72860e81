"""``audit``: receipts against stores and back, from names alone; and on disk, whether the receipts can be read.

A store belongs to a run when a target below ``state_root`` has its name. Runs that keep their state elsewhere are not seen, so
stores that they share with this one look like orphans here; ``zarrmill.runs.clean`` is careful for that reason.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from zarrmill.config import Settings
from zarrmill.io.listing import Listing
from zarrmill.io.places import Place, place_of, together
from zarrmill.io.record import SCHEMAS
from zarrmill.io.state import PRODUCT_STAGES
from zarrmill.model import ConvertReceipt, ValidationReport

SUFFIX, JOURNAL = ".zarr", ".zarr.journal"
N_ASKED = 32
"""Stores that are asked at once."""

TARGETS = ("convert", "plan")
"""Stages whose targets name a store."""

NO_COLLECTIONS = frozenset({"catalog", "failed", "logs", "progress", "report"})
"""Folders of a run that hold no targets."""

MARKS = {
    "convert": ("schema", SCHEMAS[ConvertReceipt]),
    "validate": ("schema", SCHEMAS[ValidationReport]),
    "stac": ("type", "Feature"),
}
"""Key and value that every target of a stage holds."""

KINDS = {
    "damaged": "a receipt, report or item that cannot be read: remove it, `zarrmill plan`, then the workflow makes it again",
    "missing": "a receipt whose store is not sealed: `zarrmill plan` drops it, the next run builds it again",
    "orphan": "a sealed store that no receipt and no plan names: a run that plans it adopts it, `zarrmill clean` removes it",
    "leftover": "an unfinished store, or its journal, that no plan names: `zarrmill clean` removes it",
    "unfinished": "an unfinished store that a plan names: the next run goes on with it",
}
"""What an audit finds, and what becomes of it."""
REMOVED = ("orphan", "leftover")
"""Kinds that ``clean`` removes."""


@dataclass(frozen=True, slots=True)
class Found:
    """One thing that an audit found."""

    kind: str
    place: Place
    """Store, journal without a store, or damaged target."""


@dataclass(frozen=True, slots=True)
class Audit:
    """Stores against receipts."""

    n_stores: int
    """Sealed or not."""
    n_sealed: int
    n_receipts: int
    found: tuple[Found, ...]

    def of(self, kind: str) -> tuple[Found, ...]:
        """Return what was found of one of ``KINDS``."""
        return tuple(one for one in self.found if one.kind == kind)


def audit(settings: Settings) -> Audit:
    """Compare every store below ``store_root`` with the targets of every run below ``state_root``; change nothing.

    Costs one listing a day of stores and of runs, and one request a store. Targets are read on disk; in a bucket, where each
    would be a request, only empty ones are told as damaged.
    Raises: UnknownStateError: something cannot be listed or read.
    """
    root = place_of(settings.store_root)
    damaged: list[Found] = []
    receipts, plans = _named(settings, root, damaged)
    names = sorted(_stores(root))
    stores = [name for name in names if name.endswith(SUFFIX)]
    answers = together(lambda name: _is_sealed(root / name / "zarr.json"), stores, N_ASKED)
    sealed = {name for name, yes in zip(stores, answers, strict=True) if yes}
    found = damaged + [Found("missing", root / name) for name in sorted(receipts - sealed)]
    found += [Found("orphan", root / name) for name in sorted(sealed - receipts - plans)]
    open_ = [name for name in stores if name not in sealed and name not in receipts]
    found += [Found("unfinished" if name in plans else "leftover", root / name) for name in open_]
    known = {*stores, *plans}
    journals = (name for name in names if name.endswith(JOURNAL) and name.removesuffix(".journal") not in known)
    found += [Found("leftover", root / name) for name in journals]
    return Audit(len(stores), len(sealed), len(receipts), tuple(found))


def runs_below(root: Place, stores: Place) -> Iterator[Place]:
    """Yield the folder of every run below a state root. Raises: UnknownStateError: it cannot be listed."""
    for name in Listing(root).folders(root):
        folder = root / name
        if not name.startswith("_") and folder.href.rstrip("/") != stores.href.rstrip("/"):
            yield folder


def _is_sealed(root: Place) -> bool:
    """Return whether the root of a store is there; on disk one that holds nothing, as a crash leaves it, is none."""
    return root.exists() and (root.local is None or root.local.stat().st_size > 0)


def _named(settings: Settings, stores: Place, damaged: list[Found]) -> tuple[set[str], set[str]]:
    """Return the stores that conversion receipts and plan records of all runs name, as keys below the store root.

    A damaged one still names its store, so that nobody removes it; targets that cannot be read are added to ``damaged``.
    """
    named: dict[str, set[str]] = {stage: set() for stage in TARGETS}
    for folder in runs_below(place_of(settings.state_root), stores):
        listing = Listing(folder)
        for collection in listing.folders(folder):
            if collection in NO_COLLECTIONS:
                continue
            for day in listing.folders(folder / collection):
                for stage, names in named.items():
                    files = listing.files(folder / collection / day / stage)
                    found = (name.removesuffix(".json") for name in files if name.endswith(".json"))
                    names |= {f"{collection}/{day}/{name}{SUFFIX}" for name in found}
                damaged += _damaged(listing, folder / collection / day)
    return named["convert"], named["plan"]


def _damaged(listing: Listing, day: Place) -> Iterator[Found]:
    """Yield the targets of a day that cannot be read."""
    for stage in PRODUCT_STAGES:
        for name, facts in listing.files(day / stage).items():
            place = day / stage / name
            if name.endswith(".json") and not (facts.size and (place.remote or _is_whole(place, *MARKS[stage]))):
                yield Found("damaged", place)


def _is_whole(place: Place, key: str, value: str) -> bool:
    """Return whether a target is JSON and of its kind; one that was removed since does no harm."""
    try:
        document = json.loads(place.read_bytes())
    except FileNotFoundError:
        return True
    except ValueError:
        return False
    return isinstance(document, dict) and document.get(key) == value


def _stores(root: Place) -> Iterator[str]:
    """Yield stores and journals below the root as keys; each folder is listed with its names only."""
    for collection in Listing(root).folders(root):
        for day in Listing(root / collection).folders(root / collection):
            folder = root / collection / day
            listing = Listing(folder)
            for name in (*listing.folders(folder), *listing.files(folder)):
                if name.endswith((SUFFIX, JOURNAL)):
                    yield f"{collection}/{day}/{name}"
