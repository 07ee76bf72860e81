"""Entry point of the rule ``stac_catalog``."""

from pathlib import Path

from zarrmill.config import load_recipes, parse_settings
from zarrmill.io.manifest import read_manifest
from zarrmill.io.state import State
from zarrmill.job import logging_to
from zarrmill.stages.stac import build_catalog

if __name__ == "__main__" and "snakemake" in globals():
    settings = parse_settings(snakemake.config)
    state = State(settings.run_root)
    with logging_to(Path(snakemake.log.text)):
        build_catalog(settings, load_recipes(settings), state, read_manifest(state.manifest))
