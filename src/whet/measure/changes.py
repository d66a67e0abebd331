"""What was lost of each metric, with limits: by the method that holds for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from whet.data import metrics
from whet.data.goal import METRICS, Metric
from whet.data.tasks import Classification, Fidelity, Regression, Similarity, Task
from whet.errors import DataError
from whet.measure import statistics
from whet.measure.correlation import influences
from whet.measure.measurement import Interval

if TYPE_CHECKING:
    from whet.types import Array

GAMMA = "gamma limits, paired"
DRAWS = "Dirichlet draws, paired"
BOOTSTRAP = "paired bootstrap"
_TRIES = 30  # samples spoilt in turn, to find what one more lost sample costs a metric of the user's
_NUDGE = 1 + 1e-6


@dataclass(frozen=True, slots=True)
class Change:
    """What was lost of one metric.

    Attributes:
        metric: Its name. ``bounded`` as Metric has it.
        before, after: Its value for the original and for the candidate.
        drop: Points of a bounded metric, a share of an unbounded one.
        interval: Of the drop, one-sided. Those of several metrics do not hold all at once.
    """

    metric: str
    bounded: bool
    before: float
    after: float
    drop: float
    interval: Interval


def changes(task: Task, original: Array, outputs: Array, truth: Array, confidence: float) -> tuple[Change, ...]:
    """Return what was lost of every metric whose loss can be bounded, that of the verdict first.

    Args:
        task: What the outputs are for.
        original: The original's outputs (N, ...).
        outputs: The candidate's.
        truth: Labels; for fidelity, ``original`` itself.
        confidence: One-sided.

    Raises:
        DataError: An unbounded metric of the original is 0.
    """
    if isinstance(task, Classification):
        found = _classification(task, original, outputs, truth, confidence)
    elif isinstance(task, Regression):
        found = _regression(original, outputs, truth, confidence)
    elif isinstance(task, Similarity):
        found = _similarity(task, original, outputs, truth, confidence)
    else:
        found = [_single(task, original, outputs, truth, confidence)]
    return tuple(sorted(found, key=lambda change: change.metric != task.metric.name))


def class_tables(right: Array, still: Array, labels: Array) -> tuple[Array, Array]:
    """Return the classes that have samples (K,), and (K, 4) pairs: both right, lost, won, neither right.

    Args:
        right: (N,) bool, of the original.
        still: Of the candidate.
        labels: (N,) class numbers.
    """
    present, place = np.unique(labels, return_inverse=True)
    cell = np.where(right, np.where(still, 0, 1), np.where(still, 2, 3))
    return present, np.bincount(4 * place + cell, minlength=4 * len(present)).reshape(-1, 4)


def _change(metric: Metric, before: float, after: float, interval: Interval) -> Change:
    drop = metric.drop(before, after)
    if not math.isfinite(drop):
        raise DataError(
            f"the original's {metric.name} is 0 on these samples, so no growth of it can be told; "
            f"give labels that the model did not make, or --task fidelity"
        )
    return Change(metric.name, metric.bounded, before, after, drop, interval)


def _classification(
    task: Classification, original: Array, outputs: Array, truth: Array, confidence: float
) -> list[Change]:
    """Bound the falls of accuracy, balanced accuracy and G-mean, from the classes' pairs."""
    _, tables = class_tables(task.right(original, truth), task.right(outputs, truth), truth)
    both, lost, won, _ = tables.sum(axis=0)
    count = len(truth)
    limits = {
        "accuracy": (statistics.paired_difference(lost, won, count, confidence), GAMMA),
        "balanced_accuracy": (statistics.balanced_difference(tables, confidence), GAMMA),
        "g_mean": (statistics.g_mean_difference(tables, confidence), DRAWS),
    }
    shares = [(tables[:, 0] + tables[:, cell]) / tables.sum(axis=1) for cell in (1, 2)]
    values = {
        "accuracy": [(both + lost) / count, (both + won) / count],
        "balanced_accuracy": [each.mean() for each in shares],
        "g_mean": [metrics.g_mean(each) for each in shares],
    }
    found = []
    for metric in METRICS["classification"]:
        before, after = map(float, values[metric.name])
        found.append(_change(metric, before, after, _interval(*limits[metric.name], confidence)))
    return found


def _regression(original: Array, outputs: Array, truth: Array, confidence: float) -> list[Change]:
    """Bound the growth of RMSE and MAE: ratios of means of squares, and of sizes, of the samples' errors."""
    wanted = truth.reshape(len(truth), -1).astype(np.float64)
    errors = [array.reshape(len(truth), -1) - wanted for array in (original, outputs)]
    found = []
    for metric, power in zip(METRICS["regression"], (2, 1), strict=True):
        sizes = [(np.abs(error) ** power).mean(axis=1) for error in errors]
        before, after = (float(size.mean()) ** (1 / power) for size in sizes)
        limits = (0.0, 0.0)
        if before > 0:
            low, high = statistics.ratio_of_means(sizes[1], sizes[0], confidence)
            limits = (low ** (1 / power) - 1, high ** (1 / power) - 1)
        found.append(_change(metric, before, after, _interval(limits, GAMMA, confidence)))
    return found


def _similarity(task: Similarity, original: Array, outputs: Array, truth: Array, confidence: float) -> list[Change]:
    """Bound the falls of both correlations, from the influences of the pairs."""
    before, after = task.scores(original, truth), task.scores(outputs, truth)
    found = []
    for metric in METRICS["similarity"]:
        was, now = before[metric.name], after[metric.name]
        falls = influences(original, truth, metric.name) - influences(outputs, truth, metric.name)
        low, high = (was - now + limit / len(truth) for limit in statistics.sum_limits(falls, confidence))
        limits = (max(low, was - 1), min(high, was + 1))
        found.append(_change(metric, was, now, _interval(limits, GAMMA, confidence)))
    return found


def _single(task: Task, original: Array, outputs: Array, truth: Array, confidence: float) -> Change:
    """Bound the fall of the one metric of a task: a share of hits, the explained share, or a user's own."""
    before, after = task.value(original, truth), task.value(outputs, truth)
    right, still = task.hits(original, truth), task.hits(outputs, truth)
    if right is not None and still is not None:
        lost, won = int((right & ~still).sum()), int((~right & still).sum())
        limits = statistics.paired_difference(lost, won, len(right), confidence)
        return _change(task.metric, before, after, _interval(limits, GAMMA, confidence))
    if isinstance(task, Fidelity):
        limits = unexplained_limits(original, outputs, confidence)
        return _change(task.metric, before, after, _interval(limits, GAMMA, confidence))
    return _change(task.metric, before, after, _resampled(task, (original, outputs, truth), confidence))


def unexplained_limits(original: Array, outputs: Array, confidence: float) -> tuple[float, float]:
    """Return limits of the share of the original's variance that the outputs leave unexplained."""
    a, b = (array.reshape(len(array), -1).astype(np.float64) for array in (original, outputs))
    noise, spread = ((a - b) ** 2).sum(axis=1), ((a - a.mean(axis=0)) ** 2).sum(axis=1)
    if not spread.any():
        return (float(noise.any()),) * 2  # as metrics.fidelity has it
    return statistics.ratio_of_means(noise, spread, confidence)


Arrays = tuple["Array", "Array", "Array"]


def _resampled(task: Task, arrays: Arrays, confidence: float) -> Interval:
    """Bound the drop of any metric by the paired bootstrap.

    A metric that counts (it stays the same when outputs change a little) may lose nothing on these samples and lose
    something all the same: the upper limit then reckons with one more lost sample, and the lower with one more won.
    """
    silent = 0

    def drop(of: Arrays, numbers: Array) -> float:
        nonlocal silent
        try:
            return task.metric.drop(*(task.value(of[at][numbers], of[2][numbers]) for at in (0, 1)))
        except DataError:
            silent += 1
            return math.nan

    count = len(arrays[1])
    if _counts(task, *arrays[1:]):
        won, lost = _one_more(arrays, drop)
        low = statistics.bootstrap(lambda numbers: drop(won, numbers), count + 1, confidence)[0]
        high = statistics.bootstrap(lambda numbers: drop(lost, numbers), count + 1, confidence)[1]
        method = f"{BOOTSTRAP}, one more sample reckoned with"
    else:
        low, high = statistics.bootstrap(lambda numbers: drop(arrays, numbers), count, confidence)
        method = BOOTSTRAP
    if silent:
        method += f"; {silent} resamples gave no number and count as the worst"
    return _interval((low, high), method, confidence)


def _counts(task: Task, outputs: Array, truth: Array) -> bool:
    """Tell whether a metric stays the same when outputs change a little, as what counts hits does."""
    if not np.issubdtype(outputs.dtype, np.floating):
        return True
    try:
        return task.value(outputs * _NUDGE, truth) == task.value(outputs, truth)
    except DataError:
        return True


def _one_more(arrays: Arrays, drop: Callable[[Arrays, Array], float]) -> tuple[Arrays, Arrays]:
    """Return the samples and one more that the original alone gets wrong; and one more that the candidate does.

    It is the worst of some that are given the answer of another sample.
    """
    rng, count = np.random.default_rng(0), len(arrays[2])

    def spoil(which: int) -> Arrays:
        sample, other = rng.integers(0, count, 2)
        rows = [other if at == which else sample for at in range(3)]
        first, second, third = (
            np.append(array, array[[row]], axis=0) for array, row in zip(arrays, rows, strict=True)
        )
        return first, second, third

    found = []
    for which, sign in ((0, -1), (1, 1)):
        tried = [spoil(which) for _ in range(_TRIES)]
        falls = np.nan_to_num([sign * drop(more, np.arange(count + 1)) for more in tried], nan=-math.inf)
        found.append(tried[int(falls.argmax())])
    return found[0], found[1]


def _interval(limits: tuple[float, float], method: str, confidence: float) -> Interval:
    return Interval(*limits, confidence, method, one_sided=True)
