"""Quantization of torch modules, as structural edits that a fresh process can replay."""

from __future__ import annotations

from torch import nn

from whet.models.model import Model
from whet.models.torch import edits
from whet.models.torch.adapter import TorchPayload
from whet.passes.base import Outcome, PassContext, excluded
from whet.passes.quantize.spec import DynamicInt8, Half
from whet.types import Skipped, Trait, TraitKind

_QUANTIZED = (nn.Linear, nn.LSTM, nn.GRU)
_WHY_NOT = {
    "Conv1d": "torch has no dynamic INT8 convolution",
    "Conv2d": "torch has no dynamic INT8 convolution",
    "Conv3d": "torch has no dynamic INT8 convolution",
    "MultiheadAttention": "its fused projection is a bare parameter, which torch cannot quantize dynamically",
    "RNN": "only LSTM and GRU cells have an INT8 kernel here",
}


def dynamic_int8(request: DynamicInt8, model: Model, context: PassContext) -> Outcome:
    """Replace Linear, LSTM and GRU layers, the root module included."""
    module: nn.Module = model.payload.module
    chosen: list[str] = []
    skipped: list[Skipped] = []
    for name, layer in module.named_modules():
        kind, label = type(layer).__name__, name or "(root)"
        reason = excluded(label, kind, request.exclude, request.exclude_types) or _unfit(layer)
        if reason is None:
            chosen.append(name)
        elif isinstance(layer, _QUANTIZED) or kind in _WHY_NOT:
            skipped.append(Skipped(label, reason))
    edit = edits.dynamic_int8_edit(chosen)
    changed = _replay(model, edit).with_traits(Trait(TraitKind.QUANTIZED, 8))
    return Outcome(changed, tuple(name or "(root)" for name in chosen), tuple(skipped), {"weights": "int8"})


def half(request: Half, model: Model, context: PassContext) -> Outcome:
    """Cast every floating parameter and buffer."""
    names = [name for name, value in model.payload.module.named_parameters() if value.is_floating_point()]
    changed = _replay(model, edits.cast_edit("float16")).with_traits(Trait(TraitKind.HALF, 16))
    return Outcome(changed, tuple(names), (), {"weights": "float16"})


def _replay(model: Model, edit: edits.Edit) -> Model:
    """Apply one edit to a copy."""
    from whet.models.torch.adapter import TorchAdapter

    copy = TorchAdapter().clone(model)
    module = edits.replay(copy.payload.module, [edit]).eval()
    return copy.with_payload(TorchPayload(module, (*model.payload.edits, edit)))


def _unfit(layer: nn.Module) -> str | None:
    """Return why a layer cannot be replaced, or None if it can."""
    kind = type(layer).__name__
    if kind == "NonDynamicallyQuantizableLinear":
        return "it belongs to a MultiheadAttention, which reads its weight directly"
    if type(layer) not in _QUANTIZED:
        return _WHY_NOT.get(kind, f"a {kind} has no dynamic INT8 form")
    if isinstance(layer, nn.LSTM) and layer.proj_size:
        return "an LSTM with a projection has no INT8 kernel here"
    if hasattr(layer, "parametrizations"):
        return "its weight is parametrized; remove the parametrization first"
    return None
