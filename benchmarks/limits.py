"""What a conversion may take in absolute numbers, and how its memory goes with type, size and target."""

import importlib
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import measure

ROOT = Path(__file__).parent.parent
Json = dict[str, Any]  # Any: JSON values
L2A, L1C, GRD, BUCKET = "Sentinel-2 L2A", "Sentinel-2 L1C", "Sentinel-1 GRD", "Sentinel-2 L2A into a bucket"
LIMITS = {
    f"{L2A}: convert, peak memory, GB": (L2A, "full", "peak_bytes", 1e9, 0.8),
    f"{L1C}: convert, peak memory, GB": (L1C, "full", "peak_bytes", 1e9, 0.8),
    f"{GRD}: convert, peak memory, GB": (GRD, "full", "peak_bytes", 1e9, 1.0),
    f"{L2A}: objects": (L2A, "full", "n_objects", 1, 450),
    f"{L1C}: objects": (L1C, "full", "n_objects", 1, 450),
    f"{GRD}: objects": (GRD, "full", "n_objects", 1, 700),
    f"{L2A}: output, GB": (L2A, "full", "n_bytes", 1e9, 1.0),
    f"{L1C}: output, GB": (L1C, "full", "n_bytes", 1e9, 1.0),
}
"""Limit to type, size, number, its divisor, and the most that it should be; objects are the budgets of the recipes."""
FLAT = 1.25
"""Most that the memory of a product of twice the edge is to that of a whole one."""


def row(what: str, size: str, edge: str, cost: Mapping[str, Any], n_bytes: int | None, n_objects: int | None) -> Json:
    """Return what one conversion took; ``size`` is ``half``, ``full`` or ``double``, ``edge`` says it in pixels."""
    numbers = {key: cost[key] for key in ("wall_s", "cpu_s", "peak_bytes")}
    return {"what": what, "size": size, "edge": edge, **numbers, "n_bytes": n_bytes, "n_objects": n_objects}


def limits(rows: Sequence[Json]) -> dict[str, list[float]]:
    """Return name to what was found and the most that it should be, for all that was measured."""
    of = {(one["what"], one["size"]): one for one in rows}
    found = {
        name: [round(of[what, size][key] / divisor, 3), most]
        for name, (what, size, key, divisor, most) in LIMITS.items()
        if (what, size) in of and of[what, size][key] is not None
    }
    for what, small, large in ((L2A, "full", "double"), (GRD, "half", "full")):
        if (what, small) in of and (what, large) in of:
            ratio = of[what, large]["peak_bytes"] / of[what, small]["peak_bytes"]
            found[f"{what}: peak memory, {large} / {small} edge"] = [round(ratio, 3), FLAT]
    return found


def converted(command: Sequence[str], target: Path, log: Path, what: str, size: str, edge: str) -> Json:
    """Convert once into a folder that is empty before and gone after; return its row."""
    shutil.rmtree(target, ignore_errors=True)
    cost = measure.run(command, log, ROOT)
    sizes = measure.folder_size(target)
    shutil.rmtree(target)
    return row(what, size, edge, asdict(cost), *sizes)


def into_a_bucket(command: Callable[[str], Sequence[str]], folder: Path, log: Path, edge: str) -> Json:
    """Convert once into a bucket of a local S3 server, whose own memory does not count; return its row.

    Args: command: given the address of the stores, the command that converts into it.
    """
    sys.path.append(str(ROOT / "tests"))
    servers = importlib.import_module("s3_server")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with servers.s3_server(folder) as server, servers.bucket(server, "bench") as bucket:
        settings = [f"{name}={value}" for name, value in bucket.env("writer").items()]
        cost = measure.run(["env", *settings, *command(bucket.href("stores"))], log, ROOT)
        stored = [len(data) for data in bucket.contents("stores/").values()]
    shutil.rmtree(folder)
    return row(BUCKET, "full", edge, asdict(cost), sum(stored), len(stored))
