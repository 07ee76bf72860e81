"""``replay``: plan exactly the products that failed again, and run exactly their targets.

The source is looked at anew, so a product that was mended or changed since gets its new digest; the other rows of the manifest
stay as they are, and the next attempt's number follows on the last one's.
"""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zarrmill.config import Settings, load_recipes
from zarrmill.errors import ConfigError
from zarrmill.io.places import place_of
from zarrmill.io.process import die_with_parent
from zarrmill.io.state import PRODUCT_STAGES, State
from zarrmill.model import FailureRecord, Product
from zarrmill.runs.failures import named_state
from zarrmill.stages.plan import merge_plan, plan


@dataclass(frozen=True, slots=True)
class Replay:
    """Products of one run that are to be built again, and those that cannot be."""

    products: tuple[Product, ...]
    left_out: tuple[str, ...]
    """Why products stay out: their source is still gone, refused or cannot be asked."""
    targets: tuple[str, ...]
    """What Snakemake is asked for."""


def check_profile(settings: Settings, profile: str) -> None:
    """Raise ConfigError when the state is in a bucket and ``profile`` is the one that keeps it on this machine."""
    if profile == "local" and place_of(settings.state_root).remote:
        text = f"the state of {settings.run} is in {settings.state_root}, and profile local builds on this machine"
        raise ConfigError(f"{text}; give the profile that the run was built with: --profile ovh", kind="usage")


def prepare(
    settings: Settings, records: Sequence[FailureRecord], *, write: bool, check: Callable[[], None] = lambda: None
) -> Replay:
    """Plan the products of ``records`` again; with ``write`` the new rows take the place of the old ones in the manifest.

    Args: check: raises when the caller does not hold the lock of the run any more; called before anything is written.
    Raises: as ``plan`` and ``write_plan``.
    """
    wanted = {(record.product.collection, record.product.product_id) for record in records}
    source = settings.source.model_copy(
        update={
            "ids": tuple(sorted({product_id for _, product_id in wanted})),
            "datetime": None,
            "limit": None,
            "max_cost_eur": None,
            "min_age_hours": 0.0,
        }
    )
    result = plan(settings.model_copy(update={"source": source}), load_recipes(settings))
    products = tuple(one for one in result.products if (one.collection, one.product_id) in wanted)
    found = {(one.collection, one.product_id) for one in products}
    why = {(row.collection, row.product_id): row.reason for row in result.rows if row.product is None}
    left_out = tuple(f"{key[1]}: {why.get(key, 'not in the catalogue any more')}" for key in sorted(wanted - found))
    state = State.of(settings)
    if write and products:
        check()
        merge_plan(result, products, state)
    named = named_state(settings)
    return Replay(products, left_out, tuple(named.target(PRODUCT_STAGES[-1], one).href for one in products))


def run(command: Sequence[str]) -> int:
    """Run Snakemake on this terminal and return its exit code; when this is interrupted, its clean end is waited for."""
    with subprocess.Popen(command, preexec_fn=die_with_parent) as process:  # noqa: PLW1509 - one thread
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise


def unfinished(settings: Settings, products: Sequence[Product]) -> tuple[Product, ...]:
    """Return products without their last target, whatever stands in its way. Raises: UnknownStateError: it cannot be told."""
    state = State.of(settings)
    return tuple(one for one in products if not state.target(PRODUCT_STAGES[-1], one).exists())
