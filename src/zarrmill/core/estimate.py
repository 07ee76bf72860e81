"""What a conversion will read and write, told from the source's consolidated metadata alone.

The tree of the store follows the target profile: the source's arrays without quick-looks, every reflectance band and every
map that the recipe gives overviews on every coarser level, and a ``spatial_ref`` in each group that has x and y (but for the
angles, a lattice of 5 km).
"""

import fnmatch
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil, cos, pi, prod, sin

import numpy as np
from pydantic_core import from_json

from zarrmill.config import Pixels
from zarrmill.errors import SourceError
from zarrmill.model import Json

DECODED_BYTES_PER_CORE_S = 125_000_000
"""Decoded source bytes that one core converts and validates in a second; 250 MB/s on two cores, an assumption of the plan."""

_LEVEL = re.compile(r"^(.+)/r(\d+)m/(\w+)$")
_BANDS = "measurements/reflectance"
_ANGLES = "conditions/geometry"
_GRD = re.compile(r"^([^/]+_(?:HH|HV|VH|VV))/measurements/grd$")
_TURN = 13 / 180 * pi
"""How far radar images lie turned on the map at middle latitudes; their grid is not known before control points are read."""
_QUICKLOOK = re.compile(r"(^|/)\w*_quicklook(/|$)")


@dataclass(frozen=True, slots=True)
class SourceArray:
    """One array as the metadata states it."""

    path: str
    """``group/.../name`` without a leading slash."""
    shape: tuple[int, ...]
    itemsize: int
    """Bytes of one element; 0 for elements of variable length."""
    n_objects: int = 0
    """Chunk or shard objects that a Zarr v3 source has; 0 when not known."""


@dataclass(frozen=True, slots=True)
class SourceTree:
    """The nodes of a source product."""

    zarr_format: int
    """2 or 3."""
    groups: frozenset[str]
    """Paths of groups below the root."""
    arrays: tuple[SourceArray, ...]


@dataclass(frozen=True, slots=True)
class Estimate:
    """Size of a conversion; all 0 when the metadata was not read."""

    n_bytes: int = 0
    """Decoded bytes of the source arrays that are converted."""
    n_objects: int = 0
    """Chunk or shard objects and ``zarr.json`` files of the store."""
    zarr_format: int = 0
    """Zarr format of the source; 0 when not known."""


def read_tree(data: bytes, place: str) -> SourceTree:
    """Read consolidated metadata (``.zmetadata`` of Zarr v2 or the root ``zarr.json`` of v3).

    Raises: SourceError: truncated, not JSON, not consolidated, or an array without shape and dtype.
    """
    try:
        document = _parsed(data)
        if "zarr_consolidated_format" in document or "metadata" in document:
            return _tree_v2(document["metadata"])
        return _tree_v3(document["consolidated_metadata"]["metadata"])
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{place}: not JSON ({error}); report it to the provider", kind="metadata") from None
    except (KeyError, TypeError, AttributeError) as error:
        found = f"{type(error).__name__}: {error}"
        message = f"{place}: no consolidated Zarr metadata ({found}); expected shape and dtype of every array; report it"
        raise SourceError(message, kind="metadata") from None


def _parsed(data: bytes) -> Json:
    """Return the document, halves of surrogates included, which only the slower reader takes: ten thousand are read."""
    try:
        return from_json(data, cache_strings="all")
    except ValueError:
        return json.loads(data)


def estimate(tree: SourceTree, pixels: Pixels) -> Estimate:
    """Return what converting ``tree`` by ``pixels`` reads and writes."""
    images = [array for array in tree.arrays if _GRD.match(array.path) and len(array.shape) == 2]
    if images:
        return _radar_estimate(tree, images, pixels)
    kept = [array for array in tree.arrays if _is_kept(array.path, pixels)]
    groups = {group for group in tree.groups if _is_kept(f"{group}/", pixels)}
    shapes = {array.path: array.shape for array in kept}
    shapes.update(_levels(kept, pixels))
    groups.update(parent for path in shapes for parent in _parents(path))
    mapped = {g for g in groups - {_ANGLES} if f"{g}/x" in shapes and f"{g}/y" in shapes}
    own = {path: shape for path, shape in shapes.items() if path.rpartition("/")[2] != "spatial_ref"}
    as_they_are = {a.path: a.n_objects for a in kept if a.n_objects and pixels.zarr3_source == "complete"}
    n_data = sum(as_they_are.get(path) or n_data_objects(shape, pixels) for path, shape in own.items())
    n_bytes = sum(prod(array.shape) * array.itemsize for array in kept)
    return Estimate(n_bytes, n_data + len(own) + len(mapped) + len(groups) + 1, tree.zarr_format)


def _is_kept(path: str, pixels: Pixels) -> bool:
    """Whether the store has a node of the source: not quick-looks, nor levels of the measurements that the recipe leaves out."""
    level = re.match(rf"{_BANDS}/r(\d+)m/", path)
    return (pixels.quicklook or not _QUICKLOOK.search(path)) and (level is None or int(level[1]) in pixels.levels_m)


def _radar_estimate(tree: SourceTree, images: list[SourceArray], pixels: Pixels) -> Estimate:
    """Return the size of a radar product: its images on one turned grid, everything else copied."""
    height, width = (max(array.shape[axis] for array in images) for axis in (0, 1))
    finest = pixels.levels_m[0]
    turned = (height * cos(_TURN) + width * sin(_TURN), width * cos(_TURN) + height * sin(_TURN))
    shapes = [tuple(ceil(edge * finest / level_m) for edge in turned) for level_m in pixels.levels_m]
    n_rasters = sum(len(images) * (n_data_objects(shape, pixels) + 1) for shape in shapes)
    n_levels = len(shapes) * (1 + 2 * 2 + 1)  # group, x and y with their values, spatial_ref
    n_copies = 2 * (len(tree.arrays) - len(images))
    n_groups = len(tree.groups) - len(images) + 4  # the root of an image and its conditions become one group
    n_bytes = sum(prod(array.shape) * array.itemsize for array in tree.arrays)
    return Estimate(n_bytes, n_rasters + n_levels + n_copies + n_groups + 1, tree.zarr_format)


def n_data_objects(shape: tuple[int, ...], pixels: Pixels) -> int:
    """Return the objects that one array of ``shape`` becomes: shards, or chunks when unsharded; at least one.

    Only the last two dimensions are cut; an array no larger than one chunk is one object.
    """
    edge = pixels.shard_px or pixels.chunk_px
    return prod(max(1, ceil(size / edge)) for size in shape[-2:]) if len(shape) >= 2 else 1


def seconds(n_bytes: int, threads: int) -> float:
    """Return how long converting and validating ``n_bytes`` of decoded source takes on ``threads`` cores."""
    return n_bytes / (DECODED_BYTES_PER_CORE_S * threads)


def _levels(arrays: list[SourceArray], pixels: Pixels) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield path and shape of arrays, and their x and y, on levels that the source does not have."""
    finest: dict[tuple[str, str], tuple[int, tuple[int, ...]]] = {}
    own_m: dict[str, set[int]] = {}
    for array in arrays:
        match = _LEVEL.match(array.path)
        if match and len(array.shape) == 2 and (match[1] == _BANDS or _has_overviews(match[1], pixels)):
            root, level_m, band = match[1], int(match[2]), match[3]
            finest[root, band] = min(finest.get((root, band), (level_m, array.shape)), (level_m, array.shape))
            own_m.setdefault(root, set()).add(level_m)
    have = {array.path for array in arrays}
    for (root, band), (native_m, shape) in sorted(finest.items()):
        for level_m in sorted({*pixels.levels_m, *(own_m[root] if root != _BANDS else ())}):
            if level_m <= native_m or any(size * native_m % level_m for size in shape):
                continue
            height, width = (size * native_m // level_m for size in shape)
            for name, size in ((band, (height, width)), ("y", (height,)), ("x", (width,))):
                if (path := f"{root}/r{level_m}m/{name}") not in have:
                    yield path, size


def _has_overviews(group: str, pixels: Pixels) -> bool:
    return not _QUICKLOOK.search(group) and any(fnmatch.fnmatchcase(group, pattern) for pattern in pixels.overviews)


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rsplit("/", 1)[0]
        yield path


def _tree_v2(nodes: Mapping[str, Json]) -> SourceTree:
    arrays = [(key.removesuffix("/.zarray"), node) for key, node in nodes.items() if key.endswith("/.zarray")]
    groups = frozenset(key.removesuffix("/.zgroup") for key in nodes if key.endswith("/.zgroup"))
    return SourceTree(2, groups, tuple(_array(path, node["shape"], node["dtype"]) for path, node in sorted(arrays)))


def _tree_v3(nodes: Mapping[str, Json]) -> SourceTree:
    arrays = [(path, node) for path, node in nodes.items() if node["node_type"] == "array"]
    groups = frozenset(path for path, node in nodes.items() if node["node_type"] == "group")
    return SourceTree(3, groups, tuple(_array_v3(path, node) for path, node in sorted(arrays)))


def _array_v3(path: str, node: Mapping[str, Json]) -> SourceArray:
    array, chunks = _array(path, node["shape"], node["data_type"]), node.get("chunk_grid", {}).get("configuration", {})
    n_objects = prod(ceil(n / max(c, 1)) for n, c in zip(array.shape, chunks.get("chunk_shape", []), strict=False))
    is_axis = array.path.rpartition("/")[2] in ("x", "y")
    return replace(array, n_objects=0 if is_axis or not array.itemsize else n_objects)


def _array(path: str, shape: Json, dtype: Json) -> SourceArray:
    if not isinstance(shape, list) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise TypeError(f"{path}: shape {shape!r}")
    return SourceArray(path, tuple(shape), _itemsize(dtype))


def _itemsize(dtype: Json) -> int:
    if isinstance(dtype, dict):
        return int(dtype.get("configuration", {}).get("length_bytes", 0))
    if dtype in ("string", "bytes", "variable_length_bytes", "|O"):
        return 0
    return int(np.dtype(dtype).itemsize)
