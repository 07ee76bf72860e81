"""Records as canonical JSON files: sorted keys, strict numbers, a ``schema`` field, written whole or not at all."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from zarrmill.errors import CapacityError, ConfigError, StoreError
from zarrmill.model import ConvertReceipt, FailureRecord, PlanRecord, ValidationReport

SCHEMAS: dict[type, str] = {
    PlanRecord: "zarrmill/plan/1",
    ConvertReceipt: "zarrmill/convert/1",
    ValidationReport: "zarrmill/validate/1",
    FailureRecord: "zarrmill/failure/1",
}
"""Record type to the name in its ``schema`` field."""


def dumps(value: object) -> str:
    """Return canonical JSON: sorted keys, two spaces, no NaN or Infinity.

    Raises: ValueError: a number is not finite.
    """
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` whole or not at all, also across a crash.

    Raises: CapacityError: the disk is full; StoreError: the place cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path`` whole or not at all, also across a crash.

    Raises: CapacityError: the disk is full; StoreError: the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".part")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise write_error(error, str(path)) from error


def write_error(error: OSError, place: str) -> CapacityError | StoreError:
    """Translate a failed local write into our tree."""
    import errno

    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return CapacityError(f"{place}: {error.strerror}; free some space, then run again", kind="disk")
    return StoreError(f"{place}: cannot write: {error.strerror or error}; check path and rights", kind="denied")


def write_record(record: object, path: Path) -> None:
    """Write a record of one of the types in ``SCHEMAS`` to ``path``."""
    write_text(path, record_text(record))


def record_text(record: object) -> str:
    """Return the file form of a record of one of the types in ``SCHEMAS``."""
    body = _adapter(type(record)).dump_python(record, mode="json")
    return dumps({"schema": SCHEMAS[type(record)], **body})


def read_record[R](kind: type[R], path: Path) -> R:
    """Read a record of type ``kind``.

    Raises: ConfigError: the file is missing, is not JSON, or holds another schema.
    """
    try:
        body: dict[str, Any] = json.loads(path.read_text())
        schema = body.pop("schema", None)
        if schema != SCHEMAS[kind]:
            raise ConfigError(f"{path}: schema {schema!r}, expected {SCHEMAS[kind]!r}; remove it, plan again", kind="manifest")
        return _adapter(kind).validate_python(body)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such record; run `plan` again", kind="manifest") from None
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError, AttributeError) as error:
        found = " ".join(str(error).split())[:300]
        message = f"{path}: not a {SCHEMAS[kind]} record ({found}); remove it, run `plan` again, then the workflow"
        raise ConfigError(message, kind="manifest") from error


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def _adapter[R](kind: type[R]) -> TypeAdapter[R]:
    """Return the adapter of a record type; building one costs more than writing a record with it."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]
