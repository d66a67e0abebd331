"""Quantization-aware training of Keras models, for the integers that a TFLite file will hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whet.data.data import Part
from whet.errors import DataError, PassError
from whet.models.keras import axes as places
from whet.models.keras.adapter import KerasAdapter
from whet.models.model import Model
from whet.passes.base import Outcome, PassContext, excluded
from whet.passes.quantize.keras_fake import FakeActivations
from whet.passes.quantize.trained import Qat
from whet.train.keras import recover
from whet.train.keras_constraints import Constraints, constraints_of
from whet.types import Skipped, Trait, TraitKind

if TYPE_CHECKING:
    from whet.types import Batch

_WATCHED = 128  # samples that the first ranges are taken from
_FEW_BITS = ("Conv1D", "Conv2D", "Dense")  # that LiteRT has kernels for with weights in 4 bits
_IN_8_BITS = (
    "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D", "Conv2DTranspose",
)  # fmt: skip


def qat(request: Qat, model: Model, context: PassContext) -> Outcome:
    """Train a copy of the model on the grids of its integers."""
    if context.original is None:
        raise PassError("qat learns from the original, and there is none here; run it in a recipe")
    samples = _samples(model, context)
    copy = KerasAdapter().clone(model)
    fake = FakeActivations(copy, request.percentile, rounds=request.activations)
    fake.watch(copy, samples)
    constraints = constraints_of(copy)
    constraints.network = fake.network
    bits, skipped = _laid(request, copy, fake.called, constraints)
    if not bits:
        return Outcome(model, (), skipped)
    trained = recover(
        copy, context.original(), request.recovery, context, constraints=constraints,
        on_step=lambda step, steps: fake.still.assign(step >= (1 - request.freeze) * steps) is not None,
    )  # fmt: skip
    if not trained.steps:
        return Outcome(model, (), (Skipped("(all)", trained.notes.get("training", trained.stopped)),))
    notes = {**trained.told(), "bits_by_weight": bits, "activations_rounded": len(fake.roundings)}
    result = KerasAdapter().clone(copy).with_traits(Trait(TraitKind.GRID, min(bits.values())))
    return Outcome(result, tuple(dict.fromkeys(_owner(copy, name) for name in bits)), skipped, notes)


def _samples(model: Model, context: PassContext) -> Batch:
    """Return the samples that the first ranges are taken from, bound to the model."""
    if context.data is None:
        raise DataError("qat trains on data, and none was given; give --data with a train or a calibrate part")
    assert model.signature is not None
    part = Part.TRAIN if context.data.size(Part.TRAIN) else Part.CALIBRATE
    return model.signature.bind(context.data.batch(part, range(min(_WATCHED, context.data.size(part)))))


def _laid(
    request: Qat, model: Model, called: dict[str, str], constraints: Constraints
) -> tuple[dict[str, int], tuple[Skipped, ...]]:
    """Lay grids over the weights of products; return the bits of each, and which layers have none and why.

    Args:
        request: How many bits, and what is excluded.
        model: Whose weights these are.
        called: The kind of every layer in the order of its calls.
        constraints: What has to be kept besides; grids come last.
    """
    axes = places.axes(model.payload)
    products = [name for name, kind in called.items() if kind in (*_FEW_BITS, *_IN_8_BITS)]
    edges = {products[0], products[-1]} if products else set()
    bits: dict[str, int] = {}
    skipped = []
    for layer in KerasAdapter().layers(model):
        reason = excluded(layer.name, layer.kind, request.exclude, request.exclude_types)
        if reason is None and layer.name not in products:
            reason = f"LiteRT's quantizer has no integer form of a {layer.kind}"
        if reason is not None:
            skipped += [Skipped(layer.name, reason)] if layer.weights else []
            continue
        for name in layer.weights:
            wanted = request.edge_bits if layer.name in edges else request.weight_bits
            bits[name] = constraints.quantize(name, wanted if layer.kind in _FEW_BITS else 8, axes[name])
    return bits, tuple(skipped)


def _owner(model: Model, name: str) -> str:
    return next(layer.name for layer in KerasAdapter().layers(model) if name in layer.weights)
