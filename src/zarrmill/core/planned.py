"""What ``plan`` found, as one value, and its totals. Pure; nothing in it depends on the time of planning."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from zarrmill.core.cost import SPANS, Limit, planned_cost, total
from zarrmill.core.entries import unpacked
from zarrmill.core.estimate import DECODED_BYTES_PER_CORE_S, seconds
from zarrmill.core.planning import FILTERS, TO_DO, PlanClass, histogram
from zarrmill.core.words import plural
from zarrmill.errors import EXIT_NOTHING, EXIT_OK, EXIT_UNKNOWN
from zarrmill.model import Json, Product
from zarrmill.prices import COST, Cost, Prices, euro_range, euros

SCHEMA = "zarrmill/planned/1"


@dataclass(frozen=True, slots=True)
class Row:
    """One listed product: its class and why."""

    collection: str
    product_id: str
    """As listed; characters that are unsafe to print are escaped."""
    plan_class: PlanClass
    reason: str
    acquired: str = ""
    """ISO 8601 in UTC; empty when the product was left out before its date was read."""
    code: str = ""
    """Stable error code of a refused or unknown product."""
    skipped_by: str = ""
    """Filter of a skipped product."""
    zarr_format: int = 0
    """Zarr format of the source; 0 when its metadata was not read."""
    converts: bool = False
    """Whether the work includes the conversion."""
    store_gone: bool = False
    """Built once, but the store is gone."""
    drops_receipts: bool = False
    """Receipts of the store that is gone are there and must be dropped."""
    product: Product | None = None
    """Manifest row; None for products that are not in the manifest."""

    def to_json(self, threads: int, prices: Prices | None) -> dict[str, Json]:
        """Return the row as it stands in ``plan.json``; keys without a value are left out."""
        values: dict[str, Json] = {
            "collection": self.collection,
            "product_id": self.product_id,
            "class": self.plan_class.value,
            "reason": self.reason,
            "acquired": self.acquired,
            "code": self.code,
            "skipped_by": self.skipped_by,
            "store_gone": self.store_gone,
        }
        if self.product is not None:
            values |= {
                "digest": self.product.digest,
                "recipe": self.product.recipe,
                "n_bytes": self.product.n_bytes,
                "n_objects": self.product.n_objects,
                "mem_mb": self.product.mem_mb,
                "est_s": round(seconds(self.product.n_bytes, threads), 1),
                "zarr_format": self.zarr_format,
            }
            if prices is not None:
                values["cost_eur"] = round(planned_cost(self.product, prices).eur, 6)
        return {key: value for key, value in values.items() if value not in ("", False)}


@dataclass(frozen=True, slots=True)
class PlanResult:
    """The plan of one run; ``write_plan`` is what turns it into files."""

    run: str
    catalogue: str
    """Address of the source catalogue, without credentials."""
    order: str
    """``newest`` or ``oldest``."""
    threads: int
    """Cores that the hours are told for."""
    rows: tuple[Row, ...]
    """Every listed product once, in manifest order; those without a date come last."""
    packed: Mapping[tuple[str, str], bytes]
    """Compressed source items by key, of the products in the manifest."""
    n_repeated: int = 0
    """Listings of a product that was listed already with the same source."""
    n_missing_cloud_cover: int = 0
    """Products that state no cloud cover, among those that the filters before it let through."""
    ids_not_found: tuple[str, ...] = ()
    """Ids asked for that the catalogue does not list."""
    prices: Prices | None = None
    """What costs are reckoned with; None tells none."""
    limits: tuple[Limit, ...] = ()
    """What bounds the pace, what binds first."""
    kept: tuple[Product, ...] = ()
    """Built products of the last manifest that cannot be looked at now, or are refused: they stay in the manifest."""

    @property
    def products(self) -> tuple[Product, ...]:
        """Every product that was looked at, in order."""
        return tuple(row.product for row in self.rows if row.product is not None)

    @property
    def manifest(self) -> tuple[Product, ...]:
        """All rows of the manifest, in order."""
        if not self.kept:
            return self.products
        by_key = sorted((*self.products, *self.kept), key=lambda product: (product.collection, product.product_id))
        return tuple(sorted(by_key, key=lambda one: datetime.fromisoformat(one.datetime), reverse=self.order == "newest"))

    @property
    def gone(self) -> tuple[Product, ...]:
        """Products whose receipts name a store that is not there."""
        return tuple(row.product for row in self.rows if row.product is not None and row.drops_receipts)

    @property
    def counts(self) -> dict[PlanClass, int]:
        """Number of products by class, every class named."""
        found = Counter(row.plan_class for row in self.rows)
        return {plan_class: found[plan_class] for plan_class in PlanClass}

    def item(self, product: Product) -> Mapping[str, Json]:
        """Return the source item of a product in the manifest; empty for a list of hrefs."""
        return unpacked(self.packed[product.collection, product.product_id])

    @property
    def n_to_do(self) -> int:
        """Products that make work."""
        return sum(self.counts[plan_class] for plan_class in TO_DO)

    @property
    def exit_code(self) -> int:
        """6 when a product's state cannot be told, 3 when there is nothing to do, else 0."""
        return EXIT_UNKNOWN if self.counts[PlanClass.UNKNOWN] else self.exit_code_of_known

    @property
    def exit_code_of_known(self) -> int:
        """The same of the products that can be told alone."""
        return EXIT_OK if self.n_to_do else EXIT_NOTHING

    def summary(self) -> dict[str, Json]:
        """Return all totals; ``totals`` adds up to ``n_listed``."""
        acquired = sorted(row.acquired for row in self.rows if row.product is not None)
        return {
            "schema": SCHEMA,
            "run": self.run,
            "catalogue": self.catalogue,
            "order": self.order,
            "n_listed": len(self.rows),
            "n_repeated": self.n_repeated,
            "n_manifest": len(acquired) + len(self.kept),
            "n_kept": len(self.kept),
            "n_missing_cloud_cover": self.n_missing_cloud_cover,
            "n_zarr3": sum(row.product is not None and row.zarr_format == 3 for row in self.rows),
            "ids_not_found": list(self.ids_not_found),
            "totals": {plan_class.value: n for plan_class, n in self.counts.items()},
            "skipped": _count((row.skipped_by for row in self.rows), FILTERS),
            "refused": _count(row.code for row in self.rows if row.plan_class is PlanClass.REFUSED),
            "unknown": _count(row.code for row in self.rows if row.plan_class is PlanClass.UNKNOWN),
            "first_acquired": acquired[0] if acquired else None,
            "last_acquired": acquired[-1] if acquired else None,
            "acquired": histogram(acquired),
            "to_do": self._work(),
            "cost": self._cost(),
            "pace": [{"limit": one.name, "products_per_hour": round(one.products_per_hour, 1)} for one in self.limits],
            "prices": self.prices.model_dump(mode="json") if self.prices else None,
        }

    def to_json(self) -> dict[str, Json]:
        """Return the content of ``plan.json``."""
        return {**self.summary(), "products": [row.to_json(self.threads, self.prices) for row in self.rows]}

    def lines(self) -> Iterator[str]:
        """Yield the totals in words, one sentence a line."""
        summary = self.summary()
        for name in ("skipped", "refused", "unknown"):
            if summary[name]:
                yield f"{name}: " + ", ".join(f"{n} {key}" for key, n in summary[name].items())
        if summary["acquired"]:
            bins = ", ".join(f"{name}: {n}" for name, n in summary["acquired"].items() if n)
            yield f"acquired {summary['first_acquired']} to {summary['last_acquired']}, {self.order} first; {bins}"
        for n, noun, words in (
            (summary["n_missing_cloud_cover"], "product", "without a cloud cover"),
            (summary["n_repeated"], "listing", "of a product that is listed before"),
            (summary["n_zarr3"], "source", "in Zarr v3"),
            (summary["n_kept"], "product", "refused, or not to be looked at, but built already: kept in the manifest"),
            (len(self.ids_not_found), "id", f"not listed: {', '.join(self.ids_not_found[:10])}"),
        ):
            if n:
                yield f"{plural(n, noun)} {words}"
        work = summary["to_do"]
        yield (
            f"to do: {plural(work['n_products'], 'product')}, {plural(work['n_conversions'], 'conversion')}, "
            f"{plural(work['n_objects'], 'object')}, {work['gb']:g} GB decoded, "
            f"{_duration(work['hours'])} on {plural(self.threads, 'core')} "
            f"(assuming {DECODED_BYTES_PER_CORE_S / 1e6:g} MB/s a core)"
        )
        if work["n_without_estimate"]:
            yield f"{work['n_without_estimate']} of them without an estimate: their metadata was not read"
        if self.prices is not None:
            yield from self._cost_lines(self.prices)

    def _cost_lines(self, prices: Prices) -> Iterator[str]:
        cost, whole = self.cost_to_do, self.cost
        stored = f"storage {euros(cost.storage_eur)} for {prices.months_kept.value:g} months"
        parts = f"compute {euros(cost.compute_eur)}, {stored}, requests {euros(cost.requests_eur)}"
        all_of_it = "" if whole == cost else f"; the whole manifest {euros(whole.eur)}"
        yield f"cost: {euros(cost.eur)} ({euro_range(cost.low_eur, cost.high_eur)}): {parts}{all_of_it}"
        yield f"the range spans {SPANS}"
        if self.limits:
            first, *others = self.limits
            rest = "".join(f"; {one.name} {one.products_per_hour:,.0f}/h ({one.words})" for one in others)
            yield f"pace: {first.products_per_hour:,.0f} products/h, bound by {first.name} ({first.words}){rest}"
        assumed = prices.assumed((*COST, *(one.figure for one in self.limits)))
        words = f"assumed, not looked up: {', '.join(assumed)}" if assumed else "every figure was looked up"
        yield f"prices of {prices.dated}; {words}"

    @property
    def cost(self) -> Cost:
        """What the whole manifest costs, with what is done already; nothing without prices."""
        return total(planned_cost(product, self.prices) for product in self.products) if self.prices else Cost()

    @property
    def cost_to_do(self) -> Cost:
        """What is left to spend on the manifest; nothing without prices."""
        if self.prices is None:
            return Cost()
        rows = ((row, row.product) for row in self.rows if row.plan_class in TO_DO)
        return total(planned_cost(one, self.prices, converted=not row.converts) for row, one in rows if one is not None)

    def _cost(self) -> Json:
        if self.prices is None:
            return None
        assumed = list(self.prices.assumed(COST))
        return {"to_do": self.cost_to_do.rounded(), "manifest": self.cost.rounded(), "spans": SPANS, "assumed": assumed}

    def _work(self) -> dict[str, Json]:
        to_do = [(row, row.product) for row in self.rows if row.plan_class in TO_DO and row.product is not None]
        written = [product for row, product in to_do if row.converts]
        n_bytes = sum(product.n_bytes for product in written)
        return {
            "n_products": len(to_do),
            "n_conversions": len(written),
            "n_without_estimate": sum(product.n_bytes == 0 for product in written),
            "n_objects": sum(product.n_objects for product in written),
            "n_bytes": n_bytes,
            "gb": round(n_bytes / 1e9, 3),
            "hours": round(seconds(sum(product.n_bytes for _, product in to_do), self.threads) / 3600, 3),
            "threads": self.threads,
            "assumed_decoded_bytes_per_core_s": DECODED_BYTES_PER_CORE_S,
        }


def in_order(rows: Sequence[Row], order: str) -> list[Row]:
    """Return rows in the order of the manifest; those without a date come last."""
    by_key = sorted(rows, key=lambda row: (row.collection, row.product_id, row.reason))
    dated = sorted(
        (row for row in by_key if row.acquired),
        key=lambda row: datetime.fromisoformat(row.acquired),
        reverse=order == "newest",
    )
    return [*dated, *(row for row in by_key if not row.acquired)]


def _count(values: Iterable[str], order: tuple[str, ...] = ()) -> dict[str, int]:
    found = Counter(value for value in values if value)
    return {value: found[value] for value in (order or tuple(sorted(found))) if found[value]}


def _duration(hours: float) -> str:
    """Return hours in the unit that a person would use."""
    if hours >= 1:
        return f"about {hours:.1f} hours"
    return f"about {hours * 60:.0f} minutes" if hours * 60 >= 1 else "less than a minute"
