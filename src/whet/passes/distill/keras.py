"""Distillation of Keras models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from whet.errors import PassError
from whet.models.keras import counting, describe
from whet.models.keras.adapter import KerasAdapter
from whet.models.model import Model
from whet.models.source import Source
from whet.passes.base import Outcome, PassContext
from whet.passes.distill.spec import Distill
from whet.train.keras import recover
from whet.train.spec import Trained
from whet.types import Format, Skipped, TensorSpec

import keras  # after the adapter, which chooses its backend  # isort: skip

if TYPE_CHECKING:
    from whet.types import Array


def distill(request: Distill, model: Model, context: PassContext) -> Outcome:
    """Train a copy of the model, or the user's student in its place."""
    if context.original is None:
        raise PassError("distill learns from the original, and there is none here; run it in a recipe")
    teacher = context.original()
    if teacher.format is not Format.KERAS:
        raise PassError(
            f"distill of a keras model learns from a keras original, this one is a {teacher.format} model; "
            f"put the step before the one that changes the format"
        )
    source = request.student_source()
    start = KerasAdapter().clone(model) if source is None else _student(source, model, context.seed)
    before = KerasAdapter().weights(start)
    trained = recover(start, teacher, request, context)
    changed, skipped = _layers(start, before, trained)
    notes = trained.told()
    if source is None:
        return Outcome(start if changed else model, changed, skipped, notes)
    notes |= {
        "student": source.name,
        "parameters": _count(start),
        "parameters_of_original": _count(teacher),
    }
    return Outcome(start, tuple(describe.layers(start.payload)), skipped, notes)


def _student(source: Source, model: Model, seed: int) -> Model:
    """Build the user's student; what it draws follows from the seed.

    Raises:
        PassError: It takes other inputs, or gives other outputs.
    """
    keras.utils.set_random_seed(seed)
    assert model.signature is not None
    built = KerasAdapter().open(source, None)
    assert built.signature is not None
    _check_fit("takes", built.signature.inputs, model.signature.inputs)
    _check_fit("gives", built.signature.outputs, model.signature.outputs)
    return Model(model.format, built.payload, model.signature, history=model.history, source=model.source)


def _check_fit(word: str, ours: tuple[TensorSpec, ...], theirs: tuple[TensorSpec, ...]) -> None:
    if [_form(spec) for spec in ours] != [_form(spec) for spec in theirs]:
        told = [", ".join(map(str, specs)) for specs in (ours, theirs)]
        raise PassError(
            f"the student does not fit: it {word} {told[0]}, the original {told[1]}; have it {word[:-1]} the same, "
            f"under the same names"
        )


def _form(spec: TensorSpec) -> tuple[Any, ...]:
    """Return what has to be the same."""
    return spec.name, spec.dtype, spec.shape[1:]


def _layers(
    model: Model, before: dict[str, Array], trained: Trained
) -> tuple[tuple[str, ...], tuple[Skipped, ...]]:
    """Return the layers whose numbers have changed, and why the others have not."""
    now = KerasAdapter().weights(model)
    unchanged = "nothing better was found" if trained.steps else trained.notes.get("training", trained.stopped)
    if trained.stopped == "not finite":
        unchanged = trained.notes["problem"]
    changed, skipped = [], []
    for name, layer in describe.layers(model.payload).items():
        own = [key for key in before if key.startswith(f"{name}.")]
        if any(not np.array_equal(before[key], now[key]) for key in own):
            changed.append(name)
        elif own:
            skipped.append(Skipped(name, unchanged if layer.trainable_weights else "its parameters are frozen"))
    return tuple(changed), tuple(skipped)


def _count(model: Model) -> int:
    return sum(layer.parameters for layer in counting.layers(model.payload))
