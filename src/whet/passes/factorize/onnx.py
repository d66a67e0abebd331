"""Factorization of ONNX graphs: a node becomes two or three."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from whet.errors import PassError, in_one_line
from whet.models.model import Model
from whet.models.onnx import counting
from whet.models.onnx.initializers import drop_unused, graphs, reads
from whet.passes.base import Outcome, PassContext, excluded
from whet.passes.factorize import onnx_time
from whet.passes.factorize.choose import Choice, Race, choose
from whet.passes.factorize.math import Chain
from whet.passes.factorize.outcome import outcome
from whet.passes.factorize.spec import Factorize
from whet.progress import Event
from whet.types import Skipped

if TYPE_CHECKING:
    from whet.types import Array

_KINDS = ("Conv", "Gemm", "MatMul")


def factorize(request: Factorize, model: Model, context: PassContext) -> Outcome:
    """Split Conv, Gemm and MatMul nodes that have a weight of their own."""
    proto = ModelProto()
    proto.CopyFrom(model.payload)
    shapes: counting.Shapes = {}
    if model.signature is not None and request.judge == "latency":
        shapes = counting.shapes_of(proto, model.signature.synthetic(1))
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    readers = Counter(name for graph in graphs(proto.graph) for node in graph.node for name in set(reads(node)))
    choices: dict[str, Choice] = {}
    skipped: list[Skipped] = []
    nodes: list[NodeProto] = []
    for index, node in enumerate(proto.graph.node):
        context.on_event(Event("factorize", index, len(proto.graph.node)))
        names = counting.kernels(node, constants)
        label = counting.layer_name(node, index, names)
        reason = excluded(label, node.op_type, request.exclude, request.exclude_types) if names else None
        reason = reason or _unfit(request, node, names, readers)
        chain = None
        if names and reason is None:
            weight = kernel(node, numpy_helper.to_array(constants[names[0]]))
            race = _race(node, weight, shapes.get(node.input[0]))
            choice = choose(request, label, weight, stride(node, weight), race)
            choices[label], chain = choice, choice.chain
            reason = choice.reason
        if reason:
            skipped.append(Skipped(label, reason))
        nodes += [node] if chain is None else split(node, chain, proto)
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    drop_unused(proto)
    _check(proto)
    return outcome(model, proto, choices, skipped)


def kernel(node: NodeProto, array: Array) -> Array:
    """Return a weight as (out, in, *window)."""
    if node.op_type == "Conv":
        return array
    turned = node.op_type == "Gemm" and _attributes(node).get("transB", 0)
    return np.ascontiguousarray(array if turned else array.T)


def stride(node: NodeProto, weight: Array) -> tuple[int, ...]:
    """Return the stride along each axis of the window; a product has none."""
    return tuple(_attributes(node).get("strides", (1,) * (weight.ndim - 2)))


def split(node: NodeProto, chain: Chain, proto: ModelProto) -> list[NodeProto]:
    """Return the nodes of a chain in place of a node; their weights are added to the graph."""
    weight, last = node.input[1], len(chain.parts) - 1
    stem, end = (weight[: -len(".weight")], ".weight") if weight.endswith(".weight") else (weight, "")
    made, flow = [], node.input[0]
    for at, (part, axes) in enumerate(zip(chain.parts, chain.axes, strict=True)):
        name = f"{stem}.{at}{end}"
        array = np.ascontiguousarray(part.T) if node.op_type == "MatMul" else part
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
        out = node.output[0] if at == last else f"{node.output[0]}.{at}"
        bias = list(node.input[2:3]) if at == last else []
        made.append(
            helper.make_node(
                node.op_type,
                [flow, name, *bias],
                [out],
                f"{node.name or node.output[0]}.{at}",
                domain=node.domain,
                **_settings(node, part, axes, first=at == 0, last=at == last),
            )
        )
        flow = out
    return made


def _settings(node: NodeProto, part: Array, axes: Sequence[bool], *, first: bool, last: bool) -> dict[str, Any]:
    """Return the attributes of one node of a chain, out of those of the node it stands for."""
    given = _attributes(node)
    if node.op_type == "MatMul":
        return {}
    if node.op_type == "Gemm":
        wanted = [*(("alpha", "transA") if first else ()), *(("beta",) if last else ())]
        return {"transB": 1, **{key: given[key] for key in wanted if key in given}}
    found: dict[str, Any] = {"kernel_shape": list(part.shape[2:])}
    for key in ("strides", "dilations"):
        if key in given:
            found[key] = [value if takes else 1 for value, takes in zip(given[key], axes, strict=True)]
    if "pads" in given:
        found["pads"] = [value if takes else 0 for value, takes in zip(given["pads"], [*axes, *axes], strict=True)]
    if any(axes) and given.get("auto_pad", b"NOTSET") != b"NOTSET":
        found["auto_pad"] = given["auto_pad"]
    return found


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _unfit(request: Factorize, node: NodeProto, names: Sequence[str], readers: Mapping[str, int]) -> str | None:
    """Return why a node with weights is left alone, or None."""
    if not names:
        return None
    if node.op_type not in _KINDS:
        return f"a {node.op_type} has no such chain here"
    if node.op_type == "Conv" and request.convolutions == "none":
        return "the recipe leaves convolutions alone"
    if node.op_type == "Conv" and _attributes(node).get("group", 1) != 1:
        return "a grouped convolution: each group is small already"
    if names[0] != node.input[1] or len(names) > 1:
        return "its weight stands on the left"
    if readers[names[0]] > 1:
        return f"its weight is read by {readers[names[0]]} nodes"
    return None


def _race(node: NodeProto, weight: Array, shape: Sequence[int | None] | None) -> Race | None:
    """Return the clock for a node, if it is known what goes into it."""
    if not shape or None in shape:
        return None
    sizes = [int(size or 0) for size in shape]
    whole = Chain("", (weight,), ((True,) * (weight.ndim - 2),), 1.0)
    return lambda chains: onnx_time.race([alone(node, chain, sizes) for chain in (whole, *chains)], sizes)


def alone(node: NodeProto, chain: Chain, shape: Sequence[int]) -> ModelProto:
    """Return a model that is nothing but a chain in place of a node, ``x`` of this shape to ``y``, without bias."""
    bare = NodeProto()
    bare.CopyFrom(node)
    del bare.input[:], bare.output[:]
    bare.input.extend(["x", "w"])
    bare.output.append("y")
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    proto = helper.make_model(
        helper.make_graph([], "alone", [value], [helper.make_empty_tensor_value_info("y")]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    proto.graph.node.extend(split(bare, chain, proto))
    return proto


def _check(proto: ModelProto) -> None:
    """Raise PassError if the graph is not valid."""
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        if "No Op registered" not in str(error) and "is not a registered" not in str(error):
            raise PassError(f"the factorized graph is not valid: {in_one_line(error)}") from error
