"""What the consolidated metadata of a product say: its groups and arrays as values.

The same of Zarr v2 and v3: numbers are little endian, dimensions without a name are those of their array alone, every group that
a path implies is there, fill values are what the Zarr v3 specification calls them. A document that does not say what it must
raises ValueError, KeyError, TypeError or AttributeError.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from zarrmill.model import SourceArray

_FLOATS = ("NaN", "Infinity", "-Infinity")
_NAME_BYTES = 240
"""Longest name of a node: file systems hold 255, and an object that grows has a few more than its own."""

type Nodes = tuple[dict[str, Mapping[str, Any]], dict[str, SourceArray]]
"""Attributes of groups, and arrays, by path; the root's path is empty."""


def nodes_v2(document: dict[str, Any]) -> Nodes:
    """Return what a ``.zmetadata`` holds."""
    metadata = document["metadata"]
    names = [key[: -len(".zgroup")] for key in metadata if key.rpartition("/")[2] == ".zgroup"]
    groups: dict[str, Mapping[str, Any]] = {name.removesuffix("/"): dict(metadata.get(f"{name}.zattrs", {})) for name in names}
    arrays = {}
    for key, node in metadata.items():
        if key.rpartition("/")[2] != ".zarray":
            continue
        path = key[: -len("/.zarray")]
        attributes = dict(metadata.get(f"{path}/.zattrs", {}))
        _check_v2(path, node)
        dims = attributes.get("_ARRAY_DIMENSIONS")
        stored = "string" if _is_text(node) else node["dtype"]
        arrays[path] = _array(path, node, stored, node["chunks"], dims, attributes)
    if "" not in groups:
        raise KeyError(".zgroup")
    return _with_parents(groups, arrays), arrays


def nodes_v3(document: dict[str, Any]) -> Nodes:
    """Return what a ``zarr.json`` with consolidated metadata holds."""
    nodes = document["consolidated_metadata"]["metadata"]
    groups: dict[str, Mapping[str, Any]] = {"": dict(document.get("attributes", {}))}
    arrays = {}
    for path, node in nodes.items():
        attributes = dict(node.get("attributes", {}))
        if node["node_type"] == "group":
            groups[path] = attributes
            continue
        first = node["codecs"][0]
        grid = first if first["name"] == "sharding_indexed" else node["chunk_grid"]
        chunks = grid["configuration"]["chunk_shape"]
        arrays[path] = _array(path, node, node["data_type"], chunks, node.get("dimension_names"), attributes)
    return _with_parents(groups, arrays), arrays


def _check_v2(path: str, node: Mapping[str, Any]) -> None:
    """Raise KeyError or ValueError when a ``.zarray`` does not say how its chunks are named, ordered and compressed."""
    separator = node.get("dimension_separator", ".")
    if node["order"] not in ("C", "F") or separator not in (".", "/"):
        raise ValueError(f"{path}: order {node['order']!r}, dimension_separator {separator!r}")
    for key in ("compressor", "filters"):
        if not isinstance(node[key], dict | list | None):
            raise ValueError(f"{path}: {key} {node[key]!r}")


def _with_parents(groups: dict[str, Mapping[str, Any]], arrays: Mapping[str, SourceArray]) -> dict[str, Mapping[str, Any]]:
    """Return the groups and those above a node that the metadata do not mention."""
    found = dict(groups)
    for path in (*groups, *arrays):
        _check_path(path)
        parts = path.split("/")[:-1]
        for n in range(len(parts)):
            found.setdefault("/".join(parts[: n + 1]), {})
    if both := found.keys() & arrays.keys():
        raise ValueError(f"{min(both)!r} is an array and a group")
    return found


def _check_path(path: str) -> None:
    """Raise ValueError when a node has a name that no place below the product has."""
    for name in path.split("/") if path else ():
        if name in ("", ".", "..", "zarr.json") or not name.isprintable() or len(name.encode()) > _NAME_BYTES:
            raise ValueError(
                f"node {path[:_NAME_BYTES]!r} has a part {name[:_NAME_BYTES]!r}, expected names of groups and arrays"
            )


def _array(path: str, node: Mapping[str, Any], stored: Any, chunks: Any, dims: Any, attributes: Mapping[str, Any]) -> SourceArray:
    """Return one array. Raises: ValueError: what the metadata says of it cannot all be true."""
    shape, dtype, name = _sizes(path, node["shape"]), _dtype(stored), path.rpartition("/")[2]
    names = [f"{name}_dim_{i}" if dim is None else dim for i, dim in enumerate(dims or [None] * len(shape))]
    is_integer = dtype != "string" and np.dtype(dtype).kind in "iu"
    array = SourceArray(
        path=path,
        shape=shape,
        dtype=dtype,
        chunks=_sizes(path, chunks),
        dims=tuple(names),
        fill_value=_fill_value(node["fill_value"], is_integer),
        attributes=attributes,
        encoding=node,
    )
    if not len(array.shape) == len(array.chunks) == len(array.dims) or 0 in array.chunks:
        raise ValueError(f"{array.path}: shape {array.shape}, chunks {array.chunks} and dimensions {array.dims} disagree")
    if not all(isinstance(dim, str) for dim in names):
        raise ValueError(f"{array.path}: dimensions {array.dims}")
    if dtype != "string" and not (array.fill_value is None or _fits(array.fill_value, np.dtype(dtype))):
        raise ValueError(f"{array.path}: fill value {array.fill_value!r} in {array.dtype}")
    if node["zarr_format"] not in (2, 3):
        raise ValueError(f"{array.path}: zarr_format {node['zarr_format']!r}")
    return array


def _sizes(path: str, values: Any) -> tuple[int, ...]:
    if not all(type(value) is int and value >= 0 for value in values):
        raise ValueError(f"{path}: sizes {values!r}, expected whole numbers")
    return tuple(values)


def _fits(value: Any, dtype: np.dtype[Any]) -> bool:
    """Return whether a fill value is one of ``dtype``; of floats also by name or, in Zarr v3, by their bits."""
    if dtype.kind == "f":
        by_name = isinstance(value, str) and (value in _FLOATS or value.startswith("0x"))
        return by_name or (isinstance(value, int | float) and not isinstance(value, bool))
    if dtype.kind in "iu":
        return isinstance(value, int) and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max
    return dtype.kind != "b" or isinstance(value, int)


def _fill_value(value: Any, is_integer: bool) -> Any:
    """Return the names of the specification for numbers that strict JSON cannot hold, and integers of an integer array."""
    if not isinstance(value, float):
        return value
    if math.isfinite(value):
        return int(value) if is_integer and value.is_integer() else value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _is_text(node: Mapping[str, Any]) -> bool:
    """Return whether a Zarr v2 array of objects holds text."""
    filters = [one["id"] for one in node["filters"] or ()]
    return str(node["dtype"]).endswith("O") and filters == ["vlen-utf8"]


def _dtype(name: Any) -> str:
    """Return a dtype of NumPy, or ``string``; one that holds neither numbers nor text is what ``check_kind`` refuses."""
    if isinstance(name, dict):
        kind, unit = name["name"], name.get("configuration", {})
        if kind in ("numpy.datetime64", "numpy.timedelta64"):
            return f"<{'M' if 'date' in kind else 'm'}8[{unit['unit']}]"
        return "string" if kind == "fixed_length_utf32" else "|V1"
    if name == "string" or str(name).lstrip("<>|=").startswith("U"):
        return "string"
    return str(np.dtype(name).newbyteorder("<").str)
