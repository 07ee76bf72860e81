"""Entry point of the rule ``report``."""

from zarrmill.job import run_job, settings_of
from zarrmill.stages.report import report

if __name__ == "__main__" and "snakemake" in globals():
    with run_job("report", log=snakemake.log.text):
        report(settings_of(snakemake.config))
