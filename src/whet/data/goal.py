"""The number a verdict on quality is about: which there are, and what a drop of it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from whet.errors import DataError, did_you_mean


@dataclass(frozen=True, slots=True)
class Metric:
    """The number a verdict on quality is about.

    Attributes:
        name: As it stands in tables.
        goal: Whether more or less of it is better.
        bounded: A bounded metric loses points (0.01 is one point of accuracy), an unbounded one a share of itself.
    """

    name: str
    goal: Literal["max", "min"] = "max"
    bounded: bool = True

    def drop(self, baseline: float, value: float) -> float:
        """Return what was lost against the baseline; negative where it was won."""
        lost = baseline - value if self.goal == "max" else value - baseline
        if self.bounded:
            return lost
        return lost / abs(baseline) if baseline else (0.0 if lost == 0 else math.copysign(math.inf, lost))


METRICS: dict[str, tuple[Metric, ...]] = {
    "classification": (Metric("accuracy"), Metric("balanced_accuracy"), Metric("g_mean")),
    "regression": (Metric("rmse", "min", bounded=False), Metric("mae", "min", bounded=False)),
    "similarity": (Metric("spearman"), Metric("pearson")),
    "fidelity": (),
}
"""What a verdict can be about, by task: ``classification:g_mean``. The first is taken where none is named."""


def named(given: str) -> tuple[str, Metric | None]:
    """Split ``classification:g_mean`` into the task and its metric; None where no metric is named.

    Raises:
        DataError: There is no such task, or it has no such metric.
    """
    task, colon, name = given.partition(":")
    if task not in METRICS:
        raise DataError(f"unknown task {given!r}, and no file.py:metric{did_you_mean(task, METRICS)}")
    return task, known(task, name) if colon else None


def known(task: str, name: str) -> Metric:
    """Return the metric of a task by its name.

    Raises:
        DataError: The task has no such metric.
    """
    if not METRICS[task]:
        raise DataError(f"the metric of {task} cannot be chosen; write --task {task}")
    for metric in METRICS[task]:
        if metric.name == name:
            return metric
    names = [metric.name for metric in METRICS[task]]
    raise DataError(f"{task} has no metric {name!r}{did_you_mean(name, names)}")
