"""What a stage cost: wall and CPU seconds, peak memory, seconds by step, versions."""

import resource
import time
from datetime import UTC, datetime
from importlib.metadata import version

from zarrmill.model import Measured

SHAPING = ("zarrmill", "numpy", "numcodecs", "zarr", "xarray", "pyproj", "pystac")
"""Packages whose versions shape results."""


class Meter:
    """Measures from its creation on."""

    def __init__(self, *, attempt: int = 1, threads: int = 1) -> None:
        self._attempt, self.threads = attempt, threads
        self._started, self._wall = datetime.now(UTC), time.perf_counter()
        self._cpu, self._last = time.process_time(), time.perf_counter()
        self._steps: dict[str, float] = {}

    def step(self, name: str) -> None:
        """End the step that ran since the last call, and name it."""
        now = time.perf_counter()
        self._steps[name] = round(self._steps.get(name, 0.0) + now - self._last, 3)
        self._last = now

    def measured(self) -> Measured:
        """Return everything up to now."""
        return Measured(
            started=self._started.isoformat(timespec="seconds").replace("+00:00", "Z"),
            wall_s=round(time.perf_counter() - self._wall, 3),
            cpu_s=round(time.process_time() - self._cpu, 3),
            peak_rss_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            threads=self.threads,
            attempt=self._attempt,
            steps_s=dict(self._steps),
            software={name: version(name) for name in SHAPING},
        )
