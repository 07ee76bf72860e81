"""Every check of the chaos backfill holds for a run that is as it should be, and fails for one that is broken in that way."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from chaos.backfill import Round
from chaos.checks import CHECKS, STAGES, judge
from chaos.evidence import Evidence

DAY = "grd/20250301"
IDS = ("a", "b")
STORES = {one: f"{DAY}/{one}_00000000.zarr" for one in IDS}
OBJECTS = {"zarr.json": [10, "aa"], "x/c/0": [20, "bb"]}


def listed() -> dict[str, tuple[int, str]]:
    keys = {f"state/run-0000/{DAY}/{stage}/{one}_00000000.json": (1, "t") for one in IDS for stage in STAGES}
    keys |= {f"stores/{store}/{key}": (size, tag) for store in STORES.values() for key, (size, tag) in OBJECTS.items()}
    return {**keys, "state/run-0000/report/index.html": (1, "r"), "state/.keep": (1, "k")}


def record(product: str, failure_class: str, code: str) -> dict[str, Any]:
    return {"product": {"product_id": product}, "failure_class": failure_class, "code": code, "message": "it failed"}


def good() -> Evidence:
    return Evidence(
        ids=IDS,
        rounds=(Round("Failed: BackoffLimitExceeded", 1.0, 1, 2), Round("Complete: CompletionsReached", 1.0, 2, 1)),
        n_shards=1,
        listed=listed(),
        manifests={"run-0000": tuple(STORES.items())},
        receipts={store: {"root_sha256": "r", "n_objects": 2, "adopted": False} for store in STORES.values()},
        reports={"run-0000": {"counts": {"ok": 2, "failed": 0, "not done": 0, "skipped": 7}}},
        roots=dict.fromkeys(STORES.values(), 1),
        undisturbed={store: {"root_sha256": "r", "objects": OBJECTS} for store in STORES.values()},
        records={
            "one": record("a", "source-timeout", "ZM-SRC-TIMEOUT"),
            "two": record("b", "store", "ZM-STO-LOST"),
            "three": record("b", "capacity", "ZM-CAP-KILLED"),
        },
        met={"source: 500": 3, "bucket: 500": 3, "pod: oom": 1, "driver: killed": 2},
        broken_sources=("a",),
        broken_stores=("b",),
        n_kills=2,
        audit={"code": 0, "n_sealed": 2, "n_receipts": 2, "found": {"missing": [], "orphan": []}},
        uploads=(),
        left=(),
        told={"log": b"nothing", "state/x": b"nothing"},
        status="0: 2/2 ok",
    )


def without(key: str) -> dict[str, tuple[int, str]]:
    return {one: facts for one, facts in listed().items() if one != key}


FIRST = STORES["a"]
ORPHAN = f"stores/{DAY}/c_00000000.zarr/zarr.json"
TARGETS = "every product has its targets, once"
SEALED = "every store is sealed"
BYTES = "stores are those of undisturbed conversions"
AUDIT = "audit: no orphan, none missing, none lost"
LEFT = "no journal, lease, heartbeat or open upload is left"
EXPLAINED = "every failure is explained by a fault"
FAULTS = "every kind of fault was met"
ENDED = "the last round ended with 0"
REPORTS = "every shard has its report"
RECEIPTS = "receipts are those of the stores"
ONE_MANIFEST = "every product is in one manifest"

BROKEN: tuple[tuple[str, Mapping[str, Any]], ...] = (
    (ONE_MANIFEST, {"ids": ("a", "b", "lost")}),
    (ONE_MANIFEST, {"manifests": {"run-0000": tuple(STORES.items()), "run-0001": tuple(STORES.items())}}),
    (ONE_MANIFEST, {"n_shards": 2}),
    (TARGETS, {"listed": without(f"state/run-0000/{DAY}/stac/a_00000000.json")}),
    (TARGETS, {"listed": {**listed(), f"state/run-0000/{DAY}/stac/c_00000000.json": (1, "t")}}),
    (SEALED, {"listed": without(f"stores/{FIRST}/zarr.json")}),
    (SEALED, {"listed": {**listed(), ORPHAN: (1, "o")}}),
    ("every store was sealed exactly once", {"roots": {**dict.fromkeys(STORES.values(), 1), FIRST: 2}}),
    ("every store was sealed exactly once", {"roots": {STORES["b"]: 1}}),
    (BYTES, {"listed": {**listed(), f"stores/{FIRST}/x/c/0": (20, "cc")}}),
    (BYTES, {"listed": {**listed(), f"stores/{FIRST}/x/c/1": (20, "cc")}}),
    (BYTES, {"listed": without(f"stores/{FIRST}/x/c/0")}),
    (BYTES, {"undisturbed": {}}),
    (RECEIPTS, {"receipts": {STORES["b"]: {"root_sha256": "r", "n_objects": 2, "adopted": False}}}),
    (RECEIPTS, {"receipts": {store: {"root_sha256": "x", "n_objects": 2, "adopted": False} for store in STORES.values()}}),
    (AUDIT, {"audit": {"code": 4, "n_sealed": 2, "n_receipts": 2, "found": {"orphan": ["x"]}}}),
    (AUDIT, {"audit": {"code": 0, "n_sealed": 1, "n_receipts": 2, "found": {}}}),
    (LEFT, {"listed": {**listed(), f"stores/{FIRST}.journal/000001.json": (1, "j")}}),
    (LEFT, {"listed": {**listed(), "state/run-0000/.lock/000001.json": (1, "j")}}),
    (LEFT, {"listed": {**listed(), "state/run-0000/progress/a_00000000.json": (1, "j")}}),
    (LEFT, {"uploads": ("stores/x",)}),
    ("no Job, pod or Secret is left", {"left": ("snakejob-1",)}),
    ("no secret key is in any log, state or posted object", {"told": {"log": b"key test-writer-secret"}}),
    (EXPLAINED, {"records": {**good().records, "x": record("a", "unknown", "ZM-UNKNOWN")}}),
    (EXPLAINED, {"met": {"pod: oom": 1, "driver: killed": 2}}),
    (EXPLAINED, {"records": {**good().records, "x": record("a", "store", "ZM-STO-DAMAGED")}}),
    (EXPLAINED, {"records": {**good().records, "x": record("a", "capacity", "ZM-CAP-EVICTED")}}),
    (EXPLAINED, {"broken_sources": ("b",)}),
    (FAULTS, {"met": {**good().met, "pod: twice": 0}}),
    (FAULTS, {"n_kills": 3}),
    (ENDED, {"rounds": (Round("Failed: BackoffLimitExceeded", 1.0, 2, 1),)}),
    (ENDED, {"rounds": (Round("Complete: CompletionsReached", 1.0, 1, 1),)}),
    (ENDED, {"status": "0: 1/2 ok"}),
    (REPORTS, {"listed": without("state/run-0000/report/index.html")}),
    (REPORTS, {"reports": {"run-0000": {"counts": {"ok": 1, "failed": 1}}}}),
    (REPORTS, {"reports": {"run-0000": {"counts": {"ok": 2, "not done": 1}}}}),
    (REPORTS, {"reports": {}}),
)


def test_a_run_as_it_should_be_passes_every_check() -> None:
    assert [str(check) for check in judge(good()) if not check.holds] == []


@pytest.mark.parametrize(("name", "change"), BROKEN, ids=[f"{i}-{name}" for i, (name, _) in enumerate(BROKEN)])
def test_a_run_that_is_broken_in_one_way_fails_the_check_for_it(name: str, change: Mapping[str, Any]) -> None:
    assert name in [check.name for check in judge(replace(good(), **change)) if not check.holds]


def test_every_check_has_a_run_that_fails_it() -> None:
    assert {name for name, _ in BROKEN} == set(CHECKS)
