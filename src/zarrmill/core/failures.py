"""Failures in groups: by class, and within a class by what the message says but for names and numbers."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from zarrmill.model import FailureRecord, Product

N_VARIANTS = 3
"""Most different messages that a group shows."""


@dataclass(frozen=True, slots=True)
class FailureVariant:
    """Failures of one class that say the same but for names and numbers."""

    code: str
    line: str
    """First line of one message."""
    n: int
    example: str
    """Name of the product that said so."""


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failures of one class."""

    failure_class: str
    n: int
    stages: Mapping[str, int]
    variants: tuple[FailureVariant, ...]
    """Commonest first, at most ``N_VARIANTS``."""
    example: str
    """Name of one product."""
    log: str
    """Its log; empty when it went with its pod."""
    excerpt: str
    """The end of its log."""
    targets: tuple[str, ...]
    """Targets that Snakemake makes again."""


def group_failures(failures: Iterable[FailureRecord], targets: Mapping[str, str] | None = None) -> tuple[FailureGroup, ...]:
    """Return failures grouped by class, largest group first, and within it by the first line of their message.

    Lines that differ only in names, paths and numbers count as one. ``targets`` maps product names to what to make again.
    """
    by_class: dict[str, list[FailureRecord]] = defaultdict(list)
    for failure in failures:
        by_class[failure.failure_class].append(failure)
    groups = []
    for failure_class, members in sorted(by_class.items(), key=lambda pair: (-len(pair[1]), pair[0])):
        variants = _variants(members)
        names = dict.fromkeys(member.product.name for member in members)
        groups.append(
            FailureGroup(
                failure_class=failure_class,
                n=len(members),
                stages=dict(Counter(member.stage for member in members).most_common()),
                variants=variants[:N_VARIANTS],
                example=members[0].product.name,
                log=members[0].log,
                excerpt=members[0].excerpt,
                targets=tuple((targets or {})[name] for name in names if name in (targets or {})),
            )
        )
    return tuple(groups)


def _variants(members: Sequence[FailureRecord]) -> tuple[FailureVariant, ...]:
    alike: dict[tuple[str, str], list[FailureRecord]] = defaultdict(list)
    for member in members:
        alike[member.code, _shape_of_line(_first_line(member.message), member.product)].append(member)
    ordered = sorted(alike.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return tuple(
        FailureVariant(code, _first_line(same[0].message), len(same), same[0].product.name) for (code, _), same in ordered
    )


def _first_line(message: str) -> str:
    return message.strip().partition("\n")[0]


def _shape_of_line(line: str, product: Product) -> str:
    """Return ``line`` without what differs between products: names, addresses, array and band names, numbers."""
    for own in (product.href, product.name, product.product_id):
        line = line.replace(own, "<product>") if own else line
    line = re.sub(r"\S*/\S*", "<path>", line)
    return re.sub(r"\d+(\.\d+)?", "0", line)
