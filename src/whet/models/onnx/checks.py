"""What is looked at in an ONNX graph before any library works on it: names, types, sizes, functions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import psutil
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from onnx.external_data_helper import uses_external_data

from whet.errors import ModelError

_MAX_NODES = 1_000_000  # that local functions may expand to
_MAX_NAME = 4096  # characters; the longest of any exporter have a few hundred
_MAX_TEXT = 60
_PACKED = {"INT4": 4, "INT2": 2, "FLOAT4": 4}  # bits of types of which several share a byte
_TYPES = set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}


def check_graph(path: Path, proto: ModelProto) -> None:
    """Refuse a graph that no library could work on, or only for ever.

    Raises:
        ModelError: It has no nodes or no outputs, names that no exporter gives, types that ONNX does not have,
            inputs beyond the machine's memory, or local functions that call themselves or expand beyond measure.
    """
    if not proto.graph.node:
        raise ModelError(
            f"{path} has no nodes: its outputs are its inputs or constants, and nothing can be improved"
        )
    if not proto.graph.output:
        raise ModelError(f"the graph of {path} has no outputs; export the model with those that are wanted")
    for name in _names(proto):
        _check_name(path, name)
    for tensor in tensors(proto):
        if tensor.data_type not in _TYPES:
            raise ModelError(
                f"the weight {_short(tensor.name)!r} of {path} has the element type {tensor.data_type}, which ONNX "
                f"does not have; export the model again"
            )
    for what, values in (("input", proto.graph.input), ("output", proto.graph.output)):
        for value in values:
            _check_value(path, what, value)
    _check_functions(path, proto)


def tensors(proto: ModelProto) -> Iterator[TensorProto]:
    """Yield every tensor that a model holds, in its inner graphs and local functions too."""
    yield from _graph_tensors(proto.graph)
    for function in proto.functions:
        for node in function.node:
            yield from _node_tensors(node)


def check_external(path: Path, proto: ModelProto) -> None:
    """Refuse external data that is not there whole, is no plain file, or is not below the folder of the model.

    Raises:
        ModelError: A tensor names such a file, or fewer or more bytes than its shape takes.
    """
    for tensor in tensors(proto):
        if uses_external_data(tensor):
            _check_file(path, tensor)


def _check_file(path: Path, tensor: TensorProto) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    place, wanted = entries.get("location", ""), _bytes_of(tensor)
    what = f"the external data of {path} cannot be used: the weight {_short(tensor.name)!r} is in {_short(place)!r}"
    file = path.parent / place.replace("\0", "?")
    leaves = not place or Path(place).is_absolute() or ".." in Path(place).parts or "\\" in place
    if leaves or not file.resolve().is_relative_to(path.parent.resolve()):
        raise ModelError(f"{what}, which is not below the folder of the model")
    if file.is_symlink():
        raise ModelError(f"{what}, which is a link; put the file itself there")
    if not file.is_file():
        state = "no plain file" if file.exists() else "not there"
        raise ModelError(f"{what}, which is {state}; copy that file beside the model")
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or wanted)
    except ValueError as error:
        raise ModelError(f"{what}, at an offset or of a length that is no number; export it again") from error
    if length != wanted or offset < 0:
        raise ModelError(
            f"{what}, {length:,} bytes from {offset:,} on, and its shape takes {wanted:,}; export it again"
        )
    if offset + length > file.stat().st_size:
        raise ModelError(
            f"{what}, up to byte {offset + length:,}, and that file has {file.stat().st_size:,}; it may be "
            f"truncated: copy it again"
        )


def _bytes_of(tensor: TensorProto) -> int:
    """Return the bytes that a tensor takes by its shape."""
    name = TensorProto.DataType.Name(tensor.data_type)
    bits = next((bits for word, bits in _PACKED.items() if word in name), 0)
    if not bits:
        bits = 8 * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return -(-math.prod(map(int, tensor.dims)) * bits // 8)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            yield attribute.t
        yield from attribute.tensors
        for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            yield from _graph_tensors(inner)


def _names(proto: ModelProto) -> Iterator[str]:
    """Yield the names of nodes, of operators and of tensors."""
    yield from (value.name for value in [*proto.graph.input, *proto.graph.output])
    yield from (tensor.name for tensor in tensors(proto))
    for node in [*proto.graph.node, *(node for function in proto.functions for node in function.node)]:
        yield from (node.name, node.op_type, node.domain)


def _check_name(path: Path, name: str) -> None:
    if len(name) > _MAX_NAME:
        raise ModelError(
            f"{path} has a name of {len(name):,} letters ({_short(name)!r}), and {_MAX_NAME:,} are allowed; "
            f"export it with shorter names"
        )
    if not name.isprintable():
        raise ModelError(
            f"{path} has the name {_short(name)!r}, with control characters; export it with plain names"
        )


def _check_value(path: Path, what: str, value: ValueInfoProto) -> None:
    """Check the type and the lengths of an input or output."""
    tensor = value.type.tensor_type
    if value.type.HasField("tensor_type") and tensor.elem_type not in {*_TYPES, TensorProto.UNDEFINED}:
        raise ModelError(
            f"the {what} {value.name!r} of {path} has the element type {tensor.elem_type}, which ONNX does not "
            f"have; export the model again"
        )
    if what == "output":
        return
    for axis, dim in enumerate(tensor.shape.dim):
        if dim.HasField("dim_value") and dim.dim_value == 0:
            raise ModelError(
                f"axis {axis} of the input {value.name!r} of {path} has the length 0, so that nothing can go in; "
                f"write its length, or a name where it is free, into the file (onnx.tools.update_model_dims)"
            )
    count = math.prod(dim.dim_value for dim in tensor.shape.dim if dim.dim_value > 0)
    if count > psutil.virtual_memory().total:
        raise ModelError(
            f"the input {value.name!r} of {path} has {count:,} numbers, more than this machine has memory; "
            f"export the model with the lengths that it is used with"
        )


def _check_functions(path: Path, proto: ModelProto) -> None:
    """Refuse local functions that call themselves, or each other twice and twice again."""
    bodies = {(function.domain, function.name): function.node for function in proto.functions}
    calls = {
        key: [(node.domain, node.op_type) for node in nodes if (node.domain, node.op_type) in bodies]
        for key, nodes in bodies.items()
    }
    try:
        order = list(TopologicalSorter(calls).static_order())
    except CycleError as error:
        name = str(error.args[1][0][1])
        raise ModelError(
            f"the local function {_short(name)!r} of {path} calls itself; export the model again"
        ) from error
    sizes: dict[tuple[str, str], int] = {}
    for key in order:
        sizes[key] = sum(sizes.get((node.domain, node.op_type), 1) for node in bodies[key])
    whole = sum(sizes.get((node.domain, node.op_type), 1) for node in proto.graph.node)
    if whole > _MAX_NODES:
        raise ModelError(f"{path} has local functions that expand to {whole:,} nodes; do not open it")


def _short(name: str) -> str:
    return f"{name[:_MAX_TEXT]}..." if len(name) > _MAX_TEXT else name
