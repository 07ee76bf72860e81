"""``python -m zarrmill``."""

from zarrmill.cli import main

main()
