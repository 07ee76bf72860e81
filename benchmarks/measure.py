"""What a command costs: wall and CPU seconds, and peak memory of its whole process tree, watched from outside."""

import json
import os
import platform
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from resource import struct_rusage
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent
Json = dict[str, Any]  # Any: JSON values
EVERY_S = 0.05
"""Seconds between two looks at the memory."""
CHILDREN_EVERY = 5
"""Looks after which child processes are searched anew; that is dearer than a look."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One run of one command."""

    wall_s: float
    cpu_s: float
    """User and system seconds of the process and all that it waited for."""
    peak_bytes: int
    """Largest sum over the tree: resident memory of one process, proportional set size where there are several."""
    load: float
    """Load average over one minute before the run."""
    foreign_cpu_s: float
    """CPU seconds that the rest of the machine used meanwhile; wall seconds count only where this is small."""
    waited_s: float = 0.0
    """Seconds in which a thread of the tree was ready to run and waited for a CPU; see ``_Queue``."""

    @property
    def alone_s(self) -> float:
        """Wall seconds without those that were waited for a CPU: near to what they are on a machine that does nothing else."""
        return round(self.wall_s - self.waited_s, 2)


def run(
    command: Sequence[str], log: Path, cwd: Path, env: Mapping[str, str] | None = None, codes: Collection[int] = (0,)
) -> Cost:
    """Run ``command`` and measure it; output goes to ``log``.

    Data that earlier commands wrote is flushed first, so that nobody pays for another.
    Args: env: added to the environment; codes: exit codes of success.
    Raises: RuntimeError: it failed; the message has the end of its output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    os.sync()
    load, busy = os.getloadavg()[0], _busy_s()
    with log.open("wb") as stream:
        start = time.perf_counter()
        whole = {**os.environ, **(env or {})}
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, cwd=cwd, env=whole)
        queue = _Queue()
        peak, status, usage = _watch(process.pid, queue)
        wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in codes:
        raise RuntimeError(f"{' '.join(command)}: exit code {process.returncode}\n{log.read_text()[-2000:]}")
    cpu = usage.ru_utime + usage.ru_stime
    foreign = max(_busy_s() - busy - cpu, 0)
    return Cost(round(wall, 2), round(cpu, 2), peak, round(load, 2), round(foreign, 2), round(queue.seconds, 2))


def _busy_s() -> float:
    """Return the CPU seconds that the whole machine has used."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)


class _Queue:
    """Adds up how long a tree of processes waited for a CPU.

    In the time between two looks it waited as long as that of its threads that waited longest: where one is at work for all, as
    in a program of one thread or a driver with its job, that is the time which was lost. What Linux says in ``schedstat`` counts;
    where there is none, nothing was waited. The last part of a second of every process is not seen.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._at, self._seen = time.perf_counter(), dict[str, int]()

    def look(self, pids: Iterable[int]) -> None:
        """Take in what the threads of these processes waited since the last look."""
        now, seen = time.perf_counter(), dict[str, int]()
        for pid in pids:
            with suppress(OSError):
                for thread in os.scandir(f"/proc/{pid}/task"):
                    with suppress(OSError):
                        seen[thread.name] = int(Path(thread.path, "schedstat").read_text().split()[1])
        longest = max((waited - self._seen.get(name, 0) for name, waited in seen.items()), default=0)
        self.seconds += min(longest / 1e9, now - self._at)
        self._at, self._seen = now, seen


def _watch(pid: int, queue: _Queue) -> tuple[int, int, struct_rusage]:
    """Return peak memory, exit status and resource usage of a child process when it has ended."""
    tree, peak, looks = [psutil.Process(pid)], 0, 0
    ended = select.poll()
    ended.register(descriptor := os.pidfd_open(pid), select.POLLIN)
    while True:
        if looks % CHILDREN_EVERY == 0:
            with suppress(psutil.Error):
                tree = [tree[0], *tree[0].children(recursive=True)]
            queue.look(process.pid for process in tree)
        looks += 1
        peak = max(peak, sum(_memory(process, alone=len(tree) == 1) for process in tree))
        if ended.poll(1000 * EVERY_S):  # its end is seen at once, not a look later
            os.close(descriptor)
            return peak, *os.wait4(pid, 0)[1:]


def _memory(process: psutil.Process, *, alone: bool) -> int:
    with suppress(psutil.Error):
        return int(process.memory_info().rss if alone else process.memory_full_info().pss)
    return 0


def folder_size(path: Path) -> tuple[int, int]:
    """Return bytes and number of the objects below ``path``."""
    sizes = [item.stat().st_size for item in path.rglob("*") if item.is_file()]
    return sum(sizes), len(sizes)


def tell(text: str) -> None:
    """Say what is going on."""
    sys.stderr.write(f"{datetime.now():%H:%M:%S} {text}\n")


def answer(log: Path) -> Json:
    """Return the JSON object on the last line of a log."""
    return dict(json.loads(log.read_text().strip().rpartition("\n")[2]))


def summary(costs: Sequence[Cost]) -> Json:
    """Return the median of every number, and all runs."""
    names = ("wall_s", "cpu_s", "peak_bytes", "alone_s")
    return {n: statistics.median(getattr(c, n) for c in costs) for n in names} | {"runs": [asdict(c) for c in costs]}


def machine() -> Json:
    """Return what the numbers depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": f"{os.cpu_count()} x {model or platform.machine()}",
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()}, {' '.join(platform.libc_ver())}, Python {platform.python_version()}",
        "load": [round(value, 2) for value in os.getloadavg()],
        "storage": "local disk, sources in the page cache",
    }


def shown(command: Sequence[str]) -> str:
    """Return a command as it can be typed in the project's folder."""
    words = (f"'{word}'" if " " in word else word for word in command)
    return " ".join(words).replace(f"{ROOT}/", "")
