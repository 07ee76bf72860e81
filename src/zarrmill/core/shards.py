"""Cuts a range of days into shards: parts of a backfill that are planned and run one after another."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta


@dataclass(frozen=True, slots=True)
class Shard:
    """Whole days that are built together."""

    first: date
    last: date
    n_listed: int
    """Products that the catalogue listed when the range was cut."""

    @property
    def datetime(self) -> str:
        """The days as ``source.datetime``."""
        return f"{self.first}/{self.last}"


def cut(counts: Mapping[date, int], first: date, last: date, n_products: int) -> tuple[Shard, ...]:
    """Return shards that cover every day from ``first`` to ``last`` once, newest first, of about ``n_products`` each.

    A shard ends before the day with which it would exceed ``n_products``; a day is never divided. Days without products belong
    to the shard of the day after them, so products that are listed later are found by the next run.
    """
    shards: list[Shard] = []
    end, n = last, 0
    for back in range((last - first).days + 1):
        day = last - timedelta(back)
        here = counts.get(day, 0)
        if n and n + here > n_products:
            shards.append(Shard(day + timedelta(1), end, n))
            end, n = day, 0
        n += here
    shards.append(Shard(first, end, n))
    return tuple(shards)
