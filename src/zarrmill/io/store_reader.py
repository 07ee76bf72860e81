"""Reading a finished store, or its source, object by object: bytes as they lie there, arrays by region.

Pixels are read apart from the converter's way (``io.chunk_reader``), or through zarr-python. Bytes that cannot be decoded are
told, not raised; a place that does not answer is an ``UnknownStateError``.
"""

import json
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from zarrmill.errors import SourceError, StoreError, UnknownStateError
from zarrmill.io.answers import MissingObjectError
from zarrmill.io.blosc import DECODE_ERRORS
from zarrmill.io.chunk_layout import layout_v2, layout_v3
from zarrmill.io.chunk_reader import ByteReader, ChunkError, ChunkReader
from zarrmill.io.objects import Objects
from zarrmill.io.source import read_tree
from zarrmill.model import Json, SourceArray, SourceTree
from zarrmill.quiet import without_warnings

if TYPE_CHECKING:
    import zarr

Values = NDArray[Any]  # Any: arrays keep the dtype that they are stored with
Region = tuple[slice, ...]
_DECODE = (*DECODE_ERRORS, ArithmeticError, LookupError, AttributeError, AssertionError)


@dataclass
class ArrayReader:
    """One array, readable by region."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    """Name in native byte order; ``string`` for text."""
    chunks: tuple[int, ...]
    """Shape of what one object holds."""
    inner: tuple[int, ...]
    """Shape of the smallest piece that can be decoded alone."""
    attributes: Mapping[str, Json]
    dims: tuple[str, ...]
    objects: Objects
    direct: ChunkReader | None
    """Decodes chunks without zarr-python; None when only that can."""
    document: Mapping[str, Json] | None = None
    """``zarr.json`` of the array itself; None: zarr-python reads it from the place."""

    @property
    def n_bytes(self) -> int:
        """Decoded bytes; text counts eight bytes an item."""
        return math.prod(self.shape) * (8 if self.dtype == "string" else np.dtype(self.dtype).itemsize)

    @property
    def held_bytes(self) -> int:
        """Decoded bytes that are held beside a region: a row of inner chunks where those are not decoded in part."""
        if self.direct is not None and not self.direct.keeps:
            return 0
        along = (-(-n // c) * c for n, c in zip(self.shape[1:], self.inner[1:], strict=True))
        return math.prod(self.inner[:1]) * math.prod(along) * self.n_bytes // max(math.prod(self.shape), 1)

    def read(self, region: Region) -> Values | str:
        """Return the values of a region, or say why they cannot be decoded. Text becomes fixed-width unicode.

        Raises: UnknownStateError: the place did not answer.
        """
        if self.direct is None:
            return self.read_again(region)
        try:
            with reachable():
                return _native(self.direct.read(region))
        except ChunkError as error:
            return str(error)

    def parts(self, region: Region) -> Iterator[tuple[Region, Values | str]]:
        """Return the values of a region as they are decoded, each part with its place in the region.

        What cannot be decoded ends it, told in place of values. Raises: as ``read``.
        """
        whole = tuple(slice(0, s.stop - s.start) for s in region)
        if self.direct is None:
            yield whole, self.read_again(region)
            return
        try:
            with reachable():
                for place, values in self.direct.parts(region):
                    yield place, _native(values)
        except ChunkError as error:
            yield whole, str(error)

    def read_again(self, region: Region) -> Values | str:
        """Return the same as ``read``, through zarr-python: slower, and written by others."""
        from obstore.exceptions import BaseError

        try:
            with reachable():
                return _native(np.asarray(self.array[region]))
        except BaseError as error:
            with reachable():
                self._is_there()
            return _told(error)
        except _DECODE as error:
            return _told(error)

    @cached_property
    def array(self) -> "zarr.Array[Any]":
        """The array as zarr-python opens it; it raises what it likes."""
        import zarr
        from zarr.storage import StorePath

        with without_warnings():  # zarr warns of dtypes whose v3 form is not final
            store = self.objects.zarr_store()
            if self.document is None:
                return zarr.open_array(store=store, path=self.path, mode="r")
            return zarr.Array.from_dict(StorePath(store, self.path), dict(self.document))

    def _is_there(self) -> None:
        """Ask for the array's metadata again: an error here is an outage, none means that the chunk itself is bad."""
        for name in ("zarr.json", ".zarray"):
            self.objects.exists(f"{self.path}/{name}")


def _native(values: Values) -> Values:
    if values.dtype.kind in "OT":
        return np.asarray(values.tolist(), dtype=str)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]


@contextmanager
def reachable() -> Iterator[None]:
    """Turn an answer that did not come, or was refused, into ``UnknownStateError``: nothing can be said about the store."""
    try:
        yield
    except SourceError as error:
        if error.retryable or error.kind == "denied":
            raise UnknownStateError(f"{error.message}; validate again", kind="outage") from error
        raise


def can_list(objects: Objects) -> bool:
    """Whether objects can be listed: everywhere but on plain http servers."""
    return urlsplit(objects.href).scheme not in ("http", "https")


def list_sizes(objects: Objects) -> dict[str, int] | None:
    """Return key and size of every object in order of keys; None where listing is not possible.

    Raises: StoreError: there is nothing at all; UnknownStateError: the place does not answer.
    """
    if not can_list(objects):
        return None
    with reachable():
        try:
            sizes = dict(sorted(objects.keys()))
        except MissingObjectError:
            sizes = {}
    if not sizes:
        raise StoreError(f"{objects.href}: no object there; expected a Zarr store, check the address", kind="missing")
    return sizes


def read_documents(objects: Objects, read: ByteReader, sizes: Mapping[str, int] | None, threads: int) -> dict[str, bytes]:
    """Return the ``zarr.json`` of every node by its path, the root's under the empty path, read with ``read``.

    Without a listing the nodes are those of the root's consolidated metadata.
    Raises: StoreError: without a listing, no root; UnknownStateError: the place does not answer.
    """
    if sizes is not None:
        keys = [key for key in sizes if key.rpartition("/")[2] == "zarr.json"]
    else:
        with reachable():
            try:
                root = objects.get("zarr.json")
            except MissingObjectError:
                raise StoreError(f"{objects.href}: no zarr.json there; check the address", kind="missing") from None
        keys = ["zarr.json", *(f"{path}/zarr.json" for path in _consolidated_paths(root))]
    with reachable(), ThreadPoolExecutor(max(threads, 1) * 4) as pool:
        found = pool.map(lambda key: _get(read, key), keys)
        return {key.rpartition("/")[0]: data for key, data in zip(keys, found, strict=True) if data is not None}


def _get(objects: ByteReader, key: str) -> bytes | None:
    try:
        return objects.get(key)
    except MissingObjectError:
        return None


def _consolidated_paths(root: bytes) -> list[str]:
    try:
        return sorted(str(path) for path in json.loads(root)["consolidated_metadata"]["metadata"])
    except (ValueError, KeyError, TypeError):
        return []


def open_array(
    objects: Objects,
    read: ByteReader,
    path: str,
    document: Mapping[str, Json],
    outer: tuple[int, ...],
    sizes: Mapping[str, int] | None,
    full: bool,
) -> ArrayReader | str:
    """Return a reader of one array made from its own ``zarr.json``, or say why zarr-python refuses it.

    Args: read: what chunks are read with; full: the array will be read from its begin to its end, and zarr-python is asked
    even where it is not needed.
    """
    layout = layout_v3(path, document)
    names = document.get("dimension_names")
    dims = tuple(str(name) for name in names) if isinstance(names, list) else ()
    direct = ChunkReader(read, layout, sizes, full, objects.local is not None) if layout else None
    reader = ArrayReader(path, (), "", outer, (), document.get("attributes", {}), dims, objects, direct, document)
    try:
        if layout is None or full:
            array = reader.array
            reader.shape, reader.dtype, reader.inner = array.shape, _dtype(np.dtype(array.dtype)), array.chunks
        else:
            reader.shape, reader.dtype, reader.inner = layout.shape, _dtype(layout.dtype), layout.inner
        return reader
    except _DECODE as error:
        return _told(error)


def _dtype(dtype: np.dtype[Any]) -> str:
    return "string" if dtype.kind in "OTU" else dtype.newbyteorder("=").name


@dataclass(frozen=True)
class SourceReader:
    """A source product, Zarr v2 or v3, with consolidated metadata."""

    objects: Objects
    ahead: bool = True
    """Arrays are read from their begin to their end."""

    @cached_property
    def _tree(self) -> SourceTree:
        with reachable():
            return read_tree(self.objects)

    @property
    def attributes(self) -> Mapping[str, Json]:
        """Attributes of the root group.

        Raises: SourceError: nothing is there, or the metadata cannot be used; UnknownStateError: no answer.
        """
        return self._tree.groups[""]

    @property
    def groups(self) -> Mapping[str, Mapping[str, Json]]:
        """Path to attributes of every group. Raises: as ``attributes``."""
        return self._tree.groups

    @property
    def described(self) -> Mapping[str, SourceArray]:
        """Path to what the metadata say of every array, sorted. Raises: as ``attributes``."""
        return self._tree.arrays

    @cached_property
    def arrays(self) -> dict[str, ArrayReader]:
        """Path to reader of every array, sorted. Raises: as ``attributes``."""
        return {path: self._reader(array) for path, array in self._tree.arrays.items()}

    def _reader(self, array: SourceArray) -> ArrayReader:
        is_v2 = self._tree.zarr_format == 2
        layout = (layout_v2 if is_v2 else layout_v3)(array.path, array.encoding)
        direct = ChunkReader(self.objects, layout, None, self.ahead, self.objects.local is not None) if layout else None
        outer = array.chunks if is_v2 else tuple(array.encoding["chunk_grid"]["configuration"]["chunk_shape"])
        dtype = "string" if array.dtype == "string" else _dtype(np.dtype(array.dtype))
        seen = (array.path, array.shape, dtype, outer, array.chunks, array.attributes, array.dims)
        return ArrayReader(*seen, self.objects, direct)
