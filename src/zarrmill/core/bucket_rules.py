"""Rules of a bucket: what we want, what there is, and what of it would lose data. Pure; rules are in the words of the S3 API.

Ours are known by their names, which begin with ``zarrmill`` and tell the prefix that they are for; every other rule is someone
else's and stays as it is: also that of another project that keeps its state or stores in the same bucket.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from zarrmill.config import BucketRules
from zarrmill.model import Json

OURS = "zarrmill"
COLD = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes whose objects cannot be read at once."""

type Rule = Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Rules:
    """Everything of a bucket that we look at; the same type for what is wanted and what there is."""

    versioning: bool
    lifecycle: tuple[Rule, ...] = ()
    cors: tuple[Rule, ...] = ()
    policy: tuple[Rule, ...] = ()
    """Statements of the bucket's policy."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Prefixes of one bucket that must not lose anything, each with a slash at its end."""

    bucket: str
    state: str | None
    """Prefix of the state of runs; None when it is elsewhere."""
    stores: str | None
    """Prefix of stores; None when they are elsewhere."""

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Both, sorted."""
        return tuple(sorted({prefix for prefix in (self.state, self.stores) if prefix is not None}))


def kept_in(state_root: str, store_root: str) -> tuple[Kept, ...]:
    """Return what the buckets of a run have to keep, by bucket; nothing for roots on disk."""
    state, stores = _split(state_root), _split(store_root)
    names = sorted({place[0] for place in (state, stores) if place is not None})
    return tuple(
        Kept(
            bucket=name,
            state=state[1] if state is not None and state[0] == name else None,
            stores=stores[1] if stores is not None and stores[0] == name else None,
        )
        for name in names
    )


def wanted_rules(rules: BucketRules, kept: Kept) -> Rules:
    """Return what one bucket is to have of ours."""
    lifecycle: list[Rule] = []
    for prefix in kept.prefixes:
        lifecycle.append(
            _rule("noncurrent", prefix)
            | {
                "NoncurrentVersionExpiration": {"NoncurrentDays": rules.noncurrent_days},
                "Expiration": {"ExpiredObjectDeleteMarker": True},
            }
        )
        uploads = {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": rules.incomplete_days}}
        lifecycle.append(_rule("uploads", prefix) | uploads)
    for address, days in sorted(rules.expire_days.items()):
        place = _split(address)
        if place is not None and place[0] == kept.bucket:
            lifecycle.append(_rule("expire", place[1]) | {"Expiration": {"Days": days}})
    return Rules(
        versioning=rules.versioning != "off",
        lifecycle=tuple(lifecycle),
        cors=_cors(rules.viewers, kept.stores) if kept.stores is not None else (),
        policy=_public(kept.bucket, kept.stores) if rules.public_read and kept.stores is not None else (),
    )


def dangers(found: Rules, wanted: Rules, kept: Kept, rules: BucketRules) -> list[str]:
    """Return what would lose data of ours, in words; a run must not start while there is any."""
    told = []
    if rules.versioning == "required" and not found.versioning:
        told.append("versioning is off, bucket_rules.versioning requires it")
    if kept.state is not None and kept.stores is not None and _overlap(kept.state, kept.stores):
        told.append(f"state ({kept.state or '/'}) and stores ({kept.stores or '/'}) lie in one another; give each its own prefix")
    allowed = [plain(rule) for rule in wanted.lifecycle]
    for rule in found.lifecycle:
        loss = _loss(rule)
        hit = [prefix for prefix in kept.prefixes if _overlap(prefix_of(rule), prefix)]
        if loss and hit and plain(rule) not in allowed:
            told.append(f"lifecycle rule {rule.get('ID', '(no name)')!r} {loss}: it reaches {', '.join(p or '/' for p in hit)}")
    return told


def merged(found: Sequence[Rule], wanted: Sequence[Rule], kept: Kept) -> list[Rule]:
    """Return the rules of others as they are, then ours as wanted."""
    return [*of_others(found, wanted, kept), *wanted]


def of_others(found: Sequence[Rule], wanted: Sequence[Rule], kept: Kept) -> list[Rule]:
    """Return the rules that we did not make, nor want under their names."""
    names = {name_of(rule) for rule in wanted}
    return [rule for rule in found if not is_ours(rule, kept) and name_of(rule) not in names]


def differs(found: Sequence[Rule], wanted: Sequence[Rule], kept: Kept) -> list[str]:
    """Return the names of our rules that are missing, other than wanted, or too many; sorted."""
    others = {name_of(rule) for rule in of_others(found, wanted, kept)}
    ours = {name_of(rule): plain(rule) for rule in found if name_of(rule) not in others}
    target = {name_of(rule): plain(rule) for rule in wanted}
    return sorted(name for name in {*ours, *target} if ours.get(name) != target.get(name))


def same(left: Iterable[Rule], right: Iterable[Rule]) -> bool:
    """Return whether two sets of rules are equal, whatever their order and spelling."""
    return sorted(map(repr, map(plain, left))) == sorted(map(repr, map(plain, right)))


def is_ours(rule: Rule, kept: Kept) -> bool:
    """Return whether the rule is one that we made for what is kept here, and not for another project in this bucket."""
    name, separator, prefix = name_of(rule).partition(":")
    if separator:
        return name.startswith(OURS) and any(_overlap(prefix, mine) for mine in kept.prefixes)
    return kept.stores is not None and name == _public_name(kept.stores)


def name_of(rule: Rule) -> str:
    """Return the name of a lifecycle rule, a CORS rule or a statement."""
    return str(rule.get("ID") or rule.get("Sid") or "")


def prefix_of(rule: Rule) -> str:
    """Return the prefix that a lifecycle rule is for; empty is the whole bucket."""
    chosen = rule.get("Filter") or {}
    return str(chosen.get("Prefix") or chosen.get("And", {}).get("Prefix") or rule.get("Prefix") or "")


def plain(rule: Json) -> Json:
    """Return a rule in one spelling: keys sorted, lists of one as their member, zeros and empties left out."""
    if isinstance(rule, Mapping):
        values = {key: plain(rule[key]) for key in sorted(rule)}
        return {key: value for key, value in values.items() if value not in (None, 0, "", [], {})}
    if isinstance(rule, list | tuple):
        members = [plain(member) for member in rule]
        return members[0] if len(members) == 1 else sorted(members, key=repr)
    return rule


def _rule(kind: str, prefix: str) -> dict[str, Json]:
    return {"ID": f"{OURS}-{kind}:{prefix}", "Status": "Enabled", "Filter": {"Prefix": prefix}}


def _loss(rule: Rule) -> str:
    """Return how an active rule loses objects, in words; empty when it does not, or only those with a tag, which ours lack."""
    chosen = rule.get("Filter") or {}
    if rule.get("Status") != "Enabled" or chosen.get("Tag") or chosen.get("And", {}).get("Tags"):
        return ""
    expiry = rule.get("Expiration") or {}
    if expiry.get("Days") or expiry.get("Date"):
        return f"deletes objects after {expiry['Days']} days" if expiry.get("Days") else f"deletes objects on {expiry['Date']}"
    cold = [str(move.get("StorageClass")) for move in rule.get("Transitions") or () if move.get("StorageClass") in COLD]
    return f"moves objects to {cold[0]}, where they cannot be read" if cold else ""


def _overlap(left: str, right: str) -> bool:
    return left.startswith(right) or right.startswith(left)


def _cors(viewers: Sequence[str], stores: str) -> tuple[Rule, ...]:
    if not viewers:
        return ()
    return (
        {
            "ID": f"{OURS}-viewers:{stores}",
            "AllowedMethods": ["GET", "HEAD"],
            "AllowedOrigins": sorted(viewers),
            "AllowedHeaders": ["*"],
            "ExposeHeaders": ["Content-Length", "Content-Range", "ETag"],
            "MaxAgeSeconds": 3600,
        },
    )


def _public_name(stores: str) -> str:
    """Return the name of the statement for the stores below a prefix: letters and digits alone are allowed in it."""
    return f"{OURS}Read{hashlib.sha256(stores.encode()).hexdigest()[:12]}"


def _public(bucket: str, stores: str) -> tuple[Rule, ...]:
    """Return what lets everyone read the objects of stores, and neither their journals nor a listing."""
    return (
        {
            "Sid": _public_name(stores),
            "Effect": "Allow",
            "Principal": "*",
            "Action": ["s3:GetObject"],
            "Resource": [f"arn:aws:s3:::{bucket}/{stores}*.zarr/*"],
        },
    )


def _split(address: str) -> tuple[str, str] | None:
    """Return bucket and prefix, with a slash at its end unless it is the whole bucket; None for a path."""
    if not address.startswith("s3://"):
        return None
    bucket, _, key = address.removeprefix("s3://").partition("/")
    return bucket, f"{key.strip('/')}/" if key.strip("/") else ""
