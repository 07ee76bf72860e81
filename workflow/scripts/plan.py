"""Entry point of the rule ``plan``."""

import sys

from zarrmill.cli import run_plan
from zarrmill.errors import EXIT_NOTHING, EXIT_OK
from zarrmill.job import run_job, settings_of

if __name__ == "__main__" and "snakemake" in globals():
    with run_job("plan", log=snakemake.log.text):
        code = run_plan(settings_of(snakemake.config))
    sys.exit(EXIT_OK if code == EXIT_NOTHING else code)
