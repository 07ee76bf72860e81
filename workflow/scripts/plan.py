"""Entry point of the rule ``plan``."""

import sys

from zarrmill.cli import run_plan
from zarrmill.errors import EXIT_NOTHING, EXIT_OK
from zarrmill.job import run_job

if __name__ == "__main__" and "snakemake" in globals():
    with run_job("plan", config=snakemake.config, log=snakemake.log.text) as settings:
        code = run_plan(settings)
    sys.exit(EXIT_OK if code == EXIT_NOTHING else code)
