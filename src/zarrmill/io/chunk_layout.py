"""Where the chunks of an array lie and how they are decoded, read from its Zarr v2 or v3 metadata.

Only what can be decoded without zarr-python has a ``ChunkLayout``: C order, no filters, one known compressor, little endian, and
in v3 the sharding codec with a plain index. For anything else the answer is None and zarr-python has to be asked.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

COMPRESSORS = frozenset({"blosc", "zstd", "gzip"})
TEXT = np.dtype(object)
"""Stands for text of any length."""
_V3_KEYS = frozenset(
    {
        "zarr_format",
        "node_type",
        "shape",
        "data_type",
        "chunk_grid",
        "chunk_key_encoding",
        "fill_value",
        "codecs",
        "dimension_names",
        "attributes",
        "storage_transformers",
    }
)
_NAMES = frozenset(["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"])
_INDEX_CODECS = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
Document = Mapping[str, Any]  # Any: JSON values


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """One array whose chunks can be decoded one by one."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """Dtype of the decoded bytes; ``TEXT`` for text of any length."""
    fill: Any
    """Value of what is not stored."""
    outer: tuple[int, ...]
    """Shape of what one object holds: the shard, or the chunk of an unsharded array."""
    inner: tuple[int, ...]
    """Shape of the smallest piece that is compressed alone."""
    compressor: str | None
    prefix: tuple[str, ...]
    """First parts of a chunk's name."""
    separator: str
    sharded: bool = False
    index_at_end: bool = True
    """Where a shard has its index."""

    @property
    def chunk_bytes(self) -> int:
        """Decoded bytes of an inner chunk; of text 0: not known."""
        return 0 if self.dtype is TEXT else math.prod(self.inner) * self.dtype.itemsize

    def key(self, index: tuple[int, ...]) -> str:
        """Return the key of the object at ``index`` in the grid of objects."""
        name = self.separator.join((*self.prefix, *map(str, index))) or "0"
        return f"{self.path}/{name}" if self.path else name


def layout_v2(path: str, node: Document) -> ChunkLayout | None:
    """Return the layout of an array from its ``.zarray``, or None when zarr-python has to read it."""
    try:
        dtype, compressor = np.dtype(node["dtype"]), node["compressor"]
        name = compressor["id"] if compressor else None
        if dtype.kind not in "biufU" or node["order"] != "C" or node["filters"] or (name and name not in COMPRESSORS):
            return None
        shape, chunks = _shape(node["shape"]), _shape(node["chunks"])
        if len(shape) != len(chunks) or 0 in chunks:
            return None
        fill = dtype.type() if node["fill_value"] is None else _fill(node["fill_value"], dtype)
        return ChunkLayout(path, shape, dtype, fill, chunks, chunks, name, (), node.get("dimension_separator", "."))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def layout_v3(path: str, document: Document) -> ChunkLayout | None:
    """Return the layout of an array from its ``zarr.json``, or None when zarr-python has to read it."""
    try:
        grid, encoding = document["chunk_grid"], document.get("chunk_key_encoding", {"name": "default"})
        shape, outer, codecs = _shape(document["shape"]), _shape(grid["configuration"]["chunk_shape"]), document["codecs"]
        dims = document.get("dimension_names") or [None] * len(shape)
        known = set(document) <= _V3_KEYS and (document["zarr_format"], document["node_type"]) == (3, "array")
        known = known and grid["name"] == "regular" and encoding["name"] in ("default", "v2")
        known = known and not document.get("storage_transformers") and len(shape) == len(outer) == len(dims) and 0 not in outer
        default = encoding["name"] == "default"
        separator = encoding.get("configuration", {}).get("separator", "/" if default else ".")
        inner, at_end, sharded = outer, True, codecs[0]["name"] == "sharding_indexed"
        if sharded:
            shard = codecs[0]["configuration"]
            inner, at_end = _shape(shard["chunk_shape"]), shard.get("index_location", "end") == "end"
            fits = len(inner) == len(outer) and all(i and o % i == 0 for o, i in zip(outer, inner, strict=True))
            known = known and len(codecs) == 1 and fits and shard["index_codecs"] == _INDEX_CODECS
            codecs = shard["codecs"]
        dtype = _v3_dtype(document["data_type"])
        if not known or not all(isinstance(name, str | None) for name in dims):
            return None
        name = _v3_compressor(codecs, dtype)
        fill = _fill(document["fill_value"], dtype)
        prefix = ("c",) if default else ()
        return ChunkLayout(path, shape, dtype, fill, outer, inner, name, prefix, separator, sharded, at_end)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, IndexError):
        return None


def _shape(values: Any) -> tuple[int, ...]:  # Any: whatever JSON held
    if any(type(value) is not int or value < 0 for value in values):
        raise ValueError(f"{values!r} are not whole numbers")
    return tuple(values)


def _v3_dtype(name: Any) -> np.dtype[Any]:  # Any: whatever JSON held
    if name == "string":
        return TEXT
    if isinstance(name, Mapping) and name["name"] == "fixed_length_utf32":
        return np.dtype(f"<U{name['configuration']['length_bytes'] // 4}")
    if name not in _NAMES:
        raise ValueError(f"data type {name!r}")
    little: np.dtype[Any] = np.dtype(name).newbyteorder("<")
    return little


def _v3_compressor(codecs: Any, dtype: np.dtype[Any]) -> str | None:  # Any: whatever JSON held
    first, *rest = codecs
    endian = first.get("configuration", {}).get("endian", "little")
    serial = first["name"] == ("vlen-utf8" if dtype is TEXT else "bytes") and endian == "little"
    names = [codec["name"] for codec in rest]
    if not serial or len(names) > 1 or not set(names) <= COMPRESSORS:
        raise ValueError(f"codecs {codecs!r}")
    return names[0] if names else None


def _fill(value: Any, dtype: np.dtype[Any]) -> Any:  # Any: whatever JSON held
    if dtype is TEXT or dtype.kind == "U":
        if not isinstance(value, str):
            raise ValueError(f"fill value {value!r} of text")
        return value
    if dtype.kind == "f" and (value in ("NaN", "Infinity", "-Infinity") or type(value) in (int, float)):
        return dtype.type(float(value))
    if isinstance(value, bool) != (dtype.kind == "b") or not isinstance(value, int):
        raise ValueError(f"fill value {value!r} of {dtype}")
    return np.array(value, dtype)[()]
