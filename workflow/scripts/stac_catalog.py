"""Entry point of the rule ``stac_catalog``."""

from zarrmill.config import load_recipes
from zarrmill.io.manifest import read_manifest
from zarrmill.io.places import place_of
from zarrmill.io.state import State
from zarrmill.job import run_job
from zarrmill.stages.stac import build_catalog

if __name__ == "__main__" and "snakemake" in globals():
    with run_job("stac_catalog", config=snakemake.config, log=snakemake.log.text) as settings:
        state = State.of(settings)
        products = read_manifest(state.manifest)
        build_catalog(settings, load_recipes(settings), state, products, catalog=place_of(snakemake.output.catalog))
