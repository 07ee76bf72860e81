"""Taking the objects of a Zarr v3 array over into a store, byte for byte, after each chunk in them was decoded."""

import math
from collections.abc import Iterator, Mapping

import google_crc32c
import numcodecs
import numpy as np

from zarrmill.errors import SourceError
from zarrmill.io.answers import MissingObjectError
from zarrmill.io.blosc import DECODE_ERRORS, HEADER_BYTES, header
from zarrmill.io.objects import Objects
from zarrmill.io.source import Missing, object_keys
from zarrmill.io.store import Writer
from zarrmill.io.written import Entry, Written
from zarrmill.model import SourceArray

_ABSENT = 2**64 - 1
"""Offset and length of an inner chunk that a shard does not hold (zarr sharding codec, binary format)."""


def take_over(
    objects: Objects, array: SourceArray, writer: Writer, finished: Mapping[str, Entry], on_missing: Missing
) -> Iterator[Written]:
    """Copy every object of ``array`` under its own key, note it in the journal, and yield it.

    Args: finished: what an earlier attempt wrote (of ``StoreWriter``), which is yielded and not copied again; on_missing: told
    the key of each object that the source does not have.
    Raises: SourceError: an object is not what the array's metadata says; it is then not written.
    """
    name = f"{array.path}: taken"
    there = {item.key: item for item in finished.get(name, Entry(name)).objects}
    yield from there.values()
    for key in object_keys(array):
        if key in there:
            continue
        try:
            data = objects.get(key)
        except MissingObjectError:
            on_missing(key)
            continue
        try:
            _check(data, array)
        except DECODE_ERRORS as error:
            text = f"{objects.href}: array {array.path}: object {key}: {error}"
            raise SourceError(f"{text}; report it to the provider, run again when it is mended", kind="corrupt") from error
        there[key] = writer.write(key, data)
        writer.record(Entry(name, objects=tuple(there.values())))
        yield there[key]


def _check(data: bytes, array: SourceArray) -> None:
    """Decode every chunk of an object. Raises: one of ``DECODE_ERRORS``: one cannot be."""
    first = array.encoding["codecs"][0]
    sharded = first["name"] == "sharding_indexed"
    codecs = first["configuration"]["codecs"] if sharded else array.encoding["codecs"]
    compressor = codecs[1]["name"] if len(codecs) > 1 else ""
    wanted = math.prod(array.chunks) * np.dtype(array.dtype).itemsize
    for place, chunk in _chunks(data, array) if sharded else [("", memoryview(data))]:
        found = _decoded_bytes(bytes(chunk), compressor)
        if found != wanted:
            raise ValueError(f"{place}decodes to {found} bytes, expected {wanted}")


def _chunks(data: bytes, array: SourceArray) -> Iterator[tuple[str, memoryview]]:
    """Yield the inner chunks that a shard holds, after its index and their places in it were checked."""
    outer = array.encoding["chunk_grid"]["configuration"]["chunk_shape"]
    n_chunks = math.prod(size // chunk for size, chunk in zip(outer, array.chunks, strict=True))
    end = len(data) - 16 * n_chunks - 4
    if end < 0:
        raise ValueError(f"truncated: {len(data)} bytes, its index alone has {16 * n_chunks + 4}")
    index, checksum = data[end:-4], int.from_bytes(data[-4:], "little")
    if google_crc32c.value(index) != checksum:
        raise ValueError("the checksum of the shard index is wrong")
    for number, (offset, length) in enumerate(np.frombuffer(index, "<u8").reshape(-1, 2).tolist()):
        if offset == length == _ABSENT:
            continue
        if offset + length > end:
            raise ValueError(f"inner chunk {number} ends at {offset + length}, the chunks end at {end}")
        yield f"inner chunk {number}: ", memoryview(data)[offset : offset + length]


def _decoded_bytes(chunk: bytes, compressor: str) -> int:
    """Decode one chunk and return how many bytes it gave. Raises: as ``_check``."""
    if not compressor:
        return len(chunk)
    if compressor == "blosc":  # its decoder believes the header, also beyond the end of the data
        told = header(chunk).n_compressed if len(chunk) >= HEADER_BYTES else f"a header of {HEADER_BYTES}"
        if told != len(chunk):
            raise ValueError(f"truncated chunk: {len(chunk)} bytes, expected {told}")
    decoder = {"blosc": numcodecs.Blosc, "zstd": numcodecs.Zstd, "gzip": numcodecs.GZip}[compressor]()
    return memoryview(decoder.decode(chunk)).nbytes
