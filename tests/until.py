"""Waiting for something to become true."""

import os
import time
from collections.abc import Callable

PATIENCE = float(os.environ.get("ZARRMILL_TEST_PATIENCE", "1"))
"""How many times longer than usual to wait: for machines that do much else."""


def until[T](ask: Callable[[], T], timeout_s: float = 30.0) -> T:
    """Return the first true answer; fail when there is none in time."""
    deadline = time.monotonic() + timeout_s * PATIENCE
    while not (answer := ask()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return answer
