"""How a raster is cut into blocks of work, and the memory that the work takes: known before it starts.

A raster is read in bands of columns and, in a band, in stripes of rows. Both have fixed sizes, so memory does not grow with the
product, and whole coarse pixels, source chunks and target chunks, so nothing is read or computed twice.
"""

import math

import numpy as np

from zarrmill.core.warp import held_px
from zarrmill.errors import CapacityError
from zarrmill.model import ArrayPlan, RasterTask, StorePlan

STRIPE_ROWS = 252
"""Rows read at a time, rounded up to a multiple of the coarsest factor: few enough to stay in cache."""

BAND_PX = 10980
"""Columns read at a time where chunks and factors allow it: the width of a Sentinel-2 tile."""

WARPED_BAND_PX = 8192
"""Columns of an array that is warped."""

BASE_BYTES = 150_000_000
"""Memory of the process beside its workers: interpreter, libraries, metadata, small arrays."""


def stripe_rows(task: RasterTask) -> int:
    """Return the rows of a stripe, a multiple of every factor; fewer where a band has to be wider than ``BAND_PX``."""
    coarsest = max(factor for factor, _ in task.outputs)
    widest = max(right - left for left, right in column_bands(task))
    return math.ceil(STRIPE_ROWS * BAND_PX / max(widest, BAND_PX) / coarsest) * coarsest


def column_bands(task: RasterTask) -> list[tuple[int, int]]:
    """Return first and last (exclusive) column of each band.

    A band ends where a source chunk, a pixel of the coarsest level and a target chunk end, so it may have to be wider than
    ``BAND_PX``; an array that is warped is one band.
    """
    if task.warp is not None:
        width = task.warp.grid.shape[1]
        unit = math.lcm(*(factor for factor, _ in task.outputs), task.outputs[0][1].chunks[-1])
        step = unit * max(1, WARPED_BAND_PX // unit)
        return [(left, min(left + step, width)) for left in range(0, width, step)]
    width = task.source.shape[-1]
    cut = [factor * plan.chunks[-1] for factor, plan in task.outputs if plan.shape[-1] > plan.chunks[-1]]
    unit = math.lcm(task.source.chunks[-1], *(factor for factor, _ in task.outputs), *cut)
    step = unit * max(1, BAND_PX // unit)
    return [(left, min(left + step, width)) for left in range(0, width, step)]


def task_bytes(task: RasterTask) -> int:
    """Return the most memory in bytes that one worker needs for a task; source chunks count as if they did not compress.

    Of an array that is warped chunks are decoded in pieces; the lines count that are held while its bands cross them.
    """
    bands = column_bands(task)
    width = max(right - left for left, right in bands)
    itemsize = np.dtype(task.source.dtype).itemsize
    chunk_y, chunk_x = task.source.chunks[-2:]
    stripe = stripe_rows(task) * width
    if task.warp is None:
        source = min(chunk_y, task.source.shape[-2]) * math.ceil(width / chunk_x) * chunk_x * itemsize
    else:
        shape = (task.source.shape[0], task.source.shape[1])
        source = max(held_px(task.warp, shape, slice(*band), stripe_rows(task)) for band in bands) * itemsize
        itemsize = np.dtype(task.outputs[0][1].dtype).itemsize
    work = stripe * (3 * itemsize + (12 if len(task.outputs) > 1 else 0))  # decoded, copied, averaged: sums and counts
    chunks = sum(plan.chunks[-2] * (width // factor + plan.chunks[-1]) * itemsize for factor, plan in task.outputs)
    return source + work + chunks


def taken_bytes(plan: ArrayPlan) -> int:
    """Return the most memory in bytes that taking over one array needs: an object, as if not compressed, and a decoded chunk."""
    itemsize = np.dtype(plan.dtype).itemsize
    return (math.prod(plan.shards or plan.chunks) + 2 * math.prod(plan.chunks)) * itemsize


def n_workers(plan: StorePlan, threads: int, memory_mb: int, beside_bytes: int = 0) -> int:
    """Return how many workers, at most ``threads``, fit into ``memory_mb`` whichever tasks meet.

    Images that are warped together need their memory at once, however many workers there are; each works on small tiles.
    ``beside_bytes`` is what writing takes beside the workers.
    Raises: CapacityError: not even one does; the message says how much it takes.
    """
    images = sum(task_bytes(task) for task in plan.rasters if task.warp is not None)
    needs = [task_bytes(task) for task in plan.rasters if task.warp is None]
    needs = sorted([*needs, *(taken_bytes(taken.target) for taken in plan.taken)], reverse=True)
    for n in range(min(threads, max(len(needs), 1)), 0, -1):
        if BASE_BYTES + beside_bytes + max(images, sum(needs[:n])) <= memory_mb * 1_000_000:
            return n if needs else threads
    need_mb = math.ceil((BASE_BYTES + beside_bytes + max(images, sum(needs[:1]))) / 1_000_000)
    found = f"one worker needs {need_mb} MB, the recipe allows memory_mb {memory_mb}"
    raise CapacityError(f"{found}; raise memory_mb, or make chunk_px smaller (this makes another store)", kind="memory")
