"""What products cost and what the pace of a run is bound by: estimated from metadata, or reckoned from what was measured. Pure.

cost = core seconds × price + stored bytes × price × months + objects × price
pace = min(products at once / time of one, PUT limit / objects of one, bandwidth / bytes of one)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zarrmill.config import Settings
from zarrmill.core.estimate import DECODED_BYTES_PER_CORE_S
from zarrmill.model import Product
from zarrmill.prices import Cost, Prices

SPEED_LOW, SPEED_HIGH = 60e6, 170e6
"""Decoded source bytes that one core converts and validates in a second: of the range of a cost, the slow and the fast end."""
START_CORE_S = 10.0
"""Core seconds of a product whatever its size: its processes start, on two cores. Most of what a small one takes."""
SOURCE_RATIO = 3.0
"""Decoded bytes for one byte that the source sends: a Sentinel-2 L2A tile of 3.7 GB is published in 1.2 GB."""


@dataclass(frozen=True, slots=True)
class Ratio:
    """Decoded source bytes for one byte stored."""

    low: float
    expected: float
    high: float


OPTICAL = Ratio(2.5, 3.5, 4.5)
"""A tile of real pixels has 4.1; sources that hold fewer levels and masks have less."""
RADAR = Ratio(1.0, 1.5, 2.0)
"""Speckle compresses 1.5 to 2.4 to 1, and the levels of the map add a third; an assumption."""
SPANS = (
    f"{SPEED_LOW / 1e6:g} to {SPEED_HIGH / 1e6:g} MB/s a core, and {OPTICAL.low:g} to {OPTICAL.high:g} "
    f"(radar {RADAR.low:g} to {RADAR.high:g}) decoded bytes for one stored"
)
"""What the range of a planned cost spans, in words."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One thing that bounds the pace of a run."""

    name: str
    products_per_hour: float
    words: str
    """The figures that make it."""
    figure: str
    """Key of the price list that it comes from."""


def planned_cost(product: Product, prices: Prices, *, converted: bool = False) -> Cost:
    """Return what building a product will cost; nothing when its size is not known. ``converted``: its store is there already.

    The range takes the slow speed together with the poor compression, and the fast one with the good.
    """
    if not product.n_bytes:
        return Cost()
    ratio = RADAR if product.product_type.startswith("S01") else OPTICAL
    n_objects = 0 if converted else product.n_objects
    stored = 0 if converted else product.n_bytes

    def at(speed: float, divisor: float) -> Cost:
        return actual_cost(product.n_bytes / speed + START_CORE_S, stored / divisor, n_objects, prices)

    told = at(DECODED_BYTES_PER_CORE_S, ratio.expected)
    low, high = at(SPEED_HIGH, ratio.high).eur, at(SPEED_LOW, ratio.low).eur
    return Cost(told.compute_eur, told.storage_eur, told.requests_eur, low, high)


def actual_cost(core_s: float, n_bytes: float, n_objects: int, prices: Prices) -> Cost:
    """Return the cost of cores held for ``core_s`` seconds in all and of a store for as long as it is kept."""
    compute = core_s / 3600 * prices.core_hour_eur.value
    storage = n_bytes / 1e9 * prices.gb_month_eur.value * prices.months_kept.value
    requests = n_objects / 1000 * prices.put_1000_eur.value
    eur = compute + storage + requests
    return Cost(compute, storage, requests, low_eur=eur, high_eur=eur)


def total(costs: Iterable[Cost]) -> Cost:
    """Return the sum of costs."""
    return sum(costs, Cost())


def n_within(products: Sequence[Product], prices: Prices, max_eur: float) -> int:
    """Return how many products, from the first, have a planned cost of at most ``max_eur`` together."""
    spent = 0.0
    for n, product in enumerate(products):
        spent += planned_cost(product, prices).eur
        if spent > max_eur:
            return n
    return len(products)


def limits(products: Sequence[Product], prices: Prices, settings: Settings) -> tuple[Limit, ...]:
    """Return what bounds the pace with products of this mean size, what binds first; nothing when no size is known.

    The PUT limit counts where stores go to a bucket, the bandwidth where sources are on other hosts: ``convert`` and
    ``validate`` both read a source that is not staged.
    """
    known = [product for product in products if product.n_bytes]
    if not known:
        return ()
    core_s = sum(product.n_bytes for product in known) / len(known) / DECODED_BYTES_PER_CORE_S + START_CORE_S
    n_objects = sum(product.n_objects for product in known) / len(known)
    jobs, puts, sent = prices.jobs.value, prices.put_limit_per_s.value, prices.source_mb_per_s.value
    threads, n_reads = settings.threads, 1 if settings.source.fetch == "stage" else 2
    words = f"{jobs:g} at once, {core_s:.3g} core seconds each on {threads} threads"
    found = [Limit("conversion", jobs * threads / core_s * 3600, words, "jobs")]
    if settings.store_root.startswith("s3://"):
        words = f"{puts:g} requests a second, {n_objects:.0f} objects each"
        found.append(Limit("PUT limit", puts / n_objects * 3600, words, "put_limit_per_s"))
    fetched = [product for product in known if product.href.startswith(("http", "s3://"))]
    if fetched:
        mb = sum(product.n_bytes for product in fetched) / len(known) / SOURCE_RATIO / 1e6 * n_reads
        size = f"{mb / 1000:.2f} GB" if mb >= 1000 else f"{mb:.3g} MB"
        words = f"{sent:g} MB a second, about {size} each"
        found.append(Limit("source bandwidth", sent / mb * 3600, words, "source_mb_per_s"))
    return tuple(sorted(found, key=lambda limit: (limit.products_per_hour, limit.name)))
