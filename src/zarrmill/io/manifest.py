"""The manifest: one row a product, newest first, with the fields of ``Product`` and nothing else.

No class and no time of planning is in it, so planning again without a change leaves every byte as it is.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from zarrmill.config import Name
from zarrmill.errors import ConfigError
from zarrmill.io.record import write_text
from zarrmill.model import Product

COLUMNS = tuple(field.name for field in fields(Product))
"""Columns in order."""

_NUMBERS = ("n_bytes", "n_objects", "mem_mb")
_NAMES = ("collection", "product_id", "recipe")
_NAME: TypeAdapter[str] = TypeAdapter(Name)


def write_manifest(products: Sequence[Product], path: Path) -> bool:
    """Write the manifest in the order given; return False and leave the file alone when it holds the same already.

    Raises: ConfigError: a row is malformed or a (collection, product_id) occurs twice; as ``write_text``.
    """
    import pandas as pd

    _checked(products, path)
    table = pd.DataFrame([asdict(product) for product in products], columns=list(COLUMNS))
    text = table.to_csv(index=False, lineterminator="\n")
    if path.is_file() and path.read_bytes() == text.encode():
        return False
    write_text(path, text)
    return True


def read_manifest(path: Path) -> tuple[Product, ...]:
    """Read a manifest, in its order.

    Raises: ConfigError: missing, not a manifest, a malformed value (row and column are named), or a repeated key.
    """
    try:
        # The standard library: the workflow reads the manifest at every start, and importing pandas takes a second.
        with path.open(encoding="utf-8", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            columns, rows = tuple(next(reader, ())), list(reader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such manifest; run `plan` first", kind="manifest") from None
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{path}: not a manifest ({error}); run `plan` again", kind="manifest") from error
    if columns != COLUMNS:
        raise ConfigError(
            f"{path}: not a manifest: columns {list(columns)}, expected {list(COLUMNS)}; run `plan` again", kind="manifest"
        )
    products = []
    for line, row in enumerate(rows, start=2):
        if len(row) != len(COLUMNS):
            raise ConfigError(
                f"{path}: line {line} has {len(row)} values, expected {len(COLUMNS)}; run `plan` again", kind="manifest"
            )
        products.append(_product(dict(zip(COLUMNS, row, strict=True)), path, line))
    _checked(products, path)
    return tuple(products)


def by_key(products: Sequence[Product]) -> Mapping[tuple[str, str], Product]:
    """Return products by (collection, product_id)."""
    return {(product.collection, product.product_id): product for product in products}


def _product(values: dict[str, str], path: Path, line: int) -> Product:
    for column in _NUMBERS:
        if not (values[column].isascii() and values[column].isdigit()):
            raise _wrong(path, line, column, values[column], "a whole number, not negative")
    numbers = {column: int(values.pop(column)) for column in _NUMBERS}
    return Product(**values, **numbers)  # type: ignore[arg-type]  # columns are the fields, checked by the caller


def _checked(products: Sequence[Product], path: Path) -> None:
    seen: set[tuple[str, str]] = set()
    for line, product in enumerate(products, start=2):
        for column in _NAMES:
            try:
                _NAME.validate_python(getattr(product, column))
            except ValidationError:
                raise _wrong(path, line, column, getattr(product, column), "letters, digits, '.', '_', '-'") from None
        if len(product.digest) != 8 or set(product.digest) - set("0123456789abcdef"):
            raise _wrong(path, line, "digest", product.digest, "eight hex digits")
        if not _is_utc(product.datetime):
            raise _wrong(path, line, "datetime", product.datetime, "ISO 8601 in UTC, like 2025-01-13T10:33:09Z")
        for column in ("href", "product_type", "source_fingerprint"):
            if not getattr(product, column):
                raise _wrong(path, line, column, "", "a value")
        key = (product.collection, product.product_id)
        if key in seen:
            raise _wrong(path, line, "product_id", product.product_id, f"each product of {product.collection} once")
        seen.add(key)


def _is_utc(text: str) -> bool:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return False
    return text[10:11] == "T" and text[4:5] == "-" and moment.utcoffset() == timedelta(0)


def _wrong(path: Path, line: int, column: str, found: object, expected: str) -> ConfigError:
    message = f"{path}: line {line}: {column} is {found!r}, expected {expected}; run `plan` again"
    return ConfigError(message, kind="manifest")
