"""The end of a log as a record keeps it: a few lines, bounded, without secrets."""

import re
from collections.abc import Iterable, Mapping

from zarrmill.errors import hidden

N_LINES = 20
"""Most lines that are kept."""
MAX_BYTES = 4000
"""Most bytes (UTF-8) that are kept; of more, the last."""
HIDDEN = "***"

_NAMED = re.compile(
    r"((?:authorization|signature|credential|password|passwd|secret|token|(?:access|api|subscription|account)[_-]?key(?:_?id)?"
    r"|(?<=[?&])sig)[\w-]*[\"']?\s*[=:]\s*[\"']?"
    r"(?:bearer\s+|basic\s+)?)[^\s\"'&,;)]+",
    re.IGNORECASE,
)
_NAMES = re.compile(r"key|secret|token|password|credential", re.IGNORECASE)
_SHORTEST = 8
"""Characters of the shortest value that is taken for a secret: shorter ones are words."""


def excerpt(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the last lines of a log, at most ``MAX_BYTES``; ``secrets`` and what looks like one are replaced by ``***``."""
    kept = "\n".join(text.rstrip().splitlines()[-N_LINES:])
    for secret in sorted(secrets, key=len, reverse=True):
        kept = kept.replace(secret, HIDDEN)
    kept = hidden(_NAMED.sub(rf"\1{HIDDEN}", kept))
    return kept.encode()[-MAX_BYTES:].decode(errors="ignore")


def secrets_of(environment: Mapping[str, str]) -> list[str]:
    """Return the values of variables whose names say that they are secret."""
    return [value for name, value in environment.items() if _NAMES.search(name) and len(value) >= _SHORTEST]
