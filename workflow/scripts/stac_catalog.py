"""Entry point of the rule ``stac_catalog``."""

from typing import Any

from zarrmill.config import load_recipes, parse_settings
from zarrmill.io.manifest import read_manifest
from zarrmill.io.state import State
from zarrmill.stages.stac import build_catalog

snakemake: Any

if __name__ == "__main__" and "snakemake" in globals():
    settings = parse_settings(snakemake.config)
    state = State(settings.run_root)
    build_catalog(settings, load_recipes(settings), state, read_manifest(state.manifest))
