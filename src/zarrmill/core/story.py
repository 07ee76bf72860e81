"""What became of a run in words: headline, one paragraph, and what to do next. Pure text from a ``Summary``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from zarrmill.core.measured import RunCost
from zarrmill.core.outcome import Outcome
from zarrmill.core.summary import Summary
from zarrmill.core.words import number, plural
from zarrmill.model import Verdict
from zarrmill.prices import euro_range, euros

N_REPLAY = 5
"""Most targets that a replay command names; for more, the same run is started again."""

Mood = Literal["good", "attention", "bad", "neutral"]


@dataclass(frozen=True, slots=True)
class NextStep:
    """One thing to do, with the command that does it."""

    text: str
    command: str
    """Empty when nothing is to be typed."""


def mood(summary: Summary) -> Mood:
    """Return how the run went, for colours."""
    counts = summary.counts
    if counts[Outcome.FAILED]:
        return "bad"
    if not summary.products or not summary.started:
        return "neutral"
    return "attention" if counts[Outcome.NOT_DONE] else "good"


def headline(summary: Summary) -> str:
    """Return the outcome of the run in one line."""
    counts, total = summary.counts, len(summary.products)
    if not total:
        return "Nothing is planned yet"
    if not summary.started:
        return f"Planned: {products(total)}, nothing built yet"
    if counts[Outcome.OK] == total:
        warned = summary.verdicts[Verdict.WARN]
        done = f"All {number(total)} products are done" if total > 1 else "The product is done"
        return f"{done}, {number(warned)} with warnings" if warned else done
    parts = [f"{number(counts[Outcome.OK])} of {products(total)} done"]
    if counts[Outcome.FAILED]:
        parts.append(f"{number(counts[Outcome.FAILED])} failed")
    if counts[Outcome.NOT_DONE]:
        parts.append(f"{number(counts[Outcome.NOT_DONE])} still to do")
    return ", ".join(parts)


def story(summary: Summary) -> str:
    """Return one paragraph: what ran, how it ended, what it cost, the slowest product."""
    if not summary.products:
        return f"Run {summary.run} has no manifest that can be read, so there is nothing to tell yet."
    counts, cost = summary.counts, summary.measured
    days = sorted({row.day for row in summary.products})
    span = day(days[0]) if len(days) == 1 else f"{day(days[0])} to {day(days[-1])}"
    sentences = [f"Run {summary.run} has {products(len(summary.products))} acquired {span}: {_outcomes(summary)}."]
    if counts[Outcome.SKIPPED]:
        reasons = tally(summary.skipped)
        sentences.append(f"The plan left out {number(counts[Outcome.SKIPPED])} more ({reasons}).")
    if summary.n_bytes:
        ratio = f", {summary.n_bytes_source / summary.n_bytes:.1f} to 1" if summary.n_bytes_source else ""
        sentences.append(
            f"{size(summary.n_bytes_source)} of decoded pixels became {size(summary.n_bytes)}{ratio}, "
            f"in {number(summary.n_objects)} objects."
        )
    if cost.elapsed_s:
        slow = cost.slowest[0] if cost.slowest else ""
        tail = f"; the slowest product was {slow} with {duration(cost.products[slow].total_s)}" if slow else ""
        sentences.append(
            f"It took {duration(cost.elapsed_s)} from first start to last end ({duration(cost.work_s)} of work){tail}."
        )
    if cost.cost is not None:
        sentences.append(_spent(cost.cost))
    return " ".join(sentences)


def next_steps(summary: Summary, command: str) -> tuple[NextStep, ...]:
    """Return what to do next. ``command`` starts the run; starting it again builds only what is missing."""
    if not summary.products:
        return (NextStep("Plan the run, then look at the plan.", f"{command} plan"),)
    counts = summary.counts
    steps = []
    if summary.unreadable:
        paths = [one.path for one in summary.unreadable]
        steps.append(NextStep(f"Plan again: {plural(len(paths), 'record')} cannot be read; see below which.", f"{command} plan"))
    if counts[Outcome.FAILED]:
        what = "Mend the cause of the failures below, then run again: only what is missing is built."
        steps.append(NextStep(what, command))
    elif counts[Outcome.NOT_DONE]:
        what = "Run it." if not summary.started else "Run again: it continues where it stopped and redoes nothing that is done."
        steps.append(NextStep(what, command))
    if not steps:
        steps.append(NextStep("Nothing is left to do. Running again would build nothing.", ""))
    return tuple(steps)


def replay(command: str, targets: tuple[str, ...]) -> str:
    """Return the command that makes failed targets again; the plain run when there are many."""
    return " ".join([command, *targets]) if 0 < len(targets) <= N_REPLAY else command


def products(n: int) -> str:
    """Return ``1 product``, ``2 products``."""
    return plural(n, "product")


def size(n_bytes: float) -> str:
    """Return a size in decimal units with three digits."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while n_bytes >= 999.5 and len(units) > 1:
        n_bytes /= 1000
        units.pop(0)
    digits = 0 if n_bytes >= 100 or units[0] == "B" else 1 if n_bytes >= 10 else 2
    return f"{n_bytes:,.{digits}f} {units[0]}"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{int(seconds)} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 10:
        return f"{minutes} min {rest} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def day(text: str) -> str:
    """Return ``yyyymmdd`` as ``yyyy-mm-dd``."""
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}"


def tally(counts: Mapping[str, int]) -> str:
    """Return ``3 this, 1 that``."""
    return ", ".join(f"{number(n)} {name}" for name, n in counts.items())


def _outcomes(summary: Summary) -> str:
    counts = summary.counts
    parts = [f"{number(counts[Outcome.OK])} ok"]
    if warned := summary.verdicts[Verdict.WARN]:
        parts[0] += f" ({number(warned)} with warnings)"
    if counts[Outcome.FAILED]:
        classes: dict[str, int] = {}
        for row in summary.products:
            if row.outcome == Outcome.FAILED:
                classes[row.reason] = classes.get(row.reason, 0) + 1
        ordered = dict(sorted(classes.items(), key=lambda pair: (-pair[1], pair[0])))
        parts.append(f"{number(counts[Outcome.FAILED])} failed ({tally(ordered)})")
    if counts[Outcome.NOT_DONE]:
        parts.append(f"{number(counts[Outcome.NOT_DONE])} not done")
    return ", ".join(parts)


def _spent(cost: RunCost) -> str:
    planned, done = cost.planned, cost.planned_done
    of = f"{euros(planned.eur)} ({euro_range(planned.low_eur, planned.high_eur)})"
    all_done = planned == done
    what = f"planned was {of}" if all_done else f"planned was {euros(done.eur)} for what is converted, {of} in all"
    return f"It cost {euros(cost.actual.eur)}, {what}{', with assumed prices' if cost.assumed else ''}."
