"""structlog, imported when something is logged, and without rich: 0.1 s of every process that logs nothing."""

import logging
import sys
from functools import cache
from typing import Any

from zarrmill.errors import hidden

_NOT_USED = "rich"
"""structlog imports it for colours where it finds it: 80 ms of every job, and jobs log JSON lines."""


@cache
def structlog() -> Any:  # the module
    """Return structlog, which logs to stderr as long as nobody says otherwise: stdout is for what was asked for."""
    found = sys.modules.get(_NOT_USED)
    sys.modules[_NOT_USED] = None  # type: ignore[assignment]  # makes "import rich" fail; see the import system, "the module cache"
    try:
        import structlog
    finally:
        if found is None:
            del sys.modules[_NOT_USED]
        else:
            sys.modules[_NOT_USED] = found
    _to_stderr(structlog)
    return structlog


def reset() -> None:
    """Let events go to stderr again."""
    structlog().reset_defaults()
    _to_stderr(structlog())


def _to_stderr(module: Any) -> None:  # the module
    shown = module.dev.ConsoleRenderer(colors=sys.stderr is not None and sys.stderr.isatty())
    module.configure(
        processors=[*module.get_config()["processors"][:-1], shown],
        logger_factory=lambda *_: module.PrintLogger(sys.stderr),
    )


def hides(record: logging.LogRecord) -> bool:
    """Take what is secret out of the addresses in what a library logs; a filter that lets everything pass."""
    record.msg, record.args = hidden(record.getMessage()), ()
    return True


def logger() -> Any:  # structlog's lazy proxy has no public type
    """Return the logger of this process."""
    return structlog().get_logger()
