"""The verdict: PASS, FAIL or INCONCLUSIVE on each claim, with the evidence."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from whet import markup
from whet.measure import statistics
from whet.measure.measurement import Measurement
from whet.measure.quality import Comparison

SIZE_CLAIM = "bytes on disk"  # how the claim of a size ends


class Answer(StrEnum):
    """What a claim comes to."""

    PASS = "PASS"  # noqa: S105 - not a password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be lost, and what must be won.

    Attributes:
        max_drop: Greatest drop of the task's metric: points if bounded (0.01 is one point), else a share.
        max_class_drop: Greatest drop of any class's sensitivity; None does not ask.
        min_speedup: Least speed against the model as given, at every batch size.
        max_bytes: Greatest size of the file; None asks for no more than the float model takes in the same format.
        min_fidelity: Agreement (or explained share) below which a candidate is ruined, whatever its metric says.
        confidence: One-sided.
    """

    max_drop: Annotated[float, Meta(ge=0)] = 0.01
    max_class_drop: Annotated[float, Meta(ge=0)] | None = None
    min_speedup: Annotated[float, Meta(gt=0)] = 1.0
    max_bytes: int | None = None
    min_fidelity: Annotated[float, Meta(ge=0, le=1)] = 0.7
    confidence: Annotated[float, Meta(gt=0.5, lt=1)] = 0.95


@dataclass(frozen=True, slots=True)
class Figures:
    """The numbers that an answer follows from.

    Attributes:
        low, high: Limits of the interval of what is claimed; None where it has no limit on that side.
        limit: What it is compared with.
        at_least: Whether it must be at least the limit (a speed-up); else at most (a drop, a size).
    """

    low: float | None
    high: float | None
    limit: float
    at_least: bool = False

    @property
    def answer(self) -> Answer:
        """PASS where the whole interval keeps the limit, FAIL where all of it is beyond, else INCONCLUSIVE."""
        low, high = _limits(self.low, self.high)
        if self.at_least:
            return Answer.PASS if low >= self.limit else Answer.FAIL if high < self.limit else Answer.INCONCLUSIVE
        return _answer(low, high, self.limit)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One claim, answered.

    Attributes:
        claim: ``accuracy falls by at most 0.01``.
        answer: What it comes to.
        evidence: The numbers, in a sentence.
        needed_samples: How many would settle an INCONCLUSIVE, if what was seen goes on; None where nothing is to be
            settled, or no number is known.
        counted: What these are: samples, blocks of rounds, or rounds.
        unsettled: Why no number is known, where one is asked for.
        figures: The numbers that the answer follows from; None where a claim has none.
    """

    claim: str
    answer: Answer
    evidence: str
    needed_samples: int | None = None
    counted: str = "samples"
    unsettled: str = ""
    figures: Figures | None = None

    @property
    def settled_by(self) -> str:
        """``about 5,200 samples``, or why no number is known; empty where nothing is to be settled."""
        if self.answer is not Answer.INCONCLUSIVE:
            return ""
        if self.needed_samples:
            return f"about {self.needed_samples:,} {self.counted}"
        return self.unsettled or "no number is known"

    def _repr_html_(self) -> str:
        return in_html([self])


def in_html(verdicts: Iterable[Verdict], title: str = "") -> str:
    """Return verdicts as a table for a notebook."""
    heads = ("answer", "claim", "evidence", "would be settled by")
    rows = [(item.answer, item.claim, item.evidence, item.settled_by) for item in verdicts]
    return markup.table(heads, rows, title)


def overall(verdicts: Iterable[Verdict]) -> Answer:
    """Return FAIL if any claim failed, else INCONCLUSIVE if any is open, else PASS."""
    answers = {verdict.answer for verdict in verdicts}
    for answer in (Answer.FAIL, Answer.INCONCLUSIVE):
        if answer in answers:
            return answer
    return Answer.PASS


def quality(comparison: Comparison, budget: Budget) -> Verdict:
    """Judge the drop of the task's metric: non-inferiority, one-sided."""
    limit, interval = budget.max_drop, comparison.interval
    low, high = _limits(interval.low, interval.high)
    kind = "" if comparison.bounded else " of itself"
    claim = f"{comparison.metric} is worse by at most {limit:g}{kind}"
    evidence = (
        f"{comparison.metric} {comparison.before:.4g} before, {comparison.after:.4g} after on {comparison.samples} "
        f"samples: worse by {comparison.drop:.4f} ({interval.confidence:.1%} limits {low:.4f} to {high:.4f}, "
        f"{interval.method})"
    )
    figures = Figures(interval.low, interval.high, limit)
    answer, needed = figures.answer, None
    if answer is Answer.INCONCLUSIVE:
        if comparison.lost is not None and comparison.won is not None:
            needed = statistics.samples_to_settle(
                comparison.lost, comparison.won, comparison.samples, limit, interval.confidence
            )
        else:
            needed = _shrink(comparison.drop, low, high, limit, comparison.samples)
    return _told(Verdict(claim, answer, evidence, needed, figures=figures), low, high)


def classes(comparison: Comparison, budget: Budget) -> Verdict | None:
    """Judge the drop of the class that may have lost most; None where the budget does not ask."""
    if budget.max_class_drop is None or not comparison.classes:
        return None
    limit = budget.max_class_drop
    worst = max(comparison.classes, key=lambda change: change.interval.high or 0.0)
    failed = [change for change in comparison.classes if (change.interval.low or 0.0) > limit]
    shown = failed[0] if failed else worst
    figures = Figures(shown.interval.low, shown.interval.high, limit)
    answer = figures.answer
    evidence = (
        f"class {shown.label}: sensitivity {shown.before:.4g} before, {shown.after:.4g} after on {shown.samples} "
        f"samples, worse by at most {shown.interval.high:.4f} "
        f"({shown.interval.confidence:.1%}, all classes at once)"
    )
    needed = None
    if answer is Answer.INCONCLUSIVE:
        per_class = [
            statistics.samples_to_settle(c.lost, c.won, c.samples, limit, c.interval.confidence)
            for c in comparison.classes
            if (c.interval.high or 0.0) > limit
        ]
        shares = [c.samples for c in comparison.classes if (c.interval.high or 0.0) > limit]
        known = [
            math.ceil(count * comparison.samples / share)
            for count, share in zip(per_class, shares, strict=True)
            if count
        ]
        needed = max(known) if known and len(known) == len(per_class) else None
    claim = f"no class's sensitivity falls by more than {limit:g}"
    found = Verdict(claim, answer, evidence, needed, figures=figures)
    return _told(found, *_limits(worst.interval.low, worst.interval.high))


def speed(ratio: Measurement, budget: Budget) -> Verdict:
    """Judge a speed-up against the model as given, at one batch size."""
    interval, limit = ratio.interval, budget.min_speedup
    assert interval is not None
    assert ratio.value is not None
    low, high = _limits(interval.low, interval.high)
    figures = Figures(interval.low, interval.high, limit, at_least=True)
    answer = figures.answer
    claim = f"at least {limit:g}x as fast as the model as given, batch {ratio.conditions.get('batch_size')}"
    blocks = ratio.conditions.get("blocks", 1)
    count, counted, told = ratio.samples, "rounds", f"{ratio.samples} paired rounds of one opening"
    if blocks > 1:  # each opened anew, and one observation: rounds within it are not independent
        count, counted, told = blocks, "blocks", f"{blocks} blocks of paired rounds, each opened anew"
    evidence = f"{ratio.value:.2f}x ({interval.confidence:.0%} interval {low:.2f} to {high:.2f}, {told})"
    needed = None
    if answer is Answer.INCONCLUSIVE and math.isfinite(high):  # else nothing is known, and low is 0 for want of it
        needed = _shrink(ratio.value, low, high, limit, count)
    return _told(Verdict(claim, answer, evidence, needed, counted, figures=figures), low, high)


def size(size_bytes: int, original_bytes: int, float_bytes: int, budget: Budget) -> Verdict:
    """Judge the size on disk.

    Args:
        size_bytes: Of the shipped file.
        original_bytes: Of the original's weights in float32; the evidence compares with these.
        float_bytes: Of the float model's file in the same format: the limit where the budget names none.
        budget: What was asked.
    """
    limit = budget.max_bytes if budget.max_bytes is not None else float_bytes
    ratio = original_bytes / size_bytes if size_bytes else math.inf
    evidence = f"{size_bytes:,} bytes on disk, {ratio:.2f}x smaller than the original's weights in float32"
    figures = Figures(size_bytes, size_bytes, limit)
    return Verdict(f"at most {limit:,} {SIZE_CLAIM}", figures.answer, evidence, figures=figures)


def _told(verdict: Verdict, low: float, high: float) -> Verdict:
    """Say why no number would settle a claim, where it is open and none is known."""
    if verdict.answer is not Answer.INCONCLUSIVE or verdict.needed_samples is not None:
        return verdict
    bounded = math.isfinite(low) and math.isfinite(high)
    reason = "no number: it lies at the limit" if bounded else f"not known: these {verdict.counted} bound nothing"
    return replace(verdict, unsettled=reason)


def _answer(low: float, high: float, limit: float) -> Answer:
    if high <= limit:
        return Answer.PASS
    return Answer.FAIL if low > limit else Answer.INCONCLUSIVE


def _limits(low: float | None, high: float | None) -> tuple[float, float]:
    return -math.inf if low is None else low, math.inf if high is None else high


def _shrink(point: float, low: float, high: float, limit: float, count: int) -> int | None:
    """Return the count at which an interval that narrows with its square root leaves the limit outside."""
    reach = high - point if point <= limit else point - low
    room = abs(limit - point)
    if not math.isfinite(reach) or room <= 0 or reach <= 0:
        return None
    return math.ceil(count * (reach / room) ** 2)
