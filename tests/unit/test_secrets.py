"""User and password in an address: refused where they come in, hidden in whatever is said about it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from stac_server import Item, eopf_item, product_id

from zarrmill.config import Recipe, Settings, parse_settings
from zarrmill.core.entries import entry_of_item, entry_of_row
from zarrmill.errors import ConfigError, SourceError, hidden
from zarrmill.io.objects import Objects
from zarrmill.job import logging_to
from zarrmill.stages.plan import plan, write_plan

WITH = "https://anna:passwo@rd@host.example/p.zarr"
NAME = product_id(0)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (WITH, "https://***@host.example/p.zarr"),
        ("two: s3://a:b@c/d, http://e@f.example", "two: s3://***@c/d, http://***@f.example"),
        ("https://host.example/@user/a@b?mail=a@b", "https://host.example/@user/a@b?mail=a@b"),
        ("https://host.example?mail=a@b", "https://host.example?mail=a@b"),
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


def test_a_log_hides_what_a_library_says(tmp_path: Path) -> None:
    with logging_to(tmp_path / "log"):
        structlog.get_logger().warning("refused", reason=f"GET {WITH}", n=3)
    assert json.loads((tmp_path / "log").read_text())["reason"] == "GET https://***@host.example/p.zarr"
