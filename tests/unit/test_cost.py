"""Cost and pace by numbers that can be checked by hand: one core second costs 0.001 EUR, a GB kept 2 EUR, an object a cent."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fake_run import fake_products, price_list

from zarrmill.config import Settings, parse_settings
from zarrmill.core.cost import actual_cost, limits, n_within, planned_cost, total
from zarrmill.errors import ConfigError
from zarrmill.prices import COST, Cost, Prices, euro_range, euros, load_prices, parse_prices

ROOT = Path(__file__).parents[2]
PRICES = Prices.model_validate(price_list())
PRODUCT = replace(fake_products(1)[0], n_bytes=3_500_000_000, n_objects=100)
"""28 core seconds at 125 MB/s and 10 to start, 1 GB stored at 3.5 to 1, 100 objects."""


def settings(**values: object) -> Settings:
    source = {"catalogue": "items.json", "fetch": values.pop("fetch", "direct")}
    return parse_settings({"source": source, "threads": 2, **values})


def test_planned_cost_is_cores_and_storage_and_requests() -> None:
    cost = planned_cost(PRODUCT, PRICES)
    assert (cost.compute_eur, cost.storage_eur, cost.requests_eur) == pytest.approx((0.038, 2.0, 1.0))
    assert cost.eur == pytest.approx(3.038)
    assert cost.low_eur == pytest.approx(3.5 / 170 + 0.01 + 2 * 3.5 / 4.5 + 1), "170 MB/s, 4.5 to 1"
    assert cost.high_eur == pytest.approx(3.5 / 60 + 0.01 + 2 * 3.5 / 2.5 + 1), "60 MB/s, 2.5 to 1"
    assert planned_cost(replace(PRODUCT, n_bytes=0), PRICES) == Cost(), "what is not known is not guessed"


def test_a_product_that_is_converted_costs_its_cores_only() -> None:
    cost = planned_cost(PRODUCT, PRICES, converted=True)
    assert (cost.eur, cost.low_eur) == pytest.approx((0.038, 3.5 / 170 + 0.01))


def test_radar_is_stored_with_another_ratio() -> None:
    cost = planned_cost(replace(PRODUCT, product_type="S01SIWGRH", n_bytes=1_500_000_000), PRICES)
    assert cost.storage_eur == pytest.approx(2.0), "1 GB at 1.5 to 1"


def test_what_was_measured_has_no_range() -> None:
    cost = actual_cost(1000, 500_000_000, 200, PRICES)
    assert cost == Cost(pytest.approx(1.0), pytest.approx(1.0), pytest.approx(2.0), cost.eur, cost.eur)
    assert cost.eur == pytest.approx(4.0)


def test_costs_add_up() -> None:
    assert total([Cost(1, 2, 3, 4, 5), Cost(10, 20, 30, 40, 50)]) == Cost(11, 22, 33, 44, 55)
    assert total([]).eur == 0


@pytest.mark.parametrize(("most", "n"), [(3.0, 0), (3.1, 1), (9.1, 2), (9.2, 3), (1e6, 3)])
def test_a_bound_takes_the_first_products_that_it_pays_for(most: float, n: int) -> None:
    assert n_within([PRODUCT] * 3, PRICES, most) == n, "3.038 EUR each"


def test_the_lowest_limit_binds() -> None:
    found = limits([PRODUCT], PRICES, settings(store_root="s3://bucket/stores"))
    assert [(one.name, round(one.products_per_hour, 1)) for one in found] == [
        ("source bandwidth", 77.1),  # 3.5 GB / 3 read twice at 50 MB/s: 46.7 s each
        ("conversion", 757.9),  # 38 core seconds on 2 threads: 19 s each, 4 at once
        ("PUT limit", 3600.0),  # 100 objects at 100/s: 1 s each
    ]
    slow = Prices.model_validate(price_list(put_limit_per_s=1))
    assert limits([PRODUCT], slow, settings(store_root="s3://bucket/stores"))[0].products_per_hour == pytest.approx(36)


def test_limits_that_are_not_met_are_not_told() -> None:
    staged = limits([PRODUCT], PRICES, settings(fetch="stage"))
    assert [(one.name, round(one.products_per_hour, 1)) for one in staged] == [("source bandwidth", 154.3), ("conversion", 757.9)]
    local = replace(PRODUCT, href="/archive/p.zarr")
    assert [one.name for one in limits([local], PRICES, settings())] == ["conversion"], "disks are not metered"
    assert limits([replace(PRODUCT, n_bytes=0)], PRICES, settings()) == ()


def test_assumed_figures_are_named_with_their_values() -> None:
    values = price_list()
    values["gb_month_eur"]["assumed"] = values["jobs"]["assumed"] = True
    assert Prices.model_validate(values).assumed(COST) == ("€1 a GB and month",)


def test_the_price_list_of_the_project_is_valid_and_has_a_source_in_every_line() -> None:
    prices = load_prices(settings(prices=str(ROOT / "config/prices.yaml")))
    assert prices is not None
    assert parse_prices(prices.model_dump(mode="json")) == prices
    assert load_prices(settings()) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"core_hour_eur": {"value": -1, "source": "x"}}, "core_hour_eur.value"),
        ({"core_hour_eur": {"value": float("inf"), "source": "x"}}, "core_hour_eur.value"),
        ({"core_hour_eur": {"value": 1}}, "core_hour_eur.source"),
        ({"jobs": {"value": 0, "source": "x"}}, "jobs.value"),
        ({"dated": "yesterday"}, "dated"),
        ({"node_eur": 1}, "node_eur: unknown key"),
    ],
)
def test_a_wrong_price_list_is_refused_with_the_key(tmp_path: Path, change: dict[str, object], words: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(yaml.safe_dump(price_list() | change))
    with pytest.raises(ConfigError, match=words):
        load_prices(settings(prices=str(path)))


@pytest.mark.parametrize(
    ("values", "words"),
    [({}, "needs a price list"), ({"prices": "p.yaml", "fingerprint": "item"}, "needs source.fingerprint: metadata")],
)
def test_a_bound_on_cost_needs_prices_and_sizes(values: dict[str, str], words: str) -> None:
    source = {"catalogue": "c", "max_cost_eur": 1, "fingerprint": values.pop("fingerprint", "metadata")}
    with pytest.raises(ConfigError, match=words):
        parse_settings({"source": source, **values})


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "€0.00"), (0.001, "<€0.01"), (7.1, "€7.10"), (99.99, "€99.99"), (1234.5, "€1,234")]
)
def test_amounts_in_words(amount: float, text: str) -> None:
    assert euros(amount) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(12.2, 15.4, "€12–15"), (0.41, 0.72, "€0.41–0.72"), (0.001, 0.004, "<€0.01"), (12.1, 12.2, "€12"), (9.5, 11, "€9.50–11.00")],
)
def test_ranges_in_words(low: float, high: float, text: str) -> None:
    assert euro_range(low, high) == text
