"""Comparing the pixels of a store with its source: every stripe of the source is read once and feeds all levels made from it."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from zarrmill.core.levels_expected import Comparison, expected_levels
from zarrmill.core.rules import Rule

STRIPE_BYTES = 12_000_000
"""Decoded bytes that one stripe has at most, if the coarsest level allows it: memory does not grow with the product."""
BAND_PX = 10_980
"""Columns of a stripe at most where chunks and cells allow it: the width of a Sentinel-2 tile."""
Region = tuple[slice, ...]
Pixels = NDArray[Any]  # Any: pixels keep the dtype that they are stored with
_Room = tuple[float, float]
"""How far floats may differ: relative to what they must be, and absolute."""
_AXIS_RTOL, _AXIS_PX = 1e-12, 1e-3
"""Room of coordinates, the second one in pixels: as much as ``core.grid.grid_from_centres`` takes for regular."""
_SUM_RTOL = 1e-12
Absent = Callable[[str, tuple[int, ...]], str | None]
"""Returns the key of a chunk object, by path and index, when it is not there."""


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

    @property
    def held_bytes(self) -> int:
        """Decoded bytes that are held beside a stripe while stripes are read one after the other."""
        ...

    def read(self, region: Region) -> Pixels | str:
        """Return values, or say why they cannot be decoded."""
        ...

    def parts(self, region: Region) -> Iterator[tuple[Region, Pixels | str]]:
        """Return values as they are decoded, with their place in the region; what cannot be decoded ends it, told instead."""
        ...


class Rereadable(Readable, Protocol):
    """An array that can be read in two ways, by code of two origins."""

    def read_again(self, region: Region) -> Pixels | str:
        """Return what ``read`` returns, read the other way."""
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
    """Where the store has no chunk object and may have lost one, in pixels of the base array; read even when only a sample is."""
    fill_is_zero: bool = True
    """What the store does not have reads as 0."""

    def regions(self, share: float = 1.0) -> list[Region]:
        """Stripes in which the base array is read; no edge of theirs cuts a cell of a level.

        Args: share: of them that will be read; a small one gives low stripes, so that one is not much more than was asked for.
        """
        if len(self.base.shape) < 2:
            return list(stripes(self.base))
        cell = math.lcm(*(level.factor for level in self.levels))
        natives = [array.inner[-2:] for array in (self.base, self.native) if array]
        levels = [level.factor * level.array.inner[-1] for level in self.levels if level.array.inner[-1] < level.array.shape[-1]]
        width = math.lcm(*(inner[1] for inner in natives), *levels)
        heights = (math.lcm(*(inner[0] for inner in natives)), natives[-1][0])
        return list(stripes(self.base, cell, heights, width, share))

    @property
    def cost_bytes(self) -> int:
        """Estimate of the memory that the job needs: stripe, found stripe, what is made of them, decoded chunks."""
        shape = max((tuple(s.stop - s.start for s in region) for region in self.regions()), key=math.prod, default=())
        arrays = [self.base, *([self.native] if self.native else []), *(level.array for level in self.levels)]
        n_pixels: int = math.prod(shape)
        return 3 * n_pixels * _item_bytes(self.base) + sum(array.held_bytes for array in arrays)


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
    damaged: dict[str, None] = field(default_factory=dict)
    """What cannot be decoded, in the order in which it was met."""
    missing: set[str] = field(default_factory=set)

    def damage(self, region: Region, why: str) -> None:
        """Note what of a region cannot be decoded."""
        self.damaged.update(dict.fromkeys(_damaged_chunks(self.array, region, why)))


def _item_bytes(array: Readable) -> int:
    n_items: int = math.prod(array.shape)
    return max(array.n_bytes // max(n_items, 1), 1)


def stripes(array: Readable, cell: int = 1, heights: Sequence[int] = (), width: int = 1, share: float = 1.0) -> Iterator[Region]:
    """Cut an array into stripes of up to ``STRIPE_BYTES`` where a cell is not higher, in bands of up to ``BAND_PX`` columns.

    Args: cell: both sides are multiples of this, but for the last ones; heights: the height is a multiple of the first of these
    that fits; width: the width is a multiple of this; share: of the rows, the height of a stripe when less than all will be read.
    """
    shape, item = array.shape, _item_bytes(array)
    lead = max(len(shape) - 2, 0)
    if 0 in shape or not shape or (lead and math.prod(shape) * item <= STRIPE_BYTES):
        yield tuple(slice(0, n) for n in shape)
        return
    n_rows, n_columns = (*shape[lead:], 1)[:2]
    unit = math.lcm(cell, width)
    bands = _cut(n_columns, max(BAND_PX // unit, 1) * unit)
    room = max(STRIPE_BYTES // (bands[0].stop * item), 1)
    if share < 1:
        room, heights = min(room, int(share * n_rows)), ()
    unit = next((unit for height in heights if (unit := math.lcm(cell, height)) <= room), cell)
    rows = _cut(n_rows, max(room // unit, 1) * unit)
    for place in product(*map(range, shape[:lead])):
        for band, row in product(bands, rows):
            yield (*(slice(i, i + 1) for i in place), row, *([band] if len(shape) > 1 else []))


def _cut(size: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, size)) for start in range(0, size, step)]


def sample(regions: list[Region], share: float, seed: str) -> list[Region]:
    """Return a seeded share of blocks in order, at least one."""
    if share >= 1 or not regions:
        return regions
    n_taken = max(1, round(share * len(regions)))
    # Ordered by a hash of seed and place: the same everywhere, at any version of a random generator.
    order = sorted(range(len(regions)), key=lambda i: hashlib.sha256(f"{seed}|{i}".encode()).digest())
    return [regions[i] for i in sorted(order[:n_taken])]


def run_job(job: Job, share: float, seed: str, absent: Absent, progress: Callable[[int], None]) -> JobResult:
    """Read and compare one job.

    Args: share: of stripes to compare, 1 for all; progress: called with the decoded bytes of each stripe.
    """
    regions = job.regions(share)
    taken = sample(regions, share, f"{seed}|{job.base.path}")
    result = JobResult(n_blocks_all=len(regions))
    base, native = _Tally(job.base), _Tally(job.native) if job.native else None
    levels = [_Tally(level.array) for level in job.levels]
    for region in regions:
        is_taken = region in taken
        parts = [] if is_taken else [part for absence in job.suspects if (part := _overlap(region, absence))]
        if not is_taken and not parts:
            continue
        pixels = job.base.read(region)
        if isinstance(pixels, str):
            base.damage(region, pixels)
        elif is_taken or not job.fill_is_zero or any(pixels[part].any() for part in parts):
            result.n_blocks += 1
            if native is not None:
                _compare(native, pixels, region, absent, _axis_room(native.array, pixels))
            if levels:
                _compare_levels(job, levels, pixels, region, absent)
        progress(_region_bytes(job.base, region))
    code = "values.undecodable" if job.decode_only else "values.source"
    result.outcomes.append(_damage(code, base))
    for tally, kind in [(native, "values.native"), *((tally, "values.level") for tally in levels)]:
        if tally is not None:
            result.outcomes += _outcomes(tally, kind)
            result.n_pixels += tally.found.n
    return result


def reread(array: Rereadable, seed: str) -> Outcome:
    """Read one seeded inner chunk in both ways; what one cannot decode is no matter of this check."""
    digest = int.from_bytes(hashlib.sha256(f"{seed}|{array.path}".encode()).digest(), "big")
    region = []
    for size, chunk in zip(array.shape, array.inner, strict=True):
        digest, place = divmod(digest, max(-(-size // chunk), 1))
        region.append(slice(place * chunk, min((place + 1) * chunk, size)))
    one, two = array.read(tuple(region)), array.read_again(tuple(region))
    if isinstance(one, str) or isinstance(two, str):
        ok = isinstance(one, str)
        return Outcome(ok, "values.undecodable", array.path, f"zarr-python cannot decode {region}: {two}")
    found = Comparison()
    found.add(one, two, tuple(s.start for s in region))
    text = f"zarr-python reads other values: {found.n_different} of {found.n} differ, first {found.first}"
    return Outcome(not found.n_different, "values.undecodable", array.path, text)


def _overlap(region: Region, other: Region) -> Region:
    """Return the part of a region that lies in another, counted in the region; empty when there is none."""
    part = tuple(slice(max(b.start - a.start, 0), min(b.stop, a.stop) - a.start) for a, b in zip(region, other, strict=True))
    return part if all(s.start < s.stop for s in part) else ()


def _region_bytes(array: Readable, region: Region) -> int:
    n_pixels: int = math.prod(s.stop - s.start for s in region)
    return n_pixels * array.n_bytes // max(math.prod(array.shape), 1)


def _damaged_chunks(array: Readable, region: Region, why: str) -> Iterator[str]:
    """Say which chunks of a region cannot be decoded by reading what lies in each alone."""
    steps = [range(s.start // c, -(-s.stop // c)) for s, c in zip(region, array.chunks, strict=True)]
    told = False
    for index in product(*steps):
        edges = zip(index, region, array.chunks, strict=True)
        answer = array.read(tuple(slice(max(s.start, i * c), min(s.stop, (i + 1) * c)) for i, s, c in edges))
        if isinstance(answer, str):
            told = True
            yield f"chunk {index}: {answer}"
    if not told:
        yield why


def _compare_levels(job: Job, tallies: list[_Tally], pixels: Pixels, region: Region, absent: Absent) -> None:
    """Compare one stripe of every level with what the rules make of the pixels."""
    wanted = expected_levels(pixels, [(level.factor, level.rule, level.nodata) for level in job.levels])
    for level, tally, values in zip(job.levels, tallies, wanted, strict=True):
        starts = [side.start // level.factor for side in region]
        place = tuple(slice(start, start + n) for start, n in zip(starts, values.shape, strict=True))
        _compare(tally, values, place, absent, _level_room(values.dtype))


def _level_room(dtype: np.dtype[Any]) -> _Room | None:
    """Return how far means of floats may differ: sums of another order, rounded once more or less."""
    return (max(8 * float(np.finfo(dtype).eps), _SUM_RTOL), 0.0) if dtype.kind == "f" else None


def _axis_room(array: Readable, values: Pixels) -> _Room | None:
    """Return how far coordinates of pixels may lie from the source's, of which they were made anew on a regular grid."""
    if len(array.shape) != 1 or array.path.rpartition("/")[2] not in ("x", "y") or values.dtype.kind not in "iuf":
        return None
    step = abs(float(values[1]) - float(values[0])) if values.size > 1 else 0.0
    return _AXIS_RTOL, _AXIS_PX * step


def _compare(tally: _Tally, wanted: Pixels, region: Region, absent: Absent, room: _Room | None = None) -> None:
    """Compare one region of a store array with what it must hold; floats may differ as ``room`` says."""
    for part, found in tally.array.parts(region):
        place = tuple(slice(side.start + cut.start, side.start + cut.stop) for side, cut in zip(region, part, strict=True))
        if isinstance(found, str):
            tally.damage(region, found)
        else:
            _compare_part(tally, found, wanted[part], place, absent, room)


def _compare_part(tally: _Tally, found: Pixels, wanted: Pixels, region: Region, absent: Absent, room: _Room | None) -> None:
    if room and found.dtype.kind == "f":
        rtol, atol = room
        found = np.where(np.isclose(found, wanted, rtol=rtol, atol=atol, equal_nan=True), wanted, found)
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


def _damage(code: str, tally: _Tally) -> Outcome:
    told = "; ".join(list(tally.damaged)[:5]) + (f"; {len(tally.damaged)} in all" if len(tally.damaged) > 5 else "")
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
        text = f"{found.nodata_found} nodata pixels where pixels differ, expected {found.nodata_expected}"
        outcomes.append(Outcome(found.nodata_found == found.nodata_expected, "values.nodata", path, text))
    return outcomes
