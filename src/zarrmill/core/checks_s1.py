"""Checks of Sentinel-1 GRD stores: what belongs where, and pixels of the finest level against the image they come from.

Every pixel of the finest level is compared with what its position in the image allows (``core.radar_expected``), backscatter by
way of the DN that it was made of. The image is read once, from its first line to its last, and only the lines are held that
blocks of the map still need. The other levels are compared with the finest one, as those of any store.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any, Protocol

import numpy as np

from zarrmill.core.checks_arrays import level_m
from zarrmill.core.checks_georef import Transform, as_transform
from zarrmill.core.checks_values import Job, LevelTarget, Outcome, Readable
from zarrmill.core.radar_expected import NODE_PX, Cells, Floats, Lattice, Mask, Singles, by_pixel, differs, lattice, spread
from zarrmill.model import Json

TILE_PX = (256, 512)
"""Rows and columns that are compared at a time; multiples of ``NODE_PX``."""
SAMPLE_PX, N_SAMPLES = (128, 512), 40
"""Rows and columns of what is compared of each polarisation when only a sample is, and how many of these."""
BAND_LINES = 512
"""Lines of an image that are read at a time."""
DOUBT = 1e-3
"""Share of a DN by which it may be off that was computed from backscatter: its table is linear over 16 pixels here."""
_AROUND = 4
"""Lines around positions that are needed besides."""
_IMAGE = re.compile(r"^([^/]+)_(HH|HV|VH|VV)/measurements/grd$")
_TABLE = re.compile(r"^DN\*\*2 / (\w+)\*\*2")
_LEVELS = "measurements/grd/"
_GCPS = ("line", "pixel", "latitude", "longitude")
Read = Callable[[int, int, int, int], Singles | str]
"""Returns the samples from line and sample to line and sample, 0 beyond the edges, or says why they cannot be decoded."""


class Described(Readable, Protocol):
    """An array that also says its dtype and attributes."""

    @property
    def dtype(self) -> str:
        """Name of the dtype."""
        ...

    @property
    def attributes(self) -> Mapping[str, Json]:
        """Attributes of the array."""
        ...


@dataclass(slots=True)
class ImageResult:
    """What comparing one polarisation found."""

    told: str = ""
    """In words, what was compared."""
    n_pixels: int = 0
    outcomes: list[Outcome] = field(default_factory=list)


def images[A](arrays: Mapping[str, A]) -> dict[str, A]:
    """Return polarisation (lower case) to the image of a radar product; empty for other products."""
    return {match[2].lower(): array for path, array in sorted(arrays.items()) if (match := _IMAGE.match(path))}


def placed[A](arrays: Mapping[str, A]) -> dict[str, A]:
    """Return the arrays by their path in a store; radar images, which are on another grid there, are left out."""
    groups = {path.removesuffix("measurements/grd"): m[2].lower() for path in arrays if (m := _IMAGE.match(path))}
    out = {}
    for path, array in arrays.items():
        group = next((group for group in groups if path.startswith(group)), None)
        if group is None:
            out[path] = array
        elif path != f"{group}measurements/grd":
            top, _, rest = path.removeprefix(group).partition("/")
            inside = {"conditions": "conditions/{}/", "quality": "quality/{}/", "measurements": "conditions/{}/sensor_grid/"}
            out[inside.get(top, "conditions/{}/" + top + "/").format(groups[group]) + rest] = array
    return out


def _finest[A: Readable](arrays: Mapping[str, A], names: Mapping[str, object]) -> dict[str, A]:
    """Return polarisation to its array of most pixels; those that are on no level are left out."""
    found = {}
    for name in names:
        levels = _levels(arrays, name)
        if levels:
            found[name] = max(levels, key=lambda array: array.shape[1])
    return found


def _levels[A: Readable](arrays: Mapping[str, A], name: str) -> list[A]:
    return [
        array
        for path, array in arrays.items()
        if path.startswith(_LEVELS) and path.endswith(f"/{name}") and len(array.shape) == 2 and level_m(path.rpartition("/")[0])
    ]


def level_jobs(arrays: Mapping[str, Readable], names: Mapping[str, object]) -> tuple[list[Job], set[str]]:
    """Return a job for the coarser levels of each polarisation, made from its finest one, and the paths thereby compared."""
    jobs, compared = [], set()
    for name, base in _finest(arrays, names).items():
        factors = {array.path: _factor(base, array) for array in _levels(arrays, name) if array is not base}
        targets = [LevelTarget(arrays[path], factor, "average", 0) for path, factor in factors.items() if factor]
        jobs.append(Job(base=base, levels=tuple(sorted(targets, key=lambda target: target.factor))))
        compared |= {base.path, *(target.array.path for target in targets)}
    return jobs, compared


def _factor(base: Readable, array: Readable) -> int:
    """Return how many pixels of ``base`` make one of ``array`` along each edge; 0 when it is no whole number."""
    factors = {n // m if m and n % m == 0 else 0 for n, m in zip(base.shape, array.shape, strict=True)}
    return factors.pop() if len(factors) == 1 else 0


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """An image and what was made of it."""

    image: Readable
    native: Described
    lattice: Lattice
    method: str
    """``bilinear`` or ``nearest``."""
    table: tuple[Floats, Floats, Floats] | None
    """Lines, samples and values of the calibration; None where DN are kept."""


class _UnreadableError(Exception):
    """Something cannot be decoded."""

    def __init__(self, code: str, path: str, why: str) -> None:
        super().__init__(why)
        self.outcome = Outcome(False, code, path, f"cannot be decoded: {why}")


def image_pairs(
    arrays: Mapping[str, Described], source: Mapping[str, Readable], attributes: Mapping[str, Mapping[str, Json]]
) -> dict[str, Pair | ImageResult]:
    """Return the path of the finest level of each polarisation to what it is compared with, or why it is not.

    Args: arrays: of the store; source: of the product, by its own paths; attributes: of every node of the store.
    """
    given, sensors = placed(source), images(source)
    pairs: dict[str, Pair | ImageResult] = {}
    known: dict[tuple[object, ...], Lattice] = {}
    for name, native in _finest(arrays, sensors).items():
        level = attributes.get(native.path.rpartition("/")[0], {})
        transform, code = as_transform(level.get("spatial:transform")), str(level.get("proj:code"))
        own = {key: given[key] for key in given if f"/{name}/" in key}
        try:
            pairs[native.path] = _pair(sensors[name], native, own, transform, code, known)
        except _UnreadableError as error:
            pairs[native.path] = ImageResult(f"{native.path} could not be compared", outcomes=[error.outcome])
    return pairs


def _pair(
    image: Readable,
    native: Described,
    given: Mapping[str, Readable],
    transform: Transform | None,
    code: str,
    known: dict[tuple[object, ...], Lattice],
) -> Pair | ImageResult:
    name = native.path.rpartition("/")[2]
    points = {part: given.get(f"conditions/{name}/gcp/{part}") for part in _GCPS}
    table = _TABLE.match(str(native.attributes.get("calibration", "")))
    axes = [given.get(f"quality/{name}/calibration/{part}") for part in ("line", "pixel", table[1])] if table else []
    if transform is None or None in (*points.values(), *axes) or native.dtype != ("float32" if table else "uint16"):
        return ImageResult(f"{native.path} is not compared with its image")
    gcps = {part: _whole(array) for part, array in points.items() if array}
    key = (code, transform, native.shape, image.shape, *(values.tobytes() for values in gcps.values()))
    if key not in known:
        shape, size = (native.shape[0], native.shape[1]), (image.shape[0], image.shape[1])
        known[key] = lattice(Cells(gcps, code), transform, shape, size)
    lines, samples, values = (_whole(array) for array in axes if array) if table else (None, None, None)
    method = str(native.attributes.get("resampling", "")).partition(",")[0]
    own = None if lines is None or samples is None or values is None else (lines, samples, values)
    return Pair(image, native, known[key], method, own)


def _whole(array: Readable) -> Floats:
    values = array.read(tuple(slice(0, n) for n in array.shape))
    if isinstance(values, str):
        raise _UnreadableError("values.source", array.path, values)
    return np.asarray(values, np.float64)


def compare_image(pair: Pair | ImageResult, seed: str | None, progress: Callable[[int], None]) -> ImageResult:
    """Compare the finest level of a polarisation with its image.

    Args: seed: chooses the pixels that are compared, None compares all; progress: called with the bytes of each band of lines
    of an image of which all are compared.
    """
    if isinstance(pair, ImageResult):
        return pair
    native, n_pixels, n_off, first = pair.native, 0, 0, ""
    try:
        for region, dn, off in _every_tile(pair, progress) if seed is None else _some_tiles(pair, f"{seed}|{native.path}"):
            n_pixels += dn.size
            if off.any():
                n_off += int(off.sum())
                i, j = (int(k[0]) for k in np.nonzero(off))
                first = first or f"{(region[0].start + i, region[1].start + j)}, made of DN {dn[i, j]:.1f}"
    except _UnreadableError as error:
        return ImageResult(f"{native.path} could not be compared", outcomes=[error.outcome])
    text = f"{n_off} of {n_pixels} pixels are not what the image has at their place, first {first}"
    told = f"{n_pixels} of {native.shape[0] * native.shape[1]} pixels of {native.path} with its image"
    return ImageResult(told, n_pixels, [Outcome(n_off == 0, "values.native", native.path, text)])


_Compared = tuple[tuple[slice, slice], Any, Mask]


def _every_tile(pair: Pair, progress: Callable[[int], None]) -> Iterator[_Compared]:
    """Yield every tile of the map, region, DN and which pixels differ, as soon as the lines that its block needs are read."""
    image, step = pair.image, (pair.native.inner[0], pair.native.inner[1])
    (height, width), inner = (image.shape[0], image.shape[1]), image.inner[0]
    n_lines = inner * max(1, BAND_LINES // inner) if inner <= BAND_LINES else BAND_LINES
    blocks = [_slices(pair.native.shape, place, step) for place in _grid(pair.native.shape, step)]
    waiting = sorted(((*pair.lattice.part(*block).span, block) for block in blocks), key=lambda entry: entry[1])
    held: list[tuple[int, Any]] = []
    for top in range(0, height, n_lines):
        bottom = min(top + n_lines, height)
        needed = min((low for low, _, _ in waiting), default=np.inf) - _AROUND
        held = [(start, lines) for start, lines in held if start + len(lines) > needed]
        lines = image.read((slice(top, bottom), slice(0, width)))
        if isinstance(lines, str):
            raise _UnreadableError("values.source", image.path, lines)
        held.append((top, lines))
        n_ready = sum(high + _AROUND <= bottom or bottom == height for _, high, _ in waiting)
        for _, _, block in waiting[:n_ready]:
            yield from _block(pair, block, partial(_cut, held))
        waiting = waiting[n_ready:]
        progress(lines.nbytes)


def _some_tiles(pair: Pair, seed: str) -> Iterator[_Compared]:
    """Yield a seeded sample of tiles."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
    places = _grid(pair.native.shape, SAMPLE_PX)

    def read(top: int, bottom: int, left: int, right: int) -> Singles | str:
        height, width = pair.image.shape
        region = (slice(max(top, 0), max(min(bottom, height), 1)), slice(max(left, 0), max(min(right, width), 1)))
        values = pair.image.read(region)
        return (
            values if isinstance(values, str) else _cut(((region[0].start, values),), top, bottom, left, right, region[1].start)
        )

    for k in sorted(rng.choice(len(places), min(N_SAMPLES, len(places)), replace=False).tolist()):
        yield from _block(pair, _slices(pair.native.shape, places[k], SAMPLE_PX), read)


def _grid(shape: tuple[int, ...], step: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the first row and column of each block of ``step`` pixels, or as many as there are nodes on."""
    rows, columns = (range(0, n, max(NODE_PX, s // NODE_PX * NODE_PX)) for n, s in zip(shape, step, strict=True))
    return list(product(rows, columns))


def _slices(shape: tuple[int, ...], place: tuple[int, int], step: tuple[int, int]) -> tuple[slice, slice]:
    rows, columns = (
        slice(p, min(p + max(NODE_PX, s // NODE_PX * NODE_PX), n)) for p, s, n in zip(place, step, shape, strict=True)
    )
    return rows, columns


def _cut(parts: Iterable[tuple[int, Any]], top: int, bottom: int, left: int, right: int, first: int = 0) -> Singles:
    """Return samples of lines that are held, ``(first line, lines)``, from sample ``first`` on; 0 where none are."""
    out = np.zeros((bottom - top, right - left), np.float32)
    for start, lines in parts:
        y0, y1 = max(top, start), min(bottom, start + len(lines))
        x0, x1 = max(left, first), min(right, first + lines.shape[1])
        if y0 < y1 and x0 < x1:
            out[y0 - top : y1 - top, x0 - left : x1 - left] = lines[y0 - start : y1 - start, x0 - first : x1 - first]
    return out


def _block(pair: Pair, block: tuple[slice, slice], read: Read) -> Iterator[_Compared]:
    """Yield the tiles of a block of the map."""
    found = pair.native.read(block)
    if isinstance(found, str):
        raise _UnreadableError("values.undecodable", pair.native.path, found)
    for place in _grid(found.shape, TILE_PX):
        inside = _slices(found.shape, place, TILE_PX)
        rows, columns = (slice(s.start + b.start, s.stop + b.start) for s, b in zip(inside, block, strict=True))
        yield (rows, columns), *_tile(pair, found[inside], pair.lattice.part(rows, columns), read)


def _tile(pair: Pair, found: Any, part: Lattice, read: Read) -> tuple[Any, Mask]:
    """Return the DN of a tile, and which of its pixels differ."""
    shape, nodes = (found.shape[0], found.shape[1]), part.nodes
    edges = [
        (int(max(n.min() - 2, -3)), int(min(n.max() + 4, size + 4))) for n, size in zip(nodes, pair.image.shape, strict=True)
    ]
    if min(high - low for low, high in edges) < 4:  # nothing of the image is there
        return found, _has_data(found)
    samples, dn = read(*edges[0], *edges[1]), _dn(pair, found, part)
    if isinstance(samples, str):
        raise _UnreadableError("values.source", pair.image.path, samples)
    at = spread(nodes - np.array([low for low, _ in edges])[:, None, None], part.step, shape)
    for k, (n, (low, high)) in enumerate(zip(nodes, edges, strict=True)):
        if n.min() < low + 1 or n.max() > high - 2.5:
            np.clip(at[k], 1, high - low - 2.5, out=at[k])
    off = differs(dn, at, part, samples, pair.method, DOUBT if pair.table else 0.0)
    return dn, np.where(by_pixel(part.blank, part.step, shape), _has_data(found), off) if part.blank.any() else off


def _has_data(found: Any) -> Mask:
    return np.asarray(found != 0 if found.dtype.kind == "u" else ~np.isnan(found))


def _dn(pair: Pair, found: Any, part: Lattice) -> Any:
    """Return the DN that pixels have, or were made of; 0 without data."""
    if pair.table is None:
        return found
    lines, samples, values = pair.table
    row = np.interp(part.nodes[0], lines, np.arange(lines.size))
    column = np.interp(part.nodes[1], samples, np.arange(samples.size))
    i, j = (np.minimum(k.astype(np.intp), n - 2) for k, n in ((row, lines.size), (column, samples.size)))
    t, u = row - i, column - j
    at_nodes = (1 - t) * ((1 - u) * values[i, j] + u * values[i, j + 1]) + t * (
        (1 - u) * values[i + 1, j] + u * values[i + 1, j + 1]
    )
    dn = np.sqrt(np.maximum(found, 0)) * spread(at_nodes, part.step, (found.shape[0], found.shape[1]))
    dn[found < 0] = -1e6  # negative backscatter is of no DN
    return np.nan_to_num(dn, copy=False, nan=0.0)
