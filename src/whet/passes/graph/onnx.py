"""Graphs of ONNX models."""

from __future__ import annotations

import itertools
import string
from collections.abc import Iterator

import onnx
import onnxslim
from onnx import ModelProto

from whet.errors import PassError, in_one_line
from whet.models.model import Model
from whet.models.onnx import initializers
from whet.models.onnx.initializers import graphs
from whet.passes.base import Outcome, PassContext
from whet.passes.graph.spec import CleanGraph, OptimizeGraph

_EMPTY = ""  # the name of an optional input that is not given


def optimize_graph(request: OptimizeGraph, model: Model, context: PassContext) -> Outcome:
    """Let onnxslim fold and fuse; keep the result only if it passes the checker."""
    before: ModelProto = model.payload
    try:
        proto = onnxslim.slim(_copy(before))
        onnx.checker.check_model(proto, full_check=True)
    except Exception as error:
        raise PassError(f"the graph cannot be optimized: {type(error).__name__}: {in_one_line(error)}") from error
    notes = {
        "nodes_before": len(before.graph.node),
        "nodes_after": len(proto.graph.node),
        "bytes_before": before.ByteSize(),
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
