"""Conversions killed with SIGKILL, in forks of a process that imports zarrmill once: ``python tests/killed.py ORDER``.

An order is JSON: ``source``, ``product_type``, ``recipe`` (its file form), ``root``, ``threads``, ``reverse`` (largest arrays
last) and ``kills``, the moments at which attempts on one store are killed before one runs to its end (unless ``last`` is false).
A moment is ``["s", seconds]``, ``["bytes", share]`` or ``["objects", share]`` of what an undisturbed conversion writes
(``whole``: its numbers of bytes and objects), or ``["file", path]``: when that file is there. In a bucket only the first and the
last are known. ``env`` and ``s3`` say how the bucket is reached; ``band_px`` is the width of a band of a radar map. The answer
is JSON: what each attempt wrote.
"""

import json
import mmap
import os
import signal
import struct
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

Json = dict[str, Any]  # Any: JSON values


class Tally:
    """Bytes and objects that a process wrote, in memory that outlives it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16)

    @property
    def values(self) -> tuple[int, int]:
        n_bytes, n_objects = struct.unpack("<qq", self._memory[:16])
        return n_bytes, n_objects

    def add(self, n_bytes: int, n_objects: int) -> tuple[int, int]:
        old = self.values
        self._memory[:16] = struct.pack("<qq", old[0] + n_bytes, old[1] + n_objects)
        return self.values


def _watch(tally: Tally, limits: tuple[float, float]) -> None:
    """Count what is written; kill this process when a limit is reached, in the middle of a write."""
    import threading

    from zarrmill.io.store import ObjectSink

    append, close, lock = ObjectSink.append, ObjectSink.close, threading.Lock()

    def counted_append(self: ObjectSink, data: bytes) -> None:
        with lock:
            n_bytes, _ = tally.values
            if n_bytes + len(data) > limits[0]:
                append(self, data[: len(data) // 2])
                tally.add(len(data) // 2, 0)
                os.kill(os.getpid(), signal.SIGKILL)
            tally.add(len(data), 0)
        append(self, data)

    def counted_close(self: ObjectSink) -> Any:
        written = close(self)
        with lock:
            if tally.add(0, 1)[1] > limits[1]:
                os.kill(os.getpid(), signal.SIGKILL)
        return written

    ObjectSink.append, ObjectSink.close = counted_append, counted_close  # type: ignore[method-assign]


def _convert(order: Json) -> None:
    from products import product_row

    from zarrmill.config import S3, Recipe
    from zarrmill.core import blocks
    from zarrmill.io import bucket as buckets
    from zarrmill.io import lease
    from zarrmill.stages import convert as stage

    os.environ.update(order.get("env", {}))
    buckets.use(S3.model_validate(order.get("s3", {})))
    lease._HAND_ON_S = order.get("hand_on_s", lease._HAND_ON_S)
    blocks.WARPED_BAND_PX = order.get("band_px", blocks.WARPED_BAND_PX)

    if order.get("reverse"):
        planned = stage.plan_store

        def plan_store(*arguments: Any) -> Any:
            plan = planned(*arguments)
            return replace(plan, rasters=tuple(reversed(plan.rasters)))

        stage.plan_store = plan_store
    recipe = Recipe.model_validate(order["recipe"])
    product = product_row(Path(order["source"]), recipe, order["product_type"])
    stage.convert(product, recipe=recipe, store_root=order["root"], threads=order["threads"])


def _attempt(order: Json, moment: list[Any] | None) -> Json:
    tally = Tally()
    kind, value = moment or ("", 0)
    n_bytes, n_objects = order.get("whole", (0, 0))
    limits = (
        value * n_bytes if kind == "bytes" else float("inf"),
        value * n_objects if kind == "objects" else float("inf"),
    )
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            _watch(tally, limits)
            _convert(order)
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)
    if kind == "s":
        time.sleep(value)
        os.kill(pid, signal.SIGKILL)
    while kind == "file" and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        if Path(value).exists():
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    _, status = os.waitpid(pid, 0)
    wall = time.monotonic() - started
    return {"code": os.waitstatus_to_exitcode(status), "n_bytes": tally.values[0], "n_objects": tally.values[1], "wall_s": wall}


def main() -> None:
    """Answer each order on standard input with one line."""
    import zarrmill.stages.convert  # noqa: F401

    for line in sys.stdin:
        order = json.loads(line)
        last = [None] if order.get("last", True) else []
        attempts = [_attempt(order, moment) for moment in [*order["kills"], *last]]
        sys.stdout.write(json.dumps(attempts) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
