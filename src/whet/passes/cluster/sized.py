"""Bits by layer under a size: how much each layer matters, and what each is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.data.data import Part
from whet.models.adapter import adapter_for
from whet.models.model import Model
from whet.passes.base import PassContext
from whet.passes.cluster import math
from whet.passes.cluster.allocate import Form, allocate
from whet.passes.cluster.math import Codebook
from whet.passes.cluster.spec import Cluster
from whet.passes.cluster.target import Target
from whet.progress import Event

if TYPE_CHECKING:
    from whet.types import Array, Batch

_PROBE_BITS = 3  # at which a layer is tried for what it costs the model
_FLOOR = 0.01  # of the greatest damage: what no sample showed may still be there


def books(
    request: Cluster, model: Model, targets: Mapping[str, Target], context: PassContext
) -> tuple[dict[str, Codebook | None], dict[str, Any]]:
    """Choose a codebook for each weight, None to leave it in float, and say what led to it.

    What a weight of so many bits costs is taken to grow with its noise; how fast is found by trying each alone.
    """
    parameters, others = counted(model, targets)
    budget = request.size_bytes or int(4 * parameters / request.ratio)
    choices: dict[str, list[Codebook | None]] = {}
    noises: dict[str, list[float]] = {}
    for at, (name, target) in enumerate(targets.items()):
        context.on_event(Event("bits by layer", at, len(targets)))
        choices[name] = [*_books(target, request.most), None]
        noises[name] = [math.noise(target.array, target.clustered(book)) for book in choices[name] if book] + [0.0]
    weights, source = _importance(request, model, targets, context)
    forms = {
        name: [
            Form(targets[name].stored_bytes(book) if book else targets[name].array.nbytes, weights[name] * noise)
            for book, noise in zip(choices[name], noises[name], strict=True)
        ]
        for name in targets
    }
    chosen = allocate(forms, budget - others)
    reached = others + sum(forms[name][at].size_bytes for name, at in chosen.items())
    notes: dict[str, Any] = {"bytes_asked": budget, "reached": reached <= budget, "importance_by": source}
    if reached > budget:
        largest = sorted(targets, key=lambda name: -forms[name][chosen[name]].size_bytes)[:3]
        notes["in_the_way"] = [*largest, f"{others:,} bytes that are not clustered"]
    return {name: choices[name][at] for name, at in chosen.items()}, notes


def counted(model: Model, targets: Mapping[str, Target]) -> tuple[int, int]:
    """Return the number of parameters, and the bytes of all weights but the targets."""
    layers = adapter_for(model.format).layers(model)
    whole = sum(layer.bytes for layer in layers)
    return sum(layer.parameters for layer in layers), whole - sum(item.array.nbytes for item in targets.values())


def _books(target: Target, most: int) -> list[Codebook]:
    """Return codebooks of 2 bits and more that make a weight smaller; on a grid of 4 values at least."""
    sizes = [2**bits for bits in range(2, 9) if 2**bits < most] + [most]
    found = [replace(target.book, k=k) for k in sizes]
    return [book for book in found if target.stored_bytes(book) < target.array.nbytes]


def _importance(
    request: Cluster, model: Model, targets: Mapping[str, Target], context: PassContext
) -> tuple[dict[str, float], str]:
    """Return what a share of noise in each weight costs the model, and by what it was found."""
    batch = _batch(request, model, context)
    if context.score is None and batch is None:
        return dict.fromkeys(targets, 1.0), "noise of the weights alone: there are no samples"
    adapter = adapter_for(model.format)
    wanted = adapter.forward(model, batch) if batch is not None and context.score is None else {}
    best = context.score(model) if context.score is not None else 0.0
    damages, noises = {}, {}
    for at, (name, target) in enumerate(targets.items()):
        context.on_event(Event("importance of layers", at, len(targets)))
        probe = target.clustered(replace(target.book, k=min(2**_PROBE_BITS, request.most)))
        tried = adapter.with_weights(model, {name: probe})
        noises[name] = math.noise(target.array, probe)
        if context.score is not None:
            damages[name] = max(best - context.score(tried), 0.0)
        else:
            assert batch is not None
            damages[name] = _difference(wanted, adapter.forward(tried, batch))
    least = _FLOOR * max(damages.values()) or 1.0
    source = "quality on select" if context.score is not None else "error of the outputs on calibrate"
    return {name: max(damages[name], least) / max(noises[name], 1e-12) for name in targets}, source


def _batch(request: Cluster, model: Model, context: PassContext) -> Batch | None:
    """Return some samples to calibrate on, as many as a model of a fixed batch takes."""
    if context.data is None or not context.data.size(Part.CALIBRATE) or model.signature is None:
        return None
    size = model.signature.batch or request.samples
    batch = model.signature.bind(next(iter(context.data.batches(Part.CALIBRATE, size, limit=request.samples))))
    return batch if model.signature.batch is None else model.signature.fill(batch, model.signature.batch)


def _difference(wanted: Mapping[str, Array], found: Mapping[str, Array]) -> float:
    """Return the error of floating outputs as a share of their energy, summed over the outputs."""
    floats = [name for name in wanted if np.issubdtype(wanted[name].dtype, np.floating)]
    return sum(math.noise(wanted[name], found[name]) for name in floats)
