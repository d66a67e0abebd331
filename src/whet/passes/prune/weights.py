"""Pruning by weights alone: one realisation for every format whose adapter gives and takes arrays."""

from __future__ import annotations

from whet.models.adapter import adapter_for
from whet.models.model import Model
from whet.passes.base import Outcome, PassContext, excluded
from whet.passes.prune import math
from whet.passes.prune.spec import MagnitudePrune
from whet.types import Skipped, Trait, TraitKind


def magnitude_prune(request: MagnitudePrune, model: Model, context: PassContext) -> Outcome:
    """Zero the least weights of every prunable layer, or of all of them together."""
    adapter = adapter_for(model.format)
    arrays = adapter.weights(model)
    chosen: dict[str, str] = {}  # weight -> layer
    kinds: dict[str, str] = {}  # weight -> type of its layer
    skipped: list[Skipped] = []
    for layer in adapter.layers(model):
        reason = excluded(layer.name, layer.kind, request.exclude, request.exclude_types)
        if reason is None and not layer.weights:
            reason = f"this {layer.kind} has no matrix or kernel of its own to prune"
        if reason is not None:
            if layer.parameters:
                skipped.append(Skipped(layer.name, reason))
            continue
        chosen.update(dict.fromkeys(layer.weights, layer.name))
        kinds.update(dict.fromkeys(layer.weights, layer.kind))
    prunable = {name: arrays[name] for name in chosen if name in arrays}
    if not prunable:
        return Outcome(model, (), tuple(skipped))
    prune = math.prune_global if request.scope == "global" else math.prune_layers
    pruned = prune(prunable, request.sparsity)
    overall = math.sparsity(pruned)
    notes = {
        "sparsity": overall,
        "sparsity_by_layer": {name: math.sparsity({name: array}) for name, array in pruned.items()},
        "weight_sqnr_db_by_type": math.sqnr_by_kind(prunable, pruned, kinds),
    }
    result = adapter.with_weights(model, pruned).with_traits(Trait(TraitKind.SPARSE, overall))
    return Outcome(result, tuple(dict.fromkeys(chosen[name] for name in pruned)), tuple(skipped), notes)
