"""Graphs of ONNX models."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator

import numpy as np
import onnx
import onnxslim
from onnx import ModelProto

from whet.data.data import Part
from whet.errors import PassError, in_one_line
from whet.models.model import Model
from whet.models.onnx import initializers
from whet.models.onnx.adapter import OnnxAdapter
from whet.models.onnx.initializers import graphs
from whet.passes.base import Outcome, PassContext
from whet.passes.graph import onnx_attention, onnx_states
from whet.passes.graph.spec import CleanGraph, FuseTransformer, OptimizeGraph
from whet.types import Skipped

_COMPARED = 4  # samples
_EMPTY = ""  # the name of an optional input that is not given


def optimize_graph(request: OptimizeGraph, model: Model, context: PassContext) -> Outcome:
    """Let onnxslim fold and fuse; keep the result only if it passes the checker."""
    before: ModelProto = model.payload
    try:
        proto = onnxslim.slim(_copy(before))
        dropped = onnx_states.drop_zero_states(proto)
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:
        raise PassError(f"the graph cannot be optimized: {type(error).__name__}: {in_one_line(error)}") from error
    notes = {
        "nodes_before": len(before.graph.node),
        "nodes_after": len(proto.graph.node),
        "bytes_before": before.ByteSize(),
        "zero_states_dropped": dropped,
        "subnormals_flushed": initializers.flush_subnormals(proto),
        "constants_shared": initializers.share_equal(proto),
        "bytes_after": proto.ByteSize(),
    }
    changed = ("graph",) if proto.SerializeToString() != before.SerializeToString() else ()
    return Outcome(model.with_payload(proto), changed, (), notes)


def clean_graph(request: CleanGraph, model: Model, context: PassContext) -> Outcome:
    """Drop and shorten; the nodes stay as they are."""
    before: ModelProto = model.payload
    proto = _copy(before)
    _drop_documentation(proto)
    initializers.pack_raw(proto)
    notes = {
        "bytes_before": before.ByteSize(),
        "unused_dropped": initializers.drop_unused(proto),
        "constants_shared": initializers.share_equal(proto),
        "names_shortened": _shorten_names(proto),
        "bytes_after": proto.ByteSize(),
    }
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise PassError(f"the graph cannot be cleaned: {type(error).__name__}: {in_one_line(error)}") from error
    changed = ("graph",) if proto.SerializeToString() != before.SerializeToString() else ()
    return Outcome(model.with_payload(proto), changed, (), notes)


def fuse_transformer(request: FuseTransformer, model: Model, context: PassContext) -> Outcome:
    """Fuse every attention that is found, and compare with the graph as it was."""
    proto = _copy(model.payload)
    for index, node in enumerate(proto.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    found, missed = onnx_attention.find(proto)
    skipped = tuple(Skipped(name, f"no attention that can be fused: {reason}") for name, reason in missed.items())
    if not found:
        return Outcome(model, (), skipped or (Skipped("graph", "it has no Softmax, and so no attention"),))
    onnx_attention.replace(proto, found)
    fused = model.with_payload(proto)
    try:
        difference = _difference(model, fused, request.tolerance, context)
    except _Differs as error:
        return Outcome(model, (), (*skipped, *(Skipped(each.joined, str(error)) for each in found)))
    notes = {
        "attentions_fused": len(found),
        "heads": sorted({each.heads for each in found}),
        "nodes_before": len(model.payload.graph.node),
        "nodes_after": len(proto.graph.node),
        "max_rel_difference": difference,
    }
    return Outcome(fused, tuple(each.joined for each in found), skipped, notes)


class _Differs(Exception):
    """A changed graph is not what it was; the message says in what."""


def _difference(before: Model, after: Model, tolerance: float, context: PassContext) -> float:
    """Return the greatest difference of outputs, as a share of the greatest, for one sample and for some.

    Raises:
        _Differs: It exceeds the tolerance, or the graph cannot be run any more.
    """
    assert before.signature is not None
    worst = 0.0
    for count in (1, _COMPARED):
        batch = before.signature.synthetic(count, context.seed)
        if context.data is not None:
            there = min(before.signature.batch or count, context.data.size(Part.CALIBRATE))
            drawn = before.signature.bind(context.data.batch(Part.CALIBRATE, range(there)))
            batch = {name: np.resize(array, (len(batch[name]), *array.shape[1:])) for name, array in drawn.items()}
        wanted = OnnxAdapter().forward(before, batch)
        try:
            have = OnnxAdapter().forward(after, batch)
        except Exception as error:  # onnxruntime raises its own kinds, without a common base
            raise _Differs(f"fused, it cannot be run: {in_one_line(error)}") from error
        for name, array in wanted.items():
            scale = float(np.abs(array).max(initial=0.0)) or 1.0
            share = float(np.abs(have[name] - array).max(initial=0.0)) / scale
            if not share <= tolerance:
                raise _Differs(
                    f"with it fused, output {name!r} is off by {share:.2g} of its greatest value "
                    f"(allowed: {tolerance:.2g})"
                )
            worst = max(worst, share)
    return worst


def _copy(proto: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(proto)
    return copy


def _drop_documentation(proto: ModelProto) -> None:
    """Clear what only people and exporters read, and the shapes of inner tensors."""
    proto.ClearField("doc_string")  # to set it to nothing takes bytes too
    del proto.metadata_props[:]
    for graph in graphs(proto.graph):
        graph.ClearField("doc_string")
        for field in ("value_info", "quantization_annotation", "metadata_props"):
            del getattr(graph, field)[:]
        for item in [*graph.node, *graph.input, *graph.output, *graph.initializer]:
            item.ClearField("doc_string")
            del item.metadata_props[:]


def _shorten_names(proto: ModelProto) -> int:
    """Give inner tensors the shortest free names, the most used first, and take nodes' names away."""
    graph = proto.graph
    kept = {value.name for value in [*graph.input, *graph.output]} | {_EMPTY}
    kept |= {tensor.values.name for each in graphs(graph) for tensor in each.sparse_initializer}
    inner = [name for each in graphs(graph) for node in each.node for name in [*node.input, *node.output]]
    inner += [tensor.name for each in graphs(graph) for tensor in each.initializer]
    inner += [value.name for each in graphs(graph) if each is not graph for value in [*each.input, *each.output]]
    uses = dict.fromkeys((name for name in inner if name not in kept), 0)
    for name in inner:
        if name in uses:
            uses[name] += 1
    short = _short_names(kept)
    renamed = {name: next(short) for name in sorted(uses, key=lambda name: -uses[name])}
    for each in graphs(graph):
        for node in each.node:
            node.ClearField("name")
            for names in (node.input, node.output):
                for at, name in enumerate(names):
                    names[at] = renamed.get(name, name)
        for item in [*each.initializer, *(() if each is graph else [*each.input, *each.output])]:
            item.name = renamed.get(item.name, item.name)
    return len(renamed)


def _short_names(taken: set[str]) -> Iterator[str]:
    """Yield a, b, ..., Z, aa, ab, ... but for the names taken."""
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_letters, repeat=length):
            name = "".join(letters)
            if name not in taken:
                yield name
