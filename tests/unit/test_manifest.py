"""The manifest: typed, validated, in its order, and the same bytes for the same products."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from zarrmill.errors import ConfigError
from zarrmill.io.manifest import COLUMNS, by_key, read_manifest, write_manifest
from zarrmill.io.places import place_of
from zarrmill.model import Product

PRODUCT = Product(
    collection="sentinel-2-l2a",
    product_id="S2B_MSIL2A_20250113T103309_N0511_R108_T32TLQ_20250113T122458",
    datetime="2025-01-13T10:33:09.024000Z",
    product_type="S02MSIL2A",
    href="https://data.example.org/a,b/x.zarr",
    item_href="",
    recipe="s2-l2a",
    digest="12345678",
    source_fingerprint="0" * 64,
    n_bytes=3_702_615_348,
    n_objects=446,
    mem_mb=2000,
)
OTHER = replace(PRODUCT, product_id="NA", digest="1e100000", href='data/ü "q".zarr')


def test_what_is_written_is_read_back_in_the_same_order(tmp_path: Path) -> None:
    path = place_of(tmp_path / "manifest.csv")
    assert write_manifest([OTHER, PRODUCT], path)
    assert read_manifest(path) == (OTHER, PRODUCT)
    assert path.read_text().splitlines()[0] == ",".join(COLUMNS)


def test_the_same_products_leave_the_file_alone(tmp_path: Path) -> None:
    path = place_of(tmp_path / "manifest.csv")
    write_manifest([PRODUCT], path)
    before = os.stat(path)
    assert not write_manifest([PRODUCT], path)
    assert (os.stat(path).st_mtime_ns, os.stat(path).st_ino) == (before.st_mtime_ns, before.st_ino)
    assert write_manifest([OTHER], path)


def test_an_empty_manifest_has_its_columns_and_no_product(tmp_path: Path) -> None:
    write_manifest([], place_of(tmp_path / "manifest.csv"))
    assert read_manifest(place_of(tmp_path / "manifest.csv")) == ()


def test_products_are_found_by_collection_and_id() -> None:
    twin = replace(PRODUCT, collection="sentinel-2-l2a-zarr3")
    found = by_key([PRODUCT, twin])
    assert found["sentinel-2-l2a-zarr3", PRODUCT.product_id] is twin
    assert len(found) == 2


def test_a_product_that_occurs_twice_is_refused_when_written_and_when_read(tmp_path: Path) -> None:
    path = place_of(tmp_path / "manifest.csv")
    with pytest.raises(ConfigError, match=r"line 3: product_id .* once"):
        write_manifest([PRODUCT, replace(PRODUCT, digest="00000000")], path)
    assert not path.exists()
    write_manifest([PRODUCT], path)
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(ConfigError, match="line 3: product_id"):
        read_manifest(path)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("collection", "../x"),
        ("product_id", "a b"),
        ("product_id", ""),
        ("product_id", "x\n"),
        ("recipe", "a/b"),
        ("datetime", "yesterday"),
        ("datetime", "2025-01-13T10:33:09"),
        ("datetime", "2025-01-13T10:33:09+01:00"),
        ("datetime", "20250113T103309Z"),
        ("digest", "1234567"),
        ("digest", "1234567G"),
        ("href", ""),
        ("source_fingerprint", ""),
        ("product_type", ""),
    ],
)
def test_a_malformed_value_is_refused_and_its_row_and_column_named(tmp_path: Path, column: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"line 2: {column}") as caught:
        write_manifest([replace(PRODUCT, **{column: value})], place_of(tmp_path / "manifest.csv"))
    assert caught.value.code == "ZM-CFG-MANIFEST"


@pytest.mark.parametrize("value", ["", "-1", "1.5", "many", "²"])
def test_a_number_that_is_none_is_refused(tmp_path: Path, value: str) -> None:
    path = place_of(tmp_path / "manifest.csv")
    write_manifest([PRODUCT], path)
    path.write_text(path.read_text().replace("3702615348", value))
    with pytest.raises(ConfigError, match="line 2: n_bytes"):
        read_manifest(path)


def test_a_missing_a_foreign_a_cut_and_a_binary_file_are_no_manifest(tmp_path: Path) -> None:
    path = place_of(tmp_path / "manifest.csv")
    with pytest.raises(ConfigError, match="run `plan` first"):
        read_manifest(path)
    path.write_text("href\nx.zarr\n")
    with pytest.raises(ConfigError, match="expected"):
        read_manifest(path)
    write_manifest([PRODUCT], place_of(tmp_path / "good.csv"))
    whole = (tmp_path / "good.csv").read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(ConfigError, match="line 2"):
        read_manifest(path)
    path.write_bytes(whole.rstrip() + b",one more\n")
    with pytest.raises(ConfigError, match="manifest"):
        read_manifest(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a manifest"):
        read_manifest(path)
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match="not a manifest"):
        read_manifest(path)
