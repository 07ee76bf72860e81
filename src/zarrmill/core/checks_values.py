"""Comparing the pixels of a store with its source: every source block is read once and feeds all levels made from it."""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zarrmill.core.levels_expected import Accumulator, Cell, Comparison, Layers, expected, first_layers, fold, pick_nearest
from zarrmill.core.rules import Rule

BLOCK_BYTES = 64_000_000
"""Decoded bytes that one block has at most, unless one chunk is larger."""
Region = tuple[slice, ...]
Pixels = NDArray[Any]  # Any: pixels keep the dtype that they are stored with


class Readable(Protocol):
    """An array that can be read by region."""

    @property
    def path(self) -> str:
        """Path in its store."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape in pixels."""
        ...

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of what one object holds."""
        ...

    @property
    def inner(self) -> tuple[int, ...]:
        """Shape of the smallest piece that can be decoded alone."""
        ...

    @property
    def n_bytes(self) -> int:
        """Decoded bytes."""
        ...

    def read(self, region: Region) -> Pixels | str:
        """Return values, or say why they cannot be decoded."""
        ...


@dataclass(frozen=True, slots=True)
class LevelTarget:
    """A computed level of an array."""

    array: Readable
    factor: int
    """Finest pixels along one edge of a cell."""
    rule: Rule
    nodata: int | None
    """Integer that means no data in a mean; None where there is none."""


@dataclass(frozen=True, slots=True)
class Job:
    """One array to read once: a source array with what it feeds, or a store array that is only decoded."""

    base: Readable
    """What is read: the source array, or the store array itself when there is nothing to compare with."""
    native: Readable | None = None
    """Store array at the same path; None when there is none, or when only decoding."""
    levels: tuple[LevelTarget, ...] = ()
    """Computed levels, fine to coarse."""
    decode_only: bool = False
    suspects: tuple[Region, ...] = ()
    """Where the store has no chunk object, in pixels of the base array; read even when only a sample is."""

    def regions(self) -> list[Region]:
        """Blocks in which the base array is read."""
        whole = tuple(slice(0, size) for size in self.base.shape)
        return list(split(whole, self.base, tuple(level.factor for level in self.levels)))

    @property
    def cost_bytes(self) -> int:
        """Estimate of the memory that the job needs: block twice (decoded chunk and its copy), found block, sums."""
        n_pixels = max(math.prod(self.base.shape), 1)
        block = max((math.prod(s.stop - s.start for s in region) for region in self.regions()), default=0)
        block_bytes = block * self.base.n_bytes // n_pixels
        return 2 * block_bytes + min(block_bytes, BLOCK_BYTES) + (block_bytes * 3 // 2 if self.levels else 0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One check on values, to be counted."""

    ok: bool
    code: str
    path: str
    message: str


@dataclass(slots=True)
class JobResult:
    """What one job found."""

    outcomes: list[Outcome] = field(default_factory=list)
    n_pixels: int = 0
    """Store pixels that were compared."""
    n_blocks: int = 0
    n_blocks_all: int = 0


@dataclass(slots=True)
class _Tally:
    """Comparison of one store array, with what went wrong on the way."""

    array: Readable
    found: Comparison = field(default_factory=Comparison)
    damaged: list[str] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)


def split(region: Region, array: Readable, factors: tuple[int, ...] = ()) -> Iterator[Region]:
    """Cut a region into blocks of whole chunks, up to ``BLOCK_BYTES`` each, whose edges suit as many factors as possible."""
    if not array.shape:
        yield ()
        return
    item = max(array.n_bytes // max(math.prod(array.shape), 1), 1)
    unit = array.chunks if math.prod(array.chunks) * item <= BLOCK_BYTES else array.inner
    edges = [min(chunk, size) for chunk, size in zip(unit, array.shape, strict=True)]
    for d in reversed(range(len(edges))):
        room = max(BLOCK_BYTES // max(math.prod(edges) * item, 1), 1)
        most = min(room, -(-array.shape[d] // edges[d]))
        edges[d] *= max((sum(edges[d] * k % f == 0 for f in factors), k) for k in range(1, most + 1))[1]
    steps = [range(s.start // edge * edge, s.stop, edge) for s, edge in zip(region, edges, strict=True)]
    for starts in product(*steps):
        yield tuple(slice(max(a, s.start), min(a + e, s.stop)) for a, e, s in zip(starts, edges, region, strict=True))


def sample(regions: list[Region], share: float, seed: str) -> list[Region]:
    """Return a seeded share of blocks in order, at least one."""
    if share >= 1 or not regions:
        return regions
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
    n_taken = max(1, math.ceil(share * len(regions)))
    return [regions[i] for i in sorted(rng.choice(len(regions), n_taken, replace=False))]


def run_job(
    job: Job, share: float, seed: str, absent: Callable[[str, tuple[int, ...]], str | None], progress: Callable[[int], None]
) -> JobResult:
    """Read and compare one job.

    Args: share: of blocks to compare, 1 for all; absent: key of a chunk object by path and index when it is not there;
    progress: called with the decoded bytes of each block.
    """
    regions = job.regions()
    taken = sample(regions, share, f"{seed}|{job.base.path}")
    chosen = [r for r in regions if r in taken or any(_overlap(r, suspect) for suspect in job.suspects)]
    result = JobResult(n_blocks=len(chosen), n_blocks_all=len(regions))
    base, native = _Tally(job.base), _Tally(job.native) if job.native else None
    levels = [_Tally(level.array) for level in job.levels]
    sums = _Sums(job, levels, complete=len(chosen) == len(regions))
    for region in chosen:
        pixels = job.base.read(region)
        if isinstance(pixels, str):
            base.damaged += _damaged_chunks(job.base, region, pixels)
            sums.complete = False
        else:
            if native is not None:
                _compare_native(native, pixels, region, absent)
            if job.levels:
                sums.add(pixels, (region[0].start, region[1].start), absent)
        progress(_region_bytes(job.base, region))
    sums.finish(absent)
    code = "values.undecodable" if job.decode_only else "values.source"
    result.outcomes.append(_damage(code, base))
    for tally, kind in [(native, "values.native"), *((tally, "values.level") for tally in levels)]:
        if tally is not None:
            result.outcomes += _outcomes(tally, kind)
            result.n_pixels += tally.found.n
    return result


def _overlap(a: Region, b: Region) -> bool:
    return all(one.start < two.stop and two.start < one.stop for one, two in zip(a, b, strict=True))


def _region_bytes(array: Readable, region: Region) -> int:
    n_pixels: int = math.prod(s.stop - s.start for s in region)
    return n_pixels * array.n_bytes // max(math.prod(array.shape), 1)


def _damaged_chunks(array: Readable, region: Region, why: str) -> list[str]:
    """Say which chunks of a region cannot be decoded by reading each alone."""
    told = []
    steps = [range(s.start // c * c, s.stop, c) for s, c in zip(region, array.chunks, strict=True)]
    for starts in product(*steps):
        one = tuple(slice(a, min(a + c, n)) for a, c, n in zip(starts, array.chunks, array.shape, strict=True))
        answer = array.read(one)
        if isinstance(answer, str):
            told.append(f"chunk {tuple(a // c for a, c in zip(starts, array.chunks, strict=True))}: {answer}")
    return told or [why]


def _compare_native(tally: _Tally, pixels: Pixels, region: Region, absent: Callable[[str, tuple[int, ...]], str | None]) -> None:
    origin = tuple(s.start for s in region)
    for part in split(region, tally.array):
        inside = tuple(slice(s.start - o, s.stop - o) for s, o in zip(part, origin, strict=True))
        _compare(tally, pixels[inside] if inside else pixels, part, absent)


def _compare(
    tally: _Tally, wanted: Pixels, region: Region, absent: Callable[[str, tuple[int, ...]], str | None], close: bool = False
) -> None:
    """Compare one region of a store array with what it must hold."""
    found = tally.array.read(region)
    if isinstance(found, str):
        tally.damaged += _damaged_chunks(tally.array, region, found)
        return
    if close and found.dtype.kind == "f":
        found = np.where(np.isclose(found, wanted, rtol=1e-6, atol=0, equal_nan=True), wanted, found)
    different = tally.found.add(found, wanted, tuple(s.start for s in region))
    if different is None:
        return
    chunks = tally.array.chunks
    spans = [range(s.start // c, (s.stop - 1) // c + 1) for s, c in zip(region, chunks, strict=True)]
    for index in product(*spans):
        place = tuple(
            slice(max(i * c - s.start, 0), (i + 1) * c - s.start) for i, c, s in zip(index, chunks, region, strict=True)
        )
        if different[place].any() and (key := absent(tally.array.path, index)) is not None:
            tally.missing.add(key)


class _Sums:
    """All levels of one array, fed block by block."""

    def __init__(self, job: Job, tallies: list[_Tally], complete: bool) -> None:
        self.job = job
        self.tallies = tallies
        self.complete = complete
        """Every block is read, so cells that are cut by block edges can be put together."""
        self.cut: dict[int, Accumulator] = {}
        """Levels that some block edge cuts, by their place in ``job.levels``."""
        if complete:
            regions = job.regions()
            for i, level in enumerate(job.levels):
                # The nearest pixel lies in one block, so its cells need not be put together.
                if level.rule != "nearest" and any(not _whole(r, level.factor, job.base.shape) for r in regions):
                    self.cut[i] = Accumulator(level.rule, (level.array.shape[0], level.array.shape[1]))

    def add(self, pixels: Pixels, start: Cell, absent: Callable[[str, tuple[int, ...]], str | None]) -> None:
        """Fold one block to every level: each from the coarsest partial result that its cells are made of."""
        region = tuple(slice(s, s + n) for s, n in zip(start, pixels.shape, strict=True))
        parts: dict[tuple[Rule, int | None], dict[int, Layers]] = {}
        for i, level in enumerate(self.job.levels):
            if level.rule == "nearest":
                self._nearest(i, level, pixels, start, absent)
                continue
            known = parts.setdefault((level.rule, level.nodata), {})
            if not known:
                known[1] = first_layers(pixels, level.rule, level.nodata)
            # Fold as far as the block's edges allow in one go; only the small rest goes through cut cells.
            step = max(f for f in range(1, level.factor + 1) if level.factor % f == 0 and _whole(region, f, self.job.base.shape))
            if step not in known:
                finer = max(f for f in known if step % f == 0 and _whole(region, f, self.job.base.shape))
                known[step] = fold(known[finer], level.rule, step // finer, (start[0] // finer, start[1] // finer))
            layers = fold(known[step], level.rule, level.factor // step, (start[0] // step, start[1] // step))
            known[level.factor] = layers
            cell = (start[0] // level.factor, start[1] // level.factor)
            if i in self.cut:
                self.cut[i].add(layers, cell)
            else:
                layers, cell = _inner(layers, region, level.factor, cell)
                self._compare(i, layers, cell, pixels.dtype, absent)

    def _nearest(
        self, i: int, level: LevelTarget, pixels: Pixels, start: Cell, absent: Callable[[str, tuple[int, ...]], str | None]
    ) -> None:
        picked, cell = pick_nearest(pixels, level.factor, start)
        if picked.size:
            region = tuple(slice(c, c + n) for c, n in zip(cell, picked.shape, strict=True))
            _compare(self.tallies[i], picked, region, absent)

    def _compare(
        self, i: int, layers: Layers, cell: Cell, dtype: np.dtype[Any], absent: Callable[[str, tuple[int, ...]], str | None]
    ) -> None:
        wanted = expected(layers, self.job.levels[i].rule, dtype, self.job.levels[i].nodata)
        if not wanted.size:
            return
        region = tuple(slice(c, c + n) for c, n in zip(cell, wanted.shape, strict=True))
        origin = cell
        for part in split(region, self.tallies[i].array):
            inside = tuple(slice(s.start - o, s.stop - o) for s, o in zip(part, origin, strict=True))
            _compare(self.tallies[i], wanted[inside], part, absent, close=True)

    def finish(self, absent: Callable[[str, tuple[int, ...]], str | None]) -> None:
        """Compare the levels that had to be put together; not when a block of the source could not be read."""
        if not self.complete:
            return
        for i, accumulator in self.cut.items():
            dtype = np.dtype(getattr(self.job.base, "dtype", "uint16"))
            self._compare(i, accumulator.layers, (0, 0), dtype, absent)


def _whole(region: Region, factor: int, shape: tuple[int, ...]) -> bool:
    """Whether no cell of ``factor`` pixels is cut by an edge of the region."""
    return all(s.start % factor == 0 and (s.stop % factor == 0 or s.stop == n) for s, n in zip(region, shape, strict=True))


def _inner(layers: Layers, region: Region, factor: int, cell: Cell) -> tuple[Layers, Cell]:
    """Drop the outer cells that an edge of the region cuts (sampled blocks)."""
    head = [1 if s.start % factor else 0 for s in region]
    tail = [1 if s.stop % factor else 0 for s in region]
    pick = tuple(slice(h, None if not t else -t) for h, t in zip(head, tail, strict=True))
    return {key: layer[pick] for key, layer in layers.items()}, (cell[0] + head[0], cell[1] + head[1])


def _damage(code: str, tally: _Tally) -> Outcome:
    told = "; ".join(tally.damaged[:5]) + (f"; {len(tally.damaged)} in all" if len(tally.damaged) > 5 else "")
    return Outcome(not tally.damaged, code, tally.array.path, f"cannot be decoded: {told}")


def _outcomes(tally: _Tally, kind: str) -> list[Outcome]:
    found, path = tally.found, tally.array.path
    text = f"{found.n_different} of {found.n} pixels differ, first {found.first}"
    outcomes = [_damage("values.undecodable", tally)]
    missing = sorted(tally.missing)
    told = f"{len(missing)} chunk objects are absent where data are expected, first {missing[:3]}"
    outcomes.append(Outcome(not missing, "structure.missing_chunk", path, told))
    if found.n:
        outcomes.append(Outcome(found.n_different == 0, kind, path, text))
        text = f"{found.nodata_found} nodata pixels, expected {found.nodata_expected}"
        outcomes.append(Outcome(found.nodata_found == found.nodata_expected, "values.nodata", path, text))
    return outcomes
