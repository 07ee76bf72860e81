"""Groups that hold levels: the measurements, and the maps beside them that a recipe gives overviews.

A map lies in the source on some levels. Those stay as they are; every coarser one that the recipe names is computed from the
finest, by the rule of its kind (``zarrmill.core.rules``).
"""

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zarrmill.config import Pixels
from zarrmill.core.array_plans import is_mandatory, is_quicklook, is_raster, raster_plan
from zarrmill.core.grid import divides, level_grid
from zarrmill.core.rules import Rule, level_rule
from zarrmill.errors import SourceError
from zarrmill.model import Finding, Grid, RasterTask, Severity, SourceArray, SourceTree

LEVEL = re.compile(r"(?:^|/)r(\d+)m$")
"""A group whose name says its pixel size in metres."""
Described = tuple[dict[str, Any], Any]
"""Attributes of an array in the store, and its fill value."""


@dataclass(frozen=True, slots=True)
class Pyramid:
    """A group that holds levels and nothing else."""

    path: str
    """Path of the group."""
    native: Grid
    """Grid of the finest level."""
    levels_m: tuple[int, ...]
    """Pixel sizes of the levels in metres, fine to coarse."""
    rule: Rule
    """How levels that the source does not have are made."""

    @property
    def factors(self) -> dict[str, int]:
        """Name of each level to its factor from the finest, fine to coarse."""
        return {f"r{metres}m": metres // self.levels_m[0] for metres in self.levels_m}

    @property
    def grids(self) -> dict[str, Grid]:
        """Path of each level to its grid."""
        return {f"{self.path}/{name}": level_grid(self.native, factor) for name, factor in self.factors.items()}


def band_pyramid(path: str, pixels: Pixels, grids: Mapping[str, Grid]) -> Pyramid:
    """Return the levels of the measurements: those of the recipe that fit the finest grid of the source.

    Raises: SourceError: a source level covers another extent, or no level of the recipe fits.
    """
    source = _levels_of(path, grids)
    base_m = min(source)
    base = source[base_m]
    for metres, grid in source.items():
        if metres in pixels.levels_m and grid.bbox != base.bbox and divides(base.shape, metres // base_m):
            found = f"{path}/r{metres}m: covers {grid.bbox}, expected {base.bbox} as r{base_m}m covers"
            raise SourceError(f"{found}; report it to the provider", kind="layout")
    wanted = tuple(m for m in pixels.levels_m if m >= base_m and _fits(base, base_m, m))
    if not wanted:
        found = f"no level of {pixels.levels_m} m fits {base.shape} pixels of {base_m} m"
        raise SourceError(f"{found}; set pixels.levels_m in the recipe", kind="layout")
    return Pyramid(path, level_grid(base, wanted[0] // base_m), wanted, level_rule(f"{path}/"))


def map_pyramids(tree: SourceTree, pixels: Pixels, grids: Mapping[str, Grid], bands: str) -> tuple[Pyramid, ...]:
    """Return the groups of maps that the recipe gives overviews; ``bands`` is the group of the measurements.

    Raises: SourceError: a map has a dtype that its rule is not made for, or a level of maps covers another extent.
    """
    chosen = [
        path
        for path in _map_groups(grids, bands)
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in pixels.overviews)
        and any(len(array.shape) == 2 for array in _maps(tree, path, grids))
    ]
    pyramids = []
    for path in chosen:
        source = _levels_of(path, grids)
        base_m = min(source)
        base = source[base_m]
        exact = {metres for metres in source if _fits(base, base_m, metres)}
        for metres in sorted(exact):
            if source[metres].bbox != base.bbox:
                found = f"{path}/r{metres}m: covers {source[metres].bbox}, expected {base.bbox} as r{base_m}m covers"
                advice = "leave the group off pixels.overviews, report it to the provider"
                raise SourceError(f"{found}; {advice}", kind="layout")
        added = {metres for metres in pixels.levels_m if metres > base_m and _fits(base, base_m, metres)} - source.keys()
        pyramids.append(Pyramid(path, base, tuple(sorted(exact | added)), level_rule(f"{path}/")))
        _check_dtypes(_maps(tree, path, grids), pyramids[-1])
    return tuple(pyramids)


def unused_patterns(pixels: Pixels, grids: Mapping[str, Grid], bands: str) -> Iterable[Finding]:
    """Tell which patterns of ``overviews`` match no group of this source."""
    groups = _map_groups(grids, bands)
    for pattern in pixels.overviews:
        if not any(fnmatch.fnmatchcase(path, pattern) for path in groups):
            text = f"pixels.overviews: {pattern!r} matches no group of maps in this source, which has {groups}"
            yield Finding("source.overviews", Severity.WARNING, "/", text)


def pyramid_tasks(
    tree: SourceTree, pyramid: Pyramid, pixels: Pixels, describe: Callable[[SourceArray], Described]
) -> Iterable[RasterTask]:
    """Yield the work on every two-dimensional raster of a group with levels.

    A level that the source has is copied; one that it lacks is computed from the array's finest level.
    """
    levels: dict[str, dict[int, SourceArray]] = {}
    for array in _maps(tree, pyramid.path, None):
        match = LEVEL.search(array.group)
        if match and len(array.shape) == 2:
            levels.setdefault(array.name, {})[int(match[1])] = array
    for _, have in sorted(levels.items()):
        finest = min(have)
        for metres, array in sorted(have.items()):
            lacking = [m for m in pyramid.levels_m if m not in have and m > finest and m % finest == 0]
            made = [m for m in lacking if divides((array.shape[0], array.shape[1]), m // finest)] if metres == finest else []
            targets = sorted({*made, *({metres} & set(pyramid.levels_m))})
            if targets:
                yield _task(array, metres, targets, pyramid, pixels, describe(array))


def _task(
    source: SourceArray, source_m: int, targets: list[int], pyramid: Pyramid, pixels: Pixels, described: Described
) -> RasterTask:
    attributes, fill = described
    outputs = []
    for metres in targets:
        factor = metres // source_m
        shape = tuple(size // factor for size in source.shape)
        how = {"resampling_method": pyramid.rule, "derived_from": source.path} if factor > 1 else {}
        plan = raster_plan(f"{pyramid.path}/r{metres}m/{source.name}", shape, source, pixels, attributes | how, fill)
        outputs.append((factor, plan))
    nodata = attributes.get("_FillValue") if pyramid.rule == "average" else None
    return RasterTask(source, pyramid.rule, tuple(outputs), is_mandatory(source.path, pixels), nodata)


def _fits(base: Grid, base_m: int, metres: int) -> bool:
    return metres % base_m == 0 and divides(base.shape, metres // base_m)


def _levels_of(path: str, grids: Mapping[str, Grid]) -> dict[int, Grid]:
    """Return the source's levels of a group: pixel size in metres to grid."""
    return {int(group.rpartition("/r")[2][:-1]): grid for group, grid in grids.items() if group.rpartition("/")[0] == path}


def _map_groups(grids: Mapping[str, Grid], bands: str) -> list[str]:
    """Return the groups whose children are levels of maps, sorted."""
    parents = {path.rpartition("/")[0] for path in grids}
    return sorted(path for path in parents - {bands, ""} if not is_quicklook(path))


def _maps(tree: SourceTree, path: str, grids: Mapping[str, Grid] | None) -> list[SourceArray]:
    """Return the rasters on the levels of a group; ``grids`` leaves out levels that are not among them."""
    found = [array for array in tree.arrays.values() if is_raster(array) and LEVEL.search(array.group)]
    return [a for a in found if a.group.rpartition("/")[0] == path and (grids is None or a.group in grids)]


def _check_dtypes(maps: Iterable[SourceArray], pyramid: Pyramid) -> None:
    for array in maps:
        dtype = np.dtype("O") if array.dtype == "string" else np.dtype(array.dtype)
        small = dtype.kind == "u" and dtype.itemsize <= 2
        if not (small or pyramid.rule == "nearest" or (pyramid.rule == "average" and dtype.kind == "f")):
            found = (
                f"{array.path}: dtype {array.dtype}, expected unsigned integers of 8 or 16 bits for overviews by {pyramid.rule}"
            )
            raise SourceError(f"{found}; leave the group off pixels.overviews, report it to the provider", kind="layout")
