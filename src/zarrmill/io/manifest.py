"""The manifest: one row a product, newest first, with the fields of ``Product`` and nothing else.

No class and no time of planning is in it, so planning again without a change leaves every byte as it is.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime, timedelta

from pydantic import TypeAdapter, ValidationError

from zarrmill.config import Name
from zarrmill.errors import ConfigError
from zarrmill.io.places import Place
from zarrmill.model import Product

COLUMNS = tuple(field.name for field in fields(Product))
"""Columns in order."""

_NUMBERS = ("n_bytes", "n_objects", "mem_mb")
_NAMES = ("collection", "product_id", "recipe")
_NAME: TypeAdapter[str] = TypeAdapter(Name)


def write_manifest(products: Sequence[Product], place: Place) -> bool:
    """Write the manifest in the order given; return False and leave the file alone when it holds the same already.

    Raises: ConfigError: a row is malformed or a (collection, product_id) occurs twice; as ``Place.write_changed``.
    """
    import pandas as pd

    _checked(products, place)
    table = pd.DataFrame([asdict(product) for product in products], columns=list(COLUMNS))
    text = table.to_csv(index=False, lineterminator="\n")
    return place.write_changed(text.encode())


def read_manifest(place: Place) -> tuple[Product, ...]:
    """Read a manifest, in its order.

    Raises: ConfigError: missing, not a manifest, a malformed value (row and column are named), or a repeated key;
        UnknownStateError: it cannot be read.
    """
    try:
        # The standard library: the workflow reads the manifest at every start, and importing pandas takes a second.
        reader = csv.reader(io.StringIO(place.read_text(), newline=""), strict=True)
        columns, rows = tuple(next(reader, ())), list(reader)
    except FileNotFoundError:
        raise ConfigError(f"{place}: no such manifest; run `plan` first", kind="manifest") from None
    except (ValueError, csv.Error) as error:
        raise ConfigError(f"{place}: not a manifest ({error}); run `plan` again", kind="manifest") from error
    if columns != COLUMNS:
        raise ConfigError(
            f"{place}: not a manifest: columns {list(columns)}, expected {list(COLUMNS)}; run `plan` again", kind="manifest"
        )
    products = []
    for line, row in enumerate(rows, start=2):
        if len(row) != len(COLUMNS):
            raise ConfigError(
                f"{place}: line {line} has {len(row)} values, expected {len(COLUMNS)}; run `plan` again", kind="manifest"
            )
        products.append(_product(dict(zip(COLUMNS, row, strict=True)), place, line))
    _checked(products, place)
    return tuple(products)


def by_key(products: Sequence[Product]) -> Mapping[tuple[str, str], Product]:
    """Return products by (collection, product_id)."""
    return {(product.collection, product.product_id): product for product in products}


def _product(values: dict[str, str], place: Place, line: int) -> Product:
    for column in _NUMBERS:
        if not (values[column].isascii() and values[column].isdigit()):
            raise _wrong(place, line, column, values[column], "a whole number, not negative")
    numbers = {column: int(values.pop(column)) for column in _NUMBERS}
    return Product(**values, **numbers)  # type: ignore[arg-type]  # columns are the fields, checked by the caller


def _checked(products: Sequence[Product], place: Place) -> None:
    seen: set[tuple[str, str]] = set()
    for line, product in enumerate(products, start=2):
        for column in _NAMES:
            try:
                _NAME.validate_python(getattr(product, column))
            except ValidationError:
                raise _wrong(place, line, column, getattr(product, column), "letters, digits, '.', '_', '-'") from None
        if len(product.digest) != 8 or set(product.digest) - set("0123456789abcdef"):
            raise _wrong(place, line, "digest", product.digest, "eight hex digits")
        if not _is_utc(product.datetime):
            raise _wrong(place, line, "datetime", product.datetime, "ISO 8601 in UTC, like 2025-01-13T10:33:09Z")
        for column in ("href", "product_type", "source_fingerprint"):
            if not getattr(product, column):
                raise _wrong(place, line, column, "", "a value")
        key = (product.collection, product.product_id)
        if key in seen:
            raise _wrong(place, line, "product_id", product.product_id, f"each product of {product.collection} once")
        seen.add(key)


def _is_utc(text: str) -> bool:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return False
    return text[10:11] == "T" and text[4:5] == "-" and moment.utcoffset() == timedelta(0)


def _wrong(place: Place, line: int, column: str, found: object, expected: str) -> ConfigError:
    message = f"{place}: line {line}: {column} is {found!r}, expected {expected}; run `plan` again"
    return ConfigError(message, kind="manifest")
