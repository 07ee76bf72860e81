"""structlog without rich, which it imports for colours where it finds it: 80 ms of every job, and jobs log JSON lines."""

import sys

_rich = sys.modules.get("rich")
sys.modules["rich"] = None  # type: ignore[assignment]  # makes "import rich" fail; see the import system, "the module cache"
try:
    import structlog
finally:
    if _rich is None:
        del sys.modules["rich"]
    else:
        sys.modules["rich"] = _rich

__all__ = ["structlog"]
