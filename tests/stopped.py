"""Conversions that end between two entries of the journal, in this process: a kill without a new process."""

import pytest

from zarrmill.io.store import StoreWriter
from zarrmill.io.store_bucket import BucketWriter
from zarrmill.io.written import Entry


class StoppedError(Exception):
    """Stands for a kill between two entries of the journal."""


def stop_after(
    monkeypatch: pytest.MonkeyPatch, n_entries: int, writer: type[StoreWriter] | type[BucketWriter] = StoreWriter
) -> list[str]:
    """Let the conversion end at entry ``n_entries`` of its journal; return the names noted until then."""
    names: list[str] = []
    record = writer.record

    def recorded(self: StoreWriter | BucketWriter, entry: Entry) -> None:
        if len(names) >= n_entries:
            raise StoppedError
        record(self, entry)  # type: ignore[arg-type]  # one of the two, as patched
        names.append(entry.name)

    monkeypatch.setattr(writer, "record", recorded)
    return names
