"""Weights in blocks of 4 bits, by ONNX Runtime's quantizer."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnxruntime.quantization import matmul_nbits_quantizer as nbits

from whet.errors import PassError, in_one_line
from whet.models.model import Model
from whet.models.onnx import initializers
from whet.passes.base import Outcome, PassContext, excluded
from whet.passes.quantize import onnx_graph
from whet.passes.quantize.spec import Int4Weights
from whet.types import Trait, TraitKind

_INT4 = 21  # the opset from which on there are 4-bit tensors
_PRODUCT, _LOOKUP = "MatMulNBits", "GatherBlockQuantized"
_WHY = {
    "Conv": "ONNX Runtime has no convolution of 4-bit blocks",
    "ConvTranspose": "ONNX Runtime has no transposed convolution of 4-bit blocks",
    "LSTM": "ONNX Runtime has no LSTM of 4-bit blocks",
    "GRU": "ONNX Runtime has no GRU of 4-bit blocks",
    "RNN": "ONNX Runtime has no RNN of 4-bit blocks",
    "Gather": "embeddings are left alone; set embeddings = true",
}


def int4_weights(request: Int4Weights, model: Model, context: PassContext) -> Outcome:
    """Hold the matrices of products, and tables of embeddings where asked, in blocks of 4-bit integers."""
    before = onnx_graph.named(onnx_graph.upgraded(model.payload, _INT4, "a 4-bit tensor", "export it anew"))
    onnx_graph.unshare(before)
    layers = onnx_graph.layers_of(before)
    _products(before)
    barred = {node: reason for node, layer in layers.items() if (reason := _unfit(request, before, node, layer))}
    after = _quantized(request, before, set(barred))
    changed, skipped = onnx_graph.account(layers, onnx_graph.left_in_float(before, after), barred, _WHY)
    if not changed:
        return Outcome(model, (), skipped)
    for node in after.graph.node:
        if node.op_type == _PRODUCT and request.accuracy_level:
            kept = [each for each in node.attribute if each.name != "accuracy_level"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("accuracy_level", request.accuracy_level)])
    notes = {
        "method": request.method,
        "block_size": request.block_size,
        "products": sum(node.op_type == _PRODUCT for node in after.graph.node),
        "embeddings": sum(node.op_type == _LOOKUP for node in after.graph.node),
        "bytes_before": model.payload.ByteSize(),
        "bytes_after": after.ByteSize(),
    }
    return Outcome(model.with_payload(after).with_traits(Trait(TraitKind.QUANTIZED, 4)), changed, skipped, notes)


def _unfit(request: Int4Weights, proto: ModelProto, node: str, layer: tuple[str, str]) -> str | None:
    """Return why a layer stays as it is, or None."""
    name, kind = layer
    reason = excluded(name, kind, request.exclude, request.exclude_types)
    if reason is not None or kind not in ("Gemm", "MatMul", "Gather"):
        return reason or _WHY.get(kind)
    if kind == "Gather" and not request.embeddings:
        return _WHY[kind]
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    (found,) = [each for each in proto.graph.node if each.name == node]
    shapes = [list(constants[each].dims) for each in found.input if each in constants and constants[each].dims]
    if not shapes or len(shapes[0]) != 2:
        return "its weight is no matrix"
    across = shapes[0][1 if kind == "Gather" else 0]
    if across < request.block_size or (across % request.block_size and request.method != "rtn"):
        return f"its {across} inputs make no whole blocks of {request.block_size}"
    return None


def _products(proto: ModelProto) -> None:
    """Make a MatMul, and an Add, of every Gemm that only multiplies by a constant and adds, in place."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes: list[NodeProto] = []
    for node in proto.graph.node:
        given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        plain = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0 and not given.get("transA", 0)
        if node.op_type != "Gemm" or node.input[1] not in constants or not plain:
            nodes.append(node)
            continue
        weight = constants[node.input[1]]
        if given.get("transB", 0):
            array = np.ascontiguousarray(numpy_helper.to_array(weight).T)
            weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        has_bias = len(node.input) > 2 and node.input[2]
        product = f"{node.output[0]}_product" if has_bias else node.output[0]
        nodes.append(helper.make_node("MatMul", node.input[:2], [product], name=node.name))
        if has_bias:
            nodes.append(helper.make_node("Add", [product, node.input[2]], node.output, name=f"{node.name}_bias"))
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)


def _quantized(request: Int4Weights, proto: ModelProto, barred: set[str]) -> ModelProto:
    """Run ONNX Runtime's quantizer: on products by the method asked for, on embeddings by rounding."""
    after = ModelProto()
    after.CopyFrom(proto)
    size, even = request.block_size, request.symmetric
    configs = [
        nbits.HQQWeightOnlyQuantConfig(size)
        if request.method == "hqq"
        else nbits.DefaultWeightOnlyQuantConfig(size, even, op_types_to_quantize=("MatMul",))
    ]
    if request.embeddings:
        configs.append(nbits.DefaultWeightOnlyQuantConfig(size, even, op_types_to_quantize=("Gather",)))
    try:
        with onnx_graph.quiet():
            for config in configs:
                tool = nbits.MatMulNBitsQuantizer(
                    after, block_size=size, is_symmetric=even, nodes_to_exclude=sorted(barred), algo_config=config
                )
                tool.process()
                after = tool.model.model
    except Exception as error:  # ONNX Runtime's quantizer raises bare Exception
        raise PassError(
            f"ONNX Runtime cannot quantize this graph to 4-bit blocks: {type(error).__name__}: {in_one_line(error)}"
        ) from error
    initializers.drop_unused(after)
    return onnx_graph.finished(after)
