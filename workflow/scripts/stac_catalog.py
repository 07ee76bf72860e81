"""Entry point of the rule ``stac_catalog``."""

from zarrmill.config import load_recipes, parse_settings
from zarrmill.io.manifest import read_manifest
from zarrmill.io.state import State
from zarrmill.job import run_job
from zarrmill.stages.stac import build_catalog

if __name__ == "__main__" and "snakemake" in globals():
    with run_job("stac_catalog", log=snakemake.log.text):
        settings = parse_settings(snakemake.config)
        state = State(settings.run_root)
        build_catalog(settings, load_recipes(settings), state, read_manifest(state.manifest))
