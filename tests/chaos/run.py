"""One chaos backfill from the first server to the last check."""

import os
import platform
import re
import resource
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from s3_server import weed

from chaos import backfill, checks, evidence, trouble
from chaos.checks import Check
from chaos.evidence import Evidence
from chaos.sizes import Size
from chaos.watch import Watch
from chaos.world import World, versions, world

SHOWN = ("zarrmill", "snakemake", "snakemake-executor-plugin-kubernetes", "snakemake-storage-plugin-s3", "boto3", "obstore")
Json = dict[str, Any]  # Any: JSON values


@dataclass(frozen=True)
class Result:
    """How it went."""

    evidence: Evidence
    checks: list[Check]
    told: Json
    """Numbers of the report."""

    @property
    def wrong(self) -> list[str]:
        """Checks that do not hold, in words."""
        return [str(check) for check in self.checks if not check.holds]


def chaos(root: Path, size: Size, seed: int, say: Any = lambda text: None) -> Result:  # say: called with a line of text
    """Run a chaos backfill in an empty folder and judge it."""
    started = datetime.now(UTC)
    with world(root, size, seed) as made:
        say(f"{size.n_products} products, seed {seed}, in {root}")
        arms = trouble.prepare(made)
        watch = Watch(made, arms)
        costs, start = _Costs(made), time.monotonic()
        rounds = backfill.run(made, arms, watch, say)
        wall_s = time.monotonic() - start
        used = costs.used()
        arms.end()
        say(f"{len(watch.done)} of {size.n_products} done after {wall_s:.0f} s in {len(rounds)} rounds; looking at what is there")
        found = evidence.collect(made, arms, watch, rounds)
        told = _told(made, arms, watch, found, wall_s)
    judged = checks.judge(found)
    told |= {
        "started": started.isoformat(timespec="seconds"),
        "seed": seed,
        "cpu_s": used,
        "machine": _machine(),
        "versions": {name: version(name) for name in SHOWN} | {"python": platform.python_version(), "s3": versions(weed())},
        "checks": [{"name": one.name, "holds": one.holds, "told": one.told, "wrong": list(one.wrong)} for one in judged],
    }
    return Result(found, judged, told)


class _Costs:
    """CPU seconds since it was made, by whose they are."""

    def __init__(self, made: World) -> None:
        self._made, self._before = made, self._now(made)

    def used(self) -> dict[str, float]:
        """Return CPU seconds; those of killed processes are not in it."""
        now = self._now(self._made)
        return {name: round(value - self._before[name], 1) for name, value in now.items()}

    @staticmethod
    def _now(made: World) -> dict[str, float]:
        own, pods = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
        server = psutil.Process(made.server.process.pid).cpu_times()
        busy = psutil.cpu_times()
        return {
            "pods": pods.ru_utime + pods.ru_stime,
            "stand-in, proxies and host of sources": own.ru_utime + own.ru_stime,
            "S3 server": server.user + server.system,
            "machine": sum(busy) - busy.idle - busy.iowait - busy.guest - busy.guest_nice,
        }


def _told(made: World, arms: trouble.Trouble, watch: Watch, found: Evidence, wall_s: float) -> Json:
    n, requests = made.size.n_products, made.s3.requests
    drivers, workers = list(made.drivers().values()), list(made.workers().values())
    reached = sum(one.n_done for one in found.rounds[-1:])
    return {
        "size": asdict(made.size),
        "n_products": n,
        "n_done": reached,
        "wall_s": round(wall_s, 1),
        "products_per_hour": round(3600 * reached / wall_s),
        "rounds": [asdict(one) for one in found.rounds],
        "n_driver_pods": len(drivers),
        "n_job_pods": len(workers),
        "n_pods_of_one": _pods_each(made),
        "driver_peak_mb": round(max((pod.peak_bytes for pod in drivers), default=0) / 1e6),
        "pod_peak_mb": round(max((pod.peak_bytes for pod in workers), default=0) / 1e6),
        "bucket_requests": dict(Counter(f"{one.method} {_what(one.path)}" for one in requests).most_common()),
        "n_bucket_requests": len(requests),
        "n_source_requests": len(made.web.requests),
        "n_api_requests": len(made.cluster.requests),
        "n_objects_of_a_store": round(sum(one["n_objects"] for one in found.receipts.values()) / max(1, len(found.receipts))),
        "faults": found.met,
        "failure_classes": dict(Counter(f"{r['failure_class']} {r['code']}" for r in found.records.values()).most_common()),
        "conversions": evidence.attempts(found),
        "events": [{"kind": one.kind, "at": one.at, "t": round(one.when - watch.started, 1)} for one in arms.events if one.when],
        "timeline": [asdict(one) for one in watch.samples],
    }


def _pods_each(made: World) -> dict[str, int]:
    """Return how many products were in how many pods."""
    texts = [" ".join(pod.pod["spec"]["containers"][0].get("args", ())) for pod in made.workers().values()]
    found = Counter({one: sum(one in text for text in texts) for one in made.archive.ids})
    return {f"{pods}": n for pods, n in sorted(Counter(found.values()).items())}


def _what(path: str) -> str:
    """Return what a request is about."""
    if "list-type" in path or "prefix=" in path:
        return "list"
    return "stores" if "/stores/" in path else "state"


def _machine() -> Json:
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "cpu": f"{os.cpu_count()} x {model[1] if model else platform.machine()}",
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "load": [round(value, 1) for value in os.getloadavg()],
    }


def say_to_stderr(text: str) -> None:
    """Tell a line, with the time."""
    sys.stderr.write(f"{datetime.now():%H:%M:%S} {text}\n")
