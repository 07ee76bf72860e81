"""Bounds on products and cost of a backfill, with shards whose plans are made by hand: what is begun stays within them."""

import json
from datetime import date, timedelta
from pathlib import Path

import pytest
from fake_run import fake_products, price_list

from zarrmill.config import Settings, parse_settings
from zarrmill.core.cost import n_within
from zarrmill.core.shards import Shard
from zarrmill.errors import EXIT_BOUND, EXIT_OK
from zarrmill.io.manifest import write_manifest
from zarrmill.io.places import place_of
from zarrmill.prices import Prices
from zarrmill.runs import backfill as driver

PRICES = price_list(core_hour_eur=0, gb_month_eur=0)
"""380 objects a product, a thousand at 10 EUR: 3.80 EUR each."""


class Planner:
    """Plans two products a shard in a fifth of a second, as far as the bounds that it is given allow; runs nothing."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.logs = Path("logs")
        self.asked: list[tuple[int | None, float | None]] = []

    def plan(self, run: str, shard: Shard, limit: int | None, max_cost_eur: float | None) -> list[str]:
        index = len(self.asked)
        self.asked.append((limit, max_cost_eur))
        listed = fake_products(2 * index + 2)[-2:]
        taken = listed[:limit]
        skipped = {"limit": len(listed) - len(taken)}
        if max_cost_eur is not None:
            n = n_within(taken, Prices.model_validate(PRICES), max_cost_eur)
            skipped["max_cost_eur"], taken = len(taken) - n, taken[:n]
        made = Path("made") / run
        write_manifest(taken, place_of(made / "manifest.csv"))
        left_out = {name: n for name, n in skipped.items() if n}
        body = {"skipped": left_out, "totals": {"refused": 0, "unknown": 0}, "prices": PRICES}
        (made / "plan.json").write_text(json.dumps(body))
        return ["sh", "-c", f"sleep 0.2; mkdir -p results/{run}; cp made/{run}/* results/{run}/"]

    def run(self, run: str, shard: Shard) -> list[str]:
        return ["sleep", "0.3"]


@pytest.fixture
def planner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "LOOK_S", 0.05)
    return Planner(parse_settings({"run": "b", "source": {"catalogue": "none"}}))


def ended(planner: Planner, n_shards: int, bounds: driver.Bounds, *, n_at_once: int = 1, canary: int = 0) -> driver.Outcome:
    days = [date(2025, 1, 9) - timedelta(days=n) for n in range(n_shards)]
    shards = [(index, Shard(day, day, 2)) for index, day in enumerate(days)]
    return driver.backfill(planner.settings, shards, planner, bounds, n_at_once=n_at_once, canary=canary)  # type: ignore[arg-type]


@pytest.mark.parametrize("n_at_once", [1, 3])
def test_what_is_begun_stays_within_the_cost_also_side_by_side(planner: Planner, n_at_once: int) -> None:
    outcome = ended(planner, 3, driver.Bounds(cost_eur=12), n_at_once=n_at_once)
    assert (outcome.code, outcome.total) == (EXIT_BOUND, 3)
    assert planner.asked == [(None, 12.0), (None, pytest.approx(4.4))], "the third shard is not even planned"
    assert outcome.reason == (
        "3 products with a planned cost of €11.40 were begun, the next would exceed €12.00 (--max-cost); raise it to go on"
    )


@pytest.mark.parametrize("n_at_once", [1, 3])
def test_what_is_begun_stays_within_the_number_also_side_by_side(planner: Planner, n_at_once: int) -> None:
    outcome = ended(planner, 3, driver.Bounds(products=3), n_at_once=n_at_once)
    assert (outcome.code, outcome.total) == (EXIT_BOUND, 3)
    assert planner.asked == [(3, None), (1, None)]
    assert outcome.reason == "3 products were begun (--max-products); raise it to go on"


def test_the_canary_is_bounded_and_counted_once(planner: Planner) -> None:
    outcome = ended(planner, 2, driver.Bounds(products=3, cost_eur=100), canary=1)
    assert (outcome.code, outcome.total) == (EXIT_BOUND, 3)
    assert planner.asked == [(1, 100.0), (3, 100.0), (1, pytest.approx(92.4))]


@pytest.mark.parametrize(("bounds", "option"), [(driver.Bounds(cost_eur=5), "--max-cost"), (driver.Bounds(products=1), "--max")])
def test_a_bound_that_cuts_the_last_shard_is_told(planner: Planner, bounds: driver.Bounds, option: str) -> None:
    outcome = ended(planner, 1, bounds)
    assert (outcome.code, outcome.total) == (EXIT_BOUND, 1)
    assert option in outcome.reason


@pytest.mark.parametrize("bounds", [driver.Bounds(cost_eur=15.3), driver.Bounds(products=4), driver.Bounds()])
def test_a_bound_that_leaves_nothing_out_is_none(planner: Planner, bounds: driver.Bounds) -> None:
    outcome = ended(planner, 2, bounds, n_at_once=2)
    assert (outcome.code, outcome.total, outcome.reason) == (EXIT_OK, 4, "")
    assert outcome.cost is not None
    assert outcome.cost.eur == pytest.approx(15.2)
