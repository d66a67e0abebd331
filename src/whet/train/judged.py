"""What a model's outputs are judged by while it is trained, whatever the framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from whet import userfile
from whet.data.tasks import Custom, Task, class_numbers, resolve_task
from whet.errors import DataError, PassError, RecipeError
from whet.train.spec import Recovery

if TYPE_CHECKING:
    from whet.train.samples import TrainingSet
    from whet.types import Array


def task_of(
    samples: TrainingSet, shown: Mapping[str, Array], settings: Recovery, taught: bool
) -> tuple[Task, Array | None]:
    """Return what outputs are for, and the labels of all samples as the loss takes them; None where it takes none.

    Args:
        samples: What is trained on.
        shown: The answer (N, ...) on the held-out samples, by its name.
        settings: How it is trained.
        taught: Whether there is an original to learn from.
    """
    ((answer, outputs),) = shown.items()
    outputs = samples.splits.fold({answer: outputs})[answer]
    held = None if samples.labels is None else samples.labels[samples.held]
    task = resolve_task(samples.splits.task, outputs, held)
    if isinstance(task, Custom):  # a metric of the user's has no gradient: outputs and labels tell what they are
        task = resolve_task(None, outputs, held)
    labels = class_numbers(samples.labels, task)
    if labels is None or (taught and settings.alpha == 1 and not settings.loss):
        return task, None
    if not settings.loss:
        task.check(np.resize(outputs, (len(labels), *outputs.shape[1:])), labels)
    return task, np.ascontiguousarray(labels)


def check_labels(settings: Recovery, labels: Any, taught: bool) -> None:
    """Refuse a loss that needs labels where there are none.

    Raises:
        DataError: There are none.
    """
    if labels is not None or settings.loss or (taught and settings.alpha == 1):
        return
    asked = f"alpha = {settings.alpha:g} mixes in the labels' loss" if taught else "training without an original"
    raise DataError(f"{asked} needs labels, the samples to train on have none; set alpha = 1, or give labels")


def check_fit(outputs: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a student whose outputs are not those of the teacher.

    Raises:
        PassError: Names or shapes differ.
    """
    ours = {name: list(value.shape[1:]) for name, value in outputs.items()}
    theirs = {name: list(value.shape[1:]) for name, value in wanted.items()}
    if ours != theirs:
        told = [", ".join(f"{name} {shape}" for name, shape in each.items()) for each in (ours, theirs)]
        raise PassError(
            f"the student's outputs do not fit: it gives {told[0]} a sample, the original {told[1]}; "
            f"have it return the same outputs"
        )


def own_loss(name: str) -> Callable[..., Any]:
    """Return the function that ``file.py:function`` names.

    Raises:
        RecipeError: The name has another form, or there is no such function.
    """
    parts = userfile.split(name)
    if parts is None:
        raise RecipeError(f"loss = {name!r} names no function; write file.py:function")
    return userfile.find(*parts, RecipeError)
