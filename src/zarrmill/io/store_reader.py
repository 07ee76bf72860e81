"""Reading a finished store, or its source, object by object: bytes as they lie there, arrays through zarr-python.

Nothing of the converter is used here. Bytes that cannot be decoded are told, not raised; a place that does not answer is an
``UnknownStateError``.
"""

import hashlib
import json
import math
import warnings
import zlib
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
from zarrmill.io.objects import MissingObjectError, Objects
from zarrmill.model import Json

if TYPE_CHECKING:
    import zarr

Values = NDArray[Any]  # Any: arrays keep the dtype that they are stored with
Region = tuple[slice, ...]
_DECODE = (
    ValueError,
    RuntimeError,
    TypeError,
    OSError,
    EOFError,
    ArithmeticError,
    LookupError,
    AttributeError,
    AssertionError,
    zlib.error,
)


@dataclass(frozen=True)
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
    array: "zarr.Array[Any]"
    objects: Objects

    @property
    def n_bytes(self) -> int:
        """Decoded bytes; text counts eight bytes an item."""
        return math.prod(self.shape) * (8 if self.dtype == "string" else np.dtype(self.dtype).itemsize)

    def read(self, region: Region) -> Values | str:
        """Return the values of a region, or say why they cannot be decoded. Text becomes fixed-width unicode.

        Raises: UnknownStateError: the place did not answer.
        """
        from obstore.exceptions import BaseError

        try:
            values = np.asarray(self.array[region])
        except BaseError as error:
            with reachable(self.objects):
                self._is_there()
            return f"{type(error).__name__}: {error}".split("\n")[0][:200]
        except _DECODE as error:
            return f"{type(error).__name__}: {error}".split("\n")[0][:200]
        if values.dtype.kind in "OT":
            return np.asarray(values.tolist(), dtype=str)
        return values.astype(values.dtype.newbyteorder("="), copy=False)

    def _is_there(self) -> None:
        """Ask for the array's metadata again: an error here is an outage, none means that the chunk itself is bad."""
        for name in ("zarr.json", ".zarray"):
            self.objects.exists(f"{self.path}/{name}")


@contextmanager
def reachable(objects: Objects) -> Iterator[None]:
    """Turn an answer that did not come into ``UnknownStateError``: nothing can be said about the store."""
    try:
        yield
    except SourceError as error:
        if error.retryable:
            raise UnknownStateError(f"{objects.href}: {error.message}; validate again", kind="outage") from error
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
    with reachable(objects):
        try:
            sizes = dict(sorted(objects.keys()))
        except MissingObjectError:
            sizes = {}
    if not sizes:
        raise StoreError(f"{objects.href}: no object there; expected a Zarr store, check the address", kind="missing")
    return sizes


def read_documents(objects: Objects, sizes: Mapping[str, int] | None, threads: int) -> dict[str, bytes]:
    """Return the ``zarr.json`` of every node by its path, the root's under the empty path.

    Without a listing the nodes are those of the root's consolidated metadata.
    Raises: StoreError: without a listing, no root; UnknownStateError: the place does not answer.
    """
    if sizes is not None:
        keys = [key for key in sizes if key.rpartition("/")[2] == "zarr.json"]
    else:
        with reachable(objects):
            try:
                root = objects.get("zarr.json")
            except MissingObjectError:
                raise StoreError(f"{objects.href}: no zarr.json there; check the address", kind="missing") from None
        keys = ["zarr.json", *(f"{path}/zarr.json" for path in _consolidated_paths(root))]
    with reachable(objects), ThreadPoolExecutor(max(threads, 1) * 4) as pool:
        found = pool.map(lambda key: _get(objects, key), keys)
        return {key.rpartition("/")[0]: data for key, data in zip(keys, found, strict=True) if data is not None}


def _get(objects: Objects, key: str) -> bytes | None:
    try:
        return objects.get(key)
    except MissingObjectError:
        return None


def _consolidated_paths(root: bytes) -> list[str]:
    try:
        return sorted(str(path) for path in json.loads(root)["consolidated_metadata"]["metadata"])
    except (ValueError, KeyError, TypeError):
        return []


def open_array(objects: Objects, path: str, document: Mapping[str, Json], outer: tuple[int, ...]) -> ArrayReader | str:
    """Return a reader of one array made from its own ``zarr.json``, or say why zarr-python refuses it.

    Call it from the main thread only: it silences zarr's warnings on data types without a final specification.
    """
    import zarr
    from zarr.storage import StorePath

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            array = zarr.Array.from_dict(StorePath(objects.zarr_store(), path), dict(document))
            dims = tuple(str(name) for name in document.get("dimension_names") or ())
            attributes = document.get("attributes", {})
            return ArrayReader(path, array.shape, _dtype(array), outer, array.chunks, attributes, dims, array, objects)
        except _DECODE as error:
            return f"{type(error).__name__}: {error}".split("\n")[0][:200]


def _dtype(array: "zarr.Array[Any]") -> str:
    dtype = np.dtype(array.dtype)
    return "string" if dtype.kind in "OTU" else dtype.newbyteorder("=").name


@dataclass(frozen=True)
class SourceReader:
    """A source product, Zarr v2 or v3."""

    objects: Objects

    @cached_property
    def arrays(self) -> dict[str, ArrayReader]:
        """Path to reader of every array, sorted.

        Raises: SourceError: nothing is there, or the metadata cannot be used; UnknownStateError: no answer.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dict(sorted(self._arrays()))

    @property
    def attributes(self) -> Mapping[str, Json]:
        """Attributes of the root group."""
        return dict(self._group.attrs)

    @cached_property
    def _group(self) -> "zarr.Group":
        import zarr
        from obstore.exceptions import BaseError, NotFoundError

        place = self.objects.href
        with reachable(self.objects):
            if self.objects.local is not None and not self.objects.local.exists():
                raise SourceError(f"{place}: no such product; check the href", kind="missing")
            if not any(self.objects.exists(name) for name in ("zarr.json", ".zmetadata", ".zgroup")):
                raise SourceError(f"{place}: no root metadata of Zarr v2 or v3; check the href", kind="missing")
        try:
            return zarr.open_group(self.objects.zarr_store(), mode="r")
        except (FileNotFoundError, NotFoundError) as error:
            raise SourceError(f"{place}: no Zarr group; check the href", kind="missing") from error
        except BaseError as error:
            raise UnknownStateError(f"{place}: no answer ({error}); validate again", kind="outage") from error
        except _DECODE as error:
            raise SourceError(f"{place}: metadata cannot be read ({error}); report it", kind="metadata") from error

    def _arrays(self) -> Iterator[tuple[str, ArrayReader]]:
        import zarr
        from obstore.exceptions import BaseError

        try:
            members = list(self._group.members(max_depth=None))
        except BaseError as error:
            raise UnknownStateError(f"{self.objects.href}: no answer ({error}); validate again", kind="outage") from error
        except _DECODE as error:
            raise SourceError(f"{self.objects.href}: metadata cannot be read ({error}); report it", kind="metadata") from error
        for path, node in members:
            if isinstance(node, zarr.Array):
                attributes = dict(node.attrs)
                names = getattr(node.metadata, "dimension_names", None) or attributes.get("_ARRAY_DIMENSIONS") or ()
                dims = tuple(str(name) for name in names)  # type: ignore[union-attr]
                outer = node.shards or node.chunks
                yield path, ArrayReader(path, node.shape, _dtype(node), outer, node.chunks, attributes, dims, node, self.objects)


def tree_sha256(objects: Objects, sizes: Mapping[str, int], threads: int) -> str:
    """Return the sha256 over ``<key> <size> <sha256>`` lines of every object but the root ``zarr.json``, sorted by key.

    Raises: UnknownStateError: the place does not answer.
    """
    keys = sorted(key for key in sizes if key != "zarr.json")
    with reachable(objects), ThreadPoolExecutor(max(threads, 1)) as pool:
        lines = list(pool.map(lambda key: _digest_line(objects, key), keys))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _digest_line(objects: Objects, key: str) -> str:
    data = _get(objects, key)
    if data is None:
        return f"{key} gone\n"
    return f"{key} {len(data)} {hashlib.sha256(data).hexdigest()}\n"
