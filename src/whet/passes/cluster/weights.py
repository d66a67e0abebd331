"""Clustering by weights alone: one realisation for every format whose adapter gives and takes arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.errors import PassError
from whet.lazy import resolve
from whet.models.adapter import adapter_for
from whet.models.model import Model
from whet.passes.base import Outcome, PassContext, excluded
from whet.passes.cluster import math, sized
from whet.passes.cluster.math import Axes, Codebook
from whet.passes.cluster.spec import Cluster
from whet.passes.cluster.target import Target
from whet.types import Format, Layer, Skipped, Trait, TraitKind

if TYPE_CHECKING:
    from whet.types import Array

_TABLES = ("Embedding", "EmbeddingBag")
_SECOND_AXIS = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d", "Conv1D")  # the last is transformers' own


def cluster(request: Cluster, model: Model, context: PassContext) -> Outcome:
    """Cluster every matrix, kernel and table, with the same bits or with those that a size allows."""
    targets, skipped = _targets(request, model, context)
    if not targets:
        return Outcome(model, (), tuple(skipped))
    if request.sized:
        books, notes = sized.books(request, model, targets, context)
    else:
        books, notes = {name: target.book for name, target in targets.items()}, {}
    clustered, left = _clustered(targets, books)
    skipped += left
    if not clustered:
        return Outcome(model, (), tuple(skipped), notes)
    adapter = adapter_for(model.format)
    result = _with_traits(adapter.with_weights(model, clustered), model, targets, clustered)
    done = {name: targets[name] for name in clustered}
    notes |= _notes(model, done, clustered, {name: books[name] for name in clustered})
    return Outcome(result, tuple(dict.fromkeys(target.layer for target in done.values())), tuple(skipped), notes)


def _targets(request: Cluster, model: Model, context: PassContext) -> tuple[dict[str, Target], list[Skipped]]:
    """Return the weights to cluster by name, and the layers that are left alone."""
    adapter = adapter_for(model.format)
    arrays, axes, tables = adapter.weights(model), *_places(model)
    zeros = request.keep_zeros == "on" or (request.keep_zeros == "auto" and model.has(TraitKind.SPARSE))
    book = Codebook(request.most, request.initial, zeros, context.seed)
    targets: dict[str, Target] = {}
    skipped: list[Skipped] = []
    for layer in adapter.layers(model):
        table = tables.get(layer.name)
        names = [name for name in (*layer.weights, *([table] if table else [])) if name in arrays]
        reason = excluded(layer.name, layer.kind, request.exclude, request.exclude_types)
        if reason is None and table and not request.embeddings:
            reason = "a table, and the recipe leaves embeddings alone"
        if reason is None and not names:
            reason = f"this {layer.kind} has no matrix, kernel or table of its own to cluster"
        if reason is not None:
            skipped += [Skipped(layer.name, reason)] if layer.parameters else []
            continue
        for name in names:
            if name not in targets:
                targets[name] = _target(request, layer, arrays[name], axes.get(name), book)
    return targets, skipped


def _places(model: Model) -> tuple[Mapping[str, Axes], dict[str, str]]:
    """Return the axes of output channels by weight, where the format tells them, and tables by layer."""
    if model.format is Format.KERAS:
        found = resolve("whet.models.keras.axes:axes", "keras")(model.payload)
        outputs = {name: each.outputs for name, each in found.items()}
        return outputs, resolve("whet.models.keras.axes:tables", "keras")(model.payload)
    if model.format is Format.ONNX:
        axes = resolve("whet.models.onnx.axes:output_axes", "onnx")(model.payload)
        return axes, resolve("whet.passes.cluster.onnx:tables", "onnx")(model.payload)
    layers = adapter_for(model.format).layers(model)
    return {}, {layer.name: f"{layer.name}.weight" for layer in layers if layer.kind in _TABLES}


def _target(request: Cluster, layer: Layer, array: Array, axis: Axes | None, book: Codebook) -> Target:
    """Say how one weight is to be clustered.

    Raises:
        PassError: It holds a number that has no nearest value.
    """
    if not np.isfinite(array).all():
        raise PassError(f"{layer.name} has a NaN or infinite weight; repair the model, or exclude the layer")
    if axis is None:
        axis = 1 if layer.kind in _SECOND_AXIS else 0
    row = math.row(array, axis)
    group = {"tensor": 0, "channel": row, "group": request.group if row % request.group == 0 else row}
    grid = request.grid_bits if request.grid else 0
    return Target(layer.name, layer.kind, array, axis, group[request.granularity], grid, book)


def _clustered(
    targets: Mapping[str, Target], books: Mapping[str, Codebook | None]
) -> tuple[dict[str, Array], list[Skipped]]:
    """Cluster where it makes a weight smaller; ``None`` for a book leaves it in float."""
    done: dict[str, Array] = {}
    skipped = []
    for name, target in targets.items():
        book = books[name]
        reason = "left in float: it matters too much for its size" if book is None else target.no_use(book)
        if book is not None and reason is None:
            done[name] = target.clustered(book)
        if reason is not None:
            skipped.append(Skipped(target.layer, f"{name}: {reason}"))
    return done, skipped


def _with_traits(
    result: Model, model: Model, targets: Mapping[str, Target], clustered: Mapping[str, Array]
) -> Model:
    """Add what was established, and correct the share of zeros where it became another."""
    most = max(targets[name].distinct(array) for name, array in clustered.items())
    result = result.with_traits(Trait(TraitKind.CLUSTERED, most))
    if not model.has(TraitKind.SPARSE):
        return result
    matrices = adapter_for(result.format).matrices(result).values()
    zeros = sum(int((array == 0).sum()) for array in matrices) / max(sum(array.size for array in matrices), 1)
    if zeros:
        return result.with_traits(Trait(TraitKind.SPARSE, zeros))
    return replace(result, traits=frozenset(item for item in result.traits if item.kind is not TraitKind.SPARSE))


def _notes(
    model: Model, done: Mapping[str, Target], clustered: Mapping[str, Array], books: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what is worth a line: sizes as packed, and the signal over the noise of each weight."""
    shares = {name: math.noise(target.array, clustered[name]) for name, target in done.items()}
    sizes = {name: target.stored_bytes(books[name]) for name, target in done.items()}
    parameters, others = sized.counted(model, done)
    stored = others + sum(sizes.values())
    kinds: dict[str, list[float]] = {}
    for name, target in done.items():
        energy = float((target.array.astype(np.float64) ** 2).sum())
        lost, whole = kinds.get(target.kind, [0.0, 0.0])
        kinds[target.kind] = [lost + shares[name] * energy, whole + energy]
    return {
        "values_at_most": max(book.k for book in books.values()),
        "bytes_as_packed": stored,
        "ratio_as_packed": 4 * parameters / stored,
        "weight_sqnr_db_by_type": {
            kind: math.sqnr_db(lost / whole if whole else 0.0) for kind, (lost, whole) in kinds.items()
        },
        "bits_by_weight": {name: math.bits_for(books[name].k) for name in done},
        "sqnr_db_by_weight": {name: math.sqnr_db(share) for name, share in shares.items()},
    }
