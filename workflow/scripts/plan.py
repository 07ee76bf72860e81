"""Entry point of the rule ``plan``."""

import sys
from typing import Any

from zarrmill.cli import run_plan
from zarrmill.config import parse_settings

snakemake: Any

if __name__ == "__main__" and "snakemake" in globals():
    sys.exit(run_plan(parse_settings(snakemake.config)))
