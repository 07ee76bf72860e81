"""Where a backfill was cut: the shards of its range of days, kept in ``<state_root>/<backfill>/backfill.json``.

The first driver writes it, so that a rerun and the drivers of an indexed Job have the same shards.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

from zarrmill.config import Settings, load_recipes
from zarrmill.core.shards import Shard, cut
from zarrmill.errors import ConfigError
from zarrmill.io.places import Place
from zarrmill.io.record import dumps
from zarrmill.io.state import State
from zarrmill.stages.plan import count_days

SCHEMA = "zarrmill/backfill/1"


@dataclass(frozen=True, slots=True)
class Cuts:
    """The shards of a backfill, in the order of their numbers."""

    shards: tuple[Shard, ...]
    n_products: int | None
    """Products that a shard was to have about; None when nobody wrote it down."""


def cuts_of(settings: Settings, first: date, last: date, n_products: int, *, keep: bool = True) -> Cuts:
    """Return the shards of a backfill: those that were cut before, or, the first time, cut now by what the catalogue lists.

    Their numbers go by ``source.order`` of the first time: newest or oldest days first.
    Args: keep: write down where the range was cut.
    Raises: ConfigError: the backfill of that name was cut over another range, or a run has the name; as ``plan`` where the
        catalogue is read.
    """
    place = _place(settings)
    known = read_cuts(settings)
    if known is None:
        if State.of(settings).manifest.exists():
            text = f"{settings.run} is a run, whose summary and report a backfill would replace; take another --name"
            raise ConfigError(text, kind="usage")
        shards = cut(count_days(settings, load_recipes(settings)), first, last, n_products)
        made = Cuts(shards if settings.source.order == "newest" else shards[::-1], n_products)
        if not keep or place.create(dumps(document(settings, made)).encode()):
            return made
        known = read_cuts(settings) or made  # another driver was first
    covered = min(one.first for one in known.shards), max(one.last for one in known.shards)
    if covered != (first, last):
        text = f"{place}: this backfill covers {covered[0]} to {covered[1]}, not {first} to {last}; take another --name"
        raise ConfigError(text, kind="usage")
    return known


def read_cuts(settings: Settings) -> Cuts | None:
    """Return the shards that were written down; None when there are none.

    Raises: ConfigError: what is there is no such record; UnknownStateError: it cannot be read.
    """
    place = _place(settings)
    try:
        record = json.loads(place.read_bytes())
        shards = tuple(
            Shard(date.fromisoformat(row["first"]), date.fromisoformat(row["last"]), int(row["n_listed"]))
            for row in record["shards"]
        )
        n_products = record.get("shard_products")
        return Cuts(shards, None if n_products is None else int(n_products))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{place}: not a {SCHEMA} record ({error}); move it away", kind="manifest") from error


def run_name(settings: Settings, index: int) -> str:
    """Return the name of the run of one shard."""
    return f"{settings.run}-{index:04d}"


def of_run(settings: Settings, run: str) -> Settings:
    """Return the settings of one run of a backfill."""
    return settings.model_copy(update={"run": run})


def runs_of(settings: Settings) -> tuple[str, ...]:
    """Return the runs that a name stands for: the shards of a backfill that were planned, else the run itself.

    Raises: UnknownStateError: the state cannot be read.
    """
    known = read_cuts(settings)
    if known is None:
        return (settings.run,)
    names = (run_name(settings, index) for index in range(len(known.shards)))
    return tuple(name for name in names if State.of(of_run(settings, name)).manifest.exists())


def parse_day(text: str) -> date:
    """Return a date like 2025-01-31, or today (UTC) for ``today``. Raises: ConfigError: it is neither."""
    if text == "today":
        return datetime.now(UTC).date()
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"day {text!r} is not a date like 2025-01-31, nor today", kind="usage") from None


def _place(settings: Settings) -> Place:
    return State.of(settings).root / "backfill.json"


def document(settings: Settings, cuts: Cuts) -> dict[str, object]:
    """Return what is written down of the shards of a backfill."""
    rows: Sequence[dict[str, object]] = [
        {"run": run_name(settings, index), "first": f"{one.first}", "last": f"{one.last}", "n_listed": one.n_listed}
        for index, one in enumerate(cuts.shards)
    ]
    return {"schema": SCHEMA, "name": settings.run, "shard_products": cuts.n_products, "shards": rows}
