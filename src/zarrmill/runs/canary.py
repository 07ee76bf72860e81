"""The verdict on a canary, ``<state_root>/<backfill>/canary.json``: one driver of a backfill tries, all of them obey.

A verdict holds for one session, which is all drivers that were started together: those of one indexed Job. The environment
(``ZARRMILL_BACKFILL_SESSION``) names it; without, every verdict counts, also an old one, and says when it was given.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from zarrmill.config import Settings
from zarrmill.errors import ConfigError, UnknownStateError
from zarrmill.io.places import Place, place_of
from zarrmill.io.record import dumps
from zarrmill.io.state import State

SCHEMA = "zarrmill/canary/1"
WAIT_S = 4 * 3600.0
"""How long a driver waits for the verdict."""
LOOK_S, LOOK_REMOTE_S = 0.5, 20.0
"""Seconds between two looks for it, on disk and in a bucket."""
TOLD_EVERY_S = 60.0
"""Seconds between two words about waiting."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a canary."""

    session: str
    ok: bool
    reason: str
    """Why it failed; empty when it did not."""
    when: str
    """ISO 8601 in UTC."""


def give(settings: Settings, session: str, reason: str) -> None:
    """Write the verdict: good when there is no reason against it. Raises: StoreError, CapacityError: it cannot be written."""
    when = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    body = {"schema": SCHEMA, **asdict(Verdict(session, not reason, reason, when))}
    _place(settings).write_bytes(dumps(body).encode())


def await_verdict(settings: Settings, session: str, wait_s: float, say: Callable[[str], None]) -> Verdict:
    """Return the verdict of this session, or of any when the session has no name; wait for the driver that gives it.

    Args: wait_s: longest wait, in seconds; say: told now and then what is waited for.
    Raises: UnknownStateError: there was none in time.
    """
    place, began, told = _place(settings), time.monotonic(), float("-inf")
    look_s = LOOK_REMOTE_S if place_of(settings.state_root).remote else LOOK_S
    while True:
        verdict = _read(place)
        if verdict is not None and verdict.session == session:
            return verdict
        waited = time.monotonic() - began
        if waited >= wait_s:
            raise UnknownStateError(
                f"{place}: no verdict on the canary within {wait_s:.0f} s; the driver of the first shard gives it; "
                "see what became of that one, then run again, or with --canary 0",
                kind="outage",
            )
        if waited - told >= TOLD_EVERY_S:
            told = waited
            say(f"waits for the verdict on the canary, which the driver of the first shard gives: {place}")
        time.sleep(min(look_s, wait_s))


def _place(settings: Settings) -> Place:
    return State.of(settings).root / "canary.json"


def _read(place: Place) -> Verdict | None:
    """Return a verdict; None when there is none. Raises: ConfigError: what is there is no verdict."""
    try:
        body = json.loads(place.read_bytes())
        return Verdict(str(body["session"]), bool(body["ok"]), str(body["reason"]), str(body["when"]))
    except FileNotFoundError:
        return None
    except UnknownStateError:
        return None  # it is asked again
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{place}: not a {SCHEMA} record ({error}); move it away", kind="manifest") from error
