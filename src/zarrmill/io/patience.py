"""Patience: which failures of a read may pass, and how they are waited for.

obstore's own pauses hardly grow (five tries last half a second), and it does not heed how long a host asks to be left alone. So
it gives up early (``bucket.transport``), and is asked again here.
"""

import re
from collections.abc import Callable

FIRST_S = 0.15
"""Shortest pause before the second try, in seconds; each further one is three times as long, up to ``LONGEST_S``."""
LONGEST_S = 10.0
"""Bound of that, in seconds. As much again, at most, is added at random."""

_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_PASSING = ("error sending request", "response body", "<Code>RequestTimeout</Code>")
"""Words for a connection that was refused, reset or silent, for a body that broke off, and for an upload that came too late."""

_FINAL = ("error following redirect", "Received redirect without LOCATION")
"""obstore's words for redirects that lead nowhere."""


class BrokenOffError(OSError):
    """The head of an answer came, its body did not come whole."""


def status_of(error: BaseException) -> int | None:
    """Return the status of the answer that obstore tells in words; None where there was no answer, or a good one."""
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def passes(error: BaseException) -> bool:
    """Return whether the same request may succeed soon, as far as obstore's words tell."""
    if isinstance(error, BrokenOffError) or any(words in str(error) for words in _PASSING):
        return True
    status = status_of(error) or 0
    return status in (408, 425, 429) or (status >= 500 and status not in (501, 505))


def is_final(error: BaseException) -> bool:
    """Return whether the request was refused in a way that does not pass, as far as obstore's words tell."""
    return any(words in str(error) for words in _FINAL) or (status_of(error) is not None and not passes(error))


def patiently[T](ask: Callable[[], T], retries: int) -> T:
    """Return what ``ask`` returns, asking up to ``retries`` times again after what may pass.

    The pauses grow and are random: four together last 6 to 12 seconds, six 26 to 52, each further one 10 to 20.
    Raises: what the last try raised.
    """
    import tenacity

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(passes),
        stop=tenacity.stop_after_attempt(retries + 1),
        wait=tenacity.wait_exponential(FIRST_S, LONGEST_S, 3) + tenacity.wait_random_exponential(FIRST_S, LONGEST_S, 3),
        reraise=True,
    )(ask)
