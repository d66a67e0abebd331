"""Factorization of torch modules, as a structural edit that a fresh process can replay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from onnx import NodeProto, helper
from torch import Tensor, nn
from torch.fx import GraphModule

from whet.errors import PassError, in_one_line
from whet.models.model import Model
from whet.models.torch import edits
from whet.models.torch.adapter import TorchAdapter, TorchPayload, run, tensors
from whet.models.torch.counting import in_the_open
from whet.passes.base import Outcome, PassContext, excluded
from whet.passes.factorize import onnx, onnx_time
from whet.passes.factorize.choose import Choice, Race, choose
from whet.passes.factorize.math import Chain
from whet.passes.factorize.outcome import outcome
from whet.passes.factorize.spec import Factorize
from whet.progress import Event
from whet.types import Skipped

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_WHY_NOT = {
    "ConvTranspose": "a transposed convolution has no such chain here",
    "MultiheadAttention": "its fused projection is a bare parameter, which no chain can replace",
    "NonDynamicallyQuantizableLinear": "it belongs to a MultiheadAttention, which reads its weight directly",
    "Embedding": "a table is looked up, not multiplied",
}


def factorize(request: Factorize, model: Model, context: PassContext) -> Outcome:
    """Replace Linear layers and convolutions by chains of thinner ones."""
    module: nn.Module = model.payload.module
    if isinstance(module, GraphModule):
        raise PassError(
            "an exported program (.pt2) is a graph of operators and has no layers that could be replaced; "
            "put export-onnx before this step, or give the module it was exported from"
        )
    shapes = _input_shapes(model, context.seed)
    owners = Counter(id(value) for part in module.modules() for value in part.parameters(recurse=False))
    choices: dict[str, Choice] = {}
    skipped: list[Skipped] = []
    parts = list(module.named_modules())
    for at, (name, layer) in enumerate(parts):
        context.on_event(Event("factorize", at, len(parts)))
        label = name or "(root)"
        if not any(value.ndim > 1 for value in layer.parameters(recurse=False)):
            continue
        reason = excluded(label, type(layer).__name__, request.exclude, request.exclude_types)
        reason = reason or _unfit(request, layer, owners)
        if reason is None and shapes is not None and name not in shapes:
            reason = "it was not called in a run of the model; its weight may be read directly"
        if reason is None:
            choices[name] = _choose(request, label, layer, (shapes or {}).get(name))
            reason = choices[name].reason
        if reason:
            skipped.append(Skipped(label, reason))
    changed = _replaced(model, {name: one.chain for name, one in choices.items() if one.chain is not None})
    return outcome(model, changed, {name or "(root)": one for name, one in choices.items()}, skipped)


def _choose(request: Factorize, label: str, layer: nn.Module, shape: tuple[int, ...] | None) -> Choice:
    """Choose a chain for a Linear or a convolution whose input has this shape, where it is known."""
    assert isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    weight = layer.weight.detach().cpu().numpy()
    race: Race | None = None
    if request.judge == "latency" and shape is not None:
        node, sizes = _node(layer), shape
        whole = Chain("", (weight,), ((True,) * (weight.ndim - 2),), 1.0)

        def race(chains: Any) -> list[float]:
            return onnx_time.race([onnx.alone(node, chain, sizes) for chain in (whole, *chains)], sizes)

    return choose(request, label, weight, () if isinstance(layer, nn.Linear) else layer.stride, race)


def _node(layer: nn.Module) -> NodeProto:
    """Return the ONNX node that a layer becomes when it is exported, for the clock."""
    if not isinstance(layer, _CONVOLUTIONS):
        return helper.make_node("MatMul", ["x", "w"], ["y"])
    settings: dict[str, Any] = {"strides": layer.stride, "dilations": layer.dilation}
    if isinstance(layer.padding, str):
        settings["auto_pad"] = "SAME_UPPER" if layer.padding == "same" else "VALID"
    else:
        settings["pads"] = [*layer.padding, *layer.padding]
    return helper.make_node("Conv", ["x", "w"], ["y"], **settings)


def _input_shapes(model: Model, seed: int) -> dict[str, tuple[int, ...]] | None:
    """Return the shape of what goes into each module for one sample, by its path; None where it cannot be run."""
    if model.signature is None:
        return None
    module: nn.Module = model.payload.module
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            first = next((value for value in (*args, *named.values()) if isinstance(value, Tensor)), None)
            if first is not None:
                shapes.setdefault(name, tuple(first.shape))

        return hook

    hooks = [part.register_forward_pre_hook(keep(name), with_kwargs=True) for name, part in module.named_modules()]
    try:
        with torch.inference_mode(), in_the_open():
            module(**tensors(model.signature.synthetic(1, seed)))
    finally:
        for hook in hooks:
            hook.remove()
    return shapes


def _unfit(request: Factorize, layer: nn.Module, owners: Mapping[int, int]) -> str | None:
    """Return why a layer with weights is left alone, or None."""
    kind = type(layer).__name__
    for start, reason in _WHY_NOT.items():
        if kind.startswith(start):
            return reason
    if type(layer) not in (nn.Linear, *_CONVOLUTIONS):
        return f"this {kind} is no plain Linear or convolution"
    weight = layer.weight
    if hasattr(layer, "parametrizations") or layer._forward_pre_hooks or layer._forward_hooks:
        return "its weight is derived from others, or hooks watch it; make that permanent first"
    assert isinstance(weight, Tensor)
    if owners[id(weight)] > 1:
        return "another layer has the same weight"
    if isinstance(layer, _CONVOLUTIONS):
        if layer.groups != 1:
            return "a grouped convolution: each group is small already"
        if request.convolutions == "none":
            return "the recipe leaves convolutions alone"
    return None


def _replaced(model: Model, chains: Mapping[str, Chain]) -> TorchPayload:
    """Return a copy whose layers are chains, filled.

    Raises:
        PassError: The model cannot be run with them.
    """
    if not chains:
        payload: TorchPayload = model.payload
        return payload
    edit = edits.factorize_edit(
        {
            name: [
                {"shape": list(part.shape), "axes": list(axes)}
                for part, axes in zip(chain.parts, chain.axes, strict=True)
            ]
            for name, chain in chains.items()
        }
    )
    copy = TorchAdapter().clone(model).payload
    biases = {name: copy.module.get_submodule(name).bias for name in chains}
    module = edits.replay(copy.module, [edit])
    with torch.no_grad():
        for name, chain in chains.items():
            layers: Any = module.get_submodule(name)
            for layer, part in zip(layers, chain.parts, strict=True):
                layer.weight.copy_(torch.from_numpy(part))
            if biases[name] is not None:
                layers[-1].bias.copy_(biases[name])
    _try(model, module)
    return TorchPayload(module, (*model.payload.edits, edit))


def _try(model: Model, module: nn.Module) -> None:
    """Run the changed module once: its forward may read a weight that is no longer there."""
    if model.signature is None:
        return
    try:
        run(module, model.signature.synthetic(1))
    except Exception as error:  # from the user's own forward
        raise PassError(
            f"the model cannot be run with factorized layers ({in_one_line(error)}); its forward may read their "
            f"weights itself; exclude these layers"
        ) from error
