"""Quality: what a model's outputs are worth, and what was lost against the original, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from whet.data import metrics
from whet.data.tasks import Task
from whet.errors import DataError, PassError
from whet.measure import statistics
from whet.measure.measurement import Interval

if TYPE_CHECKING:
    from whet.types import Array


@dataclass(frozen=True, slots=True)
class Quality:
    """What outputs are worth on some samples.

    Attributes:
        samples: How many.
        scores: Every metric of the task.
        error: Standard error of the task's one metric.
        confusion: Counts, row the label and column the choice; None where the task has no classes or labels.
    """

    samples: int
    scores: Mapping[str, float | None]
    error: float | None = None
    confusion: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True, slots=True)
class ClassChange:
    """What one class lost.

    Attributes:
        label: The class's number.
        samples: Of that class.
        before, after: Its sensitivity.
        drop: before - after, with ``interval``.
        lost, won: Samples that became wrong, and right.
    """

    label: int
    samples: int
    before: float
    after: float
    drop: float
    interval: Interval
    lost: int
    won: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate against the original, paired.

    Attributes:
        metric: The task's one metric. ``bounded`` as Metric has it.
        before, after: Its value for the original and for the candidate.
        drop: What was lost: points of a bounded metric, a share of an unbounded one. ``interval`` is one-sided.
        samples: Pairs.
        lost, won: Pairs in which only the original, or only the candidate, is right; None where none is either.
        fidelity: Agreement, SQNR and others, against the original's outputs.
        fidelity_interval: Of the fidelity that candidates are rejected by: agreement or the explained share.
        classes: Change by class, for classifiers with labels.
    """

    metric: str
    bounded: bool
    before: float
    after: float
    drop: float
    interval: Interval
    samples: int
    lost: int | None
    won: int | None
    fidelity: Mapping[str, float | None]
    fidelity_interval: Interval | None
    classes: tuple[ClassChange, ...] = ()


def assess(task: Task, outputs: Array, truth: Array) -> Quality:
    """Return what outputs are worth.

    Args:
        task: What they are for.
        outputs: (N, ...).
        truth: Labels; for fidelity, the original's outputs.
    """
    confusion = None
    if task.name == "classification":
        counts = metrics.confusion(outputs, truth, logits=task.logits, classes=task.classes)
        confusion = tuple(tuple(int(count) for count in row) for row in counts)
    return Quality(len(outputs), task.scores(outputs, truth), _error(task, outputs, truth), confusion)


def _error(task: Task, outputs: Array, truth: Array) -> float:
    """Return the standard error of the task's metric: binomial, or by the bootstrap."""
    hits = task.hits(outputs, truth)
    if hits is not None:
        share = float(hits.mean())
        return float(np.sqrt(share * (1 - share) / len(hits)))
    low, high = statistics.bootstrap(
        lambda numbers: task.value(outputs[numbers], truth[numbers]), len(outputs), 0.84134, resamples=200
    )
    return (high - low) / 2  # one standard error to each side


def compare(
    task: Task, original: Array, outputs: Array, truth: Array, confidence: float = 0.95, family: int = 1
) -> Comparison:
    """Compare a candidate's outputs with the original's on the same samples.

    Args:
        task: What the outputs are for.
        original: The original's outputs (N, ...).
        outputs: The candidate's.
        truth: Labels; for fidelity, ``original`` itself.
        confidence: One-sided.
        family: How many candidates are judged on these samples; the intervals then hold for all at once.

    Raises:
        PassError: The candidate's outputs are not finite, or of another shape.
        DataError: The metric is a share of the original's, and that is 0.
    """
    if outputs.shape != original.shape:
        raise PassError(
            f"outputs have shape {list(outputs.shape)}, the original's {list(original.shape)}; "
            f"compare models whose outputs have the same form"
        )
    if not np.isfinite(outputs).all():
        share = 1 - float(np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1).mean())
        raise PassError(
            f"outputs are NaN or infinite for {share:.1%} of the samples, the original's for none; "
            f"leave the layers that overflow alone (exclude), or choose another pass"
        )
    confidence = statistics.family_confidence(confidence, family)
    before, after = task.value(original, truth), task.value(outputs, truth)
    drop = task.metric.drop(before, after)
    if not math.isfinite(drop):
        raise DataError(
            f"the original's {task.metric.name} is 0 on these {len(outputs)} samples, so no growth of it can be "
            f"told; give labels that the model did not make, or --task fidelity"
        )
    right, still = task.hits(original, truth), task.hits(outputs, truth)
    lost = won = None
    if right is not None and still is not None:
        lost, won = int((right & ~still).sum()), int((~right & still).sum())
        limits = statistics.paired_difference(lost, won, len(outputs), confidence)
        interval = Interval(*limits, confidence, "Tango score, paired", one_sided=True)
    else:
        limits = statistics.bootstrap(_drop_of(task, original, outputs, truth), len(outputs), confidence)
        interval = Interval(*limits, confidence, "paired bootstrap", one_sided=True)
    fidelity = metrics.fidelity(outputs, original, classes=task.classes > 0, logits=task.logits)
    return Comparison(
        task.metric.name, task.metric.bounded, before, after, drop, interval, len(outputs), lost, won, fidelity,
        _fidelity_interval(task, original, outputs, confidence),
        _class_changes(task, right, still, truth, confidence),
    )  # fmt: skip


def _drop_of(task: Task, original: Array, outputs: Array, truth: Array) -> Callable[[Array], float]:
    """Return the drop as a function of sample numbers."""
    if task.name == "regression":
        return _rmse_growth(original, outputs, truth)
    if task.name == "fidelity" and not task.classes:
        return _unexplained(original, outputs)

    def drop(numbers: Array) -> float:
        before, after = task.value(original[numbers], truth[numbers]), task.value(outputs[numbers], truth[numbers])
        return task.metric.drop(before, after)

    return drop


def _rmse_growth(original: Array, outputs: Array, truth: Array) -> Callable[[Array], float]:
    """Return the relative growth of the RMSE as a function of sample numbers; squared errors are kept by sample."""
    wanted = truth.reshape(len(truth), -1).astype(np.float64)
    before = ((original.reshape(len(truth), -1) - wanted) ** 2).mean(axis=1)
    after = ((outputs.reshape(len(truth), -1) - wanted) ** 2).mean(axis=1)

    def growth(numbers: Array) -> float:
        was, now = float(before[numbers].mean()), float(after[numbers].mean())
        if was == 0:
            return 0.0 if now == 0 else math.inf
        return math.sqrt(now / was) - 1

    return growth


def _fidelity_interval(task: Task, original: Array, outputs: Array, confidence: float) -> Interval | None:
    """Bound the agreement (Wilson), or the explained share (bootstrap)."""
    if task.classes:
        same = metrics.decide(outputs, logits=task.logits) == metrics.decide(original, logits=task.logits)
        limits = statistics.proportion(int(same.sum()), len(same), confidence)
        return Interval(*limits, confidence, "Wilson", one_sided=True)
    if (original == original[:1]).all():
        return None  # no variance, of which a share could be explained
    low, high = statistics.bootstrap(_unexplained(original, outputs), len(outputs), confidence)
    return Interval(1 - high, 1 - low, confidence, "paired bootstrap", one_sided=True)


def _unexplained(original: Array, outputs: Array) -> Callable[[Array], float]:
    """Return the unexplained share of the original's variance as a function of sample numbers, kept by sample."""
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (original, outputs))
    noise, spread = ((a - b) ** 2).sum(axis=1), ((a - a.mean(axis=0)) ** 2).sum(axis=1)

    def share(numbers: Array) -> float:
        lost, of = float(noise[numbers].sum()), float(spread[numbers].sum())
        return lost / of if of > 0 else float(lost > 0)  # as metrics.fidelity has it

    return share


def _class_changes(
    task: Task, right: Array | None, still: Array | None, truth: Array, confidence: float
) -> tuple[ClassChange, ...]:
    """Bound what each class lost, so that all bounds hold at once."""
    if task.name != "classification" or right is None or still is None:
        return ()
    labels = np.unique(truth)
    each = statistics.family_confidence(confidence, len(labels))
    changes = []
    for label in labels:
        members = truth == label
        was, now, count = right[members], still[members], int(members.sum())
        lost, won = int((was & ~now).sum()), int((~was & now).sum())
        interval = Interval(
            *statistics.paired_difference(lost, won, count, each), each, "Tango score, paired", True
        )
        before, after = float(was.mean()), float(now.mean())
        changes.append(ClassChange(int(label), count, before, after, before - after, interval, lost, won))
    return tuple(changes)
