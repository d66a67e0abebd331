"""Tasks: what a model's outputs are for, and which number says how good they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from whet import userfile
from whet.data import metrics
from whet.data.goal import METRICS, Metric, known, named
from whet.errors import DataError

if TYPE_CHECKING:
    from whet.types import Array

NAMES = tuple(METRICS)


class Task(Protocol):
    """What measures need to know of a task. ``truth`` is the labels; for fidelity, the original's outputs."""

    @property
    def name(self) -> str:
        """As it is given with ``--task``."""

    @property
    def metric(self) -> Metric:
        """What a verdict on quality is about."""

    @property
    def logits(self) -> bool:
        """Whether the outputs are logits, not probabilities."""

    @property
    def classes(self) -> int:
        """How many classes are told apart; 0 where the outputs are no classes."""

    def check(self, outputs: Array, truth: Array | None) -> None:
        """Raise DataError unless these outputs can be judged by this truth."""

    def scores(self, outputs: Array, truth: Array) -> dict[str, float]:
        """Return every metric of the task."""

    def value(self, outputs: Array, truth: Array) -> float:
        """Return the task's one metric."""

    def hits(self, outputs: Array, truth: Array) -> Array | None:
        """Return (N,) bool, right or wrong, where the metric is their mean; else None."""


@dataclass(frozen=True, slots=True)
class Classification:
    """One class a sample. Labels are (N,) class numbers; outputs (N, classes), or (N, 1) for two classes."""

    classes: int
    logits: bool = True
    name: str = "classification"
    metric: Metric = METRICS["classification"][0]

    def __post_init__(self) -> None:
        """Refuse a metric whose loss cannot be bounded."""
        known("classification", self.metric.name)

    def check(self, outputs: Array, truth: Array | None) -> None:
        """Refuse labels outside the outputs, and a split of one class only."""
        _check_outputs(outputs, truth)
        if truth is None:
            return
        least, most = int(truth.min()), int(truth.max())
        if least < 0 or most >= self.classes:
            raise DataError(
                f"labels run from {least} to {most}, the model has {self.classes} classes "
                f"(0 to {self.classes - 1}); number the labels as the outputs are, or give --task regression"
            )
        if least == most:
            raise DataError(f"every label is {least}: one class alone says nothing about a classifier; add others")

    def scores(self, outputs: Array, truth: Array) -> dict[str, float]:
        """Return accuracy, cross-entropy, F1, G-mean, AUC and the others."""
        return metrics.classification(outputs, truth, logits=self.logits)

    def value(self, outputs: Array, truth: Array) -> float:
        """Return the accuracy, or the metric that was chosen."""
        right = self.right(outputs, truth)
        if self.metric.name == "accuracy":
            return float(right.mean())
        shares = metrics.sensitivities(right, truth)
        return metrics.g_mean(shares) if self.metric.name == "g_mean" else float(shares.mean())

    def right(self, outputs: Array, truth: Array) -> Array:
        """Tell which samples are right."""
        return np.asarray(metrics.decide(outputs, logits=self.logits) == truth)

    def hits(self, outputs: Array, truth: Array) -> Array | None:
        """Tell which samples are right, if the metric is the accuracy."""
        return self.right(outputs, truth) if self.metric.name == "accuracy" else None


@dataclass(frozen=True, slots=True)
class Regression:
    """Numbers a sample, (N, ...) as the labels. A drop is the relative growth of the RMSE (or MAE)."""

    classes: int = 0
    logits: bool = False
    name: str = "regression"
    metric: Metric = METRICS["regression"][0]

    def __post_init__(self) -> None:
        """Refuse a metric whose growth cannot be bounded."""
        known("regression", self.metric.name)

    def check(self, outputs: Array, truth: Array | None) -> None:
        """Refuse labels of another shape, or not finite."""
        _check_outputs(outputs, truth)
        if truth is None:
            return
        if math.prod(outputs.shape[1:]) != math.prod(truth.shape[1:]):
            raise DataError(
                f"outputs are {list(outputs.shape[1:])} a sample, labels {list(truth.shape[1:])}; "
                f"give labels of the outputs' shape, or --task classification"
            )
        if not np.isfinite(truth).all():
            raise DataError("the labels have NaN or infinite values; clean the data")

    def scores(self, outputs: Array, truth: Array) -> dict[str, float]:
        """Return loss, MAE, RMSE and R2."""
        return metrics.regression(outputs, truth)

    def value(self, outputs: Array, truth: Array) -> float:
        """Return the RMSE, or the MAE."""
        error = outputs.reshape(len(outputs), -1).astype(np.float64) - truth.reshape(len(truth), -1)
        return float(np.abs(error).mean() if self.metric.name == "mae" else np.sqrt((error**2).mean()))

    def hits(self, outputs: Array, truth: Array) -> None:
        """Return None: no sample is right or wrong."""


@dataclass(frozen=True, slots=True)
class Similarity:
    """Pairs, each with a score that the cosine of the outputs for both sides, (N, 2, ...), should follow."""

    classes: int = 0
    logits: bool = False
    name: str = "similarity"
    metric: Metric = METRICS["similarity"][0]

    def __post_init__(self) -> None:
        """Refuse a metric whose loss cannot be bounded."""
        known("similarity", self.metric.name)

    def check(self, outputs: Array, truth: Array | None) -> None:
        """Refuse outputs that are no pairs, and scores that rank nothing."""
        _check_outputs(outputs, truth)
        if outputs.ndim < 3 or outputs.shape[1] != 2:
            raise DataError(
                f"similarity judges pairs, whose outputs are (N, 2, D), these are {list(outputs.shape)}; "
                f"give data with two inputs a sample, or another --task"
            )
        if truth is None:
            return
        if truth.size != len(truth):
            raise DataError(
                f"similarity takes one score a pair, these are {list(truth.shape[1:])}; give one number"
            )
        if not np.isfinite(truth).all():
            raise DataError("the scores have NaN or infinite values; leave those pairs out")
        if np.ptp(truth) == 0:
            raise DataError(f"every score is {truth.flat[0]:g}, so there is no order to follow; add other pairs")

    def scores(self, outputs: Array, truth: Array) -> dict[str, float]:
        """Return both correlations."""
        return metrics.similarity(outputs, truth)

    def value(self, outputs: Array, truth: Array) -> float:
        """Return the task's one metric."""
        return self.scores(outputs, truth)[self.metric.name]

    def hits(self, outputs: Array, truth: Array) -> None:
        """Return None: no pair is right or wrong."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """No labels: outputs are judged by the original's. A classifier (``classes`` > 0) by how often it agrees."""

    classes: int = 0
    logits: bool = True
    name: str = "fidelity"

    @property
    def metric(self) -> Metric:
        """Agreement of the choice, or the explained share of the original's variance."""
        return Metric("agreement" if self.classes else "explained")

    def check(self, outputs: Array, truth: Array | None) -> None:
        """Refuse outputs that are not finite."""
        _check_outputs(outputs, truth)

    def scores(self, outputs: Array, truth: Array) -> dict[str, float]:
        """Return SQNR, cosine, explained share; for classifiers agreement and KL."""
        return metrics.fidelity(outputs, truth, classes=self.classes > 0, logits=self.logits)

    def value(self, outputs: Array, truth: Array) -> float:
        """Return the task's one metric."""
        return self.scores(outputs, truth)[self.metric.name]

    def hits(self, outputs: Array, truth: Array) -> Array | None:
        """Tell on which samples a classifier chooses as the original does."""
        if not self.classes:
            return None
        chosen = metrics.decide(outputs, logits=self.logits)
        return np.asarray(chosen == metrics.decide(truth, logits=self.logits))


@dataclass(frozen=True)
class Custom:
    """A user's metric: ``function(outputs, labels) -> float``, with ``goal`` and ``bounded`` as its attributes."""

    function: Callable[[Array, Array], float]
    classes: int = 0
    logits: bool = False

    def __post_init__(self) -> None:
        """Refuse a goal that is neither more nor less."""
        goal = getattr(self.function, "goal", "max")
        if goal not in ("max", "min"):
            raise DataError(f"the goal of the metric {self.name} is {goal!r}; write 'max' or 'min'")

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self.function, "__name__", "metric")

    @property
    def metric(self) -> Metric:
        """As the function's attributes say; by default bounded, and more is better."""
        goal = getattr(self.function, "goal", "max")
        return Metric(self.name, cast("Any", goal), bool(getattr(self.function, "bounded", True)))

    def check(self, outputs: Array, truth: Array | None) -> None:
        """Refuse a function that raises, or returns no finite number."""
        _check_outputs(outputs, truth)
        if truth is None:
            raise DataError(f"the metric {self.name} needs labels, the data has none")
        self.value(outputs, truth)

    def scores(self, outputs: Array, truth: Array) -> dict[str, float]:
        """Return the one metric."""
        return {self.name: self.value(outputs, truth)}

    def value(self, outputs: Array, truth: Array) -> float:
        """Call the function."""
        try:
            value = float(self.function(outputs, truth))
        except Exception as error:
            raise DataError(f"the metric {self.name} raised {type(error).__name__}: {error}") from error
        if not math.isfinite(value):
            raise DataError(f"the metric {self.name} returned {value}; it must return a finite number")
        return value

    def hits(self, outputs: Array, truth: Array) -> None:
        """Return None: only the function knows."""


def check_classes(task: Task, names: Sequence[str]) -> None:
    """Refuse named classes (folders of pictures, words in a table) that are not as many as the model tells apart.

    Raises:
        DataError: They are more or fewer: the numbers that they get by their order are not those of the outputs.
    """
    if isinstance(task, Classification) and names and len(names) != task.classes:
        some = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        raise DataError(
            f"the data has {len(names)} classes ({some}), the model has {task.classes}; give as many folders or "
            f"words as it has outputs, in the order of their names, or judge it without labels: --task fidelity"
        )


def resolve_task(given: Any, outputs: Array, labels: Array | None) -> Task:
    """Find the task: as given, else from the labels.

    Args:
        given: A name, perhaps with a metric (``regression:mae``), a callable, ``file.py:metric``, a Task, or None.
        outputs: The original's on some samples (N, ...): they tell logits from probabilities, and the classes.
        labels: Of these samples, or None.

    Raises:
        DataError: The name is unknown, or such labels or outputs cannot be judged so.
    """
    width = int(outputs.shape[-1]) if outputs.ndim == 2 else (1 if outputs.ndim == 1 else 0)
    classes = 2 if width == 1 else width
    logits = metrics.are_logits(outputs) if classes else False
    if callable(given):
        return Custom(given)
    if isinstance(given, str) and (parts := userfile.split(given)):
        return Custom(userfile.find(*parts, DataError))
    if given is not None and not isinstance(given, str):
        return _own(given)
    asked, metric = named(given) if given is not None else (None, None)
    if labels is not None and labels.dtype.kind not in "biuf":
        raise DataError(f"the labels are {labels.dtype}, not numbers; number the classes from 0")
    name = asked or _guess(labels, width)
    if labels is None and metric:
        raise DataError(f"the task {given} needs labels, the data has none; give labels, or --task {asked}")
    if name == "classification" and labels is not None:
        if not classes:
            raise DataError(
                f"a classifier's outputs are (N, classes), these are {list(outputs.shape)}; "
                f"give a metric of your own with --task file.py:metric"
            )
        return Classification(classes, logits, metric=metric or METRICS[name][0])
    if name == "regression" and labels is not None:
        return Regression(metric=metric or METRICS[name][0])
    if name == "similarity" and labels is not None:
        return Similarity(metric=metric or METRICS[name][0])
    several = asked == "classification" or (asked in (None, "fidelity") and width > 1)
    return Fidelity(classes if several else 0, logits)


def class_numbers(labels: Array | None, task: Task) -> Array | None:
    """Return labels as a task takes them: one-hot rows become class numbers."""
    if labels is None or task.name != "classification":
        return labels
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim > 1:
        shares = labels.reshape(len(labels), -1)
        if labels.ndim > 2 or not np.allclose(shares.sum(axis=1), 1) or shares.min() < 0:
            raise DataError(
                f"labels are {list(labels.shape)} and not one-hot rows; "
                f"give one class number a sample, or --task regression"
            )
        labels = labels.argmax(axis=1)
    if not np.issubdtype(labels.dtype, np.integer) and not np.array_equal(labels, np.round(labels)):
        raise DataError("the labels are not whole numbers; a classifier's labels are class numbers")
    return labels.astype(np.int64)


def task_name(given: Any) -> str | None:
    """Return a plain name for a task as given, for fingerprints and the journal."""
    if given is None or isinstance(given, str):
        return given if given is None or ":" not in given else str(Path(given))
    return getattr(given, "__name__", type(given).__name__)


def _own(given: Any) -> Task:
    if not hasattr(given, "metric") or not hasattr(given, "scores"):
        raise DataError(
            f"a task is one of {', '.join(NAMES)}, file.py:metric or metric(outputs, labels), "
            f"this is a {type(given).__name__}"
        )
    return cast("Task", given)


def _guess(labels: Array | None, width: int) -> str:
    """Tell the task by the labels: whole numbers and one-hot rows are classes."""
    if labels is None:
        return "fidelity"
    if labels.dtype.kind in "biu":
        return "classification"
    one_hot = labels.ndim == 2 and labels.shape[1] == width > 1 and _are_one_hot(labels)
    return "classification" if one_hot else "regression"


def _are_one_hot(labels: Array) -> bool:
    return bool((np.count_nonzero(labels, axis=1) == 1).all() and (labels.max(axis=1) == 1).all())


def _check_outputs(outputs: Array, truth: Array | None) -> None:
    if not np.isfinite(outputs).all():
        bad = int(np.argwhere(~np.isfinite(outputs))[0][0])
        raise DataError(f"the model's output for sample {bad} is NaN or infinite; mend the model first")
    if truth is not None and len(truth) != len(outputs):
        raise DataError(f"{len(outputs)} outputs and {len(truth)} labels; every sample needs one")
