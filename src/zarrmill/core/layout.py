"""From a source's metadata and a recipe to the plan of its store, before a pixel is touched."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zarrmill.config import Pixels
from zarrmill.core import conventions as cv
from zarrmill.core.array_plans import (
    coordinate_plans,
    copy_plan,
    fill_attribute,
    fill_value,
    is_mandatory,
    is_quicklook,
    is_raster,
    map_attributes,
    raster_plan,
    with_own_coordinates,
)
from zarrmill.core.bands import S2_BANDS
from zarrmill.core.completion import completed
from zarrmill.core.pyramids import LEVEL, Pyramid, band_pyramid, map_pyramids, pyramid_tasks, unused_patterns
from zarrmill.core.rules import level_rule
from zarrmill.errors import SourceError
from zarrmill.model import ArrayPlan, Finding, Grid, RasterTask, Severity, SourceArray, SourceTree, StorePlan

_GENERATED = ("x", "y", "spatial_ref")
_TYPE = re.compile(r"S0\d[A-Z0-9]{6}")


@dataclass(frozen=True, slots=True)
class SourceLayout:
    """What a product type looks like: the adapter between the engine and one kind of product."""

    product_type: str
    """EOPF product type."""
    multiscales: str
    """Group that holds the levels."""
    bands: tuple[str, ...]
    """Bands that every product of this type has."""
    dtype: str
    """dtype of every band."""
    standard_name: str
    """CF standard name of the bands."""


_S2_BANDS = ("b01", "b02", "b03", "b04", "b05", "b06", "b07", "b08", "b09", "b11", "b12", "b8a")

LAYOUTS: dict[str, SourceLayout] = {
    layout.product_type: layout
    for layout in (
        SourceLayout("S02MSIL2A", "measurements/reflectance", _S2_BANDS, "<u2", "surface_bidirectional_reflectance"),
        SourceLayout("S02MSIL1C", "measurements/reflectance", (*_S2_BANDS, "b10"), "<u2", "toa_bidirectional_reflectance"),
    )
}
"""Optical product types that can be converted."""

GRD_TYPES = frozenset({"S01SIWGRD", "S01SIWGRH"})
"""Radar product types that can be converted, see ``zarrmill.core.layout_s1``."""


def source_layout(product_type: str) -> SourceLayout:
    """Return the layout of a product type.

    Raises: SourceError: the type is not supported; the message lists those that are.
    """
    if product_type not in LAYOUTS:
        supported = ", ".join(sorted(GRD_TYPES | LAYOUTS.keys()))
        raise SourceError(f"product type {product_type!r} is not supported; supported: {supported}; leave it out", kind="type")
    return LAYOUTS[product_type]


def check_type(tree: SourceTree, product_type: str) -> None:
    """Raise SourceError when a product says of itself that it is of another type than the one it was planned as."""
    discovery = tree.groups[""].get("stac_discovery")
    properties = discovery.get("properties") if isinstance(discovery, Mapping) else None
    stated = properties.get("product:type") if isinstance(properties, Mapping) else None
    if not isinstance(stated, str) or not _TYPE.fullmatch(stated):
        return  # the text "null" occurs
    if stated not in (GRD_TYPES if product_type in GRD_TYPES else {product_type}):
        supported = ", ".join(sorted(GRD_TYPES | LAYOUTS.keys()))
        found = f"planned as {product_type!r}, but the product states {stated!r}; supported: {supported}"
        raise SourceError(f"{found}; correct the catalogue entry, or leave the product out", kind="type")


def source_crs(tree: SourceTree) -> str:
    """Return the CRS that a product states, as ``EPSG:<code>``.

    Read from the arrays' ``proj:epsg`` or ``proj:code``, their groups' ``proj:code``, ``horizontal_CRS_code`` of the root and,
    where none of these says one, the properties of its ``stac_discovery``. A code may be a number or text.
    Raises: SourceError: none states one, they disagree, or it is no projected CRS that is known.
    """
    nodes: list[tuple[str, Mapping[str, Any]]] = [(p, a.attributes) for p, a in tree.arrays.items()]
    nodes += [(path, attributes) for path, attributes in tree.groups.items() if LEVEL.search(path)]
    stated = {path: code for path, attributes in nodes if (code := _stated_code(attributes))}
    other = tree.groups[""].get("other_metadata", {})
    if isinstance(other, Mapping) and (code := _code(other.get("horizontal_CRS_code"))):
        stated["other_metadata.horizontal_CRS_code"] = code
    discovery = tree.groups[""].get("stac_discovery")
    properties = discovery.get("properties") if isinstance(discovery, Mapping) else None
    if not stated and isinstance(properties, Mapping) and (code := _stated_code(properties)):
        stated["stac_discovery"] = code
    codes = set(stated.values())
    if not codes:
        found = "no proj:epsg, proj:code or horizontal_CRS_code anywhere; the CRS cannot be known"
        raise SourceError(f"{found}; expected EPSG:<code>; report it to the provider", kind="crs")
    if len(codes) > 1:
        examples = {code: next(path for path, found in stated.items() if found == code) for code in sorted(codes)}
        raise SourceError(
            f"the product states more than one CRS: {examples}; expected one; report it to the provider", kind="crs"
        )
    code = codes.pop()
    if not re.fullmatch(r"EPSG:\d+", code) or not _is_projected(code):
        raise SourceError(f"CRS {code!r}, expected EPSG:<code> of a projected CRS; report it to the provider", kind="crs")
    return code


def _stated_code(attributes: Mapping[str, Any]) -> str:
    return _code(attributes.get("proj:code")) or _code(attributes.get("proj:epsg"))


def _code(value: Any) -> str:
    """Return a stated CRS as upper-case ``<authority>:<code>``, empty for what says nothing; a bare number is of EPSG."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip().upper() if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if text in ("NULL", "NONE"):
        return ""
    return f"EPSG:{text}" if text.isdecimal() else text


def _is_projected(code: str) -> bool:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        return bool(CRS.from_user_input(code).is_projected)
    except CRSError:
        return False


def level_groups(tree: SourceTree, pixels: Pixels) -> dict[str, int]:
    """Return the groups that hold rasters of a stated pixel size: path to metres.

    Raises: SourceError: an array in a group named ``r<metres>m`` has other dimensions than ``(..., y, x)``.
    """
    for path, array in tree.arrays.items():
        if LEVEL.search(array.group) and len(array.shape) > 1 and not is_raster(array):
            raise _unlike(f"{path}: dimensions {array.dims}, expected (..., 'y', 'x') as _ARRAY_DIMENSIONS or dimension_names")
    rasters = {array.group for array in tree.arrays.values() if is_raster(array)}
    found = {path: int(match[1]) for path in sorted(rasters) if (match := LEVEL.search(path))}
    return {path: metres for path, metres in found.items() if pixels.quicklook or not is_quicklook(path)}


def store_plan(tree: SourceTree, layout: SourceLayout, pixels: Pixels, grids: Mapping[str, Grid]) -> StorePlan:
    """Decide groups, arrays, chunks, shards, attributes and work of the target store.

    Args: grids: grid of the groups in ``level_groups``, from the source's own coordinates, but for measurements that are coarser
        than every level of the recipe.
    Raises: SourceError: a band is missing, or a shape, dtype, extent or coordinate is not what the layout has.
    """
    _check_bands(tree, layout)
    _check_shapes(tree, grids)
    if tree.zarr_format == 3 and pixels.zarr3_source == "refuse":
        found = "the source is Zarr v3 already and the recipe says zarr3_source: refuse"
        raise SourceError(f"{found}; leave the product out or set pixels.zarr3_source: relayout", kind="layout")
    pyramids = (band_pyramid(layout.multiscales, pixels, grids), *map_pyramids(tree, pixels, grids, layout.multiscales))
    tasks = {pyramid.path: _pyramid_tasks(tree, layout, pixels, pyramid) for pyramid in pyramids}
    rasters = [task for found in tasks.values() for task in found]
    rasters += _other_tasks(tree, layout, pixels, grids, {task.source.path for task in rasters})
    kept = {path: grid for path, grid in grids.items() if not path.startswith(f"{layout.multiscales}/")}
    target_grids = kept | {path: grid for pyramid in pyramids for path, grid in pyramid.grids.items()}
    laid_out = StorePlan(
        groups=_groups(tree, layout, pixels, target_grids, {pyramid: tasks[pyramid.path] for pyramid in pyramids}),
        rasters=tuple(sorted(rasters, key=lambda task: (-task.n_bytes, task.source.path))),
        copies=tuple(_copies(tree, layout, pixels, set(grids))),
        coordinates=tuple(plan for path, grid in sorted(target_grids.items()) for plan in coordinate_plans(path, grid)),
        consolidated=(*(pyramid.path for pyramid in pyramids), ""),
        findings=(
            *_disagreements(tree, grids),
            *_left_out(tree, pixels, pyramids[0], {task.source.name for task in tasks[layout.multiscales]}),
            *unused_patterns(pixels, grids, layout.multiscales),
        ),
    )
    plan = with_own_coordinates(laid_out)
    complete = tree.zarr_format == 3 and pixels.zarr3_source == "complete"
    return completed(plan, layout.multiscales) if complete else plan


def _check_bands(tree: SourceTree, layout: SourceLayout) -> None:
    prefix = f"{layout.multiscales}/"
    bands = [array for path, array in tree.arrays.items() if path.startswith(prefix) and array.name not in _GENERATED]
    missing = sorted(set(layout.bands) - {array.name for array in bands})
    if missing:
        raise _unlike(f"{layout.multiscales}: bands {missing} are missing, expected all of {layout.product_type}")
    for array in bands:
        if not is_raster(array) or len(array.shape) != 2:
            raise _unlike(f"{array.path}: dimensions {array.dims}, expected ('y', 'x')")
        if array.dtype != layout.dtype:
            raise _unlike(f"{array.path}: dtype {array.dtype}, expected {layout.dtype}")
    for name in sorted(S2_BANDS.keys() & set(layout.bands)):
        own = [array for array in bands if array.name == name]
        finest = min((int(m[1]) for array in own if (m := LEVEL.search(array.group))), default=None)
        if finest is None:
            raise _unlike(f"{own[0].path}: band {name} lies on no level, expected {layout.multiscales}/r{S2_BANDS[name].gsd_m}m")
        if finest > S2_BANDS[name].gsd_m:
            raise _unlike(f"{layout.multiscales}: band {name} begins at {finest} m, expected at {S2_BANDS[name].gsd_m} m")
        _check_values(own)


def _check_values(bands: Iterable[SourceArray]) -> None:
    """Raise SourceError when a band masks another DN than 0, or its DN cannot become reflectance.

    An ``add_offset`` that is not stated is 0 (CF 1.11, 8.1); a ``scale_factor`` is always needed.
    """
    for array in bands:
        masked = fill_attribute(array).get("_FillValue", 0)
        if masked != 0:
            raise _unlike(f"{array.path}: DN {masked} is masked, expected 0 or none")
        found = array.attributes.get("scale_factor"), array.attributes.get("add_offset", 0)
        if not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in found):
            raise _unlike(f"{array.path}: scale_factor {found[0]!r}, add_offset {found[1]!r}, expected two numbers")


def _left_out(tree: SourceTree, pixels: Pixels, pyramid: Pyramid, kept: set[str]) -> Iterable[Finding]:
    """Tell which levels and bands of the source are not in the store.

    Args: pyramid: levels of the measurements; kept: bands that are on one of them.
    Raises: SourceError: a band is on no level because its pixels do not cover the finest ones exactly.
    """
    levels: dict[str, set[int]] = {}
    for array in tree.arrays.values():
        parent, _, name = array.group.rpartition("/")
        if parent == pyramid.path and is_raster(array):
            levels.setdefault(array.name, set()).add(int(name[1:-1]))
    finest = f"{pyramid.path}/r{pyramid.levels_m[0]}m has {pyramid.native.shape} pixels"
    for band in sorted(levels.keys() - kept):
        if unfit := sorted(levels[band] & set(pixels.levels_m)):
            found = f"{finest}, which pixels of {unfit} m do not cover exactly; band {band} would be lost"
            raise _unlike(f"{found}, expected an extent that is a multiple of them")
        text = f"band {band} has pixels of {sorted(levels[band])} m, which the recipe does not list; it is left out"
        yield Finding("source.level", Severity.WARNING, pyramid.path, text)
    for metres in sorted((set().union(*levels.values()) & set(pixels.levels_m)) - set(pyramid.levels_m)):
        text = f"{finest}, which pixels of {metres} m do not cover exactly; this level of the source is left out"
        yield Finding("source.level", Severity.WARNING, f"{pyramid.path}/r{metres}m", text)


def _unlike(found: str) -> SourceError:
    return SourceError(f"{found}; report it to the provider", kind="layout")


def _check_shapes(tree: SourceTree, grids: Mapping[str, Grid]) -> None:
    for array in tree.arrays.values():
        grid = grids.get(array.group)
        if grid and is_raster(array) and tuple(array.shape[-2:]) != grid.shape:
            raise _unlike(f"{array.path}: shape {array.shape}, expected {grid.shape} as its group's x and y say")


def _pyramid_tasks(tree: SourceTree, layout: SourceLayout, pixels: Pixels, pyramid: Pyramid) -> list[RasterTask]:
    def band(array: SourceArray) -> tuple[dict[str, Any], Any]:
        return cv.reflectance_attributes(array.attributes, layout.standard_name) | {"grid_mapping": "spatial_ref"}, 0

    def other(array: SourceArray) -> tuple[dict[str, Any], Any]:
        return map_attributes(array), fill_value(array)

    return list(pyramid_tasks(tree, pyramid, pixels, band if pyramid.path == layout.multiscales else other))


def _other_tasks(
    tree: SourceTree, layout: SourceLayout, pixels: Pixels, grids: Mapping[str, Grid], done: set[str]
) -> Iterable[RasterTask]:
    """Yield a copy of every raster that is on no pyramid."""
    for path, array in tree.arrays.items():
        if array.group not in grids or not is_raster(array) or path.startswith(f"{layout.multiscales}/") or path in done:
            continue
        plan = raster_plan(path, array.shape, array, pixels, map_attributes(array), fill_value(array))
        yield RasterTask(array, level_rule(path), ((1, plan),), is_mandatory(path, pixels), None)


def _copies(
    tree: SourceTree, layout: SourceLayout, pixels: Pixels, level_paths: set[str]
) -> Iterable[tuple[SourceArray, ArrayPlan]]:
    for path, array in tree.arrays.items():
        in_level = array.group in level_paths
        is_dropped = path.startswith(f"{layout.multiscales}/") and LEVEL.search(array.group) and not in_level
        if is_dropped or (in_level and (is_raster(array) or array.name in _GENERATED)):
            continue
        if pixels.quicklook or not is_quicklook(path):
            yield array, copy_plan(array)


def _groups(
    tree: SourceTree,
    layout: SourceLayout,
    pixels: Pixels,
    grids: Mapping[str, Grid],
    pyramids: Mapping[Pyramid, list[RasterTask]],
) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for path, attributes in tree.groups.items():
        quicklook = is_quicklook(path) and not pixels.quicklook
        dropped = path.startswith(f"{layout.multiscales}/") and path not in grids
        if not quicklook and not dropped:
            groups[path] = cv.carried_attributes(attributes)
    for path, grid in grids.items():
        groups[path] = groups.get(path, {}) | cv.level_attributes(grid)
    for pyramid, tasks in pyramids.items():
        made = {plan.path.split("/")[-2] for task in tasks for factor, plan in task.outputs if factor > 1}
        levels = cv.multiscales_attributes(pyramid.native, pyramid.factors, pyramid.rule, made)
        groups[pyramid.path] = groups.get(pyramid.path, {}) | levels
    groups[""] = groups[""] | cv.root_attributes(next(iter(pyramids)).native)
    return dict(sorted(groups.items()))


def _disagreements(tree: SourceTree, grids: Mapping[str, Grid]) -> Iterable[Finding]:
    """Where attributes disagree with the coordinates, the coordinates are right; it is told."""
    stated = [(path, "proj:transform", array.attributes, grids.get(array.group)) for path, array in tree.arrays.items()]
    stated += [(path, "spatial:transform", attributes, grids.get(path)) for path, attributes in tree.groups.items()]
    for path, name, attributes, grid in stated:
        found = attributes.get(name)
        if grid and isinstance(found, list) and not _same(found, grid):
            text = f"{name} {found[:6]} disagrees with x and y, which give {list(grid.transform)}; x and y were taken"
            yield Finding("source.transform", Severity.WARNING, path, text)


def _same(found: list[Any], grid: Grid) -> bool:
    numbers = [value for value in found[:6] if isinstance(value, int | float)]
    return len(numbers) == 6 and np.allclose(numbers, grid.transform, rtol=0, atol=1e-6)
