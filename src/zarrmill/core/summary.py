"""What became of a run: outcomes and statistics, computed from records that were read already."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from zarrmill.core.failures import FailureGroup, group_failures
from zarrmill.core.measured import RunMeasured, measure_run
from zarrmill.core.outcome import Outcome, ProductRecords, ProductRow, findings_of, product_row
from zarrmill.errors import EXIT_FAILED, EXIT_NOTHING, EXIT_OK
from zarrmill.model import Finding, Severity, Verdict
from zarrmill.prices import Prices

SCHEMA = "zarrmill/summary/1"


@dataclass(frozen=True, slots=True)
class Skipped:
    """A product that the plan left out."""

    product_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that exists but cannot be used."""

    path: str
    """Relative to the run's folder."""
    reason: str


@dataclass(frozen=True, slots=True)
class FindingCount:
    """How often a finding was made."""

    code: str
    severity: Severity
    n: int
    n_products: int
    example: str
    """Name of one product that has it."""
    path: str
    message: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What became of a run; ``summary.json`` is this value with its schema."""

    run: str
    products: tuple[ProductRow, ...]
    """In the order of the manifest."""
    skipped: Mapping[str, int]
    """Reason to products that the plan left out."""
    findings: tuple[FindingCount, ...]
    failures: tuple[FailureGroup, ...]
    unreadable: tuple[Unreadable, ...]
    n_over_budget: int
    """Stores with more objects than their recipe allows."""
    measured: RunMeasured

    @property
    def counts(self) -> dict[str, int]:
        """Outcome to number of products; every outcome is there."""
        found = Counter(row.outcome for row in self.products)
        found[Outcome.SKIPPED] += sum(self.skipped.values())
        return {outcome.value: found[outcome] for outcome in Outcome}

    @property
    def n_bytes(self) -> int:
        """Bytes of all stores."""
        return sum(row.n_bytes for row in self.products)

    @property
    def n_bytes_source(self) -> int:
        """Decoded bytes that were read."""
        return sum(row.n_bytes_source for row in self.products)

    @property
    def n_objects(self) -> int:
        """Objects of all stores."""
        return sum(row.n_objects for row in self.products)

    @property
    def verdicts(self) -> dict[str, int]:
        """Verdict to number of stores."""
        found = Counter(row.verdict for row in self.products if row.verdict)
        return {verdict.value: found[verdict] for verdict in Verdict}

    @property
    def started(self) -> bool:
        """Whether any stage left a trace."""
        return bool(self.unreadable) or any(row.outcome != Outcome.NOT_DONE or row.stage != "convert" for row in self.products)

    @property
    def exit_code(self) -> int:
        """Exit code that says what became of the run."""
        if not self.products:
            return EXIT_NOTHING
        counts = self.counts
        return EXIT_FAILED if counts[Outcome.FAILED] or counts[Outcome.NOT_DONE] else EXIT_OK


def summarise(
    run: str,
    records: Sequence[ProductRecords],
    *,
    generated: datetime,
    skipped: Sequence[Skipped] = (),
    unreadable: Sequence[Unreadable] = (),
    max_objects: Mapping[str, int] | None = None,
    prices: Prices | None = None,
) -> Summary:
    """Return what became of a run. ``max_objects`` is the object budget by product type, ``prices`` are those of the plan."""
    rows = tuple(product_row(record) for record in records)
    budget = max_objects or {}
    over = sum(row.n_objects > budget.get(row.product_type, row.n_objects) for row in rows)
    last = [record.failures[-1] for record, row in zip(records, rows, strict=True) if _failed_with_record(record, row)]
    return Summary(
        run=run,
        products=rows,
        skipped=dict(Counter(one.reason for one in skipped).most_common()),
        findings=count_findings(records),
        failures=group_failures(last, {record.product.name: record.target for record in records}),
        unreadable=tuple(unreadable),
        n_over_budget=over,
        measured=measure_run(records, rows, generated, prices),
    )


def count_findings(records: Sequence[ProductRecords]) -> tuple[FindingCount, ...]:
    """Return findings by code and severity: errors first, then by the number of products."""
    found: dict[tuple[str, Severity], list[tuple[str, Finding]]] = defaultdict(list)
    for record in records:
        for finding in findings_of(record):
            found[finding.code, finding.severity].append((record.product.name, finding))
    counts = []
    for (code, severity), members in found.items():
        name, first = members[0]
        n_products = len({name for name, _ in members})
        counts.append(FindingCount(code, severity, len(members), n_products, name, first.path, first.message))
    order = list(Severity)
    return tuple(sorted(counts, key=lambda count: (order.index(count.severity), -count.n_products, count.code)))


def _failed_with_record(record: ProductRecords, row: ProductRow) -> bool:
    return row.outcome == Outcome.FAILED and bool(record.failures)
