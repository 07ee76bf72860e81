"""Reading EOPF products: their consolidated metadata as values, their pixels as rows.

Rows come from the compressed chunks of one chunk row at a time. Blosc can decode a range of a chunk without the rest
(``blosc_getitem``), so a 10980 x 10980 array stored as one chunk is streamed with a few MB beside its compressed bytes.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numcodecs
import numcodecs.blosc
import numpy as np
from numpy.typing import NDArray

from zarrmill.errors import SourceError
from zarrmill.io.answers import MissingObjectError
from zarrmill.io.blosc import DECODE_ERRORS, HEADER_BYTES, BloscChunk, can_decode_ranges, header
from zarrmill.io.objects import Objects
from zarrmill.io.source_nodes import nodes_v2, nodes_v3
from zarrmill.model import SourceArray, SourceTree

Missing = Callable[[str], None]
"""Told the key of every chunk that the source does not have."""


def read_metadata(objects: Objects) -> tuple[str, bytes]:
    """Return key and bytes of the consolidated metadata of a product.

    Raises: SourceError: no product there (``missing``), its metadata is not consolidated (``metadata``), no answer.
    """
    refused = None
    for key in (".zmetadata", "zarr.json"):
        try:
            return key, objects.get(key)
        except MissingObjectError:
            continue
        except SourceError as error:  # buckets that must not be listed refuse what is not there
            if error.kind != "denied":
                raise
            refused = refused or error
    if refused is not None:
        raise refused
    if any(objects.exists(key) for key in (".zgroup", ".zattrs")):
        found = "a Zarr v2 group without .zmetadata, expected consolidated metadata"
        raise SourceError(f"{objects.href}: {found}; report it to the provider", kind="metadata")
    raise SourceError(
        f"{objects.href}: neither .zmetadata nor zarr.json is there; check the href, then plan again", kind="missing"
    )


def read_tree(objects: Objects) -> SourceTree:
    """Read the consolidated metadata of a product.

    Raises: SourceError: as ``read_metadata``, or the metadata is truncated or garbled (``metadata``).
    """
    return parse_tree(objects, *read_metadata(objects))


def parse_tree(objects: Objects, key: str, raw: bytes) -> SourceTree:
    """Return what the consolidated metadata of a product say; ``key`` and ``raw`` as of ``read_metadata``.

    Raises: SourceError: they are truncated or garbled (``metadata``).
    """
    format_ = 2 if key == ".zmetadata" else 3
    try:
        document = json.loads(raw)
        if format_ == 3 and isinstance(document, dict) and not document.get("consolidated_metadata"):
            found = "a Zarr v3 group without consolidated_metadata, expected consolidated metadata"
            raise SourceError(f"{objects.href}/{key}: {found}; report it to the provider", kind="metadata")
        groups, arrays = (nodes_v2 if format_ == 2 else nodes_v3)(document)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        found = f"{len(raw)} bytes that are not whole consolidated metadata ({error!r})"
        raise SourceError(f"{objects.href}/{key}: {found}; report it to the provider", kind="metadata") from error
    return SourceTree(format_, hashlib.sha256(raw).hexdigest(), dict(sorted(groups.items())), dict(sorted(arrays.items())))


class Rows(Protocol):
    """Rows of a raster, read in order."""

    def read(self, plane: int, start: int, stop: int) -> NDArray[Any]:
        """Return rows ``start`` to ``stop`` of one plane, shape ``(stop - start, width)``, in the source's dtype."""
        ...

    def read_beside(self, plane: int, start: int, stop: int) -> list[NDArray[Any]]:
        """Return the same rows as one or several arrays that lie side by side; nothing is copied to join them."""
        ...


def open_rows(
    objects: Objects, tree: SourceTree, array: SourceArray, on_missing: Missing, columns: tuple[int, int] | None = None
) -> Rows:
    """Return a reader for the rows of ``array``, whose last two dimensions are ``(y, x)``, or for a band of its columns.

    Args: columns: first and last (exclusive) column of the band; the first is the start of a chunk.
    """
    columns = columns or (0, array.shape[-1])
    if tree.zarr_format == 2:
        return ChunkRows(objects, array, on_missing, columns)
    return _ZarrRows(objects, array, on_missing, columns)


class ChunkRows:
    """Rows of a Zarr v2 array, straight from its chunk objects."""

    def __init__(self, objects: Objects, array: SourceArray, on_missing: Missing, columns: tuple[int, int] | None = None) -> None:
        node = array.encoding
        self._columns = columns or (0, array.shape[-1] if array.shape else 1)
        self._objects, self._array, self._on_missing = objects, array, on_missing
        self._dtype = np.dtype(node["dtype"])
        self._separator: str = node.get("dimension_separator", ".")
        self._codec = self._known(node["compressor"]) if node["compressor"] else None
        self._filters = [self._known(config) for config in node["filters"] or ()]
        self._partial = (
            isinstance(self._codec, numcodecs.blosc.Blosc) and not self._filters and node["order"] == "C" and can_decode_ranges()
        )
        self._order = node["order"]
        self._row: tuple[int, int] = (-1, -1)
        self._pieces: list[Any] = []

    def _known(self, config: Mapping[str, Any]) -> Any:  # codecs of numcodecs
        try:
            return numcodecs.get_codec(config)
        except (ValueError, TypeError) as error:
            found = f"{self._objects.href}: array {self._array.path}: codec {config} cannot be used ({error})"
            raise SourceError(f"{found}; expected one that numcodecs knows; report it to the provider", kind="layout") from None

    def read(self, plane: int, start: int, stop: int) -> NDArray[Any]:
        height, (first, last) = self._array.shape[-2], self._columns
        chunk_y, stop = self._array.chunks[-2], min(stop, height)
        out = np.empty((stop - start, last - first), self._array.dtype)
        position = start
        while position < stop:
            end, left = min(stop, (position // chunk_y + 1) * chunk_y), 0
            for part in self._parts(plane, position, end):
                out[position - start : end - start, left : left + part.shape[1]] = part
                left += part.shape[1]
            position = end
        return out

    def read_beside(self, plane: int, start: int, stop: int) -> list[NDArray[Any]]:
        chunk_y, stop = self._array.chunks[-2], min(stop, self._array.shape[-2])
        if start // chunk_y != (stop - 1) // chunk_y:
            return [self.read(plane, start, stop)]
        return list(self._parts(plane, start, stop))

    def _parts(self, plane: int, start: int, stop: int) -> Iterator[NDArray[Any]]:
        """Yield rows that lie in one row of chunks, chunk by chunk."""
        (first, last), (chunk_y, chunk_x) = self._columns, self._array.chunks[-2:]
        row = start // chunk_y
        self._load(plane, row)
        for column, piece in enumerate(self._pieces, first // chunk_x):
            part = self.decode(piece, plane, row, column, start - row * chunk_y, stop - row * chunk_y)
            yield part[:, : last - column * chunk_x]

    def _load(self, plane: int, row: int) -> None:
        leading = self._array.chunks[:-2]
        chunk_plane = plane // math.prod(leading) if leading else 0
        if self._row == (chunk_plane, row):
            return
        self._pieces = []  # free the row before the next one is fetched
        chunk_x, (first, last) = self._array.chunks[-1], self._columns
        self._pieces = [self.fetch(plane, row, column) for column in range(first // chunk_x, math.ceil(last / chunk_x))]
        self._row = (chunk_plane, row)

    def _key(self, plane: int, row: int, column: int) -> str:
        lead = np.unravel_index(plane, self._array.shape[:-2]) if self._array.shape[:-2] else ()
        indices = [int(i) // c for i, c in zip(lead, self._array.chunks[:-2], strict=True)]
        return f"{self._array.path}/" + self._separator.join(map(str, [*indices, row, column]))

    def fetch(self, plane: int, row: int, column: int) -> Any:
        """Return one chunk as fetched, or decoded when it cannot be decoded in part; None when the source does not have it."""
        key = self._key(plane, row, column)
        try:
            data = self._objects.get(key)
        except MissingObjectError:
            self._on_missing(key)
            return None
        if self._partial:
            self._check_blosc(key, data)
            return BloscChunk(data, self._dtype)
        return self._decode_whole(key, data)

    def read_all(self) -> NDArray[Any]:
        """Return an array of any dimensions whole; the fill value where a chunk is missing."""
        fill = self._array.fill_value
        nothing = "" if self._dtype.kind == "U" else 0
        out = np.full(self._array.shape, nothing if fill is None else fill, self._dtype.newbyteorder("="))
        counts = [math.ceil(size / chunk) for size, chunk in zip(self._array.shape, self._array.chunks, strict=True)]
        for index in np.ndindex(*counts):
            key = f"{self._array.path}/" + (self._separator.join(map(str, index)) or "0")
            try:
                data = self._objects.get(key)
            except MissingObjectError:
                self._on_missing(key)
                continue
            first = [i * chunk for i, chunk in zip(index, self._array.chunks, strict=True)]
            region = tuple(slice(i, i + chunk) for i, chunk in zip(first, self._array.chunks, strict=True))
            inside = tuple(slice(size - i) for i, size in zip(first, self._array.shape, strict=True))
            out[region] = self._decode_whole(key, data)[inside]
        return out

    def _chunk_bytes(self) -> int:
        return math.prod(self._array.chunks) * int(self._dtype.itemsize)

    def _check_blosc(self, key: str, data: bytes) -> None:
        expected = header(data).n_compressed if len(data) >= HEADER_BYTES else f"a header of {HEADER_BYTES}"
        if expected != len(data):
            raise self._corrupt(key, f"truncated: {len(data)} bytes, expected {expected}")
        if (found := header(data).n_bytes) != self._chunk_bytes():
            raise self._corrupt(key, f"decodes to {found} bytes, expected {self._chunk_bytes()} for {self._array.chunks}")

    def _decode_whole(self, key: str, data: bytes) -> NDArray[Any]:
        try:
            decoded: Any = self._codec.decode(data) if self._codec else data
            for codec in reversed(self._filters):
                decoded = codec.decode(decoded)
            flat = np.frombuffer(decoded, self._dtype)
            return flat.reshape(self._array.chunks, order=self._order)
        except DECODE_ERRORS as error:
            raise self._corrupt(key, str(error)) from error

    def decode(self, piece: Any, plane: int, row: int, column: int, start: int, stop: int) -> NDArray[Any]:
        """Return rows ``start`` to ``stop`` of a fetched chunk, counted in the chunk, shape ``(stop - start, chunk width)``."""
        chunk_y, chunk_x = self._array.chunks[-2:]
        if piece is None:
            fill = self._array.fill_value
            return np.full((stop - start, chunk_x), 0 if fill is None else fill, self._dtype)
        lead_shape = self._array.shape[:-2]
        lead = np.unravel_index(plane, lead_shape) if lead_shape else ()
        inner = [int(i) % c for i, c in zip(lead, self._array.chunks[:-2], strict=True)]
        first = int(np.ravel_multi_index(inner, self._array.chunks[:-2])) if inner else 0
        if not self._partial:
            part: NDArray[Any] = piece.reshape(-1, chunk_y, chunk_x)[first, start:stop]
            return part
        try:
            items: NDArray[Any] = piece.items((first * chunk_y + start) * chunk_x, (first * chunk_y + stop) * chunk_x)
        except ValueError as error:
            raise self._corrupt(self._key(plane, row, column), f"{error} while decoding rows {start} to {stop}") from None
        return items.reshape(-1, chunk_x)

    def _corrupt(self, key: str, reason: str) -> SourceError:
        return _corrupt(self._objects, self._array, f"chunk {key}: {reason}")


class _ZarrRows:
    """Rows of a Zarr v3 array through zarr-python, one row of inner chunks at a time."""

    def __init__(self, objects: Objects, array: SourceArray, on_missing: Missing, columns: tuple[int, int]) -> None:
        self._objects, self._array, self._columns = objects, array, columns
        for key in object_keys(array):
            if not objects.exists(key):
                on_missing(key)
        self._zarr = open_zarr(objects, array)
        self._row: tuple[int, int] = (-1, -1)
        self._rows: NDArray[Any] = np.empty((0, 0))

    def read(self, plane: int, start: int, stop: int) -> NDArray[Any]:
        chunk_y, height = self._array.chunks[-2], self._array.shape[-2]
        out = np.empty((min(stop, height) - start, self._columns[1] - self._columns[0]), self._array.dtype)
        position = start
        while position < min(stop, height):
            row = position // chunk_y
            end = min(stop, height, (row + 1) * chunk_y)
            if self._row != (plane, row):
                self._rows = np.empty((0, 0))
                self._rows = self._fetch(plane, row * chunk_y, min((row + 1) * chunk_y, height))
                self._row = (plane, row)
            out[position - start : end - start] = self._rows[position - row * chunk_y : end - row * chunk_y]
            position = end
        return out

    def read_beside(self, plane: int, start: int, stop: int) -> list[NDArray[Any]]:
        return [self.read(plane, start, stop)]

    def _fetch(self, plane: int, start: int, stop: int) -> NDArray[Any]:
        lead = tuple(int(i) for i in np.unravel_index(plane, self._array.shape[:-2])) if self._array.shape[:-2] else ()
        return read_zarr(self._objects, self._array, self._zarr, (*lead, slice(start, stop), slice(*self._columns)))


def object_keys(array: SourceArray) -> list[str]:
    """Return the key of every chunk or shard object of a v3 array."""
    outer = array.encoding["chunk_grid"]["configuration"]["chunk_shape"]
    encoding = array.encoding.get("chunk_key_encoding", {"name": "default"})
    default = encoding["name"] == "default"
    separator = encoding.get("configuration", {}).get("separator", "/" if default else ".")
    counts = [math.ceil(size / chunk) for size, chunk in zip(array.shape, outer, strict=True)]
    prefix = ["c"] if default else []
    return [f"{array.path}/" + separator.join([*prefix, *map(str, index)]) for index in np.ndindex(*counts)]


def product_keys(objects: Objects, key: str, raw: bytes) -> list[str]:
    """Return the key of every object that a product may have, sorted; ``key`` and ``raw`` as of ``read_metadata``.

    Listed where the place can be listed; a plain http server cannot, so there they follow from the metadata.
    """
    if not objects.href.startswith("http"):
        return [name for name, _ in objects.keys()]  # noqa: SIM118 - not a mapping
    tree = parse_tree(objects, key, raw)
    if tree.zarr_format == 2:
        documents = [key, *json.loads(raw)["metadata"]]
        return sorted({*documents, *(name for array in tree.arrays.values() for name in _v2_keys(array))})
    documents = [f"{path}/zarr.json" if path else key for path in (*tree.groups, *tree.arrays)]
    return sorted({*documents, *(name for array in tree.arrays.values() for name in object_keys(array))})


def _v2_keys(array: SourceArray) -> list[str]:
    separator = array.encoding.get("dimension_separator", ".")
    counts = [math.ceil(size / chunk) for size, chunk in zip(array.shape, array.chunks, strict=True)]
    return [f"{array.path}/" + (separator.join(map(str, index)) or "0") for index in np.ndindex(*counts)]


def open_zarr(objects: Objects, array: SourceArray) -> Any:
    """Open an array with zarr-python. Raises: SourceError: it cannot read what the metadata says (``layout``), or no answer."""
    import zarr

    try:
        return zarr.open_array(store=objects.zarr_store(), path=array.path, mode="r", zarr_format=array.encoding["zarr_format"])
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:  # what zarr-python raises for such metadata
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        found = f"{objects.href}: array {array.path}: {reason}; expected one that zarr-python reads"
        raise SourceError(f"{found}; report it to the provider", kind="layout") from error


def read_whole(objects: Objects, array: SourceArray, on_missing: Missing | None = None) -> NDArray[Any]:
    """Return a small array whole, in its dtype (text as NumPy strings); a missing chunk is its fill value.

    ``on_missing`` is told the keys of chunks that a v2 array does not have; in v3 a chunk of fill values is not written.
    Raises: SourceError: a chunk cannot be decoded.
    """
    on_missing = on_missing or (lambda key: None)
    is_v2 = array.encoding["zarr_format"] == 2
    if is_v2 and _is_plain(array):  # zarr-python takes 0.3 s to import
        return ChunkRows(objects, array, on_missing).read_all()
    import warnings

    for key in _v2_keys(array) if is_v2 else ():
        if not objects.exists(key):
            on_missing(key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr warns of dtypes whose v3 form is not final; the source is as it is
        handle = open_zarr(objects, array)
    return read_zarr(objects, array, handle, ...)


def _is_plain(array: SourceArray) -> bool:
    """Return whether the items of a v2 array lie side by side as NumPy has them: numbers, or text of one width."""
    if array.dtype != "string":
        return np.dtype(array.dtype).kind in "iufb"
    stored, fill = array.encoding["dtype"], array.fill_value
    return isinstance(stored, str) and np.dtype(stored).kind == "U" and (fill is None or isinstance(fill, str))


def read_zarr(objects: Objects, array: SourceArray, handle: Any, selection: Any) -> NDArray[Any]:
    """Return ``handle[selection]``; a library's error becomes ours and names the array.

    Raises: SourceError: a chunk cannot be decoded or fetched.
    """
    try:
        return np.asarray(handle[selection])
    except BaseExceptionGroup as group:
        from zarrmill.io.zarr_objects import source_error

        found = source_error(group)
        if found is not None:
            raise found from group
        raise _corrupt(objects, array, f"cannot be read: {group.exceptions[0]}") from group
    except (*DECODE_ERRORS, KeyError) as error:
        what = "the whole array" if selection is ... else f"selection {selection}"
        raise _corrupt(objects, array, f"{what} cannot be decoded: {error}") from error
    except Exception as error:
        from obstore.exceptions import BaseError

        if not isinstance(error, BaseError):
            raise
        with objects.translated(array.path):
            raise


def _corrupt(objects: Objects, array: SourceArray, what: str) -> SourceError:
    text = f"{objects.href}: array {array.path}, {what}; report it to the provider, run again when it is mended"
    return SourceError(text, kind="corrupt")
