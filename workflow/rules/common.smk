# Constants and functions that rules share; no rules here.

import os
import signal
import sys

import snakemake.common as snakemake_common
import snakemake.scheduling.job_scheduler as snakemake_scheduler
import snakemake.script as snakemake_script
from snakemake.exceptions import WorkflowError
from snakemake.resources import Resource

from zarrmill.config import load_recipes, parse_settings
from zarrmill.core.room import disk_mb
from zarrmill.errors import ConfigError, UnknownStateError, ZarrmillError, exit_code_of
from zarrmill.io import bucket
from zarrmill.io.failed import SHORT_OF_DISK, SHORT_OF_MEMORY, share_of
from zarrmill.io.lock import RunLock
from zarrmill.io.manifest import read_manifest
from zarrmill.io.objects import local_path
from zarrmill.io.pods import fence_executor
from zarrmill.io.process import spare_collector, spare_imports, tell
from zarrmill.io.progress import remove_finished
from zarrmill.io.scheduling import (
    ask_no_sizes,
    end_in_a_thread,
    know_parameters,
    look_again_once,
)
from zarrmill.io.scripts import read_once
from zarrmill.io.session import begin_session
from zarrmill.io.state import State
from zarrmill.io.targets import check_provider, fence_plugin, target_root


def stop(error):
    """End this driver before anything is decided, with the exit code of the error."""
    print(error, file=sys.stderr)
    sys.exit(exit_code_of(error))


spare_collector()
# Snakemake asks whether parameters are tables of these two; ours are text.
spare_imports("pandas", "polars")

if workflow.is_main_process:
    begin_session()


def note_ended(pod):
    """Leave failure records of a pod that ended without a word."""
    from zarrmill.runs.lost import record_lost

    record_lost(STATE, PRODUCTS, SETTINGS.run, pod, SEEN_FAILURES)


try:
    SETTINGS = parse_settings(config)
    RECIPES = load_recipes(SETTINGS)
    bucket.use(SETTINGS.s3)
    STATE = State.of(SETTINGS)
    fence_executor(ended=note_ended)
    read_once(snakemake_script)
    ask_no_sizes(snakemake_scheduler)
    look_again_once(snakemake_scheduler)
    end_in_a_thread(snakemake_scheduler)
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
SEEN_FAILURES = {}
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
    product = PRODUCTS[wildcards.product]
    times = share_of(STATE, product, attempt, SHORT_OF_MEMORY)
    return product.mem_mb * times + SNAKEMAKE_MB


def convert_disk_mb(wildcards, attempt):
    """Return the disk that converting one product takes beside its store; more after it was not enough."""
    return disk_of(wildcards, attempt, spools=True)


def validate_disk_mb(wildcards, attempt):
    """Return the disk that validating one product takes; more after it was not enough."""
    return disk_of(wildcards, attempt, spools=False)


def disk_of(wildcards, attempt, spools):
    """Return the disk that one product takes on the machine of its job."""
    product = PRODUCTS[wildcards.product]
    once = disk_mb(
        product,
        remote=local_path(product.href) is None,
        stages=SETTINGS.source.fetch == "stage",
        spools=spools,
        max_gb=SETTINGS.source.staging.max_gb,
    )
    return once * share_of(STATE, product, attempt, SHORT_OF_DISK)


know_parameters(
    snakemake_common,
    Resource.evaluate,
    memory_mb,
    convert_disk_mb,
    validate_disk_mb,
    validation_digest,
    item_digest,
)


wildcard_constraints:
    collection=r"[A-Za-z0-9][A-Za-z0-9._-]*",
    day=r"\d{8}",
    product=r"[A-Za-z0-9][A-Za-z0-9._-]*_[0-9a-f]{8}",


onstart:
    take_lock()
    check_manifest()
    look_at_buckets()


onsuccess:
    remove_heartbeats()


onerror:
    give_way()
    remove_heartbeats()
    write_report()


LOST = []


def take_lock():
    """Start nothing beside another driver of this run."""
    try:
        LOCK.take(on_lost=end_this_driver)
    except ZarrmillError as error:
        stop(error)


def end_this_driver(reason):
    """Begin nothing new, finish what is at work and end: another driver has taken the run over."""
    LOST.append(reason)
    tell(f"driver: {reason}; this one ends")
    os.kill(os.getpid(), signal.SIGTERM)


def give_way():
    """End with an exit code of its own, and without a report, when another driver has the run."""
    for reason in LOST:
        stop(UnknownStateError(f"{reason}; it goes on with it", kind="taken"))


def check_manifest():
    """Start nothing when another plan was made between this driver's look at the manifest and its lock."""
    try:
        now = read_manifest(STATE.manifest)
    except ConfigError:
        now = None
    except UnknownStateError as error:
        stop(error)
    if now != MANIFEST:
        stop(
            UnknownStateError(
                f"{STATE.manifest}: planned anew while this driver started; run again",
                kind="taken",
            )
        )


def look_at_buckets():
    """Start nothing where data would be lost."""
    from zarrmill.runs.bucket import guard

    try:
        guard(SETTINGS)
    except ZarrmillError as error:
        stop(error)


def remove_heartbeats():
    """Leave no heartbeat of a finished product; one that cannot be removed now only stays."""
    try:
        remove_finished(STATE, PRODUCTS)
    except ZarrmillError as error:
        tell(f"driver: heartbeats stay: {error}")


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
