"""One writer a store in a bucket, where no lock dies with its process: a lease that has to be renewed.

The holder keeps an object ``<store>.journal/<generation>.json`` and writes it again every few seconds, together with what it has
finished (the journal); a second after it finished something. Whoever comes next reads the object of the highest generation:
while it is fresh, it waits; when it was released or has gone stale, it creates the next generation on the condition that there
is none, which one of many can do. A holder that finds a higher generation, or could not renew in time, must not write any more.

Fresh and stale are told by the server's clock alone (``Last-Modified`` against ``Date``), a holder's own time by its monotonic
clock: clocks of machines may be wrong. The service has to honour ``If-None-Match: *``.
"""

import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from zarrmill.errors import StoreError
from zarrmill.io import bucket as buckets
from zarrmill.io.logs import logger
from zarrmill.model import Json

_OWN = 0.8
"""Share of the lease that its holder counts on; the rest covers the whole seconds that servers tell times in."""

_HAND_ON_S = 1.0
"""Time after which what was noted is in the bucket, when the service answers: a kill costs what was finished within it."""


class HeldError(StoreError):
    """Another process holds the lease and renews it."""


@dataclass(frozen=True, slots=True)
class _Held:
    """The object of the highest generation."""

    generation: int
    age_s: float
    """Seconds since it was written, by the server's clock."""
    body: Mapping[str, Any]


class Lease:
    """The right to write one store, and the entries that its holders hand on."""

    def __init__(self, bucket: str, prefix: str, what: str = "this store", on_lost: Callable[[str], None] | None = None) -> None:
        """Lease and journal are below ``prefix``; ``what`` is held, for messages.

        Args: on_lost: told once, by the thread that renews, when another process has taken over. A lease that ran out while the
            service could not be asked is not lost: it is renewed when nobody took it.
        """
        self.place = f"s3://{bucket}/{prefix}"
        self._bucket, self._prefix = bucket, prefix
        self._what, self._on_lost = what, on_lost
        self._seconds = buckets.settings().lease_s
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(4).hex()}"
        self._generation = 0
        self._until = 0.0
        self._lost, self._removed = "", False
        self._lock, self._end = threading.Lock(), threading.Event()
        self._entries: dict[str, Json] = {}
        self._is_new = False
        """Whether something was noted that is not in the bucket yet."""
        self._thread: threading.Thread | None = None

    def take(self, wait_s: float) -> dict[str, Json]:
        """Become the one writer and return the entries of those before; wait while another one is at work.

        Raises: HeldError: another process still writes this store after ``wait_s``; StoreError: the bucket cannot be used.
        """
        deadline = time.monotonic() + wait_s
        while True:
            asked = time.monotonic()  # a pause between the answer and this look at it is nobody's time
            with buckets.writing(self.place):
                held = self._highest()
                free = held is None or held.body.get("released") or held.age_s >= self._seconds
                if free and self._create(held):
                    break
            if asked > deadline:
                owner = held.body.get("owner", "unknown") if held else "unknown"
                text = f"another process ({owner}) writes {self._what}; let it finish, or wait {self._seconds:g} s after its end"
                raise HeldError(f"{self.place}: {text}", kind="denied")
            time.sleep(min(1.0, self._seconds / 4))
        self._thread = threading.Thread(target=self._renew_regularly, name="lease", daemon=True)
        self._thread.start()
        return dict(self._entries)

    def check(self) -> None:
        """Raise StoreError when this process is not certainly the one writer any more."""
        if self._lost or time.monotonic() > self._until:
            reason = self._lost or f"the lease could not be renewed for {self._seconds:g} s"
            raise StoreError(f"{self.place}: {reason}; run again", kind="lost")

    def record(self, name: str, entry: Json) -> None:
        """Note an entry; the next writer has it once it was carried into the bucket, which takes about a second."""
        with self._lock:
            self._entries[name] = entry
            self._is_new = True

    def release(self) -> None:
        """Let the next writer in at once, and hand the entries on. A service that cannot be asked is told of, no more."""
        self._stop()
        if self._removed:
            return
        try:
            self.check()
            self._put(self._generation, released=True)
        except _troubles() as error:
            logger().warning("lease not released, it ends by itself", place=self.place, reason=str(error))

    def remove(self) -> None:
        """Remove lease and journal: the store is sealed. Without the right to delete they stay, which does no harm."""
        self._stop()
        client = buckets.client(self._bucket)
        try:
            for _, key, _ in self._listed()[0]:
                client.delete_object(Bucket=self._bucket, Key=key)
            self._removed = True
        except buckets.failures() as error:
            logger().warning("journal not removed", place=self.place, reason=str(error))

    def _stop(self) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def _listed(self) -> tuple[list[tuple[int, str, float]], float]:
        """Return generation, key and time of every object, and the server's time."""
        answer = self._client().list_objects_v2(Bucket=self._bucket, Prefix=f"{self._prefix}/")
        found = []
        for item in answer.get("Contents", []):
            name = re.fullmatch(r"(\d+)\.json", item["Key"].rpartition("/")[2])
            if name:
                found.append((int(name[1]), item["Key"], item["LastModified"].timestamp()))
        now = buckets.server_time(answer)
        if now is None:
            raise StoreError(
                f"{self.place}: the service tells no Date, so no lease can be judged; tell its operator", kind="denied"
            )
        return found, now

    def _highest(self) -> _Held | None:
        found, now = self._listed()
        if not found:
            return None
        generation, key, written = max(found)
        try:
            data = buckets.read(self._client(), self._bucket, key)
        except buckets.failures() as error:
            if buckets.reason_of(error)[0] == "absent":
                return None  # its holder has just finished
            raise
        try:
            body = json.loads(data)
        except ValueError:
            body = {}
        return _Held(generation, now - written, body if isinstance(body, dict) else {})

    def _create(self, held: _Held | None) -> bool:
        """Return whether the next generation is ours."""
        started = time.monotonic()
        self._entries = dict(held.body.get("entries", {})) if held else {}
        generation = held.generation + 1 if held else 1
        try:
            self._put(generation, IfNoneMatch="*")
        except buckets.failures() as error:
            if buckets.reason_of(error)[0] == "exists":
                return self._is_ours(generation)  # another one was quicker, unless the answer to an earlier try was lost
            raise
        self._generation, self._until = generation, started + _OWN * self._seconds
        return True

    def _is_ours(self, generation: int) -> bool:
        started = time.monotonic()
        held = self._highest()
        if held is None or held.generation != generation or held.body.get("owner") != self._owner:
            return False
        self._generation, self._until = generation, started + _OWN * self._seconds - held.age_s
        return True

    def _put(self, generation: int, *, released: bool = False, **condition: str) -> None:
        with self._lock:
            body = json.dumps({"owner": self._owner, "released": released, "entries": self._entries})
            self._is_new = False
        key = f"{self._prefix}/{generation:06d}.json"
        self._client().put_object(Bucket=self._bucket, Key=key, Body=body.encode(), **condition)

    def _renew_regularly(self) -> None:
        every, renewed = self._seconds / 6, time.monotonic()
        while not self._end.wait(min(every, _HAND_ON_S)) and not self._lost:
            is_due = time.monotonic() - renewed >= every
            try:
                if is_due:
                    self._renew()
                    renewed = time.monotonic()
                elif self._is_new:
                    self.check()  # whoever took over would not see it
                    self._put(self._generation)
            except _troubles() as error:
                self._is_new = True
                logger().warning("lease not renewed, tried again", place=self.place, reason=str(error)[:300])
        if self._lost and self._on_lost is not None:
            self._on_lost(f"{self.place}: {self._lost}")

    def _renew(self) -> None:
        started = time.monotonic()
        highest = max((generation for generation, _, _ in self._listed()[0]), default=0)
        if highest != self._generation:
            self._lost = f"another process took {self._what} over"
            return
        self._put(self._generation)
        self._until = started + _OWN * self._seconds

    def _client(self) -> Any:  # boto3 makes its clients at run time
        """Return a client that gives up early: a renewal that comes too late is worth nothing."""
        return buckets.client(self._bucket, timeout_s=max(self._seconds / 4, 1.0), retries=1)


def _troubles() -> tuple[type[Exception], ...]:
    return (*buckets.failures(), StoreError)
