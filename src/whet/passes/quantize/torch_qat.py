"""Quantization-aware training of torch modules."""

from __future__ import annotations

from torch import Tensor, nn

from whet.data.data import Part
from whet.errors import DataError, PassError
from whet.models.model import Model
from whet.models.torch import counting
from whet.models.torch.adapter import TorchAdapter, tensors
from whet.passes.base import Outcome, PassContext, excluded
from whet.passes.quantize.torch_fake import FakeActivations
from whet.passes.quantize.trained import Qat
from whet.train.constraints import Constraints, constraints_of
from whet.train.torch import recover
from whet.types import Skipped, Trait, TraitKind

_WATCHED = 128  # samples that the first ranges are taken from
_NO_INTEGERS = {
    "LSTM": "ONNX Runtime has no static INT8 LSTM; dynamic-int8 quantizes it",
    "GRU": "ONNX Runtime has no quantized GRU kernel",
    "RNN": "ONNX Runtime has no quantized RNN kernel",
    "ConvTranspose2d": "ONNX Runtime runs a transposed convolution in float",
    "MultiheadAttention": "its fused projection is not seen as a product",
}


def qat(request: Qat, model: Model, context: PassContext) -> Outcome:
    """Train a copy of the model on the grids of its integers."""
    if context.original is None:
        raise PassError("qat learns from the original, and there is none here; run it in a recipe")
    copy = TorchAdapter().clone(model)
    module: nn.Module = copy.payload.module
    fake = FakeActivations(module, request.percentile, rounds=request.activations)
    try:
        fake.watch(_samples(model, context))
        constraints = constraints_of(module, model.traits)
        most = 8 if context.machine.can("exact-u8s8") else 7  # sums of products of all eight would saturate
        bits, skipped = _laid(request, module, (list(fake.products), most), constraints)
        if not bits:
            return Outcome(model, (), skipped)
        trained = recover(
            copy, context.teacher(), request.recovery, context, constraints=constraints,
            on_step=lambda step, steps: _freeze(module, fake, (1 - request.freeze) * steps <= step < steps),
        )  # fmt: skip
    finally:
        ranges = fake.remove()
    if not trained.steps:
        return Outcome(model, (), (Skipped("(all)", trained.notes.get("training", trained.stopped)),))
    notes = {**trained.told(), "bits_by_weight": bits, "activations_rounded": len(ranges)}
    least = min(bits.values())
    return Outcome(copy.with_traits(Trait(TraitKind.GRID, least)), tuple(bits), skipped, notes)


def _samples(model: Model, context: PassContext) -> dict[str, Tensor]:
    """Return the samples that the first ranges are taken from, bound to the model."""
    if context.data is None:
        raise DataError("qat trains on data, and none was given; give --data with a train or a calibrate part")
    assert model.signature is not None
    part = Part.TRAIN if context.data.size(Part.TRAIN) else Part.CALIBRATE
    fixed = model.signature.batch
    count = min(fixed or model.signature.most or _WATCHED, _WATCHED, context.data.size(part))
    batch = model.signature.bind(context.data.batch(part, range(count)))
    return tensors(batch if fixed is None else model.signature.fill(batch, fixed))


def _laid(
    request: Qat, module: nn.Module, seen: tuple[list[str], int], constraints: Constraints
) -> tuple[dict[str, int], tuple[Skipped, ...]]:
    """Lay grids over the weights of products; return the bits of each, and which layers have none and why.

    Args:
        request: How many bits, and what is excluded.
        module: Whose weights these are.
        seen: Names of the weights of products in order, and the most bits that this processor multiplies.
        constraints: What has to be kept besides; grids come last.
    """
    products, most = seen
    bits: dict[str, int] = {}
    skipped = []
    edges = {products[0], products[-1]} if products else set()
    for layer in counting.layers(module, None):
        reason = excluded(layer.name, layer.kind, request.exclude, request.exclude_types)
        for name in layer.weights:
            if reason is None and name in products:
                wanted = min(most, request.edge_bits if name in edges else request.weight_bits)
                bits[name] = constraints.quantize(module, name, wanted)
        if layer.weights and not bits.keys() & set(layer.weights):
            told = _NO_INTEGERS.get(layer.kind, f"its weight is not seen as that of a product ({layer.kind})")
            skipped.append(Skipped(layer.name, reason or told))
    return bits, tuple(skipped)


def _freeze(module: nn.Module, fake: FakeActivations, still: bool) -> None:
    """Have BatchNorm statistics and ranges stand still, from now on."""
    fake.frozen = still
    if still:
        for part in module.modules():
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.eval()
