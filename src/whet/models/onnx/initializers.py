"""Constants of an ONNX graph: flushed, shared, stored tightly."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

_LEAST_NORMAL = {TensorProto.FLOAT: np.finfo(np.float32).tiny, TensorProto.DOUBLE: np.finfo(np.float64).tiny}


def flush_subnormals(proto: ModelProto) -> int:
    """Set subnormal weights to zero, in place; return how many there were.

    Folding BatchNorm into weights makes such numbers, and processors take up to fifty times longer over them.
    Float16 is left alone: its subnormals are ordinary weights, and are widened before they are multiplied.
    """
    count = 0
    for tensor in proto.graph.initializer:
        least = _LEAST_NORMAL.get(tensor.data_type)
        if least is None:
            continue
        array = numpy_helper.to_array(tensor)
        bad = (array != 0) & (np.abs(array) < least)
        if bad.any():
            count += int(bad.sum())
            tensor.CopyFrom(numpy_helper.from_array(np.where(bad, 0, array).astype(array.dtype), tensor.name))
    return count


def pack_raw(proto: ModelProto) -> None:
    """Store every initializer as raw bytes, in place; typed fields may take ten bytes a number."""
    for tensor in proto.graph.initializer:
        if not tensor.HasField("raw_data") and tensor.data_type != TensorProto.STRING:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))


def share_equal(proto: ModelProto) -> int:
    """Make equal initializers one, in place; return how many were dropped."""
    fixed = {value.name for value in [*proto.graph.input, *proto.graph.output]}
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    kept = []
    for tensor in proto.graph.initializer:
        key = (tensor.data_type, tuple(tensor.dims), tensor.raw_data)
        if not tensor.HasField("raw_data") or tensor.name in fixed:
            kept.append(tensor)
        elif key in first:
            renamed[tensor.name] = first[key]
        else:
            first[key] = tensor.name
            kept.append(tensor)
    if not renamed or _has_subgraphs(proto):
        return 0
    for node in proto.graph.node:
        for at, name in enumerate(node.input):
            node.input[at] = renamed.get(name, name)
    _keep(proto, kept)
    return len(renamed)


def drop_unused(proto: ModelProto) -> int:
    """Drop initializers that nothing reads, in place; return how many."""
    if _has_subgraphs(proto):
        return 0
    read = {name for node in proto.graph.node for name in node.input}
    read |= {value.name for value in [*proto.graph.input, *proto.graph.output]}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in read]
    dropped = len(proto.graph.initializer) - len(kept)
    if dropped:
        _keep(proto, kept)
    return dropped


def _keep(proto: ModelProto, tensors: list[TensorProto]) -> None:
    copies = [TensorProto.FromString(tensor.SerializeToString()) for tensor in tensors]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(copies)


def _has_subgraphs(proto: ModelProto) -> bool:
    """Whether any node holds a graph of its own (If, Loop, Scan), which may read outer names."""
    return any(
        attribute.HasField("g") or attribute.graphs for node in proto.graph.node for attribute in node.attribute
    )
