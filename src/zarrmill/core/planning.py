"""Which products a run takes and what each of them is: filters, order, duplicates and classes. Pure.

A product is in exactly one class, with a reason in words; totals over the classes give the number of listed products.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum

from zarrmill.config import Source, parse_range
from zarrmill.core.entries import Bbox, Entry
from zarrmill.errors import SourceError


class PlanClass(StrEnum):
    """What a listed product is to this run."""

    NEW = "new"
    MISSING = "missing"
    FAILED = "failed before"
    STALE = "stale"
    CURRENT = "up to date"
    SKIPPED = "skipped"
    REFUSED = "refused"
    UNKNOWN = "unknown"


TO_DO = (PlanClass.NEW, PlanClass.MISSING, PlanClass.FAILED, PlanClass.STALE)
"""Classes that make work."""

STORE_GONE = "the receipt's store is gone; its receipts are dropped"

FILTERS = (
    "collections",
    "ids",
    "datetime",
    "bbox",
    "max_cloud_cover",
    "missing_cloud_cover",
    "min_age_hours",
    "limit",
    "max_cost_eur",
)
"""Filters in the order in which they are asked; the first that does not pass is the one that counts."""

OF_PRODUCTS = frozenset({"max_cloud_cover", "missing_cloud_cover", "min_age_hours"})
"""Filters that leave out a product for what it is, not because another one was asked for or a bound was reached."""

BOUNDS = frozenset({"limit", "max_cost_eur"})
"""Filters that cut the list short."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the state of a run and its stores say of one planned product."""

    stages: tuple[str, ...]
    """Stages that make a target, in order."""
    present: frozenset[str] = frozenset()
    """Stages whose target exists."""
    sealed: bool = False
    """Whether the store has its root ``zarr.json``; asked only when a convert receipt exists."""
    gone: bool = False
    """The last plan found the store gone and dropped the receipts."""
    failed_stage: str = ""
    """Stage of the latest failure record; empty without one."""
    failure: str = ""
    """That failure in words."""
    older: str = ""
    """What differs from an older build of the same product in this run, in words; empty without one."""


@dataclass(frozen=True, slots=True)
class Skip:
    """A product that a filter left out."""

    by: str
    """One of ``FILTERS``."""
    reason: str


def classify(facts: Facts) -> tuple[PlanClass, str]:
    """Return class and reason of a product whose source is known."""
    convert = facts.stages[0]
    if convert in facts.present and not facts.sealed:
        return PlanClass.MISSING, STORE_GONE
    absent = [stage for stage in facts.stages if stage not in facts.present]
    if not absent:
        return PlanClass.CURRENT, "every target and the sealed store are there"
    if facts.failed_stage in absent:
        return PlanClass.FAILED, facts.failure
    if facts.present:
        return PlanClass.MISSING, f"no target of {', '.join(absent)}"
    if facts.gone:
        return PlanClass.MISSING, STORE_GONE
    if facts.older:
        return PlanClass.STALE, facts.older
    return PlanClass.NEW, "never built in this run"


def key_skip(collection: str, product_id: str, source: Source) -> Skip | None:
    """Apply the filters that need no more than a product's key; they come before any complaint about an item."""
    if source.collections and collection not in source.collections:
        return Skip("collections", f"collection is not one of {', '.join(source.collections)}")
    if source.ids and product_id not in source.ids:
        return Skip("ids", "not among the ids asked for")
    return None


def entry_skip(entry: Entry, source: Source, now: datetime) -> Skip | None:
    """Apply the filters on acquisition, place, cloud cover and age.

    Raises: SourceError: ``bbox`` is set and the product does not state one.
    """
    if source.datetime is not None:
        start, end = parse_range(source.datetime)
        if (start and entry.moment < start) or (end and entry.moment > end):
            return Skip("datetime", f"acquired {entry.acquired}, outside {source.datetime}")
    if source.bbox is not None:
        if entry.bbox is None:
            message = f"{entry.collection}/{entry.product_id}: states no bbox; unset source.bbox or complete the item"
            raise SourceError(message, kind="item")
        if not _intersect(entry.bbox, source.bbox):
            return Skip("bbox", f"lies outside {source.bbox}")
    if source.max_cloud_cover is not None:
        if entry.cloud_cover is None and source.missing_cloud_cover == "skip":
            return Skip("missing_cloud_cover", "states no cloud cover")
        if entry.cloud_cover is not None and entry.cloud_cover > source.max_cloud_cover:
            return Skip("max_cloud_cover", f"cloud cover {entry.cloud_cover:g} % is above {source.max_cloud_cover:g} %")
    if source.min_age_hours and entry.moment > now - timedelta(hours=source.min_age_hours):
        return Skip("min_age_hours", f"acquired {entry.acquired}, less than {source.min_age_hours:g} hours ago")
    return None


def ordered(entries: Iterable[Entry], order: str) -> list[Entry]:
    """Return entries ``newest`` or ``oldest`` first; equal times go by collection and id, ascending in both orders."""
    by_key = sorted(entries, key=lambda entry: entry.key)
    return sorted(by_key, key=lambda entry: entry.moment, reverse=order == "newest")


def distinct(entries: Iterable[Entry]) -> tuple[list[Entry], list[tuple[Entry, SourceError]], int]:
    """Return entries without repeats, the refused ones, and the number of repeats.

    A key listed again with the same source is a repeat and counts once; with another source nobody can say which one is
    meant, so all are refused.
    """
    by_key: dict[tuple[str, str], list[Entry]] = {}
    n_listed = 0
    for entry in entries:
        by_key.setdefault(entry.key, []).append(entry)
        n_listed += 1
    kept: list[Entry] = []
    refused: list[tuple[Entry, SourceError]] = []
    for key, group in sorted(by_key.items()):
        hrefs = sorted({entry.href for entry in group})
        if len(hrefs) == 1:
            kept.append(min(group, key=lambda entry: (entry.acquired, entry.packed)))
            continue
        message = f"{'/'.join(key)}: listed with {len(hrefs)} sources, {' and '.join(hrefs)}; expected one; correct the catalogue"
        refused.append((group[0], SourceError(message, kind="duplicate")))
    return kept, refused, n_listed - len(kept) - len(refused)


def histogram(acquired: Sequence[str]) -> dict[str, int]:
    """Count acquisitions by day when they span at most 31 days, by month up to 36 months, else by year; no bin is left out.

    Calendar bins, not ages: the same products give the same counts tomorrow.
    """
    if not acquired:
        return {}
    first, last = (date.fromisoformat(text[:10]) for text in (min(acquired), max(acquired)))
    n_months = (last.year - first.year) * 12 + last.month - first.month + 1
    if (last - first).days < 31:
        bins = [str(first + timedelta(days=n)) for n in range((last - first).days + 1)]
    elif n_months <= 36:
        months = (first.year * 12 + first.month - 1 + n for n in range(n_months))
        bins = [f"{month // 12:04d}-{month % 12 + 1:02d}" for month in months]
    else:
        bins = [f"{year:04d}" for year in range(first.year, last.year + 1)]
    counts = Counter(text[: len(bins[0])] for text in acquired)
    return {name: counts[name] for name in bins}


def _intersect(one: Bbox, other: Bbox) -> bool:
    west, south, east, north = other
    if one[1] > north or one[3] < south:
        return False
    if one[0] <= one[2]:
        return one[0] <= east and one[2] >= west
    return one[0] <= east or one[2] >= west
