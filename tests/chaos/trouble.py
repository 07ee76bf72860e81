"""What goes wrong, chosen by the seed: faults of requests, of pods and of the Kubernetes API, and events that come when so many
products are done.

Every kind of fault is met at least once, whatever the odds: its first victim is chosen, the others are drawn.
"""

import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from fault_proxy import FaultProxy, Rule
from k8s_server.faults import Fault
from k8s_server.kubelet import Running
from k8s_server.objects import PODS, ApiError

from chaos.world import NS, World

DEADLINE_S = 8.0
"""How long a pod waits that nobody schedules; ``activeDeadlineSeconds`` of the Job template is four hours."""
BROKEN_S3, BROKEN_WEB = "bucket refuses one store", "source of one product is gone"


@dataclass
class Event:
    """Something that happens once, when ``at`` products are done."""

    at: int
    kind: str
    """``kill``: SIGKILL to a driver; ``away``: the Kubernetes API; ``lose``: a pod of a Job is deleted; ``bucket``: all requests
    to the bucket are refused for a while."""
    when: float = 0.0
    """Seconds since the epoch; 0 before it happened."""


@dataclass
class Trouble:
    """Everything that was prepared and how much of it happened."""

    world: World
    s3: dict[str, list[Rule]]
    web: dict[str, list[Rule]]
    pods: list[Fault]
    api: list[Fault]
    broken_sources: tuple[str, ...]
    """Products whose pixels cannot be fetched in the first round."""
    broken_stores: tuple[str, ...]
    """Products whose store cannot be written in the first round."""
    events: list[Event]
    _random: random.Random
    _threads: list[threading.Thread] = field(default_factory=list)

    def heal(self) -> None:
        """End what was broken for the first round; what no job came to in it stays broken for the next."""
        for rules in (self.s3.get(BROKEN_S3, []), self.web.get(BROKEN_WEB, [])):
            for rule in rules:
                rule.n = 0 if rule.n_met else None

    def act(self, n_done: int) -> None:
        """Let the next event that is due happen, when there is something that it can happen to."""
        event = next((one for one in self.events if not one.when and n_done >= one.at), None)
        if event is not None and getattr(self, f"_{event.kind}")():
            event.when = time.time()

    def met(self) -> dict[str, int]:
        """Return how often each kind of fault was met."""
        counts: Counter[str] = Counter()
        for where, kinds in (("bucket", self.s3), ("source", self.web)):
            counts.update({f"{where}: {kind}": sum(rule.n_met for rule in rules) for kind, rules in kinds.items()})
        for fault in self.pods:
            counts[f"pod: {fault.kind}"] += fault.met
        for fault in self.api:
            counts[f"API: {fault.kind} {fault.code if fault.kind == 'status' else ''}".strip()] += fault.met
        names = {"kill": "driver: killed", "away": "API: away", "lose": "pod: lost", "bucket": "bucket: away"}
        counts.update(dict.fromkeys(names.values(), 0))
        counts.update(names[event.kind] for event in self.events if event.when)
        return dict(sorted(counts.items()))

    def _kill(self) -> bool:
        alive = [pod for _, pod in sorted(self.world.drivers().items()) if lives(pod)]
        if not alive:
            return False
        with suppress(ProcessLookupError):
            os.killpg(self._random.choice(alive).process.pid, signal.SIGKILL)  # type: ignore[union-attr]  # it lives
            return True
        return False

    def _lose(self) -> bool:
        alive = [name for name, pod in sorted(self.world.workers().items()) if lives(pod)]
        if not alive:
            return False
        with suppress(ApiError):
            self.world.cluster.controller.delete(PODS, NS, self._random.choice(alive))
            return True
        return False

    def _away(self) -> bool:
        self._in_background(self._without_api)
        return True

    def _bucket(self) -> bool:
        self._in_background(self._without_bucket)
        return True

    def _without_api(self) -> None:
        with self.world.cluster.away():
            time.sleep(self.world.size.away_s)

    def _without_bucket(self) -> None:
        away = Rule(kind="answer", status=503, code="ServiceUnavailable")
        self.world.s3.rules = [away, *self.world.s3.rules]
        time.sleep(self.world.size.away_s)
        self.world.s3.rules = [rule for rule in self.world.s3.rules if rule is not away]

    def _in_background(self, work: object) -> None:
        thread = threading.Thread(target=work, daemon=True)  # type: ignore[arg-type]  # a method without arguments
        self._threads.append(thread)
        thread.start()

    def end(self) -> None:
        """Stop misbehaving."""
        for thread in self._threads:
            thread.join()
        self.world.s3.rules, self.world.web.rules = [], []
        self.world.cluster.faults.faults = []


def prepare(world: World) -> Trouble:
    """Arm everything."""
    size, draw = world.size, random.Random(f"{world.seed}/trouble")
    world.cluster.controller.wait_clock = 14400 / DEADLINE_S
    victims = _victims(world)
    broken_sources = tuple(next(victims) for _ in range(size.n_broken))
    broken_stores = tuple(next(victims) for _ in range(size.n_broken))
    s3 = _requests(world.s3, size.p_request, draw, write=True)
    web = _requests(world.web, size.p_request, draw, write=False)
    s3[BROKEN_S3] = [
        _first(world.s3, Rule(kind="answer", method="PUT", path=rf"/stores/.*{one}.*\.zarr/")) for one in broken_stores
    ]
    web[BROKEN_WEB] = [
        _first(world.web, Rule(kind="answer", status=503, path=rf"{one}\.zarr/.*measurements/grd/\d")) for one in broken_sources
    ]
    pods = list(_pods(world, victims, draw))
    api = list(_api(world))
    return Trouble(world, s3, web, pods, api, broken_sources, broken_stores, _events(world, draw), draw)


def _api(world: World) -> Iterator[Fault]:
    kinds: Sequence[tuple[str, dict[str, object]]] = (
        *(("status", {"code": code}) for code in (429, 500, 503)),
        ("slow", {"after_s": 0.5}),
        ("reset", {}),
    )
    for kind, options in kinds:
        yield world.cluster.fault(kind, p=0.3, times=1, **options)
        yield world.cluster.fault(kind, p=world.size.p_api / len(kinds), times=None, **options)


def _victims(world: World) -> Iterator[str]:
    """Return products in a random order, again and again, none of the canary: when it fails, nothing else is begun."""
    ids = list(world.archive.ids[world.size.canary :])
    random.Random(f"{world.seed}/victims").shuffle(ids)
    return itertools.cycle(ids)


def _requests(proxy: FaultProxy, p: float, draw: random.Random, *, write: bool) -> dict[str, list[Rule]]:
    kinds: dict[str, dict[str, object]] = {
        "503 SlowDown": {"kind": "answer", "status": 503, "retry_after": "0"},
        "500": {"kind": "answer", "status": 500, "code": "InternalError"},
        "refused": {"kind": "refuse"},
        "answer lost": {"kind": "lost"},
        "late": {"kind": "latency", "seconds": 0.3},
        "silent": {"kind": "hang", "seconds": 1.5},
        "body cut": {"kind": "cut", "method": "GET", "n_bytes": 30},
        "reset in the body": {"kind": "reset", "method": "GET", "n_bytes": 30},
    }
    if write:
        kinds["answer to a write lost"] = {"kind": "lost", "method": "PUT"}
        kinds["answer to a seal lost"] = {"kind": "lost", "method": "PUT", "path": r"\.zarr/zarr\.json$"}
    else:
        kinds["429"] = {"kind": "answer", "status": 429, "code": "TooManyRequests", "retry_after": "1"}
    rules: dict[str, list[Rule]] = {}
    for name, options in kinds.items():
        share = 0.2 if "seal" in name else p / len(kinds)
        sure = Rule(**options, after=draw.randrange(1, 40) if "seal" not in name else 1, n=1)  # type: ignore[arg-type]
        drawn = Rule(**options, p=share, seed=draw.randrange(1 << 30))  # type: ignore[arg-type]
        rules[name] = [proxy.add(sure), proxy.add(drawn)]
    return rules


def _first(proxy: FaultProxy, rule: Rule) -> Rule:
    proxy.rules = [rule, *proxy.rules]
    return rule


def _pods(world: World, victims: Iterator[str], draw: random.Random) -> Iterator[Fault]:
    kinds: Sequence[tuple[str, dict[str, object]]] = (
        ("oom", {"after_s": None}),
        ("evicted", {"after_s": None}),
        ("evicted", {}),
        ("exit", {"code": 1}),
        ("vanish", {"after_s": None}),
        ("twice", {}),
        ("pending", {}),
        ("image", {}),
    )
    for kind, options in kinds:
        for _ in range(world.size.n_pod_faults):
            given = {key: draw.uniform(1.0, world.size.pod_s) if value is None else value for key, value in options.items()}
            yield world.cluster.fault(kind, match=f"target-jobs.*{next(victims)}", **given)


def _events(world: World, draw: random.Random) -> list[Event]:
    size = world.size
    kinds = ["kill"] * size.n_kills + ["away"] * size.n_away + ["lose"] * size.n_pod_faults + ["bucket"] * size.n_away
    events = []
    for kind in ("kill", "away", "lose", "bucket"):
        n = kinds.count(kind)
        for index in range(n):
            # One in each part of the way, all well before the end.
            start, stop = (0.1 + 0.6 * part / n for part in (index, index + 1))
            events.append(Event(max(1, int(size.n_products * draw.uniform(start, stop))), kind))
    return sorted(events, key=lambda event: event.at)


def lives(pod: Running) -> bool:
    """Return whether the container of a pod runs."""
    return pod.process is not None and pod.process.poll() is None and not pod.stopped.is_set()
