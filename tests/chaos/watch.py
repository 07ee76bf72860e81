"""What happens when: products done, pods at work, failures, from the requests that pass the proxy and the pods of the node."""

import re
import time
from collections import Counter
from dataclasses import dataclass, field

from fault_proxy import Request

from chaos import trouble
from chaos.trouble import Trouble
from chaos.world import World

DONE = re.compile(r"/state/[^/?]+/[^/?]+/\d{8}/stac/([^/?]+)\.json$")
FAILED = re.compile(r"/state/[^/?]+/failed/([^/?]+)/[^/?]+/\d{8}/([^/?]+)/[^/?]+\.json$")
SEALED = re.compile(r"/stores/([^/?]+/\d{8}/[^/?]+\.zarr)/zarr\.json$")


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment."""

    t: float
    """Seconds since the start."""
    done: int
    """Products with all their targets."""
    failed: int
    """Failure records so far."""
    running: int
    """Pods of Jobs that work."""
    drivers: int
    """Drivers that live."""
    faults: int
    """Faults met so far."""


@dataclass
class Watch:
    """Reads the log of requests as it grows."""

    world: World
    trouble: Trouble
    started: float = field(default_factory=time.time)
    samples: list[Sample] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    """Names of products whose item was put."""
    records: Counter[str] = field(default_factory=Counter)
    """Failure records that were put, by class."""
    roots: Counter[str] = field(default_factory=Counter)
    """Key of each store below ``stores/`` to how often its root was written with success."""
    _read: int = 0
    _open: list[Request] = field(default_factory=list)
    """Requests that had no answer at the last look."""

    def look(self) -> int:
        """Read what is new; return the number of products that are done."""
        new = self.world.s3.requests[self._read :]
        self._read += len(new)
        asked = [(request, request.status) for request in (*self._open, *new) if request.method == "PUT"]
        self._open = [request for request, status in asked if not status]
        for request, status in asked:
            if status == 200:
                self._put(request.path)
        return len(self.done)

    def sample(self) -> None:
        """Note this moment."""
        groups = (self.world.workers(), self.world.drivers())
        jobs, drivers = (sum(trouble.lives(pod) for pod in pods.values()) for pods in groups)
        self.samples.append(
            Sample(
                round(time.time() - self.started, 1),
                len(self.done),
                self.records.total(),
                jobs,
                drivers,
                sum(self.trouble.met().values()),
            )
        )

    def _put(self, path: str) -> None:
        if found := DONE.search(path):
            self.done.add(found[1])
        elif found := FAILED.search(path):
            self.records[found[1]] += 1
        elif found := SEALED.search(path):
            self.roots[found[1]] += 1
