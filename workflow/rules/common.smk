# Constants and functions that rules share; no rules here.

from pathlib import Path

from snakemake.exceptions import WorkflowError

from zarrmill.config import load_recipes, parse_settings
from zarrmill.errors import ZarrmillError
from zarrmill.io.lock import RunLock
from zarrmill.io.manifest import read_manifest
from zarrmill.io.pods import fence_executor
from zarrmill.io.state import State

try:
    SETTINGS = parse_settings(config)
    RECIPES = load_recipes(SETTINGS)
    STATE = State.of(SETTINGS)
    fence_executor()
except ZarrmillError as error:
    raise WorkflowError(str(error)) from None

# A manifest that is missing or malformed stops the products, not the plan that mends it.
try:
    MANIFEST, NO_MANIFEST = read_manifest(STATE.manifest), None
except ZarrmillError as error:
    MANIFEST, NO_MANIFEST = None, str(error)

ROOT = str(STATE.root)
LOCK = RunLock(STATE.root)
PRODUCTS = {product.name: product for product in MANIFEST or ()}
CONDA = "../../environment.yml"


def targets(stage):
    """Return an input function: the target of ``stage`` for every product of the manifest."""

    def paths(wildcards):
        if MANIFEST is None:
            raise WorkflowError(NO_MANIFEST)
        return [str(STATE.target(stage, product)) for product in MANIFEST]

    return paths


def recipe_of(wildcards):
    """Return the recipe of one product; of a product that left the manifest, any recipe of its type."""
    product = PRODUCTS.get(wildcards.product)
    if product is None or product.product_type not in RECIPES:
        raise WorkflowError(
            f"{wildcards.product} is not in {STATE.manifest}, or no recipe serves it; plan again"
        )
    return RECIPES[product.product_type]


def validation_digest(wildcards):
    """Return what the verdict of one product depends on beside its store."""
    return recipe_of(wildcards).validation.digest()


def item_digest(wildcards):
    """Return what the item of one product depends on beside its store and its report."""
    return f"{recipe_of(wildcards).item.digest()} {SETTINGS.public_root}"


def memory_mb(wildcards, attempt):
    """Return the memory that a job of one product asks for; more after it was not enough."""
    return PRODUCTS[wildcards.product].mem_mb * attempt


wildcard_constraints:
    collection=r"[A-Za-z0-9][A-Za-z0-9._-]*",
    day=r"\d{8}",
    product=r"[A-Za-z0-9][A-Za-z0-9._-]*_[0-9a-f]{8}",


onstart:
    LOCK.take()


onerror:
    write_report()


def write_report():
    """Write the report of a run that failed; of one that did not the rule ``report`` writes it."""
    if MANIFEST is not None:
        from zarrmill.stages import report as stage

        stage.report(SETTINGS)


localrules:
    all,
    plan,
    stac_catalog,
    report,
