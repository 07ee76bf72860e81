"""Entry point of the rule ``report``."""

from zarrmill.config import parse_settings
from zarrmill.job import run_job
from zarrmill.stages.report import report

if __name__ == "__main__" and "snakemake" in globals():
    with run_job("report", log=snakemake.log.text):
        report(parse_settings(snakemake.config))
