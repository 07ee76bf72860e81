"""What every product job shares: its record, recipe and log, and a failure record when it fails."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from io import FileIO, TextIOBase
from pathlib import Path
from typing import Any, TextIO, cast

from zarrmill.config import Recipe, Settings, load_recipes, parse_settings, product_digest
from zarrmill.core.excerpt import excerpt, secrets_of
from zarrmill.errors import EXIT_FAILED, UNKNOWN_CODE, ConfigError, ConformanceError, ZarrmillError, hidden
from zarrmill.io import bucket
from zarrmill.io.failed import final_failure, keep_failure, tail_of
from zarrmill.io.logs import hides, logger, reset, structlog
from zarrmill.io.measure import Meter
from zarrmill.io.places import Place, place_of
from zarrmill.io.process import keep_memory, spare_collector, tell
from zarrmill.io.progress import progress_of
from zarrmill.io.record import read_record
from zarrmill.io.session import session
from zarrmill.io.state import Failures, State
from zarrmill.model import FailureRecord, PlanRecord, Product, ValidationReport, Verdict


@dataclass(frozen=True, slots=True)
class Job:
    """One stage at work on one product."""

    settings: Settings
    state: State
    record: PlanRecord
    recipe: Recipe
    attempt: int
    tick: Callable[[int, int], None]
    """Told decoded bytes done and in all."""

    @property
    def product(self) -> Product:
        """The manifest row."""
        return self.record.product


@contextmanager
def product_job(stage: str, *, plan: str, config: Mapping[str, Any], log: str) -> Iterator[Job]:
    """Prepare one stage for one product, log what happens, and leave a failure record when it fails.

    Args: plan: path of the product's plan record; config: the run's configuration; log: path of the job's log on this machine.
    Raises: SystemExit: the stage failed; the code is the error's, the reason is on stderr, in the log and in the record.
    """
    spare_collector()
    keep_memory()
    meter = Meter()
    with logging_to(Path(log)), _told(stage):
        settings = settings_of(config)
        state = State.of(settings)
        record = read_record(PlanRecord, place_of(plan))
        product = record.product
        kept = state.log(stage, product)
        known = Failures(state).of(product)
        attempt = max((one.attempt for one in known), default=0) + 1
        structlog().contextvars.bind_contextvars(run=settings.run, product=product.name, stage=stage, attempt=attempt)
        told = logger()
        told.info("started")
        _give_up(final_failure(known, stage))
        with _shipped(Path(log), kept):
            try:
                recipe = _planned_recipe(settings, product)
                with progress_of(state, product, stage) as tick:
                    yield Job(settings, state, record, recipe, attempt, tick)
                told.info("finished", wall_s=meter.measured().wall_s)
            except Exception as error:
                code = error.exit_code if isinstance(error, ZarrmillError) else EXIT_FAILED
                if isinstance(error, ZarrmillError):
                    told.error("failed", code=error.code, message=error.message)
                else:
                    told.exception("failed with an error that zarrmill does not know")
                where = str(kept) if kept.remote else log
                failure = _failure_of(error, stage, settings, product, where, meter, attempt)
                _record_failure(replace(failure, excerpt=excerpt(tail_of(Path(log)), secrets_of(os.environ))), state)
                tell(f"{stage} {product.product_id}: {error}")
                raise SystemExit(code) from error


def _give_up(failure: FailureRecord | None) -> None:
    """End a try that would meet the same failure again: nothing is read, and record and log of the first one stand."""
    if failure is None:
        return
    logger().error("given up", code=failure.code, message=failure.message, first=failure.measured.attempt)
    tell(f"{failure.stage} {failure.product.product_id}: {failure.code} as before, not tried again: {failure.message}")
    raise SystemExit(EXIT_FAILED)


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Return the settings in Snakemake's ``config``; this process reaches buckets by them from now on.

    Raises: ConfigError: a key or a value is not allowed.
    """
    settings = parse_settings(config)
    bucket.use(settings.s3)
    return settings


@contextmanager
def run_job(stage: str, *, config: Mapping[str, Any], log: str) -> Iterator[Settings]:
    """Do one stage for the whole run: yield its settings, log what happens, end in one line when it fails.

    Args: config: the run's configuration; log: path of the job's log on this machine.
    Raises: SystemExit: the stage failed with an error of ours; the code is the error's, the reason is on stderr and in the log.
    """
    spare_collector()
    with logging_to(Path(log)), _told(stage):
        settings = settings_of(config)
        with _shipped(Path(log), State.of(settings).root / "logs" / f"{stage}.log"), _told(stage):
            yield settings


@contextmanager
def _told(stage: str) -> Iterator[None]:
    """Turn an error of ours into one line on stderr, one in the log, and its exit code."""
    try:
        yield
    except ZarrmillError as error:
        logger().error("failed", stage=stage, code=error.code, message=error.message)
        tell(f"{stage}: {error}")
        raise SystemExit(error.exit_code) from error


@contextmanager
def _shipped(log: Path, kept: Place) -> Iterator[None]:
    """Put the job's log beside the state in a bucket, however the job ends: its machine may be gone a moment later."""
    try:
        yield
    finally:
        if kept.remote:
            try:
                kept.write_bytes(log.read_bytes())
            except (ZarrmillError, OSError) as error:
                logger().warning("log not kept", place=str(kept), reason=str(error))


def check_accepted(report: ValidationReport, recipe: Recipe, product: Product) -> None:
    """Let a report pass that the recipe accepts.

    Raises: ConformanceError: the verdict is below the recipe's; carries the findings.
    """
    accepted = {Verdict.PASS} if recipe.validation.accept == "PASS" else {Verdict.PASS, Verdict.WARN}
    if report.verdict in accepted:
        return
    first = "; ".join(f"{f.code} {f.path}: {f.message}" for f in report.findings[:3])
    more = f" and {len(report.findings) - 3} more" if len(report.findings) > 3 else ""
    raise ConformanceError(
        f"{product.product_id}: {report.store}: verdict {report.verdict}, "
        f"the recipe accepts {recipe.validation.accept}; {first}{more}",
        kind="store",
        findings=report.findings,
    )


def _planned_recipe(settings: Settings, product: Product) -> Recipe:
    recipe = load_recipes(settings).get(product.product_type)
    if recipe is None:
        raise ConfigError(f"{product.product_id}: no recipe serves product type {product.product_type}", kind="recipe")
    digest = product_digest(recipe, product.source_fingerprint)
    if digest != product.digest:
        raise ConfigError(
            f"{product.product_id}: planned with digest {product.digest}, recipe {recipe.name} now gives {digest}; plan again",
            kind="manifest",
        )
    return recipe


def _failure_of(
    error: Exception, stage: str, settings: Settings, product: Product, log: str, meter: Meter, attempt: int
) -> FailureRecord:
    ours = error if isinstance(error, ZarrmillError) else None
    return FailureRecord(
        run=settings.run,
        stage=stage,
        product=product,
        failure_class=ours.failure_class if ours else "unknown",
        code=ours.code if ours else UNKNOWN_CODE,
        message=ours.message if ours else hidden(f"{type(error).__name__}: {error}"),
        when=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        log=log,
        findings=error.findings if isinstance(error, ConformanceError) else (),
        measured=replace(meter.measured(), attempt=attempt),
        session=session(),
    )


def _record_failure(record: FailureRecord, state: State) -> None:
    try:
        keep_failure(record, state)
    except ZarrmillError as second:
        logger().error("failure record not written", code=second.code, message=second.message)


def _without_secrets(logger: object, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take user, password and query out of every address in an event."""
    return {key: hidden(value) if isinstance(value, str) else value for key, value in event.items()}


class _Log(TextIOBase):
    """A log file. A disk that takes no more of it loses lines; how the job ends is its own matter."""

    def __init__(self, path: Path) -> None:
        self._file: FileIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            tell(f"{path}: no log is written: {error.strerror}")

    def write(self, text: str) -> int:
        """Write a text at once, or lose it."""
        if self._file is not None:
            with suppress(OSError):
                self._file.write(text.encode(errors="backslashreplace"))
        return len(text)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
        super().close()


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Write events as JSON lines to ``path``, the warnings of libraries among them."""
    with _Log(path) as stream:
        structlog().configure(
            processors=[
                structlog().contextvars.merge_contextvars,
                structlog().processors.add_log_level,
                structlog().processors.TimeStamper(fmt="iso", utc=True),
                structlog().processors.format_exc_info,
                _without_secrets,
                structlog().processors.JSONRenderer(sort_keys=True),
            ],
            logger_factory=structlog().WriteLoggerFactory(file=cast(TextIO, stream)),
        )
        logging.captureWarnings(True)
        handler = logging.StreamHandler(stream)
        handler.addFilter(hides)
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)
            structlog().contextvars.clear_contextvars()
            reset()
