"""Entry point of the rule ``report``."""

from pathlib import Path

from zarrmill.config import parse_settings
from zarrmill.job import logging_to
from zarrmill.stages.report import report

if __name__ == "__main__" and "snakemake" in globals():
    with logging_to(Path(snakemake.log.text)):
        report(parse_settings(snakemake.config))
