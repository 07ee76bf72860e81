"""What can be made to go wrong, for pods and for requests."""

import random
import re
import threading
from dataclasses import dataclass, field
from typing import Literal

PodFault = Literal["pending", "image", "oom", "evicted", "exit", "twice", "vanish"]
RequestFault = Literal["status", "slow", "reset", "lost"]

POD_FAULTS = ("pending", "image", "oom", "evicted", "exit", "twice", "vanish")


@dataclass
class Fault:
    """One way to go wrong; meets the first ``times`` pods or requests that match, each with probability ``p``."""

    kind: PodFault | RequestFault
    """``pending``: no node ever has room. ``image``: cannot be pulled. ``oom``, ``evicted``: killed by the node ``after_s``.
    ``exit``: ends with ``code`` instead of running. ``twice``: a second pod appears beside the first. ``vanish``: the Job is
    gone ``after_s``. ``status``: answered with ``code``. ``slow``: answered ``after_s`` late. ``reset``: connection cut
    before the request is done, ``lost``: after it."""
    match: str = ""
    """Regular expression searched in the container's arguments (pods) or in ``METHOD /path?query`` (requests)."""
    times: int | None = 1
    """None: always."""
    p: float = 1.0
    code: int = 1
    after_s: float = 0.0
    go: threading.Event | None = None
    """``exit``: the pod waits for this before it ends."""
    met: int = 0
    """How often it was met."""


@dataclass
class Faults:
    """The faults of one server; the same seed gives the same choices in the same order of events."""

    seed: int = 0
    faults: list[Fault] = field(default_factory=list)
    _n_asked: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> Fault:
        """Arm a fault; read ``met`` of what is returned."""
        self.faults.append(fault)
        return fault

    def of_pod(self, text: str) -> Fault | None:
        """Return the fault that a new pod with these arguments meets."""
        return self._meet(text, pods=True)

    def of_request(self, text: str) -> Fault | None:
        """Return the fault that a request meets."""
        return self._meet(text, pods=False)

    def _meet(self, text: str, *, pods: bool) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if (fault.kind in POD_FAULTS) != pods or fault.met == fault.times or not re.search(fault.match, text):
                    continue
                self._n_asked += 1
                if fault.p >= 1 or random.Random(f"{self.seed}/{self._n_asked}").random() < fault.p:
                    fault.met += 1
                    return fault
        return None
