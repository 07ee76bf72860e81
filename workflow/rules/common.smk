# Constants and functions that rules share; no rules here.

import sys

import snakemake.script as snakemake_script
from snakemake.exceptions import WorkflowError

from zarrmill.config import load_recipes, parse_settings
from zarrmill.errors import ConfigError, UnknownStateError, ZarrmillError
from zarrmill.io import bucket
from zarrmill.io.lock import RunLock
from zarrmill.io.manifest import read_manifest
from zarrmill.io.pods import fence_executor
from zarrmill.io.scripts import read_once
from zarrmill.io.state import State
from zarrmill.io.targets import check_provider, fence_plugin, target_root


def stop(error):
    """End this driver before anything is decided, with the exit code of the error."""
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)


try:
    SETTINGS = parse_settings(config)
    RECIPES = load_recipes(SETTINGS)
    bucket.use(SETTINGS.s3)
    STATE = State.of(SETTINGS)
    fence_executor()
    read_once(snakemake_script)
    ROOT = target_root(
        STATE, SETTINGS.state_root, workflow.storage_settings.default_storage_prefix
    )
except ZarrmillError as error:
    raise WorkflowError(str(error)) from None

# A manifest that is missing or malformed stops the products, not the plan that mends it. A state that cannot be
# read stops everything: this is every driver's first look at it.
try:
    MANIFEST, NO_MANIFEST = read_manifest(STATE.manifest), None
except ConfigError as error:
    MANIFEST, NO_MANIFEST = None, str(error)
except UnknownStateError as error:
    stop(error)

LOCK = RunLock(STATE.root)
LOGS = f"results/{ROOT}/logs" if STATE.root.remote else f"{ROOT}/logs"
PRODUCTS = {product.name: product for product in MANIFEST or ()}
CONDA = "../../environment.yml"

# What Snakemake itself takes beside the script where a job is a pod; 165 MB measured.
SNAKEMAKE_MB = 200

if STATE.root.remote:
    import snakemake_storage_plugin_s3

    try:
        check_provider(workflow.storage_registry.default_storage_provider, STATE)
        fence_plugin(
            snakemake_storage_plugin_s3,
            STATE,
            (
                {p.collection for p in MANIFEST or ()}
                if workflow.is_main_process
                else None
            ),
        )
    except UnknownStateError as error:
        stop(error)
    except ZarrmillError as error:
        raise WorkflowError(str(error)) from None


def targets(stage):
    """Return an input function: the target of ``stage`` for every product of the manifest."""

    def paths(wildcards):
        if MANIFEST is None:
            raise WorkflowError(NO_MANIFEST)
        return [
            f"{ROOT}/{STATE.target(stage, product).key_in(STATE.root)}"
            for product in MANIFEST
        ]

    return paths


def unread(paths):
    """Return an input function: the same targets, which a rule waits for and does not read (no copies of them are made)."""

    def marked(wildcards):
        return [waited_for(path) for path in paths(wildcards)]

    return marked


def waited_for(path):
    """Return a target that is not copied from the bucket for the job that waits for it."""
    if not STATE.root.remote:
        return path
    return storage.s3(f"{SETTINGS.state_root.rstrip('/')}/{path}", retrieve=False)


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
    return PRODUCTS[wildcards.product].mem_mb * attempt + SNAKEMAKE_MB


wildcard_constraints:
    collection=r"[A-Za-z0-9][A-Za-z0-9._-]*",
    day=r"\d{8}",
    product=r"[A-Za-z0-9][A-Za-z0-9._-]*_[0-9a-f]{8}",


onstart:
    LOCK.take()
    look_at_buckets()


onerror:
    write_report()


def look_at_buckets():
    """Start nothing where data would be lost."""
    from zarrmill.runs.bucket import guard

    try:
        guard(SETTINGS)
    except ZarrmillError as error:
        stop(error)


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
