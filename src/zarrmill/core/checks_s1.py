"""Checks of Sentinel-1 GRD stores: what belongs where, and pixels of the finest level against the image they come from.

The finest level is compared in seeded blocks, not everywhere: a pixel must lie within what its position, known to a tenth of a
sample, allows. The other levels are compared with the finest one, as those of any store.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from zarrmill.core.checks_arrays import level_m
from zarrmill.core.checks_georef import Transform, as_transform
from zarrmill.core.checks_values import Job, LevelTarget, Outcome, Readable
from zarrmill.core.radar_expected import Cells, Floats, allowed
from zarrmill.model import Json

BLOCK_PX = 64
"""Edge of a compared block."""
N_BLOCKS = 24
"""Blocks compared of each polarisation."""
_IMAGE = re.compile(r"^([^/]+)_(HH|HV|VH|VV)/measurements/grd$")
_LEVELS = "measurements/grd/"
_GCPS = ("line", "pixel", "latitude", "longitude")


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


def compare_images(
    arrays: Mapping[str, Described], source: Mapping[str, Readable], attributes: Mapping[str, Mapping[str, Json]], seed: str
) -> list[ImageResult]:
    """Compare the finest level of each polarisation with its image; backscatter is not compared.

    Args: arrays: of the store; source: of the product, by its own paths; attributes: of every node of the store.
    """
    results, given, sensors = [], placed(source), images(source)
    for name, native in _finest(arrays, sensors).items():
        level = attributes.get(native.path.rpartition("/")[0], {})
        transform, code = as_transform(level.get("spatial:transform")), str(level.get("proj:code"))
        gcps = {part: array for part in _GCPS if (array := given.get(f"conditions/{name}/gcp/{part}")) is not None}
        if native.dtype != "uint16" or transform is None or len(gcps) < len(_GCPS):
            results.append(ImageResult(f"{native.path} is not compared with its image"))
            continue
        results.append(_compare_image(sensors[name], native, gcps, transform, code, seed))
    return results


def _compare_image(
    image: Readable, native: Described, gcps: Mapping[str, Readable], transform: Transform, code: str, seed: str
) -> ImageResult:
    read = {name: array.read(tuple(slice(0, n) for n in array.shape)) for name, array in gcps.items()}
    if bad := [f"{name}: {values}" for name, values in read.items() if isinstance(values, str)]:
        return ImageResult(outcomes=[Outcome(False, "values.source", image.path, f"control points cannot be decoded: {bad}")])
    cells = Cells({name: np.asarray(values, np.float64) for name, values in read.items()}, code)
    method = str(native.attributes.get("resampling", "")).partition(",")[0]
    result, n_off, first = ImageResult(), 0, ""
    for region in _blocks((native.shape[0], native.shape[1]), f"{seed}|{native.path}"):
        found = native.read(region)
        if isinstance(found, str):
            result.outcomes.append(Outcome(False, "values.undecodable", native.path, f"cannot be decoded: {found}"))
            return result
        wanted = allowed(image, *cells.locate(*_centres(region, transform)), method)
        if isinstance(wanted, str):
            result.outcomes.append(Outcome(False, "values.source", image.path, f"cannot be decoded: {wanted}"))
            return result
        off = (found < wanted[0]) | (found > wanted[1])
        result.n_pixels += found.size
        n_off += int(off.sum())
        if off.any() and not first:
            i, j = (int(k[0]) for k in np.nonzero(off))
            place = (region[0].start + i, region[1].start + j)
            first = f"{place} is {found[i, j]}, expected {wanted[0][i, j]:.1f} to {wanted[1][i, j]:.1f}"
    text = f"{n_off} of {result.n_pixels} pixels are not what the image has at their place, first {first}"
    result.outcomes.append(Outcome(n_off == 0, "values.native", native.path, text))
    result.told = f"{result.n_pixels} pixels of {native.path} with its image"
    return result


def _centres(region: tuple[slice, slice], transform: Transform) -> tuple[Floats, Floats]:
    rows, columns = np.meshgrid(*(np.arange(s.start, s.stop) + 0.5 for s in region), indexing="ij")
    return transform[2] + transform[0] * columns, transform[5] + transform[4] * rows


def _blocks(shape: tuple[int, int], seed: str) -> list[tuple[slice, slice]]:
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
    rows, columns = (rng.integers(0, max(size - BLOCK_PX, 0) + 1, N_BLOCKS).tolist() for size in shape)
    return [
        (slice(row, min(row + BLOCK_PX, shape[0])), slice(column, min(column + BLOCK_PX, shape[1])))
        for row, column in sorted(zip(rows, columns, strict=True))
    ]
