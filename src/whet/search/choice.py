"""Which candidate is chosen, and why the others are not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from whet.measure import verdict
from whet.measure.measurement import speedups, value_of
from whet.measure.quality import Comparison
from whet.measure.verdict import Answer, Budget
from whet.trials.problem import Result

_AS_FAST = 0.97  # of the fastest: within what two runs differ by


@dataclass(frozen=True, slots=True)
class Ranked:
    """A candidate's place.

    Attributes:
        name: Of the candidate.
        eligible: Whether it may be chosen.
        reason: Why it was rejected, or what it was ranked by.
        speedup: Geometric mean over batch sizes, against the model as given.
        over_float: The same, against the float file in the same runtime.
        size_bytes: On disk.
        drop: On the samples it was ranked by.
    """

    name: str
    eligible: bool
    reason: str
    speedup: float | None = None
    size_bytes: float | None = None
    drop: float | None = None
    over_float: float | None = None


def rank(results: Iterable[Result], budget: Budget) -> list[Ranked]:
    """Return all candidates: those that may be chosen first, best first.

    A candidate is rejected if it failed, if it is ruined (its outputs agree with the original's on fewer samples
    than the budget's ``min_fidelity``, beyond doubt), if it lost over a standard error more than ``max_drop``,
    or if a class lost more than ``max_class_drop`` beyond doubt.
    Of the others the fastest is best; of those as fast within 3 %, the smallest; then the one that lost least.
    How fast is read against the float file, where all were raced against it: PyTorch run eagerly is a ruler that
    changes its length by more from race to race than candidates differ.
    """
    judged = [_judge(result, budget) for result in results]
    eligible = [item for item in judged if item.eligible]
    steady = all(item.over_float for item in eligible if item.speedup)
    pace = {item.name: (item.over_float if steady else item.speedup) or 0.0 for item in eligible}
    ordered: list[Ranked] = []
    while eligible:
        fastest = max(pace[item.name] for item in eligible)
        peers = [item for item in eligible if pace[item.name] >= _AS_FAST * fastest]
        best = min(peers, key=lambda item: (item.size_bytes or math.inf, item.drop or 0.0))
        ordered.append(best)
        eligible.remove(best)
    return [*ordered, *(item for item in judged if not item.eligible)]


def speedup_of(result: Result, against: str = "original") -> float | None:
    """Return the geometric mean of a candidate's speed-ups over batch sizes."""
    found = [item.value for item in speedups(result.measurements, against) if item.value]
    return math.exp(sum(map(math.log, found)) / len(found)) if found else None


def _judge(result: Result, budget: Budget) -> Ranked:
    if result.failure is not None:
        return Ranked(result.name, False, f"failed ({result.failure.kind}): {result.failure.message}")
    compared = result.comparison
    assert compared is not None
    speed, size = speedup_of(result), value_of(result.measurements, "size_bytes")
    steady = speedup_of(result, "float")
    reason = ruined(compared, budget) or _lost(compared, budget) or _lost_a_class(compared, budget) or ""
    if not reason and budget.max_bytes is not None and size is not None and size > budget.max_bytes:
        reason = f"too large: {size:,.0f} bytes, {budget.max_bytes:,} are allowed"
    if reason:
        return Ranked(result.name, False, reason, speed, size, compared.drop, steady)
    told = f"{speed:.2f}x as fast as the model as given" if speed else "not timed"
    told += f", {steady:.2f}x as fast as the float file" if steady else ""
    return Ranked(result.name, True, f"{told}, {size:,.0f} bytes", speed, size, compared.drop, steady)


def ruined(compared: Comparison, budget: Budget) -> str | None:
    """Say that a candidate no longer computes what the original does, if that is beyond doubt."""
    limits = compared.fidelity_interval
    if limits is None or limits.high is None or limits.high >= budget.min_fidelity:
        return None
    name = "agreement" if "agreement" in compared.fidelity else "explained"
    value = compared.fidelity.get(name)
    if name == "agreement" and value is not None:
        told = f"agrees with the original on {round(value * compared.samples)} of {compared.samples} samples"
    else:
        told = f"explains {value:.0%} of the original's variance"
    return (
        f"ruined: {told} ({limits.confidence:.0%} upper limit {limits.high:.0%}), "
        f"where at least {budget.min_fidelity:.0%} is asked"
    )


def _lost(compared: Comparison, budget: Budget) -> str | None:
    """Say that a candidate lost too much: beyond doubt, or over a standard error more than is allowed."""
    answer = verdict.quality(compared, budget).answer
    if answer is not Answer.FAIL and compared.drop <= budget.max_drop + _standard_error(compared):
        return None
    return (
        f"{compared.metric} is worse by {compared.drop:.4f} on the {compared.samples} samples candidates are "
        f"ranked by, {budget.max_drop:g} is allowed"
    )


def _lost_a_class(compared: Comparison, budget: Budget) -> str | None:
    """Say that a candidate's worst class lost too much, beyond doubt."""
    found = verdict.classes(compared, budget)
    return found.evidence if found is not None and found.answer is Answer.FAIL else None


def _standard_error(compared: Comparison) -> float:
    """Return the standard error of a drop: from the discordant pairs, or from how far its upper limit reaches."""
    if compared.lost is not None and compared.won is not None:
        return math.sqrt(compared.lost + compared.won) / compared.samples
    if compared.interval.high is None:
        return 0.0
    return (compared.interval.high - compared.drop) / NormalDist().inv_cdf(compared.interval.confidence)


def pareto(results: Sequence[Result]) -> list[str]:
    """Return the names of the candidates that no other beats in speed, size and quality at once."""
    sound = [result for result in results if result.failure is None]
    against = "float" if all(speedup_of(item, "float") for item in sound if speedup_of(item)) else "original"
    points = {
        result.name: (
            speedup_of(result, against) or 0.0,
            -(value_of(result.measurements, "size_bytes") or math.inf),
            -result.comparison.drop,
        )
        for result in sound
        if result.comparison is not None
    }
    return [
        name
        for name, mine in points.items()
        if not any(
            all(b >= a for a, b in zip(mine, other, strict=True)) and other != mine for other in points.values()
        )
    ]
