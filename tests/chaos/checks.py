"""What has to hold at the end of a chaos backfill. Each check can fail: ``tests/unit/test_chaos_checks.py`` shows how."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from chaos.evidence import Evidence, secrets

STAGES = ("plan", "convert", "validate", "stac")
N_FIRST = 3
"""How many examples a message names."""

ENDED = "ended without a word"
"""What the driver says of a pod that left no record; its code alone does not tell it from an error of the job's own."""
OUTSIDE = ("pod: ", "driver: ", "API: ")

EXPLAINED = {
    "ZM-CAP-MEMORY": ("pod: oom",),
    "ZM-CAP-EVICTED": ("pod: evicted",),
    "ZM-CAP-KILLED": OUTSIDE,
    "ZM-UNKNOWN": (*OUTSIDE, "bucket: "),
    "ZM-STO-LOST": ("bucket: ",),
    "ZM-SRC-TIMEOUT": ("source: ", "bucket: "),  # validate reads stores as it reads sources
    "ZM-UNK-OUTAGE": ("bucket: ", "source: "),
}
"""Code of a failure to the kinds of fault that it may come from."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that had to hold."""

    name: str
    wrong: tuple[str, ...]
    """What speaks against it; empty when it holds."""
    told: str = ""
    """What was looked at, in words."""

    @property
    def holds(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.wrong

    def __str__(self) -> str:
        more = f" and {len(self.wrong) - N_FIRST} more" if len(self.wrong) > N_FIRST else ""
        return f"{self.name}: {'; '.join(self.wrong[:N_FIRST])}{more}" if self.wrong else f"{self.name}: {self.told}"


def judge(evidence: Evidence) -> list[Check]:
    """Return every check."""
    return [Check(name, tuple(look(evidence)), told(evidence)) for name, (look, told) in CHECKS.items()]


def _planned_once(e: Evidence) -> Iterator[str]:
    found = Counter(product for rows in e.manifests.values() for product, _ in rows)
    yield from (f"{one} is in no manifest" for one in e.ids if not found[one])
    yield from (f"{one} is in {n} manifests" for one, n in found.items() if n > 1)
    yield from (f"{one} is not in the archive" for one in sorted(found.keys() - set(e.ids)))
    if len(e.manifests) != e.n_shards:
        yield f"{len(e.manifests)} shards, expected {e.n_shards}"


def _targets(e: Evidence) -> Iterator[str]:
    """Every product has each of its targets, once, and nothing else has any."""
    wanted = {
        f"state/{run}/{_target(store, stage)}" for run, rows in e.manifests.items() for _, store in rows for stage in STAGES
    }
    there = {key for key in e.listed if key.startswith("state/") and _is_target(key)}
    yield from (f"{key} is missing" for key in sorted(wanted - there))
    yield from (f"{key} belongs to no product of a manifest" for key in sorted(there - wanted))


def _sealed(e: Evidence) -> Iterator[str]:
    sealed = {key.removeprefix("stores/").removesuffix("/zarr.json") for key in e.listed if _is_root(key)}
    stores = {store for rows in e.manifests.values() for _, store in rows}
    yield from (f"{store} is not sealed" for store in sorted(stores - sealed))
    yield from (f"{store} belongs to no product" for store in sorted(sealed - stores))


def _written_once(e: Evidence) -> Iterator[str]:
    stores = {store for rows in e.manifests.values() for _, store in rows}
    yield from (
        f"the root of {one} was written {e.roots.get(one, 0)} times" for one in sorted(stores) if e.roots.get(one, 0) != 1
    )
    yield from (f"the root of {one}, which is no product, was written" for one in sorted(e.roots.keys() - stores))


def _same_bytes(e: Evidence) -> Iterator[str]:
    """Stores that were converted undisturbed too have the same objects: keys, sizes, md5."""
    by_store: dict[str, dict[str, list[object]]] = {}
    for key, facts in e.listed.items():
        parts = key.split("/", 4)
        if parts[0] == "stores" and len(parts) == 5:
            by_store.setdefault("/".join(parts[1:4]), {})[parts[4]] = list(facts)
    if not e.undisturbed:
        yield "no store was compared"
    for store, wanted in e.undisturbed.items():
        found = by_store.get(store, {})
        differing = sorted(key for key in found.keys() | wanted["objects"].keys() if found.get(key) != wanted["objects"].get(key))
        if differing:
            yield f"{store}: {len(differing)} objects differ, such as {differing[0]}"


def _receipts(e: Evidence) -> Iterator[str]:
    for rows in e.manifests.values():
        for product, store in rows:
            receipt = e.receipts.get(store)
            if receipt is None:
                yield f"{product} has no receipt"
                continue
            etag = e.listed.get(f"stores/{store}/zarr.json", (0, ""))[1]
            wanted = e.undisturbed.get(store)
            if wanted and receipt["root_sha256"] != wanted["root_sha256"]:
                yield f"{store}: the receipt has another digest than an undisturbed conversion"
            objects = sum(key.startswith(f"stores/{store}/") for key in e.listed) if wanted else receipt["n_objects"]
            if not etag or objects != receipt["n_objects"]:
                yield f"{store}: {objects} objects, the receipt says {receipt['n_objects']}"


def _audit(e: Evidence) -> Iterator[str]:
    if e.audit["code"] != 0:
        yield f"exit code {e.audit['code']}"
    for kind, found in e.audit.get("found", {"audit": ["it told nothing"]}).items():
        yield from (f"{kind}: {one}" for one in found)
    for key in ("n_sealed", "n_receipts"):
        if e.audit.get(key) != len(e.ids):
            yield f"{key} is {e.audit.get(key)}, expected {len(e.ids)}"


def _leftovers(e: Evidence) -> Iterator[str]:
    yield from (f"journal or lease {key}" for key in e.listed if ".journal/" in key or "/.lock/" in key)
    yield from (f"heartbeat {key}" for key in e.listed if key.startswith("state/") and "/progress/" in key)
    yield from (f"open upload {key}" for key in e.uploads)


def _cluster(e: Evidence) -> Iterator[str]:
    yield from e.left


def _secrets(e: Evidence) -> Iterator[str]:
    for place, text in e.told.items():
        if any(secret in text for secret in secrets()):
            yield place


def _failures(e: Evidence) -> Iterator[str]:
    """Every failure record is explained by a fault that was met, and what was broken for good has one."""
    for key, record in e.records.items():
        kinds = EXPLAINED.get(record["code"], ())
        if record["code"] == "ZM-UNKNOWN" and ENDED not in record["message"]:
            kinds = ()  # an error that zarrmill does not know is never right
        if not any(n and name.startswith(kind) for name, n in e.met.items() for kind in kinds):
            yield f"{key}: {record['code']} is explained by no fault: {record['message'][:200]}"
    for broken, code in ((e.broken_sources, "ZM-SRC-TIMEOUT"), (e.broken_stores, "ZM-STO-LOST")):
        for product in broken:
            if not any(r["product"]["product_id"] == product and r["code"] == code for r in e.records.values()):
                yield f"{product} was broken and has no record {code}"


def _faults(e: Evidence) -> Iterator[str]:
    yield from (f"{name} was never met" for name, n in e.met.items() if not n)
    if e.met.get("driver: killed") != e.n_kills:
        yield f"{e.met.get('driver: killed')} drivers were killed, expected {e.n_kills}"


def _ended(e: Evidence) -> Iterator[str]:
    last = e.rounds[-1]
    if last.ended != "Complete: CompletionsReached" or last.n_done != len(e.ids):
        yield f"after {len(e.rounds)} rounds {last.ended}, {last.n_done} of {len(e.ids)} done"
    if not e.status.startswith(f"0: {len(e.ids)}/{len(e.ids)} ok"):
        yield f"zarrmill status: {e.status}"


def _reports(e: Evidence) -> Iterator[str]:
    for run, rows in e.manifests.items():
        if f"state/{run}/report/index.html" not in e.listed:
            yield f"{run} has no report"
        counts = e.reports.get(run, {}).get("counts", {})
        if counts.get("ok") != len(rows) or counts.get("failed") or counts.get("not done"):
            yield f"{run}: summary.json tells {counts}, expected {len(rows)} ok"


def _target(store: str, stage: str) -> str:
    collection, day, name = store.split("/")
    return f"{collection}/{day}/{stage}/{name.removesuffix('.zarr')}.json"


def _is_target(key: str) -> bool:
    parts = key.split("/")
    return len(parts) == 6 and parts[3].isdigit() and parts[5].endswith(".json")


def _is_root(key: str) -> bool:
    return key.startswith("stores/") and key.count("/") == 4 and key.endswith(".zarr/zarr.json")


def _n(e: Evidence) -> str:
    return f"{len(e.ids)} products"


CHECKS: dict[str, tuple[Callable[[Evidence], Iterator[str]], Callable[[Evidence], str]]] = {
    "every product is in one manifest": (_planned_once, lambda e: f"{len(e.ids)} products in {len(e.manifests)} shards"),
    "every product has its targets, once": (_targets, lambda e: f"{len(STAGES)} targets of {_n(e)}"),
    "every store is sealed": (_sealed, _n),
    "every store was sealed exactly once": (_written_once, lambda e: f"{sum(e.roots.values())} roots written with success"),
    "stores are those of undisturbed conversions": (_same_bytes, lambda e: f"{len(e.undisturbed)} stores, byte for byte"),
    "receipts are those of the stores": (_receipts, lambda e: f"{len(e.receipts)} receipts"),
    "audit: no orphan, none missing, none lost": (
        _audit,
        lambda e: f"{e.audit['n_sealed']} stores, {e.audit['n_receipts']} receipts",
    ),
    "no journal, lease, heartbeat or open upload is left": (_leftovers, lambda e: f"{len(e.listed)} objects"),
    "no Job, pod or Secret is left": (_cluster, lambda e: "after the Jobs of the drivers were deleted"),
    "no secret key is in any log, state or posted object": (_secrets, lambda e: f"{len(e.told)} places"),
    "every failure is explained by a fault": (_failures, lambda e: f"{len(e.records)} failure records"),
    "every kind of fault was met": (_faults, lambda e: f"{sum(e.met.values())} faults of {len(e.met)} kinds"),
    "the last round ended with 0": (_ended, lambda e: f"round {len(e.rounds)}; {e.status}"),
    "every shard has its report": (_reports, lambda e: f"{len(e.reports)} reports"),
}
