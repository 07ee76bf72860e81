"""What a run cost: seconds and memory by product, by stage and in all. Never compared between runs."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from zarrmill.core.cost import SPANS, actual_cost, planned_cost, total
from zarrmill.core.outcome import Outcome, ProductRecords, ProductRow
from zarrmill.prices import COST, Cost, Prices

N_SLOWEST = 5


@dataclass(frozen=True, slots=True)
class ProductMeasured:
    """What one product cost."""

    wall_s: Mapping[str, float]
    """Seconds by stage: as the stage measured them, else as Snakemake did."""
    cpu_s: float
    peak_rss_bytes: int
    attempts: int
    log: str
    """Log of the stage that failed; empty when ok."""
    core_s: float = 0.0
    """Cores that its jobs held, times the seconds that they held them, attempts that failed included."""
    cost: Cost | None = None
    """What it cost so far, and its store for as long as it is kept; None when no prices are known."""

    @property
    def total_s(self) -> float:
        """Seconds of all stages."""
        return sum(self.wall_s.values())


@dataclass(frozen=True, slots=True)
class StageMeasured:
    """What a stage cost over all products."""

    n: int
    total_s: float
    median_s: float
    p95_s: float
    max_s: float
    peak_rss_bytes: int


@dataclass(frozen=True, slots=True)
class RunCost:
    """What was planned to be spent, and what was, by the prices of the plan."""

    planned: Cost
    """All products of the manifest."""
    planned_done: Cost
    """Those of them that have a store."""
    actual: Cost
    """All that was measured, products that failed included."""
    dated: str
    """Date of the prices."""
    assumed: tuple[str, ...]
    """Figures that nobody looked up, in words."""
    spans: str
    """What the ranges span, in words."""


@dataclass(frozen=True, slots=True)
class RunMeasured:
    """What differs between two equal runs; never compared."""

    generated: str
    """ISO 8601 in UTC."""
    started: str
    finished: str
    elapsed_s: float
    """From the first start to the last end, pauses included."""
    work_s: float
    """Sum over all stages and products."""
    peak_rss_bytes: int
    stages: Mapping[str, StageMeasured]
    slowest: tuple[str, ...]
    """Names, slowest first."""
    software: Mapping[str, str]
    products: Mapping[str, ProductMeasured]
    """By name."""
    cost: RunCost | None = None
    """None when no prices are known."""


def measure_run(
    records: Sequence[ProductRecords], rows: Sequence[ProductRow], generated: datetime, prices: Prices | None = None
) -> RunMeasured:
    """Return what a run cost; ``rows`` belong to ``records`` one by one. ``prices``: those of the plan."""
    pairs = zip(records, rows, strict=True)
    products = {record.product.name: _product_measured(record, row, prices) for record, row in pairs}
    spans = [span for record in records for span in _spans(record)]
    start = min((begin for begin, _ in spans), default=None)
    end = max((finish for _, finish in spans), default=None)
    worked = sorted(((cost.total_s, name) for name, cost in products.items() if cost.total_s > 0), key=lambda p: (-p[0], p[1]))
    return RunMeasured(
        generated=_iso(generated),
        started=_iso(start) if start else "",
        finished=_iso(end) if end else "",
        elapsed_s=(end - start).total_seconds() if start and end else 0.0,
        work_s=sum(cost.total_s for cost in products.values()),
        peak_rss_bytes=max((cost.peak_rss_bytes for cost in products.values()), default=0),
        stages=_stages_measured(records, products),
        slowest=tuple(name for _, name in worked[:N_SLOWEST]),
        software=next((record.receipt.measured.software for record in records if record.receipt), {}),
        products=products,
        cost=None if prices is None else _run_cost(records, products, prices),
    )


def core_seconds(record: ProductRecords) -> float:
    """Return the seconds that the jobs of a product held a core: wall time times threads, of every attempt.

    That is what a machine is paid for, busy or not. Of stages that measure nothing themselves it is what Snakemake measured, on
    one core.
    """
    own = {"convert": record.receipt, "validate": record.validation}
    known = [*(value.measured for value in own.values() if value), *(failure.measured for failure in record.failures)]
    others = sum(one.wall_s for stage, one in record.benchmarks.items() if own.get(stage) is None)
    return sum(one.wall_s * one.threads for one in known) + others


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed; 0 for no values."""
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _run_cost(records: Sequence[ProductRecords], products: Mapping[str, ProductMeasured], prices: Prices) -> RunCost:
    return RunCost(
        planned=total(planned_cost(record.product, prices) for record in records),
        planned_done=total(planned_cost(record.product, prices) for record in records if record.receipt),
        actual=total(one.cost for one in products.values() if one.cost),
        dated=f"{prices.dated}",
        assumed=prices.assumed(COST),
        spans=SPANS,
    )


def _product_measured(record: ProductRecords, row: ProductRow, prices: Prices | None) -> ProductMeasured:
    own = {"convert": record.receipt, "validate": record.validation}
    known = {stage: value.measured for stage, value in own.items() if value is not None}
    if row.outcome == Outcome.FAILED and record.failures:
        known.setdefault(record.failures[-1].stage, record.failures[-1].measured)
    wall = {stage: benchmark.wall_s for stage, benchmark in record.benchmarks.items()}
    wall |= {stage: measured.wall_s for stage, measured in known.items() if measured.wall_s > 0}
    peaks = [benchmark.peak_rss_bytes for benchmark in record.benchmarks.values()]
    core_s = core_seconds(record)
    return ProductMeasured(
        wall_s=wall,
        cpu_s=sum(measured.cpu_s for measured in known.values()),
        peak_rss_bytes=max([*peaks, *(measured.peak_rss_bytes for measured in known.values())], default=0),
        attempts=len(record.failures) + (row.outcome == Outcome.OK),
        log=record.failures[-1].log if row.outcome == Outcome.FAILED and record.failures else "",
        core_s=core_s,
        cost=None if prices is None else actual_cost(core_s, row.n_bytes, row.n_objects, prices),
    )


def _stages_measured(records: Sequence[ProductRecords], products: Mapping[str, ProductMeasured]) -> dict[str, StageMeasured]:
    seconds: dict[str, list[float]] = defaultdict(list)
    peaks: Counter[str] = Counter()
    for record in records:
        for stage, wall in products[record.product.name].wall_s.items():
            seconds[stage].append(wall)
        own = {"convert": record.receipt, "validate": record.validation}
        for stage, benchmark in record.benchmarks.items():
            peaks[stage] = max(peaks[stage], benchmark.peak_rss_bytes)
        for stage, value in own.items():
            peaks[stage] = max(peaks[stage], value.measured.peak_rss_bytes if value else 0)
        for failure in record.failures:
            peaks[failure.stage] = max(peaks[failure.stage], failure.measured.peak_rss_bytes)
    return {
        stage: StageMeasured(
            len(values), sum(values), percentile(values, 0.5), percentile(values, 0.95), max(values), peaks[stage]
        )
        for stage, values in sorted(seconds.items())
    }


def _spans(record: ProductRecords) -> Iterable[tuple[datetime, datetime]]:
    own = [record.receipt, record.validation, *record.failures]
    for measured in (value.measured for value in own if value is not None):
        try:
            start = datetime.fromisoformat(measured.started)
        except ValueError:
            continue
        start = start if start.tzinfo else start.replace(tzinfo=UTC)
        yield start, start + timedelta(seconds=measured.wall_s)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
