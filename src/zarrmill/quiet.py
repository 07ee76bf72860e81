"""Libraries that warn of what is no matter of ours."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.RLock()


@contextmanager
def without_warnings() -> Iterator[None]:
    """Ignore warnings while the block runs; Python's filters are those of the whole process, so one thread at a time."""
    with _LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
