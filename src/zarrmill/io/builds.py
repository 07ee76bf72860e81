"""What a run has built so far, read from its state in one pass; a state that cannot be read is an error, never empty."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from zarrmill.errors import ConfigError
from zarrmill.io.listing import Listing
from zarrmill.io.places import Place
from zarrmill.io.record import read_record
from zarrmill.io.state import PRODUCT_STAGES, Failure, State
from zarrmill.model import FailureRecord, PlanRecord, Product

_TARGET = re.compile(r"(?P<id>.+)_(?P<digest>[0-9a-f]{8})\.json")

Build = tuple[str, str]
"""Acquisition day and digest: what tells builds of one product apart."""


@dataclass(frozen=True, slots=True)
class Builds:
    """Targets of a run by product and build."""

    stages: Mapping[tuple[str, str], Mapping[Build, frozenset[str]]]
    """(collection, product_id) to build to the stages whose target exists."""
    gone: frozenset[tuple[str, str, str]]
    """(collection, product_id, digest) of products whose store the last plan found gone."""

    def present(self, product: Product) -> frozenset[str]:
        """Stages of this product, in this build, whose target exists."""
        return self.stages.get((product.collection, product.product_id), {}).get((product.day, product.digest), frozenset())

    def others(self, product: Product) -> list[Build]:
        """Other builds of this product that have a conversion receipt, sorted."""
        builds = self.stages.get((product.collection, product.product_id), {})
        mine = (product.day, product.digest)
        return sorted(build for build, stages in builds.items() if build != mine and PRODUCT_STAGES[0] in stages)


def read_builds(state: State, listing: Listing, collections: Iterable[str]) -> Builds:
    """Look at every target of ``collections``; one that holds nothing was never made.

    Raises: UnknownStateError: a folder of the state cannot be read.
    """
    found: dict[tuple[str, str], dict[Build, frozenset[str]]] = {}
    for collection in sorted(set(collections)):
        for day, stage, name in _targets(listing, state.root / collection):
            if match := _TARGET.fullmatch(name):
                builds = found.setdefault((collection, match["id"]), {})
                build = (day, match["digest"])
                builds[build] = builds.get(build, frozenset()) | {stage}
    return Builds(found, _gone(state.plan_json))


def latest_failure(failures: Sequence[Failure]) -> tuple[str, str]:
    """Return stage and words of the last of one product's failures; two empty strings without one.

    Raises: UnknownStateError: its record cannot be read.
    """
    if not failures:
        return "", ""
    try:
        record = read_record(FailureRecord, failures[-1].place)
    except ConfigError as error:
        return PRODUCT_STAGES[0], f"failed before; its record cannot be read: {error.message}"
    message = " ".join(record.message.split())[:300]
    times = "once" if len(failures) == 1 else f"{len(failures)} times"
    return record.stage, f"{record.stage} failed ({times} in all), last with {record.code}: {message}"


def older_build(state: State, product: Product, others: list[Build]) -> str:
    """Say in words what differs from other builds of the same product; empty without one."""
    if not others:
        return ""
    same_source = []
    for day, digest in others:
        old = replace(product, datetime=f"{day[:4]}-{day[4:6]}-{day[6:]}", digest=digest)
        try:
            record = read_record(PlanRecord, state.target("plan", old))
        except ConfigError:
            continue
        if record.product.source_fingerprint == product.source_fingerprint:
            same_source.append((day, digest))
    day, digest = (same_source or others)[-1]
    if digest == product.digest:
        return f"acquisition day changed, {day} to {product.day}"
    return f"{'recipe' if same_source else 'source'} changed, {digest} to {product.digest}"


def drop_receipts(state: State, product: Product) -> None:
    """Remove the targets of one product, so that it is built anew.

    Raises: StoreError: a target cannot be removed.
    """
    for stage in reversed(PRODUCT_STAGES):
        state.target(stage, product).unlink()


def drop_empty(state: State, listing: Listing, product: Product) -> None:
    """Remove the targets of one product that hold nothing, as a crash or a full disk leaves them: Snakemake takes them for made.

    Raises: UnknownStateError: they cannot be listed; StoreError: one cannot be removed.
    """
    for place in (state.target(stage, product) for stage in PRODUCT_STAGES):
        if place.name in listing.files(place.parent) and not listing.get(place):
            place.unlink()


def _targets(listing: Listing, root: Place) -> Iterator[tuple[str, str, str]]:
    """Yield day, stage and file name of every target of one collection."""
    for day in listing.folders(root):
        for stage in PRODUCT_STAGES:
            for name, facts in listing.files(root / day / stage).items():
                if facts.size:
                    yield day, stage, name


def _gone(plan_json: Place) -> frozenset[tuple[str, str, str]]:
    try:
        rows = json.loads(plan_json.read_bytes())["products"]
        return frozenset((r["collection"], r["product_id"], r["digest"]) for r in rows if r.get("store_gone"))
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        # Only the word "missing" instead of "new" hangs on it, so a damaged plan.json is as good as none.
        return frozenset()
