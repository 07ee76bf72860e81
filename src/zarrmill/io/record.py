"""Records as canonical JSON files: sorted keys, strict numbers, a ``schema`` field."""

import json
from typing import Any

from pydantic import TypeAdapter, ValidationError

from zarrmill.errors import ConfigError
from zarrmill.io.places import Place
from zarrmill.model import ConvertReceipt, FailureRecord, PlanRecord, ValidationReport

SCHEMAS: dict[type, str] = {
    PlanRecord: "zarrmill/plan/1",
    ConvertReceipt: "zarrmill/convert/1",
    ValidationReport: "zarrmill/validate/1",
    FailureRecord: "zarrmill/failure/2",
}
"""Record type to the name in its ``schema`` field."""
READ_TOO: dict[type, tuple[str, ...]] = {FailureRecord: ("zarrmill/failure/1",)}
"""Older schemas that are still read: what they lack has a default."""


def dumps(value: object) -> str:
    """Return canonical JSON: sorted keys, two spaces, no NaN or Infinity.

    Raises: ValueError: a number is not finite.
    """
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_record(record: object, place: Place) -> None:
    """Write a record of one of the types in ``SCHEMAS``.

    Raises: CapacityError: the disk is full; StoreError: the place cannot be written.
    """
    place.write_text(record_text(record))


def record_text(record: object) -> str:
    """Return the file form of a record of one of the types in ``SCHEMAS``."""
    body = _adapter(type(record)).dump_python(record, mode="json")
    return dumps({"schema": SCHEMAS[type(record)], **body})


def read_record[R](kind: type[R], place: Place) -> R:
    """Read a record of type ``kind``.

    Raises: ConfigError: the file is missing, is not JSON, or holds another schema; UnknownStateError: it cannot be read.
    """
    try:
        return parse_record(kind, place.read_bytes(), str(place))
    except FileNotFoundError:
        raise ConfigError(f"{place}: no such record; run `plan` again", kind="manifest") from None


def parse_record[R](kind: type[R], data: bytes, place: str) -> R:
    """Return the record of type ``kind`` that ``data`` holds; ``place`` is for messages.

    Raises: ConfigError: it is not JSON, or holds another schema.
    """
    try:
        body: Any = json.loads(data)  # whatever is in the file
        if not isinstance(body, dict):
            raise TypeError(f"a JSON {type(body).__name__}")
        schema = body.pop("schema", None)
        if schema not in (SCHEMAS[kind], *READ_TOO.get(kind, ())):
            raise ConfigError(f"{place}: schema {schema!r}, expected {SCHEMAS[kind]!r}; remove it, plan again", kind="manifest")
        return _adapter(kind).validate_python(body)
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError, TypeError) as error:
        found = " ".join(str(error).split())[:300]
        message = f"{place}: not a {SCHEMAS[kind]} record ({found}); remove it, run `plan` again, then the workflow"
        raise ConfigError(message, kind="manifest") from error


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def _adapter[R](kind: type[R]) -> TypeAdapter[R]:
    """Return the adapter of a record type; building one costs more than writing a record with it."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]
