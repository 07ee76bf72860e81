"""Entry point of the rule ``report``."""

from typing import Any

from zarrmill.config import parse_settings
from zarrmill.stages.report import report

snakemake: Any

if __name__ == "__main__" and "snakemake" in globals():
    report(parse_settings(snakemake.config))
