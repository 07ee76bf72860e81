"""What became of one product: its records in, one row out.

Nothing here opens a file. Every record may be absent; what is absent is told, never guessed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from zarrmill.model import ConvertReceipt, FailureRecord, Finding, Measured, Product, Severity, ValidationReport, Verdict

Ring = tuple[tuple[float, float], ...]
"""Corners ``(lon, lat)`` in degrees of one closed outline."""


class Outcome(StrEnum):
    """What became of one product."""

    OK = "ok"
    SKIPPED = "skipped"
    FAILED = "failed"
    NOT_DONE = "not done"


@dataclass(frozen=True, slots=True)
class ProductRecords:
    """Everything that is known of one product of the manifest."""

    product: Product
    target: str
    """Path of its last target, as given to Snakemake."""
    receipt: ConvertReceipt | None = None
    validation: ValidationReport | None = None
    item: bool = False
    """Whether its STAC item exists and can be read."""
    failures: tuple[FailureRecord, ...] = ()
    """Oldest first."""
    unreadable: tuple[str, ...] = ()
    """Stages whose target exists but cannot be read."""
    running: str = ""
    """Stage that works on it now."""
    footprint: tuple[Ring, ...] = ()
    benchmarks: Mapping[str, Measured] = field(default_factory=dict)
    """What Snakemake measured of the job, by stage; includes the start of the process."""


@dataclass(frozen=True, slots=True)
class ProductRow:
    """One product in the summary; equal for two equal runs."""

    name: str
    product_id: str
    collection: str
    day: str
    """Acquisition day, ``yyyymmdd``."""
    product_type: str
    outcome: Outcome
    reason: str
    """Failure class, or what a product that is not done waits for; empty when ok."""
    stage: str
    """Stage that failed or comes next; empty when ok."""
    code: str
    message: str
    verdict: str
    """Empty when not validated."""
    score: float | None
    n_objects: int
    n_bytes: int
    n_bytes_source: int
    n_findings: int
    target: str


def product_row(record: ProductRecords) -> ProductRow:
    """Return what became of one product.

    ``ok`` means that store, report and item are there and readable. A failure record counts only while the stage that it
    is about has no target: a later success outdates it.
    """
    product, receipt, validation = record.product, record.receipt, record.validation
    outcome, stage, reason = _outcome(record)
    failure = record.failures[-1] if outcome == Outcome.FAILED and record.failures else None
    findings = findings_of(record)
    return ProductRow(
        name=product.name,
        product_id=product.product_id,
        collection=product.collection,
        day=product.day,
        product_type=product.product_type,
        outcome=outcome,
        reason=reason,
        stage=stage,
        code=failure.code if failure else "",
        message=failure.message if failure else "",
        verdict=validation.verdict.value if validation else "",
        score=validation.score if validation else None,
        n_objects=receipt.n_objects if receipt else 0,
        n_bytes=receipt.n_bytes if receipt else 0,
        n_bytes_source=receipt.n_bytes_source if receipt else 0,
        n_findings=sum(finding.severity != Severity.INFO for finding in findings),
        target=record.target,
    )


def _outcome(record: ProductRecords) -> tuple[Outcome, str, str]:
    """Return outcome, stage that failed or comes next, and reason."""
    has = {"convert": record.receipt is not None, "validate": record.validation is not None, "stac": record.item}
    if all(has.values()):
        return Outcome.OK, "", ""
    following = next(stage for stage, there in has.items() if not there)
    if record.running:
        return Outcome.NOT_DONE, record.running, f"{record.running} is running"
    if following in record.unreadable:
        return Outcome.NOT_DONE, following, f"record of {following} cannot be read"
    if record.failures and not has.get(record.failures[-1].stage, False):
        failure = record.failures[-1]
        return Outcome.FAILED, failure.stage, failure.failure_class
    if record.validation is not None and record.validation.verdict == Verdict.FAIL:
        return Outcome.FAILED, "validate", "conformance"
    return Outcome.NOT_DONE, following, f"waits for {following}"


def findings_of(record: ProductRecords) -> tuple[Finding, ...]:
    """Return what conversion and validation noticed; of a product that failed, what its last failure says."""
    converted = record.receipt.findings if record.receipt else ()
    if record.validation is not None:
        return (*converted, *record.validation.findings)
    failed = record.failures[-1].findings if record.failures and not record.item else ()
    return (*converted, *failed)
