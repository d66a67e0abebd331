"""Graphs of TFLite files: the same operators on the same numbers, in fewer bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from whet.errors import PassError
from whet.models.model import Model
from whet.models.tflite import writing
from whet.models.tflite.comparing import difference
from whet.models.tflite.counting import layers, naming
from whet.models.tflite.flatbuffer import parse
from whet.passes.base import Outcome, PassContext
from whet.passes.graph.spec import CleanGraph
from whet.types import Skipped

_COMPARED = 4  # samples
_UNREAD = (b"CONVERSION_METADATA", b"TFLITE_METADATA")  # of the converter, and of libraries of tasks
_KERNELS = ("xnnpack", "builtin")


def clean_graph(request: CleanGraph, model: Model, context: PassContext) -> Outcome:
    """Write the file anew without what no runtime reads, what is equal in it once; run both files and compare."""
    raw = writing.unpacked(model.payload)
    if reason := writing.outside(raw):
        return Outcome(model, (), (Skipped("graph", reason),))
    told = [layer.name for layer in layers(model.payload, None)]
    notes: dict[str, Any] = {"bytes_before": len(model.payload), "metadata_dropped": _drop_metadata(raw)}
    notes["names_shortened"] = _shorten_names(raw, model.payload)
    _drop_ranges(raw)
    notes["constants_shared"] = writing.share_equal(raw)
    notes["unused_dropped"] = writing.drop_unused(raw)
    content = writing.packed(raw)
    if len(content) >= len(model.payload):
        return Outcome(model, (), (Skipped("graph", "it has nothing that a runtime does not read"),))
    made = model.with_payload(content)
    assert model.signature is not None
    batch = context.sample(model.signature, _COMPARED)
    if off := difference(model.payload, content, batch, _KERNELS):
        raise PassError(f"the file cannot be cleaned: {off}")
    now = [layer.name for layer in layers(content, None)]
    notes["layers_renamed"] = {old: new for old, new in zip(told, now, strict=True) if old != new}
    return Outcome(made, ("graph",), (), {**notes, "bytes_after": len(content)})


def _drop_metadata(raw: Any) -> list[str]:
    """Take out what only people and converters read, and say what it was; what LiteRT looks for stays."""
    dropped = [one.name.decode() for one in raw.metadata or [] if one.name in _UNREAD]
    raw.metadata = [one for one in raw.metadata or [] if one.name not in _UNREAD] or None
    raw.description = None
    for graph in raw.subgraphs:
        graph.name = None
    return dropped


def _shorten_names(raw: Any, content: bytes) -> int:
    """Take names of tensors away, but for inputs, outputs, and what names a layer in reports; return how many."""
    listed = {layer.name for layer in layers(content, None)}
    count = 0
    for graph, known in zip(raw.subgraphs, parse(content), strict=True):
        kept = {int(place) for place in (*graph.inputs, *graph.outputs)}
        named: dict[int, str] = {}
        for name, place in naming(known).items():
            if place is not None and name in listed:
                named.setdefault(place, name)  # of operators with one matrix, the first has its name
        for place, tensor in enumerate(graph.tensors):
            short = tensor.name if place in kept else named.get(place, "").encode() or None
            count += short != tensor.name
            tensor.name = short
    return count


def _drop_ranges(raw: Any) -> None:
    """Take out ranges that were calibrated, empty parameters of quantization, and shapes that are there twice."""
    for tensor in (tensor for graph in raw.subgraphs for tensor in graph.tensors):
        how = tensor.quantization
        if how is not None:
            how.min = how.max = None
            if how.details is None and (how.scale is None or not len(how.scale)):
                tensor.quantization = None
        if tensor.shapeSignature is not None and not np.any(np.asarray(tensor.shapeSignature) < 0):
            tensor.shapeSignature = None
