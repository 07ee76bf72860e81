"""``bucket``: whether the buckets of a run are as they should be, making them so; no run where data would be lost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from zarrmill.config import Settings
from zarrmill.core.bucket_rules import Kept, Rule, Rules, dangers, differs, kept_in, merged, of_others, same, wanted_rules
from zarrmill.errors import ConfigError, StoreError, UnknownStateError
from zarrmill.io import bucket as buckets
from zarrmill.io.bucket_rules import KINDS, NotKnownError, enable_versioning, overwrites, read_list, read_versioning, write_list
from zarrmill.io.logs import logger

log = logger()

_TWO_WRITERS = "two processes could write one store or drive one run at a time"


@dataclass(frozen=True, slots=True)
class BucketState:
    """One bucket of a run: what it is to keep, what it has and what it should have."""

    kept: Kept
    found: Rules
    wanted: Rules
    dangers: tuple[str, ...]
    """What would lose data of ours, in words."""
    unknown: tuple[str, ...] = ()
    """What we want and the service does not know, in words."""

    @property
    def changes(self) -> tuple[str, ...]:
        """What ``setup`` would change, in words."""
        versioning = ["switch versioning on"] if self.wanted.versioning and not self.found.versioning else []
        return (
            *versioning,
            *(f"{kind}: {name}" for kind in KINDS for name in differs(self._has(kind), self._wants(kind), self.kept)),
        )

    def _has(self, kind: str) -> Sequence[Rule]:
        return tuple(getattr(self.found, kind))

    def _wants(self, kind: str) -> Sequence[Rule]:
        return tuple(getattr(self.wanted, kind))


def look(settings: Settings) -> tuple[BucketState, ...]:
    """Return the state of every bucket that this run keeps something in. What a service does not know is no error here.

    Raises: UnknownStateError: no answer; StoreError: access denied, no such bucket.
    """
    return tuple(_looked(settings, kept) for kept in kept_in(settings.state_root, settings.store_root))


def setup(state: BucketState) -> None:
    """Make the changes of one bucket, and read them back; rules of others stay. Nothing when there are none.

    Raises: StoreError: a change was refused, or reads back differently.
    """
    name, kept = state.kept.bucket, state.kept
    if state.wanted.versioning and not state.found.versioning:
        enable_versioning(name)
        if not read_versioning(name):
            raise StoreError(f"s3://{name}: versioning is still off after it was switched on; ask the service", kind="lost")
    for kind in KINDS:
        found, wanted = getattr(state.found, kind), getattr(state.wanted, kind)
        if not differs(found, wanted, kept):
            continue
        write_list(name, kind, merged(found, wanted, kept))
        now = read_list(name, kind)
        if differs(now, wanted, kept) or not same(of_others(now, wanted, kept), of_others(found, wanted, kept)):
            raise StoreError(f"s3://{name}: {kind} rules read back differently; compare them with the service", kind="lost")


def guard(settings: Settings) -> None:
    """Let a run start unless a bucket would lose data; costs two requests a bucket and one or two a service.

    Rules that may not be read (rights, or a service without them) are told in the log and stop nothing.
    Raises: ConfigError: data would be lost, or two processes could write one store; the message says where and how;
        UnknownStateError: no answer, no such bucket, or rules that must be known may not be read.
    """
    _check_conditions(kept_in(settings.state_root, settings.store_root))
    for kept in kept_in(settings.state_root, settings.store_root):
        wanted = wanted_rules(settings.bucket_rules, kept)
        found = Rules(versioning=True)
        try:
            found = replace(found, lifecycle=tuple(read_list(kept.bucket, "lifecycle")))
            found = replace(found, versioning=read_versioning(kept.bucket))
        except StoreError as error:
            if error.kind != "denied" or settings.bucket_rules.versioning == "required":
                raise UnknownStateError(f"{error.message}; nothing was decided", kind="outage") from error
            log.warning("rules of a bucket not checked", bucket=kept.bucket, reason=error.message)
        told = dangers(found, wanted, kept, settings.bucket_rules)
        if told:
            text = f"s3://{kept.bucket}: data would be lost: {'; '.join(told)}; correct it, or look at `zarrmill bucket check`"
            raise ConfigError(text, kind="bucket")
        if wanted.versioning and not found.versioning:
            log.warning("bucket without versioning", bucket=kept.bucket, help="zarrmill bucket setup")


def _check_conditions(places: Sequence[Kept]) -> None:
    """Raise ConfigError where a service lets an object be written twice; a service is asked once, where its driver may write."""
    asked: set[str | None] = set()
    for kept in sorted(places, key=lambda one: one.state is None):
        service = buckets.endpoint_url(kept.bucket)
        if service in asked:
            continue
        try:
            fault = overwrites(kept.bucket, kept.prefixes[0] if kept.state is None else kept.state)
        except StoreError as error:
            if error.kind != "denied":
                raise UnknownStateError(f"{error.message}; nothing was decided", kind="outage") from error
            log.warning("not known whether a bucket keeps one writer", bucket=kept.bucket, reason=error.message)
            continue
        if fault:
            raise ConfigError(f"s3://{kept.bucket}: {fault}; {_TWO_WRITERS}; use another service", kind="bucket")
        asked.add(service)


def _looked(settings: Settings, kept: Kept) -> BucketState:
    wanted, unknown = wanted_rules(settings.bucket_rules, kept), list[str]()
    versioning = _known(partial(read_versioning, kept.bucket), wanted.versioning, unknown)
    lists = {kind: tuple(_known(partial(read_list, kept.bucket, kind), list(getattr(wanted, kind)), unknown)) for kind in KINDS}
    found = Rules(versioning=versioning, **lists)
    told = dangers(found, wanted, kept, settings.bucket_rules)
    faults = [fault for prefix in kept.prefixes if (fault := overwrites(kept.bucket, prefix))]
    told += [f"{fault}; {_TWO_WRITERS}; use another service" for fault in faults[:1]]
    return BucketState(kept, found, wanted, tuple(told), tuple(unknown))


def _known[T](read: Callable[[], T], wanted: T, unknown: list[str]) -> T:
    """Return what there is. What the service does not know counts as it is wanted: nothing here can change it.

    Args: unknown: told of it when anything is wanted.
    """
    try:
        return read()
    except NotKnownError as error:
        if wanted:
            unknown.append(error.message)
        return wanted
