"""Weights of fewer than eight bits, held in INT8: what a quantizer of ONNX Runtime wrote, written again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from whet.passes.quantize import math, onnx_graph

if TYPE_CHECKING:
    from whet.types import Array


def narrow(before: ModelProto, after: ModelProto, bits: int) -> list[str]:
    """Round every quantized weight anew to ``bits`` bits, symmetric, in place; return the weights' names.

    The scale of each channel is the one of least squared error, outliers clipped. Biases in INT32, which count in
    units of the weight's scale, follow.

    Args:
        before: The float graph.
        after: The same, quantized; integers, scale and zero point are named after the weight.
        bits: 2 to 7.
    """
    constants = {tensor.name: tensor for tensor in before.graph.initializer}
    quantized = {tensor.name: tensor for tensor in after.graph.initializer}
    done: list[str] = []
    for node in before.graph.node:
        for name in onnx_graph.matrices(node, constants):
            parts = onnx_graph.parts(quantized, name)
            if parts is None or name in done:
                continue
            ratio = _write(numpy_helper.to_array(constants[name]), parts, bits)
            _rescale_biases(after, quantized, name, ratio)
            done.append(name)
    return done


def _write(weight: Array, parts: tuple[TensorProto, ...], bits: int) -> Array:
    """Write integers, scales and zero points of a weight; return new scales over old, of the old ones' shape."""
    values, scale, zero = (numpy_helper.to_array(part) for part in parts)
    turned, axis = onnx_graph.layout(weight, values, scale, zero)
    whole = weight.swapaxes(-1, -2) if turned else weight
    integers, found = math.narrowed(whole.astype(np.float32), axis if scale.size > 1 else None, bits)
    middle = 128 if zero.dtype == np.uint8 else 0
    replaced = (
        (integers.astype(np.int16) + middle).astype(values.dtype),
        found.reshape(scale.shape).astype(scale.dtype),
        np.full(zero.shape, middle, zero.dtype),
    )
    for part, array in zip(parts, replaced, strict=True):
        part.CopyFrom(numpy_helper.from_array(array, part.name))
    return np.asarray(replaced[1] / scale)


def _rescale_biases(after: ModelProto, quantized: Mapping[str, TensorProto], name: str, ratio: Array) -> None:
    """Bring the INT32 bias of each layer that reads a weight into the units of the weight's new scale."""
    makers = {made: node for node in after.graph.node for made in node.output}
    readers = [node for node in after.graph.node if _weight_of(node, makers) == f"{name}_quantized"]
    done: set[str] = set()
    for node in readers:
        bias = makers.get(node.input[2]) if len(node.input) > 2 else None
        if bias is None or bias.op_type != "DequantizeLinear" or bias.input[0] in done:
            continue
        integers, scale = (quantized[part] for part in bias.input[:2])
        old = numpy_helper.to_array(scale)
        new = (old * ratio.reshape(-1)).astype(old.dtype).reshape(old.shape)
        floats = numpy_helper.to_array(integers).astype(np.float64) * old
        again = np.clip(np.rint(floats / new), -(2**31), 2**31 - 1).astype(np.int32)
        integers.CopyFrom(numpy_helper.from_array(again, integers.name))
        scale.CopyFrom(numpy_helper.from_array(new, scale.name))
        done.add(bias.input[0])


def _weight_of(node: NodeProto, makers: Mapping[str, NodeProto]) -> str:
    """Return the integers that a layer's second input is dequantized from."""
    maker = makers.get(node.input[1]) if len(node.input) > 1 else None
    return maker.input[0] if maker is not None and maker.op_type == "DequantizeLinear" else ""
