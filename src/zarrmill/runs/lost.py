"""Failure records of pods that ended without a word: out of memory, evicted, drained. The driver writes them, the job cannot.

The next try overwrites the heartbeat, so this is done before it starts.
"""

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from zarrmill.core.excerpt import excerpt, secrets_of
from zarrmill.errors import UNKNOWN_CODE, CapacityError
from zarrmill.io.failed import final_failure, keep_failure
from zarrmill.io.listing import Listing
from zarrmill.io.pod_ends import EndedPod
from zarrmill.io.progress import read_heartbeat
from zarrmill.io.session import session
from zarrmill.io.state import PRODUCT_STAGES, Failure, Failures, State
from zarrmill.model import FailureRecord, Measured, Product

EVICTED = ("Evicted", "DisruptionTarget", "Preempting", "Shutdown", "NodeShutdown", "Terminated")
"""Reasons of a pod or a Job that are the node's."""
KILLED = (None, 137, 143)
"""Exit codes of a container that was ended from outside, or that never was."""
LATE = (
    "its Job came to its deadline (activeDeadlineSeconds): it hung, or it never began, because the cluster had no room for it or "
    "its image could not be pulled"
)
SKEW_S = 120.0
"""How far the clocks of cluster and bucket may be apart."""

type Known = dict[str, frozenset[str]]
"""Name of a product to the records that this driver saw of it."""


def record_lost(state: State, products: Mapping[str, Product], run: str, pod: EndedPod, known: Known) -> int:
    """Leave a failure record for each product of a failed Job that wrote none itself, and return how many there were.

    Args: products: by name; known: kept from call to call, it tells the records of this try from those of earlier ones.
    Raises: UnknownStateError: the state cannot be read; CapacityError, StoreError: a record cannot be written.
    """
    n_written = 0
    for name, stages in stages_of(pod.targets).items():
        product = products.get(name)
        if product is None:
            continue
        found = Failures(state).of(product)
        missing = [stage for stage in stages if not state.target(stage, product).exists()]
        if missing and not _is_told(found, known.get(name), pod) and not final_failure(found, missing[0]):
            keep_failure(_record(state, product, run, missing, pod, found), state)
            found = Failures(state).of(product)
            n_written += 1
        known[name] = frozenset(str(one.place) for one in found)
    return n_written


def stages_of(targets: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the products that targets (``rule:wildcard=value,...``) make, and which stages, in order."""
    found: dict[str, list[str]] = {}
    for target in targets:
        rule, _, wildcards = target.partition(":")
        product = re.search(r"(?:^|,)product=([^,]+)", wildcards)
        if product and rule in PRODUCT_STAGES:
            found.setdefault(product[1], []).append(rule)
    return {name: sorted(stages, key=PRODUCT_STAGES.index) for name, stages in found.items()}


def _is_told(found: list[Failure], known: frozenset[str] | None, pod: EndedPod) -> bool:
    """Return whether the job wrote a record of this try: one that was not there after the last try, or else a young one."""
    if known is not None:
        return any(str(one.place) not in known for one in found)
    return any(one.modified >= pod.started - SKEW_S for one in found)


def _record(state: State, product: Product, run: str, missing: list[str], pod: EndedPod, found: list[Failure]) -> FailureRecord:
    beat = read_heartbeat(state.progress(product), Listing(state.root))
    is_at_work = beat is not None and beat.stage in missing and beat.started >= pod.started - SKEW_S
    stage = beat.stage if beat is not None and is_at_work else missing[0]
    far = f", after {beat.done} of {beat.total} bytes" if beat is not None and is_at_work else ""
    failure_class, code, why = _why(pod)
    n_others = len(stages_of(pod.targets)) - 1
    shared = f"; the pod held {n_others} other products" if n_others else ""
    return FailureRecord(
        run=run,
        stage=stage,
        product=product,
        failure_class=failure_class,
        code=code,
        message=f"{product.product_id}: {stage} ended without a word{far}: {why}{shared}; the pod: {pod.end}",
        when=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        log="",
        findings=(),
        measured=Measured(attempt=max((one.attempt for one in found), default=0) + 1),
        excerpt=excerpt(pod.log, secrets_of(os.environ)),
        session=session(),
    )


def _why(pod: EndedPod) -> tuple[str, str, str]:
    """Return class, code and reason of a pod's end."""
    if pod.reason == "OOMKilled":
        error = CapacityError(f"it needed more memory than its limit of {pod.memory or 'its node'}", kind="memory")
    elif pod.reason in EVICTED:
        error = CapacityError("the node took it back", kind="evicted")
    elif pod.reason == "Deleted" or (pod.exit_code in KILLED and pod.reason != "DeadlineExceeded"):
        error = CapacityError("it was killed from outside", kind="killed")
    elif pod.reason == "DeadlineExceeded":
        return "unknown", UNKNOWN_CODE, LATE
    else:
        code = "" if pod.exit_code is None else f", exit code {pod.exit_code}"
        return "unknown", UNKNOWN_CODE, f"{pod.reason}{code}, and no record of its own"
    return error.failure_class, error.code, error.message
