"""``Objects`` as a store of zarr-python: the same patience and the same errors for those who read arrays through it."""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import ObjectStore

from zarrmill.errors import SourceError

if TYPE_CHECKING:
    from zarrmill.io.objects import Objects


class ZarrObjects(ObjectStore[Any]):
    """A read-only store; an object that is not there is None, an outage is a ``SourceError``."""

    def __init__(self, objects: "Objects") -> None:
        super().__init__(objects.backend, read_only=True)
        self._objects = objects

    def with_read_only(self, read_only: bool = False) -> "ZarrObjects":
        """Return this store. Raises: ValueError: it is to be written to."""
        if not read_only:
            raise ValueError(f"{self._objects.href} is only read")
        return self

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return an object or a part of it; None when it is not there."""
        data = await asyncio.to_thread(self._read, key, byte_range)
        return None if data is None else prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return several objects or parts of them."""
        return list(await asyncio.gather(*(self.get(key, prototype, part) for key, part in key_ranges)))

    async def exists(self, key: str) -> bool:
        """Return whether an object is there."""
        return await asyncio.to_thread(self._objects.exists, key)

    def _read(self, key: str, part: ByteRequest | None) -> bytes | None:
        from zarrmill.io.answers import MissingObjectError

        try:
            if isinstance(part, RangeByteRequest):
                return self._objects.get_range(key, part.start, part.end - part.start)
            if isinstance(part, OffsetByteRequest):
                return self._objects.get_range(key, part.offset, self._objects.size(key) - part.offset)
            if isinstance(part, SuffixByteRequest):
                n_bytes = self._objects.size(key)
                start = max(n_bytes - part.suffix, 0)
                return self._objects.get_range(key, start, n_bytes - start)
            return self._objects.get(key)
        except MissingObjectError:
            return None


def source_error(group: BaseExceptionGroup[BaseException]) -> SourceError | None:
    """Return the error of ours in a group that zarr-python raises when one of several requests fails."""
    for error in group.exceptions:
        found = source_error(error) if isinstance(error, BaseExceptionGroup) else error
        if isinstance(found, SourceError):
            return found
    return None
