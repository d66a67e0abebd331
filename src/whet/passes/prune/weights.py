"""Pruning by weights alone: one realisation for every format whose adapter gives and takes arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from whet.lazy import resolve
from whet.models.adapter import adapter_for
from whet.models.model import Model
from whet.passes.base import Outcome, PassContext, excluded
from whet.passes.prune import math
from whet.passes.prune.sensitivity import shares_by_sensitivity
from whet.passes.prune.spec import MagnitudePrune
from whet.types import Format, Skipped, Trait, TraitKind

if TYPE_CHECKING:
    from whet.types import Array


@dataclass(frozen=True)
class Prunable:
    """The weights of a model that can be pruned.

    Attributes:
        arrays: By name.
        layers, kinds: The layer that each belongs to, and its type.
        axes: Along which each reads its inputs, where that is asked for.
        skipped: The layers that are left alone.
        shares: Of zeros in each, where they differ.
    """

    arrays: Mapping[str, Array]
    layers: Mapping[str, str]
    kinds: Mapping[str, str]
    axes: Mapping[str, int]
    skipped: tuple[Skipped, ...]
    shares: Mapping[str, float] | None = None

    def pruned(self, request: MagnitudePrune, arrays: Mapping[str, Array], sparsity: float) -> dict[str, Array]:
        """Return arrays of these names with their least weights zeroed, so many as ``sparsity`` says by now."""
        if request.kept is not None:
            return {
                name: math.prune_pattern(array, self.axes[name], *request.kept) for name, array in arrays.items()
            }
        if self.shares is not None:
            now = {name: share * sparsity / request.sparsity for name, share in self.shares.items()}
            return math.prune_shares(arrays, now)
        prune = math.prune_global if request.scope == "global" else math.prune_layers
        return prune(arrays, sparsity)

    def outcome(self, model: Model, arrays: Mapping[str, Array], more: Mapping[str, Any]) -> Outcome:
        """Return what became of a model whose weights these now are."""
        overall = math.sparsity(arrays)
        notes = {
            "sparsity": overall,
            "sparsity_by_layer": {name: math.sparsity({name: array}) for name, array in arrays.items()},
            "weight_sqnr_db_by_type": math.sqnr_by_kind(self.arrays, arrays, self.kinds),
            **more,
        }
        changed = tuple(dict.fromkeys(self.layers[name] for name in arrays))
        return Outcome(model.with_traits(Trait(TraitKind.SPARSE, overall)), changed, self.skipped, notes)


def magnitude_prune(request: MagnitudePrune, model: Model, context: PassContext) -> Outcome:
    """Zero the least weights of every prunable layer, or of all of them together."""
    found = prunable(request, model, context)
    if not found.arrays:
        return Outcome(model, (), found.skipped)
    pruned = found.pruned(request, found.arrays, request.sparsity)
    return found.outcome(adapter_for(model.format).with_weights(model, pruned), pruned, {})


def prunable(request: MagnitudePrune, model: Model, context: PassContext) -> Prunable:
    """Find what can be pruned, and how much of each where that differs."""
    adapter = adapter_for(model.format)
    arrays = adapter.weights(model)
    layers: dict[str, str] = {}
    kinds: dict[str, str] = {}
    skipped: list[Skipped] = []
    for layer in adapter.layers(model):
        reason = excluded(layer.name, layer.kind, request.exclude, request.exclude_types)
        if reason is None and not layer.weights:
            reason = f"this {layer.kind} has no matrix or kernel of its own to prune"
        if reason is not None:
            if layer.parameters:
                skipped.append(Skipped(layer.name, reason))
            continue
        for name in layer.weights:
            if name in arrays:
                layers[name], kinds[name] = layer.name, layer.kind
    axes = _input_axes(model, kinds) if request.kept else {}
    for name, axis in axes.items():
        length = 1 if axis is None else arrays[name].shape[axis]
        if request.kept and length % request.kept[1]:
            told = f"{name} has {length} inputs, which are not divided by {request.kept[1]}"
            skipped.append(Skipped(layers.pop(name), told))
    chosen = {name: arrays[name] for name in layers}
    shares = None
    if request.scope == "sensitivity" and chosen:
        shares = shares_by_sensitivity(model, chosen, request.sparsity, context)
    known = {name: axis for name, axis in axes.items() if axis is not None}
    return Prunable(chosen, layers, kinds, known, tuple(skipped), shares)


def _input_axes(model: Model, kinds: Mapping[str, str]) -> Mapping[str, int | None]:
    """Return the axis along which each weight reads its inputs; None where a channel reads one input alone."""
    if model.format is Format.KERAS:
        places = resolve("whet.models.keras.axes:axes", "keras")(model.payload)
        return {name: places[name].inputs for name in kinds}
    if model.format is Format.ONNX:
        found = resolve("whet.models.onnx.axes:input_axes", "onnx")(model.payload)
        return {name: found[name] for name in kinds}
    return {name: 0 if kind.startswith("ConvTranspose") else 1 for name, kind in kinds.items()}
