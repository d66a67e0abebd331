"""Quantization of torch modules, as structural edits that a fresh process can replay."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

from whet.errors import PassError, in_one_line
from whet.models.model import Model
from whet.models.torch import edits
from whet.models.torch.adapter import TorchAdapter, TorchPayload, run
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
    if isinstance(module, GraphModule):
        raise PassError(
            "an exported program (.pt2) is a graph of operators and has no layers that could be replaced; "
            "put export-onnx before this step, or give the module it was exported from"
        )
    chosen: list[str] = []
    skipped: list[Skipped] = []
    for name, layer in module.named_modules():
        kind, label = type(layer).__name__, name or "(root)"
        reason = excluded(label, kind, request.exclude, request.exclude_types) or _unfit(layer)
        if reason is None:
            chosen.append(name)
        elif isinstance(layer, _QUANTIZED) or kind in _WHY_NOT:
            skipped.append(Skipped(label, reason))
    if not chosen:
        return Outcome(model, (), tuple(skipped))
    edit = edits.dynamic_int8_edit(chosen)
    changed = _replay(model, edit).with_traits(Trait(TraitKind.QUANTIZED, 8))
    return Outcome(changed, tuple(name or "(root)" for name in chosen), tuple(skipped), {"weights": "int8"})


def half(request: Half, model: Model, context: PassContext) -> Outcome:
    """Cast every floating parameter and buffer."""
    dtype = getattr(torch, request.kind)
    floats = {
        name: value.detach()
        for name, value in model.payload.module.named_parameters()
        if value.is_floating_point() and value.dtype != dtype
    }
    if not floats:
        return Outcome(model, ())
    most = torch.finfo(dtype).max
    clipped = sum(int((value.isfinite() & (value.abs() > most)).sum()) for value in floats.values())
    changed = _replay(model, edits.cast_edit(request.kind)).with_traits(Trait(TraitKind.HALF, 16))
    _try(changed, request.kind, context.seed)
    notes: dict[str, Any] = {"weights": request.kind, f"values_clipped_to_{most:.5g}": clipped}
    if request.kind == "bfloat16":
        notes["multiplied_by_this_processor"] = context.machine.can("bfloat16")
    return Outcome(changed, tuple(floats), (), notes)


def _try(model: Model, kind: str, seed: int) -> None:
    """Run a model in 16 bits once: its forward may make float32 tensors of its own."""
    if model.signature is None:
        return
    try:
        run(model.payload.module, model.signature.synthetic(2, seed))
    except Exception as error:  # from the user's own forward
        raise PassError(
            f"the model cannot be run in {kind} ({in_one_line(error)}); have its forward make tensors of its "
            f"weights' type, or export it and use half in ONNX"
        ) from error


def _replay(model: Model, edit: edits.Edit) -> Model:
    """Apply one edit to a copy."""
    copy = TorchAdapter().clone(model)
    module = edits.replay(copy.payload.module, [edit]).eval()
    return copy.with_payload(TorchPayload(module, (*model.payload.edits, edit)))


def _unfit(layer: nn.Module) -> str | None:
    """Return why a layer cannot be replaced, or None if it can."""
    kind = type(layer).__name__
    if kind == "NonDynamicallyQuantizableLinear":
        return "it belongs to a MultiheadAttention, which reads its weight directly"
    if hasattr(layer, "parametrizations") or layer._forward_pre_hooks:
        return "its weight is derived from others (pruned or parametrized); make that permanent first"
    if type(layer) not in _QUANTIZED:
        return _WHY_NOT.get(kind, f"this {kind} has no dynamic INT8 form")
    if isinstance(layer, nn.LSTM) and layer.proj_size:
        return "an LSTM with a projection has no INT8 kernel here"
    return None
