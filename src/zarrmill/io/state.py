"""Where a run keeps what: one shallow state prefix, one folder per acquisition day.

::

    <run>/manifest.csv  plan.json  plan.html  summary.json  report/index.html
    <run>/<collection>/<yyyymmdd>/<stage>/<product>.json            the targets
    <run>/failed/<class>/<collection>/<yyyymmdd>/<product>/<stage>-<attempt>.json
    <run>/progress/<product>.json      how far a running stage is
    <run>/catalog/                     static STAC catalogue, items.parquet
    <run>/logs/<stage>/<collection>/<yyyymmdd>/<product>.log
"""

from dataclasses import dataclass
from pathlib import Path

from zarrmill.config import Settings
from zarrmill.io.listing import Listing
from zarrmill.io.places import Place, place_of
from zarrmill.model import Product

STAGES = ("plan", "convert", "validate", "stac", "report")
"""Every stage in order. A stage is a rule, a rule file, a script, a module and a heading with this name."""

PRODUCT_STAGES = ("convert", "validate", "stac")
"""Stages that make one target a product."""


@dataclass(frozen=True, slots=True)
class State:
    """Places of one run."""

    root: Place
    """Folder of the run: ``<state_root>/<run>``."""

    @classmethod
    def of(cls, settings: Settings, base: Path | None = None) -> "State":
        """Return where the run of ``settings`` keeps its state; relative paths start from ``base``, by default from here."""
        root = place_of(settings.state_root)
        return cls((root if root.remote or base is None else place_of(base / root.href)) / settings.run)

    @property
    def manifest(self) -> Place:
        """Manifest that the workflow is built from."""
        return self.root / "manifest.csv"

    @property
    def plan_json(self) -> Place:
        """What ``plan`` decided, with reasons."""
        return self.root / "plan.json"

    @property
    def plan_html(self) -> Place:
        """The plan for people."""
        return self.root / "plan.html"

    @property
    def summary(self) -> Place:
        """Summary of the run."""
        return self.root / "summary.json"

    @property
    def report(self) -> Place:
        """Report of the run."""
        return self.root / "report" / "index.html"

    @property
    def catalog(self) -> Place:
        """Folder of the static STAC catalogue."""
        return self.root / "catalog"

    @property
    def failed(self) -> Place:
        """Folder of failure records."""
        return self.root / "failed"

    def target(self, stage: str, product: Product) -> Place:
        """Target of ``stage`` for one product."""
        return self.root / product.collection / product.day / stage / f"{product.name}.json"

    def thumbnail(self, product: Product) -> Place:
        """Thumbnail of one product, beside its item."""
        return self.root / product.collection / product.day / "stac" / f"{product.name}.png"

    def progress(self, product: Product) -> Place:
        """Progress of the stage that works on this product."""
        return self.root / "progress" / f"{product.name}.json"

    def log(self, stage: str, product: Product) -> Place:
        """Log of one stage of one product."""
        return self.root / "logs" / stage / product.collection / product.day / f"{product.name}.log"

    def failure(self, failure_class: str, product: Product, stage: str, attempt: int) -> Place:
        """Failure record of one attempt."""
        folder = self.failed / failure_class / product.collection / product.day / product.name
        return folder / f"{stage}-{attempt:03d}.json"


@dataclass(frozen=True, slots=True)
class Failure:
    """One failure record, as far as its name says."""

    place: Place
    failure_class: str
    stage: str
    attempt: int
    modified: float
    """Seconds since the epoch."""


class Failures:
    """Failure records of a run by product, from listings."""

    def __init__(self, state: State, listing: Listing | None = None) -> None:
        self._folder = state.failed
        self._listing = listing or Listing(state.root)

    def of(self, product: Product) -> list[Failure]:
        """Return the failures of one product, oldest first. Raises: UnknownStateError: they cannot be listed."""
        return self.at(product.collection, product.day, product.name)

    def at(self, collection: str, day: str, name: str) -> list[Failure]:
        """Return the failures of the product of that name, oldest first. Raises: as ``of``."""
        found = []
        for failure_class in self._listing.folders(self._folder):
            folder = self._folder / failure_class / collection / day / name
            for file, facts in self._listing.files(folder).items():
                stage, _, attempt = file.removesuffix(".json").rpartition("-")
                if attempt.isdigit():
                    found.append(Failure(folder / file, failure_class, stage, int(attempt), facts.modified))
        return sorted(found, key=lambda one: (one.attempt, one.modified, one.stage))

    def next_attempt(self, product: Product) -> int:
        """Return the number of the attempt after the last one that failed. Raises: as ``of``."""
        return max((one.attempt for one in self.of(product)), default=0) + 1

    def places(self) -> list[Place]:
        """Return every record of the run. Raises: as ``of``."""
        return [place for place, _ in self._listing.below(self._folder)]
