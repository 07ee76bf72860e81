"""The floor: what the machine needs to decode a product, average its levels and encode the result, and nothing else.

Reads a layout that was worked out before (``layout.json``), decodes every source chunk, writes the same chunk and shard bytes as
``zarrmill.stages.convert`` and stops: no metadata, small arrays, digests, journal, renames, flush, read-back or validation. Calls
c-blosc directly, each worker with its own fixed buffers; imports NumPy and numcodecs and nothing of zarrmill.

    python benchmarks/floor.py LAYOUT.json TARGET THREADS
"""

import ctypes
import json
import math
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numcodecs.blosc
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[Any]  # Any: unsigned integers of the source's width
STRIPE_ROWS = 252
OVERHEAD = 16
"""Bytes that blosc needs beside the data in the worst case."""
EMPTY = 2**64 - 1
SHUFFLE = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
BLOSC = ctypes.CDLL(numcodecs.blosc.__file__)
BLOSC.blosc_getitem.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
BLOSC.blosc_compress_ctx.argtypes = [
    *(ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p),
    *(ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int),
]


@dataclass
class Column:
    """One compressed source chunk and the part of it that is decoded: whole blosc blocks, each decoded once."""

    data: bytes
    width: int
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        """Read the header: version, versionlz, flags, typesize, nbytes, blocksize (c-blosc 1)."""
        n_bytes, block = (int.from_bytes(self.data[i : i + 4], "little") for i in (4, 8))
        self.n_items, self.block = n_bytes // self.dtype.itemsize, block // self.dtype.itemsize
        self.scale = self.dtype.itemsize // self.data[3]
        self.first = self.last = 0
        self.buffer = np.empty(0, self.dtype)

    def rows(self, start: int, stop: int) -> Pixels:
        """Return decoded rows; calls must go forward."""
        low, high = start * self.width, stop * self.width
        if high > self.last:
            end = min(math.ceil(high / self.block) * self.block, self.n_items)
            kept = self.buffer[low - self.first : self.last - self.first]
            room = np.empty(end - low, self.dtype)
            room[: len(kept)] = kept
            n_items = (end - self.last) * self.scale
            got = BLOSC.blosc_getitem(self.data, self.last * self.scale, n_items, room[len(kept) :].ctypes.data)
            if got != (end - self.last) * self.dtype.itemsize:
                raise RuntimeError(f"blosc error {got}")
            self.buffer, self.first, self.last = room, low, end
        return self.buffer[low - self.first : high - self.first].reshape(-1, self.width)


class Output:
    """One target array: a row of chunks is filled, encoded and appended to its shards."""

    def __init__(self, target: Path, plan: dict[str, Any], dtype: np.dtype[Any]) -> None:
        self.folder, self.dtype, self.codec = target / plan["path"] / "c", dtype, plan["codec"]
        (self.height, self.width), (self.chunk_y, self.chunk_x) = plan["shape"], plan["chunks"]
        shard = plan["shards"] or plan["chunks"]
        self.sharded, self.per_y, self.per_x = bool(plan["shards"]), shard[0] // self.chunk_y, shard[1] // self.chunk_x
        self.columns = math.ceil(self.width / self.chunk_x)
        # Padding beyond the array's edge holds the fill value, 0.
        self.row = np.zeros((self.columns, self.chunk_y, self.chunk_x), dtype)
        self.room = np.empty(self.row[0].nbytes + OVERHEAD, np.uint8)
        self.filled = self.n_rows = self.at = 0
        self.shards: dict[int, tuple[int, Pixels, list[int]]] = {}

    def append(self, rows: Pixels) -> None:
        """Take the next rows."""
        position = 0
        while position < len(rows):
            n = min(self.chunk_y - self.filled, len(rows) - position)
            whole = self.width // self.chunk_x
            part = rows[position : position + n]
            inside = part[:, : whole * self.chunk_x].reshape(n, whole, self.chunk_x)
            self.row[:whole, self.filled : self.filled + n] = inside.swapaxes(0, 1)
            if whole < self.columns:
                self.row[whole, self.filled : self.filled + n, : self.width % self.chunk_x] = part[:, whole * self.chunk_x :]
            self.filled, position, self.n_rows = self.filled + n, position + n, self.n_rows + n
            if self.filled == self.chunk_y or self.n_rows == self.height:
                self.flush()

    def flush(self) -> None:
        """Encode the row of chunks."""
        self.row[:, self.filled :] = 0
        for column, chunk in enumerate(self.row):
            if chunk[0, 0] or chunk.any():
                self.put(column, self.encode(chunk))
        self.filled, self.at = 0, self.at + 1
        if self.sharded and (self.n_rows == self.height or self.at % self.per_y == 0):
            for handle, index, _ in self.shards.values():
                raw = index.tobytes()
                os.write(handle, raw + google_crc32c.value(raw).to_bytes(4, "little"))
                os.close(handle)
            self.shards = {}

    def encode(self, chunk: Pixels) -> memoryview:
        """Return one chunk compressed."""
        item = self.dtype.itemsize
        shuffle = SHUFFLE[self.codec["shuffle"]] if item > 1 else 0
        room, level = self.room, self.codec["clevel"]
        how = (self.codec["cname"].encode(), self.codec["blocksize"], 1)
        n = BLOSC.blosc_compress_ctx(
            *(level, shuffle, item, chunk.nbytes, chunk.ctypes.data, room.ctypes.data, room.nbytes, *how)
        )
        if n <= 0:
            raise RuntimeError(f"blosc error {n}")
        return memoryview(room)[:n]

    def put(self, column: int, data: memoryview) -> None:
        """Append one chunk to its shard, or write it as an object."""
        place = (self.at // self.per_y, column // self.per_x)
        if place[1] not in self.shards:
            path = self.folder / str(place[0]) / str(place[1])
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            if not self.sharded:
                os.write(handle, data)
                os.close(handle)
                return
            self.shards[place[1]] = (handle, np.full((self.per_y * self.per_x, 2), EMPTY, "<u8"), [0])
        handle, index, end = self.shards[place[1]]
        index[self.at % self.per_y * self.per_x + column % self.per_x] = (end[0], len(data))
        end[0] += os.write(handle, data)


def average(stripe: Pixels, factors: list[int]) -> dict[int, Pixels]:
    """Return the mean of the valid (not 0) pixels of each block, for rising factors; rounded once, halves to even."""
    complete = bool(stripe.all())
    sums, counts = {1: stripe}, {1: np.empty(0, np.uint8) if complete else (stripe != 0).view(np.uint8)}
    levels = {}
    for factor in factors:
        parent = max(known for known in sums if factor % known == 0)
        sums[factor] = fold(sums[parent], factor // parent)
        if complete:
            means = sums[factor] / float(factor * factor)
        else:
            counts[factor] = fold(counts[parent], factor // parent)
            means = sums[factor] / np.maximum(counts[factor], 1)
        levels[factor] = np.rint(means).astype(stripe.dtype)
    return levels


def mode(stripe: Pixels, factors: list[int]) -> dict[int, Pixels]:
    """Return the most frequent class of each block, 0 only where it is alone, of equally frequent ones the smallest."""
    levels = {factor: np.zeros([size // factor for size in stripe.shape], stripe.dtype) for factor in factors}
    most = {factor: np.zeros(level.shape, np.uint32) for factor, level in levels.items()}
    for value in range(1, int(stripe.max()) + 1):
        counts = {1: (stripe == value).view(np.uint8)}
        for factor in factors if counts[1].any() else ():
            parent = max(known for known in counts if factor % known == 0)
            counts[factor] = fold(counts[parent], factor // parent)
            ahead = counts[factor] > most[factor]
            levels[factor][ahead], most[factor][ahead] = value, counts[factor][ahead]
    return levels


def fold(values: Pixels, factor: int) -> Pixels:
    """Return the sum of each block as uint32."""
    rows = np.add(values[0::factor], values[1::factor], dtype=np.uint32)
    for offset in range(2, factor):
        rows += values[offset::factor]
    out = rows[:, 0::factor] + rows[:, 1::factor]
    for offset in range(2, factor):
        out += rows[:, offset::factor]
    return out


RULES = {"average": average, "mode": mode}
"""How levels of the shipped recipe are made."""


def raster(source: Path, target: Path, task: dict[str, Any]) -> None:
    """Decode one source array and write all that is made from it."""
    dtype, (height, width), (chunk_y, chunk_x) = np.dtype(task["dtype"]), task["shape"], task["chunks"]
    outputs = {plan["factor"]: Output(target, plan, dtype) for plan in task["outputs"]}
    factors = [factor for factor in outputs if factor > 1]
    step = math.ceil(STRIPE_ROWS / max(outputs)) * max(outputs)
    columns: list[Column] = []
    loaded = -1
    stripe = np.empty((step, width), dtype)
    for start in range(0, height, step):
        stop = min(start + step, height)
        at = start
        while at < stop:
            if loaded != at // chunk_y:
                loaded, columns = at // chunk_y, []
                keys = [task["separator"].join((str(loaded), str(i))) for i in range(math.ceil(width / chunk_x))]
                columns = [Column((source / task["source"] / key).read_bytes(), chunk_x, dtype) for key in keys]
            end = min(stop, (loaded + 1) * chunk_y)
            for i, column in enumerate(columns):
                place = stripe[at - start : end - start, i * chunk_x : (i + 1) * chunk_x]
                place[:] = column.rows(at - loaded * chunk_y, end - loaded * chunk_y)[:, : place.shape[1]]
            at = end
        rows = stripe[: stop - start]
        levels = RULES[task["rule"]](rows, factors) if factors else {}
        for factor, output in outputs.items():
            output.append(rows if factor == 1 else levels[factor])


def main() -> None:
    """Run over the whole layout."""
    layout, target, threads = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]), int(sys.argv[3])
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda task: raster(Path(layout["source"]), target, task), layout["rasters"]))


if __name__ == "__main__":
    main()
