"""Robustness: does a candidate lose more than the original where inputs are spoilt? Paired, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from whet.data.tasks import Task
from whet.measure import statistics
from whet.measure.changes import GAMMA
from whet.measure.corruptions import Corruption
from whet.measure.measurement import Interval

if TYPE_CHECKING:
    from whet.types import Array

JACKKNIFE = "jackknife over groups, paired"
_GROUPS = 50


@dataclass(frozen=True, slots=True)
class Shift:
    """Original and candidate under one corruption.

    Attributes:
        corruption, severity, amount, unit: As the Corruption has them.
        before, after: The task's metric of the original and of the candidate; None where outputs are not finite.
        extra: How much more the candidate falls behind the original here than on the same inputs unspoilt, in what
            a drop is counted in; None where there is nothing to compare with. ``interval`` bounds it.
    """

    corruption: str
    severity: int
    amount: float
    unit: str
    before: float | None
    after: float | None
    extra: float | None = None
    interval: Interval | None = None


@dataclass(frozen=True)
class Robustness:
    """A candidate under every corruption that is known for its inputs.

    Attributes:
        metric: The task's one metric.
        samples: How many ``of`` the test samples were spoilt.
        before, after: The metric of the original and of the candidate on them, unspoilt.
        shifts: One a corruption and severity; the limits of all hold at once, at ``confidence``, one-sided.
        seed: Of what is drawn.
    """

    metric: str
    samples: int
    of: int
    before: float
    after: float
    shifts: tuple[Shift, ...]
    confidence: float
    seed: int

    @property
    def worse(self) -> list[Shift]:
        """The corruptions that cost the candidate more than the original beyond doubt, the greatest cost first."""
        found = [item for item in self.shifts if item.interval is not None and (item.interval.low or 0.0) > 0]
        return sorted(found, key=lambda item: -(item.extra or 0.0))


@dataclass(frozen=True)
class Answers:
    """Outputs on the same samples, unspoilt and spoilt.

    Attributes:
        clean: Outputs (N, ...) by model; the first is the original.
        spoilt: The same for each corruption.
        truth: Labels (N, ...); None where the original's own outputs are the truth.
        of: Samples there are, of which these are some.
    """

    clean: Mapping[str, Array]
    spoilt: Sequence[tuple[Corruption, Mapping[str, Array]]]
    truth: Array | None
    of: int


def judge(task: Task, answers: Answers, confidence: float, seed: int) -> dict[str, Robustness]:
    """Compare every model with the first, under every corruption; all limits hold at once.

    Args:
        task: What the outputs are for.
        answers: The outputs.
        confidence: One-sided, of all limits together.
        seed: That the corruptions were drawn with, for the record.
    """
    names = list(answers.clean)
    each = statistics.family_confidence(confidence, len(answers.spoilt) * max(len(names) - 1, 1))
    first = answers.clean[names[0]]
    found = {}
    for name in names:
        shifts = tuple(_shift(task, answers, how, name, each) for how, _ in answers.spoilt)
        truth = _truth(answers, first)
        found[name] = Robustness(
            task.metric.name, len(first), answers.of, task.value(first, truth),
            task.value(answers.clean[name], truth), shifts, confidence, seed,
        )  # fmt: skip
    return found


def _shift(task: Task, answers: Answers, how: Corruption, name: str, confidence: float) -> Shift:
    outputs = next(outputs for other, outputs in answers.spoilt if other is how)
    first = next(iter(answers.clean))
    clean = (answers.clean[first], answers.clean[name])
    spoilt = (outputs[first], outputs[name])
    truths = (_truth(answers, clean[0]), _truth(answers, spoilt[0]))
    before, after = (
        task.value(array, truths[1]) if np.isfinite(array).all() and np.isfinite(truths[1]).all() else None
        for array in spoilt
    )
    extra, interval = None, None
    if name != first and before is not None and after is not None:
        extra, interval = excess(task, clean, spoilt, truths, confidence)
    return Shift(how.name, how.severity, how.amount, how.unit, before, after, extra, interval)


def _truth(answers: Answers, original: Array) -> Array:
    return original if answers.truth is None else answers.truth


Pair = tuple["Array", "Array"]


def excess(
    task: Task, clean: Pair, spoilt: Pair, truths: Pair, confidence: float
) -> tuple[float | None, Interval | None]:
    """Return the drop on spoilt inputs minus the drop on clean ones, and its limits.

    Args:
        task: What the outputs are for.
        clean: The original's and the candidate's outputs.
        spoilt: Likewise.
        truths: Of the clean and of the spoilt inputs; they differ where the original's outputs are the truth.
        confidence: Of each limit.
    """
    right = [task.hits(array, truth) for pair, truth in zip((clean, spoilt), truths, strict=True) for array in pair]
    if all(hits is not None for hits in right):
        was, now, still, later = (np.asarray(hits, dtype=np.int64) for hits in right)
        extra = (still - later) - (was - now)  # (N,) -2..2
        limits = mean_limits(extra, confidence)
        return float(extra.mean()), Interval(*limits, confidence, GAMMA, one_sided=True)

    def gap(numbers: Array) -> float:
        drops = [
            task.metric.drop(*(task.value(array[numbers], truth[numbers]) for array in pair))
            for pair, truth in zip((spoilt, clean), truths[::-1], strict=True)
        ]
        return drops[0] - drops[1]

    point = gap(np.arange(len(clean[0])))
    if not math.isfinite(point):
        return None, None
    reach = jackknife(gap, len(clean[0]), confidence, least_pairs=task.classes > 0)
    return point, Interval(point - reach, point + reach, confidence, JACKKNIFE, one_sided=True)


def mean_limits(values: Array, confidence: float) -> tuple[float, float]:
    """Return lower and upper limits of the mean of (N,) small whole numbers of either sign.

    They are counts of right answers, so no sample can lose more than the largest number there is, or than one.
    """
    most = max(int(np.abs(values).max()), 1)
    low, high = statistics.sum_limits(values, confidence, most)
    return low / len(values), high / len(values)


def jackknife(statistic: Callable[[Array], float], count: int, confidence: float, *, least_pairs: bool) -> float:
    """Return how far the limits of a smooth statistic of paired samples reach, leaving out one group at a time.

    Fifty evaluations in place of a bootstrap's thousands, for there are many corruptions and a metric may be slow
    (Shao and Tu 1995, "The Jackknife and Bootstrap", section 1.4; Student's t for the groups).

    Args:
        statistic: From sample numbers to a value.
        count: Samples.
        confidence: Of each limit.
        least_pairs: Whether the samples are right or wrong: where none changes the statistic, some still may.
    """
    from scipy.special import stdtrit

    groups = np.array_split(np.random.default_rng(0).permutation(count), min(_GROUPS, count))
    left = np.array([statistic(np.setdiff1d(np.arange(count), group)) for group in groups])
    spread = math.sqrt((len(left) - 1) / len(left) * float(((left - left.mean()) ** 2).sum()))
    quantile = float(stdtrit(len(left) - 1, confidence))
    return max(quantile * spread, -math.log(1 - confidence) / count if least_pairs else 0.0)
