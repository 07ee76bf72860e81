"""Entry point of the rule ``report``."""

from zarrmill.io.places import place_of
from zarrmill.job import run_job
from zarrmill.stages.report import report

if __name__ == "__main__" and "snakemake" in globals():
    with run_job("report", config=snakemake.config, log=snakemake.log.text) as settings:
        page, summary = place_of(snakemake.output.report), place_of(snakemake.output.summary)
        report(settings, page_to=page, summary_to=summary, catalog=True)
