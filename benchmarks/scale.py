"""Planning and dry runs of many products: seconds, memory and what they ask of a bucket; nothing is converted."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks import finished
from benchmarks.folder import Folder
from benchmarks.measure import Cost, Json
from benchmarks.session import Session
from benchmarks.stand_ins import Bucket, FaultProxy, bucket, fake_items, fake_products, fault_proxy, s3_server, stac_server
from zarrmill.core.shards import Shard
from zarrmill.sample import SampleSpec, build_product

BUCKET = "bench"
COLLECTIONS = ("sentinel-2-l2a", "sentinel-2-l1c")
BY_ITEM = {"fingerprint": "item"}
"""Items identify their sources, so that no source is asked for; as an archive of 10,000 products elsewhere would be listed."""
TINY = {kind: SampleSpec(product_type=kind, size_px=120, pixels="synthetic") for kind in ("S02MSIL2A", "S02MSIL1C")}
"""Products whose metadata has as many arrays as that of a full tile."""
SHARD = re.compile(r"^  \S+: (\d{4}-\d\d-\d\d)/(\d{4}-\d\d-\d\d), (\d+) products$", re.MULTILINE)
"""A shard as ``zarrmill backfill --dry-run`` prints it."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the state of a case is: on disk, or in a bucket behind a proxy that counts requests."""

    name: str
    made: Bucket | None = None
    proxy: FaultProxy | None = None

    @property
    def env(self) -> Mapping[str, str]:
        """Environment with which the bucket is reached."""
        return self.made.env("writer") if self.made else {}

    def roots(self, key: str) -> Mapping[str, str]:
        """Keys of the configuration that put state and stores here."""
        if self.made is None:
            return {}
        return {"state_root": self.made.href(f"{key}/state"), "store_root": self.made.href(f"{key}/stores")}

    def measure(self, session: Session, case: str, title: str, command: Sequence[str], **more: Any) -> tuple[Cost, Json]:
        """Run a command; return its cost and how many requests of each kind it made."""
        if self.proxy:
            self.proxy.clear()
        cost = session.run(f"{case}-{self.name}", f"{title}; {self.name}", command, env=self.env, **more)
        return cost, dict(Counter(map(_kind, self.proxy.requests))) if self.proxy else {}


def _row(cost: Cost) -> Json:
    return asdict(cost) | {"alone_s": cost.alone_s}


def _kind(request: Any) -> str:
    path, _, query = request.path.partition("?")
    if request.method == "GET" and path.strip("/") == BUCKET and "prefix=" in query:
        return "list"
    return "head store" if request.method == "HEAD" and "/stores/" in path else str(request.method.lower())


def checks(requests: Mapping[str, int]) -> int:
    """Return how many requests asked whether something of the state is there."""
    return requests.get("list", 0) + requests.get("head", 0)


@contextmanager
def places(session: Session) -> Iterator[tuple[Place, ...]]:
    """Give the disk and, where it is asked for, a bucket of a server that runs until the block ends."""
    disk = Place("disk")
    if not session.options.bucket:
        yield (disk,)
        return
    folder = (session.work / "s3").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with s3_server(folder) as server, bucket(server, BUCKET) as made, fault_proxy(server.url) as proxy:
        yield disk, Place("bucket", made.through(proxy.url), proxy)


def many(session: Session, where: Place) -> Json:
    """Plan many products at once, and let Snakemake show the jobs of all in one graph."""
    n, key = session.options.n_plan, f"plan-{where.name}"
    items = _collection(session, fake_items(fake_products(n)))
    folder = Folder.make(session.work / key, items, BY_ITEM, **where.roots(key))
    planned, asked = where.measure(
        session, "plan", f"zarrmill plan, {n} products, by item", folder.zarrmill("plan"), cwd=folder.path
    )
    shown, asked_dry = where.measure(session, "dry-run", f"snakemake -n, {n} products in one graph", folder.snakemake("-n"))
    _expect(f"{n} products would be built", session.text(f"dry-run-{where.name}"))
    found = {"n": n, "plan": _row(planned), "dry_run": _row(shown)}
    return found | {"requests_plan": asked, "requests_dry_run": asked_dry}


def metadata(session: Session) -> Json:
    """Plan many products whose metadata is read, each: copies (hard links) of the metadata of a product, on disk."""
    n, folder = session.options.n_plan, session.work / "plan-metadata"
    products, features = fake_products(n), fake_items(fake_products(n))
    known = {kind: build_product(spec, session.work / "tiny") / ".zmetadata" for kind, spec in TINY.items()}
    made = Folder.make(folder, session.work / "items-metadata.json")
    for product, feature in zip(products, features, strict=True):
        store = folder / "sources" / f"{product.product_id}.zarr"
        store.mkdir(parents=True)
        (store / ".zmetadata").hardlink_to(known[product.product_type])
        feature["assets"]["product"]["href"] = f"{folder.name}/sources/{store.name}"
    (session.work / "items-metadata.json").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    title = f"zarrmill plan, {n} products, the metadata of every source is read; disk"
    cost = session.run("plan-metadata", title, made.zarrmill("plan"), cwd=folder)
    made.fresh()
    return {"n": n, "plan": _row(cost), "n_bytes": known["S02MSIL2A"].stat().st_size}


def backfill(session: Session, where: Sequence[Place]) -> Json:
    """Cut a long backfill, listed by an API, into shards; plan some of them and let Snakemake show their jobs, one by one."""
    n, size = session.options.n_backfill, session.options.shard
    items = sorted(fake_items(fake_products(n)), key=lambda item: (item["properties"]["datetime"], item["id"]))
    days = [str(item["properties"]["datetime"])[:10] for item in items]
    found: Json = {"n": n, "shard": size}
    with stac_server(items, page_size=10_000) as api:
        for place in where:
            key = f"backfill-{place.name}"
            source = BY_ITEM | {"collections": list(COLLECTIONS), "page_size": min(10_000, n)}
            folder = Folder.make(session.work / key, api.url, source, run=key, **place.roots(key))
            words = ("backfill", "--from", days[0], "--to", days[-1], "--shard-products", f"{size}", "--dry-run")
            title = f"zarrmill backfill --dry-run, {n} products cut into shards of about {size}"
            cost, _ = place.measure(session, "cut", title, folder.zarrmill(*words), cwd=folder.path)
            shards = _shards(session.text(f"cut-{place.name}"))
            rows = [_shard(session, place, folder, *shards[index]) for index in _spread(session, place, len(shards))]
            found[place.name] = {"cut": _row(cost), "n_shards": len(shards), "shards": rows}
            found[place.name] |= {"rerun": _rerun(session, place, folder, rows[0]["run"], shards[rows[0]["index"]][1])}
    return found


def _shard(session: Session, place: Place, folder: Folder, index: int, shard: Shard) -> Json:
    run = f"shard-{index:04d}"
    planned, asked = place.measure(session, "shard-plan", "zarrmill plan, one shard", folder.plan(run, shard), cwd=folder.path)
    shown, asked_dry = place.measure(session, "shard-dry-run", "snakemake -n, one shard", folder.shard(run, shard))
    _expect(f"{shard.n_listed} products would be built", session.text(f"shard-dry-run-{place.name}"))
    found: Json = {"index": index, "run": run, "n": shard.n_listed, "plan": _row(planned), "dry_run": _row(shown)}
    return found | {"requests_plan": asked, "requests_dry_run": asked_dry}


def _rerun(session: Session, place: Place, folder: Folder, run: str, shard: Shard) -> Json:
    """Finish a shard that was planned, without converting, and let it be planned and run once more."""
    finished.finish(folder, run, place.made)
    n, words = shard.n_listed, tuple(word for word in folder.shard(run, shard) if word != "-n")
    title = f"zarrmill plan, finished shard of {n}"
    planned, asked = place.measure(session, "again-plan", title, folder.plan(run, shard), cwd=folder.path, codes=(3,))
    again, asked_run = place.measure(session, "again-run", f"snakemake, finished shard of {n}", words)
    _expect("Nothing to be done", session.text(f"again-run-{place.name}"))
    found: Json = {"n": n, "plan": _row(planned), "run": _row(again)}
    return found | {"requests_plan": asked, "requests_run": asked_run}


def _collection(session: Session, features: list[dict[str, Any]]) -> Path:
    path = session.work / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def _shards(text: str) -> list[tuple[int, Shard]]:
    found = [Shard(date.fromisoformat(a), date.fromisoformat(b), int(n)) for a, b, n in SHARD.findall(text)]
    return list(enumerate(found))


def _spread(session: Session, place: Place, n: int) -> list[int]:
    """Return the numbers of the shards to look at: spread over all on disk, fewer in a bucket."""
    most = min(session.options.n_shards if place.made is None else max(session.options.n_shards // 5, 1), n)
    return sorted({round(step * (n - 1) / max(most - 1, 1)) for step in range(most)})


def _expect(words: str, text: str) -> None:
    if words not in text:
        raise RuntimeError(f"expected {words!r}; found {text[-500:]!r}")


def clean(session: Session) -> None:
    """Remove what the servers left on disk."""
    shutil.rmtree(session.work / "s3", ignore_errors=True)
