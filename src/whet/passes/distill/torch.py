"""Distillation of torch modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from whet import plain
from whet.errors import PassError
from whet.models.model import Model
from whet.models.source import Source
from whet.models.torch import counting, edits, origin
from whet.models.torch.adapter import TorchAdapter, TorchPayload, find_signature
from whet.passes.base import Outcome, PassContext
from whet.passes.distill.spec import Distill
from whet.train.spec import Trained
from whet.train.torch import recover
from whet.types import Signature, Skipped, TensorSpec


def distill(request: Distill, model: Model, context: PassContext) -> Outcome:
    """Train a copy of the model, or the user's student in its place."""
    if context.original is None:
        raise PassError("distill learns from the original, and there is none here; run it in a recipe")
    teacher = context.teacher()
    source = request.student_source()
    start = TorchAdapter().clone(model) if source is None else _student(source, model, context.seed)
    module: nn.Module = start.payload.module
    before = {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    trained = recover(start, teacher, request, context)
    changed, skipped = _layers(module, before, trained)
    notes = trained.told()
    if source is None:
        return Outcome(start if changed else model, changed, skipped, notes)
    notes |= {
        "student": source.name,
        "parameters": _count(module),
        "parameters_of_original": _count(teacher.payload.module),
    }
    return Outcome(start, tuple(layer.name for layer in counting.layers(module, None)), skipped, notes)


def _student(source: Source, model: Model, seed: int) -> Model:
    """Build the user's student; what it draws follows from the seed.

    Raises:
        PassError: It takes other inputs, or gives other outputs.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = origin.build_trained(source)
    assert model.signature is not None
    signature = find_signature(module, model.signature.synthetic(2), model.signature.inputs)
    _check_fit("takes", signature.inputs, model.signature.inputs)
    _check_fit("gives", signature.outputs, model.signature.outputs)
    payload = TorchPayload(module, (edits.student_edit(plain.builtins(source.plain())),))
    kept = Signature(model.signature.inputs, signature.outputs)
    return Model(model.format, payload, kept, history=model.history, source=model.source)


def _check_fit(word: str, ours: tuple[TensorSpec, ...], theirs: tuple[TensorSpec, ...]) -> None:
    if [_form(spec) for spec in ours] != [_form(spec) for spec in theirs]:
        told = [", ".join(map(str, specs)) for specs in (ours, theirs)]
        raise PassError(
            f"the student does not fit: it {word} {told[0]}, the original {told[1]}; have it {word[:-1]} the same, "
            f"under the same names"
        )


def _form(spec: TensorSpec) -> tuple[Any, ...]:
    """Return what has to be the same; an axis that is free in one may be fixed in the other."""
    sizes = tuple(size for axis, size in enumerate(spec.shape) if axis != spec.sample)
    return spec.name, spec.dtype, spec.sample, len(spec.shape), sizes


def _layers(
    module: nn.Module, before: dict[str, Tensor], trained: Trained
) -> tuple[tuple[str, ...], tuple[Skipped, ...]]:
    """Return the layers whose numbers have changed, and why the others have not."""
    now = module.state_dict()
    frozen = set(trained.notes.get("frozen", ()))
    unchanged = "nothing better was found" if trained.steps else trained.notes.get("training", trained.stopped)
    if trained.stopped == "not finite":
        unchanged = trained.notes["problem"]
    changed, skipped = [], []
    for layer in counting.layers(module, None):
        start = "" if layer.name == "(root)" else f"{layer.name}."
        own = [name for name in before if name.rpartition(".")[0] == start.rstrip(".")]
        if any(not torch.equal(before[name], now[name]) for name in own):
            changed.append(layer.name)
        elif own:
            fixed = all(name in frozen for name in own if name in dict(module.named_parameters()))
            skipped.append(Skipped(layer.name, "its parameters are frozen" if fixed and frozen else unchanged))
    return tuple(changed), tuple(skipped)


def _count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())
