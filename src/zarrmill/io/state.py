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

from zarrmill.model import Product

STAGES = ("plan", "convert", "validate", "stac", "report")
"""Every stage in order. A stage is a rule, a rule file, a script, a module and a heading with this name."""

PRODUCT_STAGES = ("convert", "validate", "stac")
"""Stages that make one target a product."""


@dataclass(frozen=True, slots=True)
class State:
    """Paths of one run."""

    root: Path
    """Folder of the run: ``<state_root>/<run>``."""

    @property
    def manifest(self) -> Path:
        """Manifest that the workflow is built from."""
        return self.root / "manifest.csv"

    @property
    def plan_json(self) -> Path:
        """What ``plan`` decided, with reasons."""
        return self.root / "plan.json"

    @property
    def plan_html(self) -> Path:
        """The plan for people."""
        return self.root / "plan.html"

    @property
    def summary(self) -> Path:
        """Summary of the run."""
        return self.root / "summary.json"

    @property
    def report(self) -> Path:
        """Report of the run."""
        return self.root / "report" / "index.html"

    @property
    def catalog(self) -> Path:
        """Folder of the static STAC catalogue."""
        return self.root / "catalog"

    @property
    def failed(self) -> Path:
        """Folder of failure records."""
        return self.root / "failed"

    def target(self, stage: str, product: Product) -> Path:
        """Target of ``stage`` for one product."""
        return self.root / product.collection / product.day / stage / f"{product.name}.json"

    def thumbnail(self, product: Product) -> Path:
        """Thumbnail of one product, beside its item."""
        return self.root / product.collection / product.day / "stac" / f"{product.name}.png"

    def progress(self, product: Product) -> Path:
        """Progress of the stage that works on this product."""
        return self.root / "progress" / f"{product.name}.json"

    def failures_of(self, product: Product) -> list[Path]:
        """Failure records of one product, oldest first."""
        pattern = f"*/{product.collection}/{product.day}/{product.name}/*.json"
        return sorted(self.failed.glob(pattern), key=lambda path: (path.stat().st_mtime_ns, path.name))

    def failure(self, failure_class: str, product: Product, stage: str) -> Path:
        """Place of the next failure record of one product."""
        attempt = len(self.failures_of(product)) + 1
        folder = self.failed / failure_class / product.collection / product.day / product.name
        return folder / f"{stage}-{attempt:03d}.json"
