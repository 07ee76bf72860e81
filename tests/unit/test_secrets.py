"""User, password and query of an address: refused or left out where they come in, hidden in whatever is said about it."""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from stac_server import Item, eopf_item, product_id, write_source

from zarrmill.config import Recipe, Settings, parse_settings
from zarrmill.core.entries import entry_of_item, entry_of_row, public_address
from zarrmill.errors import ConfigError, SourceError, hidden
from zarrmill.io.objects import Objects
from zarrmill.job import logging_to
from zarrmill.model import Product
from zarrmill.stages.plan import plan, write_plan

WITH = "https://anna:passwo@rd@host.example/p.zarr"
NAME = product_id(0)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (WITH, "https://***@host.example/p.zarr"),
        ("two: s3://a:b@c/d, http://e@f.example", "two: s3://***@c/d, http://***@f.example"),
        ("https://host.example/@user/a@b", "https://host.example/@user/a@b"),
        ("https://host.example?mail=a@b: no answer", "https://host.example?***: no answer"),
        ("(https://host.example/a?sig=1.2&se=3), url: /a?Secret", "(https://host.example/a?***), url: /a?Secret"),
        ("Max retries exceeded with url: /a?key=1 (Caused by", "Max retries exceeded with url: /a?*** (Caused by"),
        ('{"a": "see \\\\"https://host.example?b=1\\\\""}', '{"a": "see \\\\"https://host.example?***\\\\""}'),
        ("is it there? a=1", "is it there? a=1"),
        ('{"a": "https://host.example", "b": "x@y"}', '{"a": "https://host.example", "b": "x@y"}'),
    ],
)
def test_user_and_password_are_hidden_and_nothing_else(text: str, shown: str) -> None:
    assert hidden(text) == shown


def product(item: Item) -> None:
    item["assets"]["product"]["href"] = WITH


def other_asset(item: Item) -> None:
    item["assets"]["more"] = {"href": "s3://anna:passwo@rd@bucket/more.json"}


def own_link(item: Item) -> None:
    item["links"] = [{"rel": "self", "href": WITH.replace("p.zarr", "item.json")}]


@pytest.mark.parametrize("change", [product, other_asset, own_link])
def test_an_item_with_a_password_is_refused_and_the_password_is_nowhere(tmp_path: Path, change: Callable[[Item], None]) -> None:
    item = eopf_item(NAME, "https://host.example/p.zarr")
    change(item)
    with pytest.raises(SourceError, match="holds a user or password") as caught:
        entry_of_item(item, "/items.json", embedded=True)
    assert caught.value.code == "ZM-SRC-ITEM"
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))
    roots = {"state_root": str(tmp_path / "results"), "store_root": str(tmp_path / "stores")}
    settings = parse_settings({"source": {"catalogue": str(tmp_path / "items.json")}, **roots})
    result = plan(settings, {"S02MSIL2A": Recipe(name="r", product_types=("S02MSIL2A",))})
    (row,) = result.rows
    assert (row.plan_class, row.code) == ("refused", "ZM-SRC-ITEM")
    write_plan(result, state_of(settings))
    written = [path.read_bytes() for path in (tmp_path / "results").rglob("*") if path.is_file()]
    assert len(written) >= 3
    assert not [data for data in written if b"rd@" in data or b"anna" in data]


def state_of(settings: Settings) -> Any:
    from zarrmill.io.state import State

    return State.of(settings)


def test_a_row_and_a_place_with_a_password_are_refused() -> None:
    with pytest.raises(SourceError, match="holds a user or password"):
        entry_of_row({"href": WITH.replace("p.zarr", f"{NAME}.zarr")}, "/list.csv")
    with pytest.raises(SourceError, match="must not hold a user or password") as caught:
        Objects(WITH).get("zarr.json")
    assert "rd@" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"source": {"catalogue": WITH}},
        {"source": {"catalogue": "x"}, "public_root": WITH},
        {"source": {"catalogue": "x"}, "s3": {"endpoint_url": WITH}},
        {"source": {"catalogue": "x"}, "s3": {"buckets": {"b": {"endpoint_url": WITH}}}},
    ],
)
def test_a_configured_address_with_a_password_is_refused_without_saying_it(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must not hold a user or password") as caught:
        parse_settings(values)
    assert "anna" not in str(caught.value)


def query_of_another_asset(item: Item) -> None:
    item["assets"]["more"] = {"href": "https://host.example/p.zarr/b02?sig=SECRET", "alternate": {"a": {"href": "x?t=SECRET"}}}


def query_of_a_link(item: Item) -> None:
    item["links"] = [{"rel": "self", "href": "https://host.example/items/a?token=SECRET"}]


@pytest.mark.parametrize("change", [query_of_another_asset, query_of_a_link])
def test_queries_of_an_item_are_left_out_and_change_nothing_else(tmp_path: Path, change: Callable[[Item], None]) -> None:
    source = tmp_path / "p.zarr"
    write_source(source)
    item = eopf_item(NAME, f"file://{source}")
    plain, settings = planned(item, tmp_path / "plain")
    change(item)
    signed, settings = planned(item, tmp_path / "signed")
    assert replace(signed, item_href=plain.item_href) == plain
    assert "SECRET" not in str(signed)
    written = [path.read_bytes() for path in Path(settings.state_root).rglob("*") if path.is_file()]
    assert len(written) >= 4
    assert not [data for data in written if b"SECRET" in data]
    assert public_address(signed.item_href) == signed.item_href


def planned(item: Item, root: Path) -> tuple[Product, Settings]:
    root.mkdir()
    (root / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))
    roots = {"state_root": str(root / "results"), "store_root": str(root / "stores")}
    settings = parse_settings({"source": {"catalogue": str(root / "items.json")}, **roots})
    result = plan(settings, {"S02MSIL2A": Recipe(name="r", product_types=("S02MSIL2A",))})
    write_plan(result, state_of(settings))
    (product,) = result.products
    return product, settings


@pytest.mark.parametrize("key", ["product", "other"])
def test_a_signed_product_is_refused_by_name_and_without_its_signature(key: str) -> None:
    item = eopf_item(NAME, "https://host.example/p.zarr")
    item["assets"] = {key: {"href": "https://host.example/p.zarr/a?SECRET"}}
    with pytest.raises(SourceError, match=r"signed addresses are not supported, and .*p.zarr/a has a query") as caught:
        entry_of_item(item, "/items.json", embedded=True)
    assert caught.value.code == "ZM-SRC-ITEM"
    with pytest.raises(SourceError, match="signed addresses are not supported") as caught:
        entry_of_row({"href": f"https://host.example/{NAME}.zarr?SECRET"}, "/list.csv")
    assert "SECRET" not in str(caught.value)


def test_a_product_that_one_asset_names_without_a_signature_is_taken() -> None:
    item = eopf_item(NAME, "https://host.example/p.zarr")
    item["assets"] = {"a": {"href": "https://host.example/p.zarr/a?SECRET"}, "b": {"href": "https://host.example/p.zarr/b"}}
    assert entry_of_item(item, "/items.json", embedded=True).href == "https://host.example/p.zarr"


def test_a_link_that_is_no_address_breaks_nothing() -> None:
    item = eopf_item(NAME, "https://host.example/p.zarr")
    item["links"] = [{"rel": "self", "href": "https://[bad/a?SECRET"}]
    assert entry_of_item(item, "/items.json", embedded=True).item_href == "https://[bad/a"


def test_a_log_hides_what_a_library_says_by_itself(tmp_path: Path) -> None:
    with logging_to(tmp_path / "log"):
        logging.getLogger("urllib3").warning("Retrying after %s: %s", "no answer", "/items.json?key=SECRET")
    assert (tmp_path / "log").read_text() == "Retrying after no answer: /items.json?***\n"


def test_a_log_hides_what_a_library_says(tmp_path: Path) -> None:
    with logging_to(tmp_path / "log"):
        structlog.get_logger().warning("refused", reason=f"GET {WITH}", n=3)
    assert json.loads((tmp_path / "log").read_text())["reason"] == "GET https://***@host.example/p.zarr"
