"""Bounds and canary of a backfill, with shards whose plans and jobs are made by hand: what is begun stays within them."""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path
from typing import cast

import pytest
from fake_run import FAILURES, fake_products, price_list, write_failure

from zarrmill.config import Settings, parse_settings
from zarrmill.core.cost import n_within
from zarrmill.core.shards import Shard
from zarrmill.errors import (
    EXIT_BOUND,
    EXIT_BROKEN,
    EXIT_CONFIG,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_UNKNOWN,
    UnknownStateError,
)
from zarrmill.io.manifest import write_manifest
from zarrmill.io.places import place_of
from zarrmill.io.state import State
from zarrmill.prices import Prices
from zarrmill.runs import backfill as driver
from zarrmill.runs.part import Command

PRICES = price_list(core_hour_eur=0, gb_month_eur=0)
"""380 objects a product, a thousand at 10 EUR: 3.80 EUR each."""


class Planner:
    """Plans two products a shard in a fifth of a second, as far as the bounds that it is given allow; runs nothing."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.logs = Path("logs")
        self.asked: list[tuple[int | None, float | None]] = []
        self.tried: list[str] = []
        """Targets that were asked for alone."""
        self.canary, self.bulk, self.code = "exit 0", "sleep 0.3", 0
        """What shells do instead of Snakemake, and how a plan ends."""
        self.n_empty = 0
        """Shards whose plan has no products, the first ones."""
        self.n_unknown = 0
        """Products of a plan that cannot be told."""

    def plan(self, run: str, shard: Shard, limit: int | None, max_cost_eur: float | None) -> list[str]:
        index = len(self.asked)
        self.asked.append((limit, max_cost_eur))
        listed = fake_products(2 * index + 2)[-2:]
        taken = listed[:limit] if index >= self.n_empty else ()
        skipped = {"limit": len(listed) - len(taken)}
        if max_cost_eur is not None:
            n = n_within(taken, Prices.model_validate(PRICES), max_cost_eur)
            skipped["max_cost_eur"], taken = len(taken) - n, taken[:n]
        made = Path("made") / run
        write_manifest(taken, place_of(made / "manifest.csv"))
        left_out = {name: n for name, n in skipped.items() if n}
        body = {"skipped": left_out, "totals": {"refused": 0, "unknown": self.n_unknown}, "prices": PRICES}
        (made / "plan.json").write_text(json.dumps(body))
        return ["sh", "-c", f"sleep 0.2; mkdir -p results/{run}; cp made/{run}/* results/{run}/; exit {self.code}"]

    def run(self, run: str, shard: Shard) -> list[str]:
        return ["sh", "-c", self.bulk]

    def targets(self, run: str, targets: Sequence[str], shard: Shard) -> list[str]:
        self.tried += targets
        return ["sh", "-c", self.canary]


@pytest.fixture
def planner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planner:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver, "LOOK_S", 0.05)
    return Planner(parse_settings({"run": "b", "source": {"catalogue": "none"}}))


NO_BOUNDS = driver.Bounds()
NO_CANARY = driver.Canary()


def ended(
    planner: Planner,
    n_shards: int,
    bounds: driver.Bounds = NO_BOUNDS,
    *,
    n_at_once: int = 1,
    canary: driver.Canary = NO_CANARY,
    say: Callable[[str], None] = print,
) -> driver.Outcome:
    """Drive shards of a day each; the first one is left out of the driver that waits for its canary."""
    days = [date(2025, 1, 9) - timedelta(days=n) for n in range(n_shards)]
    shards = [(f"b-{index:04d}", Shard(day, day, 2)) for index, day in enumerate(days)][int(canary.awaited) :]
    command = cast(Command, planner)
    return driver.backfill(planner.settings, shards, command, bounds, n_at_once=n_at_once, canary=canary, say=say)


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
    outcome = ended(planner, 2, driver.Bounds(products=3, cost_eur=100), canary=driver.Canary(1))
    assert (outcome.code, outcome.total) == (EXIT_BOUND, 3)
    assert planner.asked == [(3, 100.0), (1, pytest.approx(92.4))], "the shard of the canary is planned once, in full"
    (target,) = planner.tried
    first = fake_products(1)[0]
    assert target == f"results/b-0000/{first.collection}/{first.day}/stac/{first.name}.json"


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


def test_a_driver_of_another_shard_waits_for_the_canary_and_begins_nothing_when_it_failed(planner: Planner) -> None:
    said: list[str] = []
    planner.canary = "echo no profile.yaml; exit 1"
    with ThreadPoolExecutor(1) as pool:
        other = Planner(planner.settings)
        waiting = pool.submit(ended, other, 3, canary=driver.Canary(1, awaited=True, session="job-1"), say=said.append)
        failed = ended(planner, 1, canary=driver.Canary(1, session="job-1"))
        told = waiting.result(timeout=30)
    assert (failed.code, told.code) == (EXIT_BOUND, EXIT_BOUND)
    assert failed.reason == (
        "the canary of 1 product broke off, and no product failed; see logs/b-0000.log, which ends with: no profile.yaml"
    )
    assert told.reason.startswith(failed.reason)
    assert other.asked == []
    assert len(said) == 1
    assert "waits for the verdict on the canary" in said[0]


@pytest.mark.parametrize("session", ["job-2", ""])
def test_a_verdict_counts_in_its_session_alone(planner: Planner, session: str) -> None:
    ended(planner, 1, canary=driver.Canary(1, session="job-1"))
    with pytest.raises(UnknownStateError, match="no verdict on the canary within"):
        ended(planner, 2, driver.Bounds(deadline_s=0.2), canary=driver.Canary(1, awaited=True, session=session))
    ended(planner, 1, canary=driver.Canary(1, session=session))
    begun = ended(planner, 2, canary=driver.Canary(1, awaited=True, session=session))
    assert (begun.code, begun.total) == (EXIT_OK, 2)


def test_a_shard_without_products_is_no_canary(planner: Planner) -> None:
    planner.n_empty, planner.canary = 1, "exit 1"
    outcome = ended(planner, 3, canary=driver.Canary(1))
    assert outcome.reason.endswith("see logs/b-0001.log, which ends with: nothing")
    assert (outcome.code, len(planner.asked), len(planner.tried)) == (EXIT_BOUND, 2, 1)


@pytest.mark.parametrize(("code", "expected"), [(EXIT_CONFIG, EXIT_CONFIG), (1, EXIT_BROKEN)])
def test_a_plan_that_is_not_made_is_no_failed_canary(planner: Planner, code: int, expected: int) -> None:
    planner.code = code
    outcome = ended(planner, 2, canary=driver.Canary(1))
    assert (outcome.code, outcome.reason, len(planner.asked)) == (expected, "", 1)
    assert not Path("results/b/canary.json").exists()


def test_without_a_canary_nothing_is_waited_for(planner: Planner) -> None:
    assert ended(planner, 2, canary=driver.Canary(0, awaited=True)).code == EXIT_OK


def test_an_outage_is_no_verdict(planner: Planner) -> None:
    planner.code = EXIT_UNKNOWN
    outcome = ended(planner, 2, canary=driver.Canary(1))
    assert (outcome.code, outcome.reason) == (EXIT_UNKNOWN, "")
    assert not Path("results/b/canary.json").exists()
    assert len(planner.asked) == 1


@pytest.mark.parametrize(
    ("plan", "bulk", "expected"), [(EXIT_CONFIG, "", EXIT_CONFIG), (9, "", EXIT_BROKEN), (0, "exit 1", EXIT_BROKEN)]
)
def test_a_shard_that_breaks_off_is_no_failed_product(planner: Planner, plan: int, bulk: str, expected: int) -> None:
    """A Job tries it again, or ends at once where the configuration is wrong."""
    planner.code, planner.bulk = plan, bulk or planner.bulk
    assert ended(planner, 1).code == expected


def test_products_that_cannot_be_told_stop_nothing_and_are_told_at_the_end(planner: Planner) -> None:
    planner.n_unknown = 1
    outcome = ended(planner, 2, canary=driver.Canary(1))
    assert (outcome.code, outcome.total, outcome.n_unknown, len(planner.asked)) == (EXIT_UNKNOWN, 4, 2, 2)


def test_a_shard_that_breaks_off_with_products_left_is_tried_again(planner: Planner) -> None:
    state = State.of(planner.settings.model_copy(update={"run": "b-0000"}))
    first, second = fake_products(2)
    write_failure(state, first, 0, FAILURES[0])
    planner.bulk = "exit 1"
    assert ended(planner, 1).code == EXIT_BROKEN
    write_failure(state, second, 0, FAILURES[0])
    planner = Planner(planner.settings)
    planner.bulk = "exit 1"
    assert ended(planner, 1).code == EXIT_FAILED


@pytest.mark.parametrize("bounds", [driver.Bounds(failures=1), driver.Bounds(consecutive_failures=1)])
def test_failures_of_an_earlier_session_do_not_meet_a_bound(planner: Planner, bounds: driver.Bounds) -> None:
    first = fake_products(2)
    state = State.of(planner.settings.model_copy(update={"run": "b-0000"}))
    write_manifest(first, state.manifest)
    write_failure(state, first[0], 0, FAILURES[0])
    time.sleep(0.05)
    outcome = ended(planner, 2, bounds)
    assert (outcome.code, outcome.reason) == (EXIT_FAILED, "")
    planner = Planner(planner.settings)
    record = next(Path(state.failed).rglob("*.json"))
    planner.bulk = f"sleep 0.1; cp {record} {record.with_name('convert-002.json')}; sleep 5"
    outcome = ended(planner, 2, bounds)
    assert (outcome.code, len(planner.asked)) == (EXIT_BOUND, 1)


def test_a_product_that_failed_before_is_no_canary(planner: Planner) -> None:
    shards = [State.of(planner.settings.model_copy(update={"run": f"b-{index:04d}"})) for index in range(2)]
    products = fake_products(4)
    for state, product in ((shards[0], products[0]), (shards[0], products[1]), (shards[1], products[2])):
        write_failure(state, product, 0, FAILURES[0])
    outcome = ended(planner, 2, canary=driver.Canary(2))
    assert [target.rpartition("/")[2] for target in planner.tried] == [f"{products[3].name}.json"]
    assert outcome.total == 4, "what failed before is tried again with the bulk"


def test_a_second_interrupt_cancels_what_is_at_work(
    planner: Planner, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    traps = "trap 'touch asked' TERM; trap 'touch cancelled; exit 130' INT"
    planner.bulk = f"{traps}; touch began; for i in $(seq 600); do sleep 0.05; done"
    sleep, waits = time.sleep, [Path("began"), Path("asked")]

    def interrupted(seconds: float) -> None:
        sleep(min(seconds, 0.05))
        if waits and waits[0].exists():
            waits.pop(0)
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", interrupted)
    outcome = ended(planner, 2)
    assert (outcome.code, outcome.reason) == (EXIT_INTERRUPTED, "interrupted")
    assert Path("cancelled").exists()
    told = capfd.readouterr().err
    assert "waits for the products at work of 1 shard, interrupt again to cancel them" in told
    assert "products at work are cancelled" in told
