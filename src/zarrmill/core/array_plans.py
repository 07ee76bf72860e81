"""Plans of single arrays: chunks, shards, fill value and attributes, from a source array and a recipe."""

import fnmatch
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from zarrmill.config import Pixels
from zarrmill.core import conventions as cv
from zarrmill.core.chunking import chunk_shape, shard_shape
from zarrmill.errors import SourceError
from zarrmill.model import ArrayPlan, Grid, SourceArray, StorePlan


def is_raster(array: SourceArray) -> bool:
    """Return whether an array has pixels in its last two dimensions."""
    return array.dims[-2:] == ("y", "x")


def is_quicklook(path: str) -> bool:
    """Return whether a path lies in a quick-look group."""
    return any(part.endswith("_quicklook") for part in path.split("/"))


def is_mandatory(path: str, pixels: Pixels) -> bool:
    """Return whether a missing chunk of the source array at ``path`` is an error by the recipe."""
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in pixels.mandatory)


def check_kind(array: SourceArray) -> None:
    """Raise SourceError when readers of Zarr v3 have no common type for an array: times, raw bytes, complex numbers."""
    if array.dtype != "string" and (np.dtype(array.dtype).kind not in "biuf" or np.dtype(array.dtype).itemsize > 8):
        found = f"{array.path}: dtype {array.dtype}, expected booleans, integers, floats of at most 64 bits, or text"
        raise SourceError(f"{found}; report it to the provider", kind="layout")


def raster_plan(
    path: str, shape: tuple[int, ...], source: SourceArray, pixels: Pixels, attributes: Mapping[str, Any], fill: Any
) -> ArrayPlan:
    """Return the plan of a raster made from ``source``, chunked as the recipe says.

    Raises: SourceError: as ``check_kind``, or it is text.
    """
    check_kind(source)
    if source.dtype == "string":
        raise SourceError(f"{source.path}: text on a grid, expected numbers; report it to the provider", kind="layout")
    chunks = chunk_shape(shape, pixels.chunk_px)
    shards = shard_shape(shape, chunks, pixels.shard_px)
    return ArrayPlan(path, shape, source.dtype, chunks, shards, source.dims, fill, attributes)


def map_attributes(array: SourceArray) -> dict[str, Any]:
    """Return the attributes of a raster that is no measurement: masks, classes, probabilities, quick-looks."""
    flags = cv.class_attributes(array.path, array.attributes)
    named = cv.named_coordinates(array.attributes)
    carried = cv.carried_attributes(array.attributes) | named | flags | {"grid_mapping": "spatial_ref"}
    return carried if "flag_values" in carried else carried | fill_attribute(array)  # no class is masked


def copy_plan(array: SourceArray) -> ArrayPlan:
    """Return the plan of a small array that becomes one chunk; ``x`` and ``y`` become float64. Raises: as ``check_kind``."""
    check_kind(array)
    axis = array.name if array.name in ("x", "y") and array.dims == (array.name,) else None
    dtype = "<f8" if axis and array.dtype != "string" else array.dtype
    attributes = cv.carried_attributes(array.attributes) | cv.named_coordinates(array.attributes) | fill_attribute(array)
    if axis:
        attributes |= cv.coordinate_attributes(axis)
        attributes.pop("_FillValue", None)
    chunks = tuple(max(1, size) for size in array.shape)
    return ArrayPlan(array.path, array.shape, dtype, chunks, None, array.dims, "NaN" if axis else fill_value(array), attributes)


def coordinate_plans(path: str, grid: Grid) -> list[tuple[ArrayPlan, Grid]]:
    """Return ``spatial_ref``, ``x`` and ``y`` of the group at ``path``."""
    height, width = grid.shape
    mapping = cv.grid_mapping_attributes(grid)
    return [
        (ArrayPlan(f"{path}/spatial_ref", (), "<i4", (), None, (), 0, mapping), grid),
        (ArrayPlan(f"{path}/x", (width,), "<f8", (width,), None, ("x",), "NaN", cv.coordinate_attributes("x", grid.crs)), grid),
        (ArrayPlan(f"{path}/y", (height,), "<f8", (height,), None, ("y",), "NaN", cv.coordinate_attributes("y", grid.crs)), grid),
    ]


def with_own_coordinates(plan: StorePlan) -> StorePlan:
    """Return the plan without names in ``coordinates`` of arrays that the store has not in the same group."""
    paths = {array.path for array in plan.arrays}

    def checked(array: ArrayPlan) -> ArrayPlan:
        attributes = dict(array.attributes)
        group = array.path.rpartition("/")[0]
        names = str(attributes.pop("coordinates", "")).split()
        known = [name for name in names if f"{group}/{name}".lstrip("/") in paths]
        return replace(array, attributes=attributes | ({"coordinates": " ".join(known)} if known else {}))

    rasters = (replace(task, outputs=tuple((factor, checked(made)) for factor, made in task.outputs)) for task in plan.rasters)
    return replace(plan, rasters=tuple(rasters), copies=tuple((source, checked(made)) for source, made in plan.copies))


def fill_value(array: SourceArray) -> Any:
    """Return the Zarr fill value: the value that is masked, else the source's; the neutral one of the dtype where it has none."""
    if array.dtype == "string":
        return array.fill_value if isinstance(array.fill_value, str) else ""
    kind = np.dtype(array.dtype).kind
    if kind == "f":
        return "NaN" if array.fill_value is None else array.fill_value
    if kind == "b":
        return bool(array.fill_value)
    stated = 0 if array.fill_value is None else array.fill_value
    return fill_attribute(array).get("_FillValue", stated)  # readers that know no _FillValue mask the same


def fill_attribute(array: SourceArray) -> dict[str, Any]:
    """Return ``_FillValue`` for integers whose source masks a value; one that the dtype cannot hold masks nothing.

    Readers of Zarr v2 take it from the array's fill value, and from the attribute only where that is null.
    """
    if array.dtype == "string" or np.dtype(array.dtype).kind not in "iu":
        return {}
    by_attribute = array.encoding.get("zarr_format") == 3 or array.fill_value is None
    stated = array.attributes.get("_FillValue") if by_attribute else array.fill_value
    if not isinstance(stated, int | float) or isinstance(stated, bool):
        return {}
    held = np.iinfo(array.dtype)
    return {"_FillValue": int(stated)} if held.min <= stated <= held.max and stated == int(stated) else {}
