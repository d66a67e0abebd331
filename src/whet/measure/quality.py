"""Quality: what a model's outputs are worth, and what was lost against the original, sample by sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from whet.data import metrics
from whet.data.tasks import Classification, Similarity, Task
from whet.errors import PassError
from whet.measure import statistics
from whet.measure.changes import GAMMA, Change, changes, class_tables, unexplained_limits
from whet.measure.correlation import influences
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
class Comparison(Change):
    """A candidate against the original, paired: the change of the task's one metric, and what else was seen.

    Attributes:
        samples: Pairs.
        lost, won: Pairs in which only the original, or only the candidate, is right; None where none is either.
        fidelity: Agreement, SQNR and others, against the original's outputs.
        fidelity_interval: Of the fidelity that candidates are rejected by: agreement or the explained share.
        classes: Change by class, for classifiers with labels.
        changes: Every metric whose loss can be bounded, the task's one first; their limits do not hold all at once.
    """

    samples: int
    lost: int | None
    won: int | None
    fidelity: Mapping[str, float | None]
    fidelity_interval: Interval | None
    classes: tuple[ClassChange, ...] = ()
    changes: tuple[Change, ...] = ()


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
    """Return the standard error of the task's metric: binomial, by influences, or by the bootstrap."""
    hits = task.hits(outputs, truth)
    if hits is not None:
        share = float(hits.mean())
        return float(np.sqrt(share * (1 - share) / len(hits)))
    if isinstance(task, Similarity):
        return float(influences(outputs, truth, task.metric.name).std() / np.sqrt(len(truth)))
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
    found = changes(task, original, outputs, truth, confidence)
    verdict, (lost, won) = found[0], _lost_and_won(task, original, outputs, truth)
    fidelity = metrics.fidelity(outputs, original, classes=task.classes > 0, logits=task.logits)
    return Comparison(
        **{name: getattr(verdict, name) for name in Change.__match_args__},
        samples=len(outputs),
        lost=lost,
        won=won,
        fidelity=fidelity,
        fidelity_interval=_fidelity_interval(task, original, outputs, confidence),
        classes=_class_changes(task, original, outputs, truth, confidence),
        changes=found,
    )


def _lost_and_won(task: Task, original: Array, outputs: Array, truth: Array) -> tuple[int | None, int | None]:
    """Count the pairs that disagree, where the metric is the share of right samples."""
    right, still = task.hits(original, truth), task.hits(outputs, truth)
    if right is None or still is None:
        return None, None
    return int((right & ~still).sum()), int((~right & still).sum())


def _fidelity_interval(task: Task, original: Array, outputs: Array, confidence: float) -> Interval | None:
    """Bound the agreement (Wilson), or the explained share."""
    if task.classes:
        same = metrics.decide(outputs, logits=task.logits) == metrics.decide(original, logits=task.logits)
        limits = statistics.proportion(int(same.sum()), len(same), confidence)
        return Interval(*limits, confidence, "Wilson", one_sided=True)
    if (original == original[:1]).all():
        return None  # no variance, of which a share could be explained
    low, high = unexplained_limits(original, outputs, confidence)
    return Interval(1 - high, 1 - low, confidence, GAMMA, one_sided=True)


def _class_changes(
    task: Task, original: Array, outputs: Array, truth: Array, confidence: float
) -> tuple[ClassChange, ...]:
    """Bound what each class lost, so that all bounds hold at once."""
    if not isinstance(task, Classification):
        return ()
    labels, tables = class_tables(task.right(original, truth), task.right(outputs, truth), truth)
    each = statistics.family_confidence(confidence, len(labels))
    found = []
    for label, (both, lost, won, neither) in zip(labels.tolist(), tables.tolist(), strict=True):
        count = both + lost + won + neither
        interval = Interval(*statistics.paired_difference(lost, won, count, each), each, GAMMA, one_sided=True)
        before, after = (both + lost) / count, (both + won) / count
        found.append(ClassChange(label, count, before, after, before - after, interval, lost, won))
    return tuple(found)
