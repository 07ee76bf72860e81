"""Failure records as files: each gets the first free number, and keeps the end of a log; what they say of the tries before."""

import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

from zarrmill.errors import PERMANENT, ZarrmillError
from zarrmill.io.record import read_record, record_text
from zarrmill.io.session import session
from zarrmill.io.state import Failure, Failures, State
from zarrmill.model import FailureRecord, Product

SHORT_OF_MEMORY = frozenset({"ZM-CAP-MEMORY", "ZM-CAP-KILLED"})
"""Codes of tries that may have needed more memory."""
SHORT_OF_DISK = frozenset({"ZM-CAP-DISK", "ZM-CAP-EVICTED"})
"""Codes of tries that may have needed more disk."""
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


def final_failure(known: Sequence[Failure], stage: str) -> FailureRecord | None:
    """Return the last failure of a product when it is one of this stage and session that no retry mends, else None.

    Another session looks anew: somebody may have mended the source. So does a try whose records cannot be read.
    """
    if known and known[-1].stage == stage and session():
        with suppress(ZarrmillError):
            record = read_record(FailureRecord, known[-1].place)
            if record.session == session() and record.code in PERMANENT:
                return record
    return None


def share_of(state: State, product: Product, attempt: int, codes: Collection[str]) -> int:
    """Return how many times what was planned try number ``attempt`` of this session gets of something.

    One more for each try before it, but not for those whose record tells another reason than ``codes``; all when the records
    cannot be read: too much ends well.
    """
    if attempt == 1:
        return 1
    try:
        records = [read_record(FailureRecord, one.place) for one in Failures(state).of(product)]
    except ZarrmillError:
        return attempt
    return max(1, attempt - sum(one.session == session() and one.code not in codes for one in records))


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
