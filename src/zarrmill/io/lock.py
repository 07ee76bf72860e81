"""One driver a run: a lock that a killed process lets go by itself.

Snakemake's own lock outlives a killed driver and has to be removed by hand, so the profiles switch it off for this one. On disk
the kernel lets go; in a bucket it is a lease that the driver renews while it lives. Who changes the manifest takes it too: the
manifest of a run at work must stay as it is.
"""

import atexit
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from zarrmill.errors import StoreError, UnknownStateError
from zarrmill.io import bucket
from zarrmill.io.lease import HeldError, Lease
from zarrmill.io.places import Place, write_error


class RunLock:
    """Lock of one run."""

    def __init__(self, root: Place) -> None:
        self._place = root / ".lock"
        self._handle: IO[str] | None = None
        self._lease: Lease | None = None

    def take(self, on_lost: Callable[[str], None] | None = None) -> None:
        """Hold the run for this process until it ends; wait for a driver that was killed to be out of its lease.

        Args: on_lost: told why, in another thread and once, when another driver has taken the run over; on disk that cannot be.
        Raises: UnknownStateError: another driver works on this run, its process id is named, or the bucket cannot be asked;
            StoreError: the place cannot be written; CapacityError: the disk is full.
        """
        if self._place.local:
            try:
                self._lock(self._place.local)
            except OSError as error:
                raise write_error(error, str(self._place)) from error
            return
        self._place.now()  # an outage is no refusal
        self._lease = Lease(*bucket.split(str(self._place)), what="this run", on_lost=on_lost)
        try:
            self._lease.take(wait_s=bucket.settings().lease_s * 1.2)
        except HeldError as error:
            self._lease = None
            raise UnknownStateError(error.message, kind="taken") from error
        atexit.register(self.release)

    @contextmanager
    def held(self) -> Iterator["RunLock"]:
        """Hold the run while the block runs. Raises: as ``take``."""
        self.take()
        try:
            yield self
        finally:
            self.release()

    def check(self) -> None:
        """Raise StoreError when the run is not certainly held any more."""
        if self._lease is not None:
            self._lease.check()

    def release(self) -> None:
        """Let the run go before the process ends."""
        if self._handle is not None:
            with suppress(OSError):
                self._handle.truncate(0)
            self._handle.close()
            self._handle = None
        if self._lease is not None:
            with suppress(StoreError):
                self._lease.check()  # else it is another driver's by now
                self._lease.remove()
            self._lease = None
            atexit.unregister(self.release)

    def _lock(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            handle.close()
            text = f"{path.parent}: process {owner} works on this run; let it finish or stop it"
            raise UnknownStateError(text, kind="taken") from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        self._handle = handle
