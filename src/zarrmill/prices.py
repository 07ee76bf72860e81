"""The price list: what a core, a stored byte and a request cost, and what bounds the pace of a run; each with its source.

Beside ``zarrmill.config``, the only module that knows a YAML key. ``Cost`` is what ``zarrmill.core.cost`` makes of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pydantic import Field, ValidationError

from zarrmill.config import Model, Settings, load_model
from zarrmill.model import Json


class Figure(Model):
    """One number, where it is from, and whether somebody looked it up."""

    value: float = Field(ge=0, allow_inf_nan=False)
    """The number, in the unit that its key says."""
    source: str = Field(min_length=1)
    """Where it is from: a price page with its date, a contract, a measurement."""
    assumed: bool = False
    """Nobody looked it up: every plan and report that uses it says so."""


class Bound(Figure):
    """A figure that something is divided by."""

    value: float = Field(gt=0, allow_inf_nan=False)
    """The number, in the unit that its key says."""


class Prices(Model):
    """What runs are reckoned with, all amounts in EUR."""

    dated: date
    """Day on which the list was made."""
    core_hour_eur: Figure
    """One core for one hour; of a node, its price over its cores."""
    gb_month_eur: Figure
    """Storage of one GB (10⁹ bytes) for one month."""
    months_kept: Figure
    """Months that a store is kept."""
    put_1000_eur: Figure
    """A thousand PUT requests; an object counts as one. 0 where requests are free."""
    jobs: Bound
    """Products that are worked on at once: ``jobs`` of a cluster's profile, cores over ``threads`` of one machine."""
    put_limit_per_s: Bound
    """PUT requests that the bucket of the stores takes in a second."""
    source_mb_per_s: Bound
    """MB (10⁶ bytes) that the hosts of the sources send in a second, to all jobs together."""

    def assumed(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return those of the named figures that nobody looked up, in words."""
        return tuple(WORDS[name].format(figure.value) for name in names if (figure := getattr(self, name)).assumed)


COST = ("core_hour_eur", "gb_month_eur", "months_kept", "put_1000_eur")
"""Figures that a cost is made of."""
WORDS = {
    "core_hour_eur": "€{:g} a core hour",
    "gb_month_eur": "€{:g} a GB and month",
    "months_kept": "{:g} months kept",
    "put_1000_eur": "€{:g} a thousand PUT requests",
    "jobs": "{:g} at once",
    "put_limit_per_s": "{:g} PUT requests a second",
    "source_mb_per_s": "{:g} MB a second from the sources",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What something costs, in EUR."""

    compute_eur: float = 0.0
    storage_eur: float = 0.0
    requests_eur: float = 0.0
    low_eur: float = 0.0
    """Least that all of it may come to; of what was measured, the same as ``eur``."""
    high_eur: float = 0.0
    """Most that all of it may come to."""

    @property
    def eur(self) -> float:
        """All of it."""
        return self.compute_eur + self.storage_eur + self.requests_eur

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.compute_eur + other.compute_eur,
            self.storage_eur + other.storage_eur,
            self.requests_eur + other.requests_eur,
            self.low_eur + other.low_eur,
            self.high_eur + other.high_eur,
        )

    def rounded(self) -> dict[str, float]:
        """Return the amounts for JSON, to a ten-thousandth of a cent."""
        names = ("compute_eur", "storage_eur", "requests_eur", "eur", "low_eur", "high_eur")
        return {name: round(getattr(self, name), 6) for name in names}


def load_prices(settings: Settings) -> Prices | None:
    """Return the price list of a run; None when it names none.

    Raises: ConfigError: the file is missing, is not YAML, or a key or value is not allowed (the key is named).
    """
    return None if settings.prices is None else load_model(Prices, Path(settings.prices))


def parse_prices(values: Json) -> Prices | None:
    """Return the prices that a plan was made with, from its JSON; None when it has none that can be read."""
    try:
        return Prices.model_validate(values)
    except ValidationError:
        return None


def euros(amount: float) -> str:
    """Return an amount as ``€7.10``; cents are left out from €100."""
    if 0 < amount < 0.005:
        return "<€0.01"
    return f"€{amount:,.2f}" if amount < 100 else f"€{amount:,.0f}"


def euro_range(low: float, high: float) -> str:
    """Return two amounts as ``€12–15``; with cents below €10."""
    if 0 < high < 0.005:
        return "<€0.01"
    first, last = (f"{amount:,.{0 if low >= 10 else 2}f}" for amount in (low, high))
    return f"€{first}" if first == last else f"€{first}–{last}"
