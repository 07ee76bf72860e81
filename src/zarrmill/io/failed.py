"""Failure records as files: each gets the first free number, and keeps the end of a log."""

import os
from dataclasses import replace
from itertools import count
from pathlib import Path

from zarrmill.io.record import record_text
from zarrmill.io.state import State
from zarrmill.model import FailureRecord

LOOK_BYTES = 65_536
"""How much of a log's end is looked at."""


def keep_failure(record: FailureRecord, state: State) -> int:
    """Write a record under the first free number from its attempt on, which it then has; return it.

    A job that was given up may still fail, too.
    Raises: CapacityError, StoreError: it cannot be written; UnknownStateError: it cannot be told what is there.
    """
    for number in count(record.measured.attempt):
        numbered = replace(record, measured=replace(record.measured, attempt=number))
        place = state.failure(record.failure_class, record.product, record.stage, number)
        if place.create(record_text(numbered).encode()):
            return number
    raise AssertionError("numbers do not end")


def tail_of(log: Path | None) -> str:
    """Return the last part of a log; empty when it cannot be read: the record that wants it matters more."""
    if log is None:
        return ""
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - LOOK_BYTES))
            return stream.read().decode(errors="replace")
    except OSError:
        return ""
