"""Entry point of the rule ``stac_catalog``."""

from zarrmill.config import load_recipes
from zarrmill.io.manifest import read_manifest
from zarrmill.io.state import State
from zarrmill.job import run_job, settings_of
from zarrmill.stages.stac import build_catalog

if __name__ == "__main__" and "snakemake" in globals():
    with run_job("stac_catalog", log=snakemake.log.text):
        settings = settings_of(snakemake.config)
        state = State(settings.run_root)
        build_catalog(settings, load_recipes(settings), state, read_manifest(state.manifest))
