"""One driver a run: a lock that a killed process lets go by itself.

Snakemake's own lock outlives a killed driver and has to be removed by hand, so the profiles switch it off for this one.
"""

import fcntl
import os
from pathlib import Path
from typing import IO

from zarrmill.errors import StoreError
from zarrmill.io.places import Place


class RunLock:
    """Lock file of one run."""

    def __init__(self, root: Place) -> None:
        self._path = Path(root) / ".lock"
        self._handle: IO[str] | None = None

    def take(self) -> None:
        """Hold the run for this process until it ends.

        Raises: StoreError: another driver works on this run; its process id is named.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        handle = self._path.open("a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            handle.close()
            text = f"{self._path.parent}: process {owner} works on this run; let it finish or stop it"
            raise StoreError(text, kind="denied") from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        self._handle = handle

    def release(self) -> None:
        """Let the run go before the process ends."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None
