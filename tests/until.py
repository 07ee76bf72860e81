"""Waiting for something to become true."""

import time
from collections.abc import Callable


def until[T](ask: Callable[[], T], timeout_s: float = 30.0) -> T:
    """Return the first true answer; fail when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while not (answer := ask()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)
    return answer
