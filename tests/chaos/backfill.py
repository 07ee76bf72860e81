"""Runs the backfill as an operator does: start its Job, wait, start it again while products are missing."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from k8s_server.objects import JOBS, Object

from chaos.trouble import Trouble
from chaos.watch import Watch
from chaos.world import NS, World, driver_job

SAY_S = 60.0
"""Seconds between two lines about how it goes."""


@dataclass(frozen=True, slots=True)
class Round:
    """One time that the command was run."""

    ended: str
    """``Complete`` or ``Failed``, with the reason; ``Timeout`` when it did not end."""
    wall_s: float
    n_done: int
    """Products that were done when it ended."""
    n_drivers: int
    """Driver pods that it took."""


def run(world: World, trouble: Trouble, watch: Watch, say: Callable[[str], None]) -> list[Round]:
    """Run rounds until one is complete with every product, or there were too many; ``say`` is told how it goes."""
    rounds: list[Round] = []
    while len(rounds) < world.size.n_rounds:
        if rounds:
            trouble.heal()
        before, start = len(world.drivers()), time.monotonic()
        job = world.cluster.create(JOBS, NS, driver_job(world, len(rounds) + 1))
        ended = _wait(job, world, trouble, watch, say)
        rounds.append(Round(ended, round(time.monotonic() - start, 1), watch.look(), len(world.drivers()) - before))
        say(f"round {len(rounds)}: {rounds[-1]}")
        if ended.startswith("Complete") and rounds[-1].n_done == world.size.n_products:
            break
    return rounds


def _wait(job: Object, world: World, trouble: Trouble, watch: Watch, say: Callable[[str], None]) -> str:
    deadline = time.monotonic() + world.size.round_timeout_s
    sampled, said = 0.0, time.monotonic()
    while not job["status"].get("conditions"):
        if time.monotonic() > deadline:
            world.cluster.controller.delete(JOBS, NS, job["metadata"]["name"])
            return "Timeout"
        trouble.act(watch.look())
        if time.monotonic() - sampled > 1.0:
            sampled = time.monotonic()
            watch.sample()
        if time.monotonic() - said > SAY_S:
            said = time.monotonic()
            say(f"{watch.samples[-1]}")
        time.sleep(0.2)
    watch.look()
    watch.sample()
    condition = job["status"]["conditions"][-1]
    return f"{condition['type']}: {condition['reason']}"
