"""From a source's metadata and a recipe to the plan of its store, before a pixel is touched."""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zarrmill.config import Pixels
from zarrmill.core import conventions as cv
from zarrmill.core.chunking import chunk_shape, shard_shape
from zarrmill.core.grid import divides, level_grid
from zarrmill.core.rules import level_rule
from zarrmill.errors import SourceError
from zarrmill.model import ArrayPlan, Finding, Grid, RasterTask, Severity, SourceArray, SourceTree, StorePlan

_LEVEL = re.compile(r"(?:^|/)r(\d+)m$")
_GENERATED = ("x", "y", "spatial_ref")


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


def source_crs(tree: SourceTree) -> str:
    """Return the CRS that a product states, as ``EPSG:<code>``.

    Read from the arrays' ``proj:epsg`` or ``proj:code``, their groups' ``proj:code`` and ``horizontal_CRS_code`` of the root.
    Raises: SourceError: none states one, or they disagree.
    """
    stated: dict[str, str] = {}
    other = tree.groups[""].get("other_metadata", {})
    if isinstance(other, Mapping) and other.get("horizontal_CRS_code"):
        stated["other_metadata.horizontal_CRS_code"] = str(other["horizontal_CRS_code"]).upper()
    nodes: list[tuple[str, Mapping[str, Any]]] = [(p, a.attributes) for p, a in tree.arrays.items()]
    nodes += [(path, attributes) for path, attributes in tree.groups.items() if _LEVEL.search(path)]
    for path, attributes in nodes:
        if isinstance(attributes.get("proj:code"), str):
            stated[path] = attributes["proj:code"].upper()
        elif isinstance(attributes.get("proj:epsg"), int):
            stated[path] = f"EPSG:{attributes['proj:epsg']}"
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
    if not re.fullmatch(r"EPSG:\d+", code):
        raise SourceError(f"CRS {code!r}, expected EPSG:<code>; report it to the provider", kind="crs")
    return code


def level_groups(tree: SourceTree, pixels: Pixels) -> dict[str, int]:
    """Return the groups that hold rasters of a stated pixel size: path to metres."""
    rasters = {array.group for array in tree.arrays.values() if _is_raster(array)}
    found = {path: int(match[1]) for path in sorted(rasters) if (match := _LEVEL.search(path))}
    return {path: metres for path, metres in found.items() if pixels.quicklook or not _is_quicklook(path)}


def store_plan(tree: SourceTree, layout: SourceLayout, pixels: Pixels, grids: Mapping[str, Grid]) -> StorePlan:
    """Decide groups, arrays, chunks, shards, attributes and work of the target store.

    Args: grids: grid of every group in ``level_groups``, from the source's own coordinates.
    Raises: SourceError: a band is missing, or a shape, dtype, extent or coordinate is not what the layout has.
    """
    _check_bands(tree, layout)
    _check_shapes(tree, grids)
    if tree.zarr_format == 3 and pixels.zarr3_source == "refuse":
        found = "the source is Zarr v3 already and the recipe says zarr3_source: refuse"
        raise SourceError(f"{found}; leave the product out or set pixels.zarr3_source: relayout", kind="layout")
    levels, native = _levels(tree, layout, pixels, grids)
    rasters = list(_band_tasks(tree, layout, pixels, levels))
    rasters += _other_tasks(tree, layout, pixels, grids)
    target_grids = {path: grid for path, grid in grids.items() if not path.startswith(f"{layout.multiscales}/")}
    target_grids |= {f"{layout.multiscales}/{name}": level_grid(native, factor) for name, factor in levels.items()}
    copies = tuple(_copies(tree, pixels, set(grids)))
    groups = _groups(tree, layout, pixels, target_grids, levels, native)
    return StorePlan(
        groups=groups,
        rasters=tuple(sorted(rasters, key=lambda task: (-task.n_bytes, task.source.path))),
        copies=copies,
        coordinates=tuple(plan for path, grid in sorted(target_grids.items()) for plan in coordinate_plans(path, grid)),
        consolidated=(layout.multiscales, ""),
        findings=tuple(_disagreements(tree, grids)),
    )


def _is_quicklook(path: str) -> bool:
    return any(part.endswith("_quicklook") for part in path.split("/"))


def _is_raster(array: SourceArray) -> bool:
    return array.dims[-2:] == ("y", "x")


def _check_bands(tree: SourceTree, layout: SourceLayout) -> None:
    prefix = f"{layout.multiscales}/"
    bands = [array for path, array in tree.arrays.items() if path.startswith(prefix) and array.name not in _GENERATED]
    missing = sorted(set(layout.bands) - {array.name for array in bands})
    if missing:
        raise _unlike(f"{layout.multiscales}: bands {missing} are missing, expected all of {layout.product_type}")
    for array in bands:
        if not _is_raster(array) or len(array.shape) != 2:
            raise _unlike(f"{array.path}: dimensions {array.dims}, expected ('y', 'x')")
        if array.dtype != layout.dtype:
            raise _unlike(f"{array.path}: dtype {array.dtype}, expected {layout.dtype}")


def _unlike(found: str) -> SourceError:
    return SourceError(f"{found}; report it to the provider", kind="layout")


def _check_shapes(tree: SourceTree, grids: Mapping[str, Grid]) -> None:
    for array in tree.arrays.values():
        grid = grids.get(array.group)
        if grid and _is_raster(array) and tuple(array.shape[-2:]) != grid.shape:
            raise _unlike(f"{array.path}: shape {array.shape}, expected {grid.shape} as its group's x and y say")


def _levels(tree: SourceTree, layout: SourceLayout, pixels: Pixels, grids: Mapping[str, Grid]) -> tuple[dict[str, int], Grid]:
    """Return the target levels (name to factor from the finest) and the grid of the finest."""
    source = {
        int(path.rpartition("/r")[2][:-1]): grid for path, grid in grids.items() if path.startswith(f"{layout.multiscales}/")
    }
    base_m = min(source)
    base = source[base_m]
    for metres, grid in source.items():
        if metres in pixels.levels_m and grid.bbox != base.bbox and divides(base.shape, metres // base_m):
            path = f"{layout.multiscales}/r{metres}m"
            raise _unlike(f"{path}: covers {grid.bbox}, expected {base.bbox} as r{base_m}m covers")
    wanted = [m for m in pixels.levels_m if m >= base_m and m % base_m == 0 and divides(base.shape, m // base_m)]
    if not wanted:
        found = f"no level of {pixels.levels_m} m fits {base.shape} pixels of {base_m} m"
        raise SourceError(f"{found}; set pixels.levels_m in the recipe", kind="layout")
    native = level_grid(base, wanted[0] // base_m)
    return {f"r{m}m": m // wanted[0] for m in wanted}, native


def _band_tasks(tree: SourceTree, layout: SourceLayout, pixels: Pixels, levels: Mapping[str, int]) -> Iterable[RasterTask]:
    wanted = [int(name[1:-1]) for name in levels]
    names = sorted({a.name for p, a in tree.arrays.items() if p.startswith(f"{layout.multiscales}/") and _is_raster(a)})
    for band in names:
        paths = {metres: f"{layout.multiscales}/r{metres}m/{band}" for metres in range(1, 1000)}
        have = {metres: tree.arrays[path] for metres, path in paths.items() if path in tree.arrays}
        finest = min(have)
        for metres, array in have.items():
            made = [m for m in wanted if m not in have and m > finest and m % finest == 0] if metres == finest else []
            made = [m for m in made if divides((array.shape[-2], array.shape[-1]), m // finest)]
            targets = sorted({*made, *([metres] if metres in wanted else [])})
            outputs = tuple(
                (
                    m // metres,
                    _band_plan(layout, pixels, have[finest if m in made else m], f"{layout.multiscales}/r{m}m", m // metres),
                )
                for m in targets
            )
            if outputs:
                yield RasterTask(array, level_rule(array.path), outputs, is_mandatory(array.path, pixels))


def _band_plan(layout: SourceLayout, pixels: Pixels, source: SourceArray, group: str, factor: int) -> ArrayPlan:
    shape = tuple(size // factor for size in source.shape)
    attributes = cv.reflectance_attributes(source.attributes, layout.standard_name) | {"grid_mapping": "spatial_ref"}
    if factor > 1:
        attributes |= {"resampling_method": "average", "derived_from": source.path}
    return _raster_plan(f"{group}/{source.name}", shape, source, pixels, attributes, fill=0)


def _other_tasks(tree: SourceTree, layout: SourceLayout, pixels: Pixels, grids: Mapping[str, Grid]) -> Iterable[RasterTask]:
    for path, array in tree.arrays.items():
        if array.group not in grids or not _is_raster(array) or path.startswith(f"{layout.multiscales}/"):
            continue
        attributes = cv.carried_attributes(array.attributes) | cv.class_attributes(path) | {"grid_mapping": "spatial_ref"}
        plan = _raster_plan(path, array.shape, array, pixels, attributes | fill_attribute(array), fill=fill_value(array))
        yield RasterTask(array, level_rule(path), ((1, plan),), is_mandatory(path, pixels))


def _raster_plan(
    path: str, shape: tuple[int, ...], source: SourceArray, pixels: Pixels, attributes: Mapping[str, Any], fill: Any
) -> ArrayPlan:
    chunks = chunk_shape(shape, pixels.chunk_px)
    shards = shard_shape(shape, chunks, pixels.shard_px)
    return ArrayPlan(path, shape, source.dtype, chunks, shards, source.dims, fill, attributes)


def _copies(tree: SourceTree, pixels: Pixels, level_paths: set[str]) -> Iterable[tuple[SourceArray, ArrayPlan]]:
    for path, array in tree.arrays.items():
        in_level = array.group in level_paths
        if (in_level and (_is_raster(array) or array.name in _GENERATED)) or (_LEVEL.search(array.group) and not in_level):
            continue
        if _is_quicklook(path) and not pixels.quicklook:
            continue
        axis = array.name if array.name in ("x", "y") and array.dims == (array.name,) else None
        dtype = "<f8" if axis and array.dtype != "string" else array.dtype
        attributes = cv.carried_attributes(array.attributes) | fill_attribute(array)
        if axis:
            attributes |= cv.coordinate_attributes(axis)
            attributes.pop("_FillValue", None)
        chunks = tuple(max(1, size) for size in array.shape)
        fill = "NaN" if axis else fill_value(array)
        yield array, ArrayPlan(path, array.shape, dtype, chunks, None, array.dims, fill, attributes)


def fill_value(array: SourceArray) -> Any:
    """Return the Zarr fill value; the neutral one of the dtype where the source declares none."""
    if array.dtype == "string":
        return array.fill_value if isinstance(array.fill_value, str) else ""
    kind = np.dtype(array.dtype).kind
    if kind == "f":
        return "NaN" if array.fill_value is None else array.fill_value
    if kind == "b":
        return bool(array.fill_value)
    return 0 if array.fill_value is None else array.fill_value


def fill_attribute(array: SourceArray) -> dict[str, Any]:
    """Return ``_FillValue`` for integers whose source masks a value; readers of Zarr v2 took it from the array's fill value."""
    if array.dtype == "string" or np.dtype(array.dtype).kind not in "iu":
        return {}
    stated = array.attributes.get("_FillValue") if array.encoding.get("zarr_format") == 3 else array.fill_value
    return {"_FillValue": int(stated)} if isinstance(stated, int | float) and not isinstance(stated, bool) else {}


def coordinate_plans(path: str, grid: Grid) -> list[tuple[ArrayPlan, Grid]]:
    """Return ``spatial_ref``, ``x`` and ``y`` of the group at ``path``."""
    height, width = grid.shape
    mapping = cv.grid_mapping_attributes(grid)
    return [
        (ArrayPlan(f"{path}/spatial_ref", (), "<i4", (), None, (), 0, mapping), grid),
        (ArrayPlan(f"{path}/x", (width,), "<f8", (width,), None, ("x",), "NaN", cv.coordinate_attributes("x", grid.crs)), grid),
        (ArrayPlan(f"{path}/y", (height,), "<f8", (height,), None, ("y",), "NaN", cv.coordinate_attributes("y", grid.crs)), grid),
    ]


def _groups(
    tree: SourceTree,
    layout: SourceLayout,
    pixels: Pixels,
    grids: Mapping[str, Grid],
    levels: Mapping[str, int],
    native: Grid,
) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for path, attributes in tree.groups.items():
        quicklook = _is_quicklook(path) and not pixels.quicklook
        dropped = path.startswith(f"{layout.multiscales}/") and path not in grids
        if not quicklook and not dropped:
            groups[path] = cv.carried_attributes(attributes)
    for path, grid in grids.items():
        groups[path] = groups.get(path, {}) | cv.level_attributes(grid)
    groups[layout.multiscales] = groups.get(layout.multiscales, {}) | cv.multiscales_attributes(native, levels)
    groups[""] = groups[""] | cv.root_attributes(native)
    return dict(sorted(groups.items()))


def is_mandatory(path: str, pixels: Pixels) -> bool:
    """Return whether a missing chunk of the source array at ``path`` is an error by the recipe."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in pixels.mandatory)


def _disagreements(tree: SourceTree, grids: Mapping[str, Grid]) -> Iterable[Finding]:
    """Where attributes disagree with the coordinates, the coordinates are right; it is told."""
    for path, array in tree.arrays.items():
        stated = array.attributes.get("proj:transform")
        grid = grids.get(array.group)
        if grid and isinstance(stated, list) and not np.allclose(stated[:6], grid.transform, rtol=0, atol=1e-6):
            text = f"proj:transform {stated[:6]} disagrees with x and y, which give {list(grid.transform)}; x and y were taken"
            yield Finding("source.transform", Severity.WARNING, path, text)
