"""Chunk and shard shapes."""

import math


def chunk_shape(shape: tuple[int, ...], chunk_px: int) -> tuple[int, ...]:
    """Return the inner chunk shape of a raster ``(..., y, x)``: ``chunk_px`` squared, never larger than the array."""
    return (*(1 for _ in shape[:-2]), *(min(chunk_px, size) for size in shape[-2:]))


def shard_shape(shape: tuple[int, ...], chunks: tuple[int, ...], shard_px: int | None) -> tuple[int, ...] | None:
    """Return the shard shape of a raster ``(..., y, x)``, whole chunks on each axis, or None.

    None when sharding is off or when one chunk holds a whole plane. A shard is ``shard_px`` squared, or the array rounded up
    to whole chunks where that is smaller.
    """
    if shard_px is None or all(chunk >= size for chunk, size in zip(chunks[-2:], shape[-2:], strict=True)):
        return None
    edges = []
    for size, chunk in zip(shape[-2:], chunks[-2:], strict=True):
        whole = math.ceil(size / chunk) * chunk
        edges.append(min(whole, max(chunk, shard_px // chunk * chunk)))
    return (*(1 for _ in shape[:-2]), *edges)
