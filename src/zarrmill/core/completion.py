"""Completing a source that is a sharded Zarr v3 store already: its objects are kept, what it lacks is added.

``completed`` turns the plan of a relayout into one that takes arrays over: their chunks, shards and codecs stay the source's,
only attributes are written anew. What cannot be taken over is an error that names the way out.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from zarrmill.errors import SourceError
from zarrmill.model import ArrayPlan, RasterTask, SourceArray, StorePlan, Taken

COMPRESSORS = frozenset({"blosc", "zstd", "gzip"})
"""Codecs of chunks that are taken over; readers in every language have them."""


def completed(plan: StorePlan, measurements: str) -> StorePlan:
    """Return the plan that keeps every array of the source but coordinates and text, and computes only what is missing.

    Args: plan: of a relayout; measurements: group of the levels, whose arrays must be sharded.
    Raises: SourceError: a coordinate disagrees with what the source states, or an array cannot be taken over.
    """
    wrong = next((finding for finding in plan.findings if finding.code == "source.transform"), None)
    if wrong is not None:
        raise _refused(wrong.path, wrong.message)
    rasters, taken = [], []
    for task in plan.rasters:
        made = tuple((factor, output) for factor, output in task.outputs if factor > 1)
        taken += [_taken(task, output, measurements) for factor, output in task.outputs if factor == 1]
        rasters += [replace(task, outputs=made)] if made else []
    copies = []
    for source, output in plan.copies:
        if output.dtype == source.dtype != "string" and not (_obstacle(source) or _fill_obstacle(source, output)):
            taken.append(Taken(source, _kept(source, output), mandatory=False))
        else:
            copies.append((source, output))
    taken.sort(key=lambda one: (-one.source.n_bytes, one.source.path))
    return replace(plan, rasters=tuple(rasters), copies=tuple(copies), taken=tuple(taken))


def _taken(task: RasterTask, output: ArrayPlan, measurements: str) -> Taken:
    source = task.source
    if obstacle := _obstacle(source) or _fill_obstacle(source, output):
        raise _refused(source.path, obstacle)
    if source.path.startswith(f"{measurements}/"):
        n_chunks = math.prod(-(-size // chunk) for size, chunk in zip(source.shape, source.chunks, strict=True))
        if n_chunks > 1 and _shard(source.encoding) is None:
            raise _refused(source.path, f"{n_chunks} chunks of {source.chunks} without shards, expected sharding_indexed")
        if source.fill_value != 0:
            raise _refused(source.path, f"fill_value {source.fill_value!r}, expected 0")
    return Taken(source, _kept(source, output), task.mandatory)


def _kept(source: SourceArray, output: ArrayPlan) -> ArrayPlan:
    """Return the plan of an array whose objects are the source's."""
    node = dict(source.encoding)
    shards = tuple(node["chunk_grid"]["configuration"]["chunk_shape"]) if _shard(node) else None
    kept = replace(output, chunks=source.chunks, shards=shards, fill_value=source.fill_value)
    return replace(kept, document=node | {"attributes": dict(output.attributes), "dimension_names": list(source.dims)})


def _shard(node: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the configuration of the sharding codec when it is the only one."""
    codecs = node["codecs"]
    return codecs[0]["configuration"] if len(codecs) == 1 and codecs[0]["name"] == "sharding_indexed" else None


def _obstacle(source: SourceArray) -> str:
    """Say why the objects of an array cannot be taken over; empty when they can."""
    node = source.encoding
    shard = _shard(node)
    found = [codec["name"] for codec in node["codecs"]]
    if shard is not None:
        index = [codec["name"] for codec in shard.get("index_codecs", [])]
        if index != ["bytes", "crc32c"] or shard.get("index_location", "end") != "end":
            return f"a shard index of {index} at the {shard.get('index_location', 'end')}, expected bytes and crc32c at the end"
        outer = node["chunk_grid"]["configuration"]["chunk_shape"]
        if any(size % chunk for size, chunk in zip(outer, source.chunks, strict=True)):
            return f"chunks of {source.chunks} do not divide shards of {outer}"
        found = [codec["name"] for codec in shard["codecs"]]
    inner = (shard or node)["codecs"]
    if found[:1] != ["bytes"] or len(found) > 2 or not set(found[1:]) <= COMPRESSORS:
        return f"codecs {found}, expected bytes and one of {sorted(COMPRESSORS)}"
    if node["chunk_grid"]["name"] != "regular" or node.get("storage_transformers"):
        return "an irregular chunk grid or storage transformers, expected neither"
    return _width_obstacle(source, inner)


def _fill_obstacle(source: SourceArray, output: ArrayPlan) -> str:
    """Say that a value is masked that is not the fill value: readers that know only one of the two would disagree."""
    stated = output.attributes.get("_FillValue", source.fill_value)
    return "" if stated == source.fill_value else f"fill_value {source.fill_value!r}, expected {stated!r} as _FillValue"


def _width_obstacle(source: SourceArray, codecs: list[dict[str, Any]]) -> str:
    """Say what is wrong with byte order or item size."""
    item = np.dtype(source.dtype).itemsize
    if item > 1 and (codecs[0].get("configuration") or {}).get("endian", "little") != "little":
        return "big-endian bytes, expected little-endian"
    typesize = next((codec["configuration"].get("typesize") for codec in codecs if codec["name"] == "blosc"), item)
    return "" if typesize == item else f"blosc typesize {typesize}, expected {item} for {source.dtype}"


def _refused(path: str, found: str) -> SourceError:
    way_out = "zarr3_source: complete takes the source's objects as they are; set pixels.zarr3_source: relayout"
    return SourceError(f"{path}: {found}; {way_out}", kind="layout")
