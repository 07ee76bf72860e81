"""A range of days is covered once, whatever the catalogue lists."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zarrmill.core.shards import cut

FIRST = date(2024, 12, 30)


@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=60), n_products=st.integers(1, 100))
def test_every_day_is_in_one_shard_and_only_single_days_exceed_the_size(counts: list[int], n_products: int) -> None:
    days = [FIRST + timedelta(n) for n in range(len(counts))]
    shards = cut(dict(zip(days, counts, strict=True)), days[0], days[-1], n_products)
    covered = [shard.first + timedelta(n) for shard in reversed(shards) for n in range((shard.last - shard.first).days + 1)]
    assert covered == days
    assert sum(shard.n_listed for shard in shards) == sum(counts)
    for shard in shards:
        busy = [day for day in days if shard.first <= day <= shard.last and counts[days.index(day)]]
        assert shard.n_listed <= n_products or len(busy) == 1


def test_the_whole_calendar_is_covered() -> None:
    newest, oldest = cut({date.max: 1, FIRST: 1}, date.min, date.max, 1)
    assert newest.datetime == "2024-12-31/9999-12-31"
    assert oldest.datetime == "0001-01-01/2024-12-30"


@pytest.mark.parametrize("n_products", [1, 500])
def test_days_without_products_make_one_shard(n_products: int) -> None:
    (shard,) = cut({}, FIRST, FIRST + timedelta(30), n_products)
    assert (shard.datetime, shard.n_listed) == ("2024-12-30/2025-01-29", 0)
