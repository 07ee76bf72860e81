"""The session of a driver: its jobs know by an environment variable which one they belong to."""

import os
from uuid import uuid4

SESSION = "ZARRMILL_SESSION"
"""Variable that jobs get from their driver."""


def begin_session() -> None:
    """Begin a session in this process and those that it starts: every driver has one of its own."""
    os.environ[SESSION] = uuid4().hex


def session() -> str:
    """Return the session that this process belongs to; empty when no driver began one."""
    return os.environ.get(SESSION, "")
