"""Weights of fewer than eight bits, held in INT8: what a quantizer of ONNX Runtime wrote, written again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from whet.passes.quantize import math, onnx_graph

if TYPE_CHECKING:
    from whet.types import Array

_ALL = 8  # bits that an integer has


def narrow(
    before: ModelProto, after: ModelProto, bits: int, most: int, spared: Collection[str] = ()
) -> dict[str, int]:
    """Round every quantized weight anew to ``bits`` bits, symmetric, in place.

    A weight that lies on a grid already, as training left it, keeps its integers whatever the bits. Of others the
    scale of each channel is the one of least squared error, outliers clipped; with 8 bits they stay as they are.
    Biases in INT32, which count in units of the weight's scale, follow.

    Args:
        before: The float graph.
        after: The same, quantized; integers, scale and zero point are named after the weight.
        bits: 2 to 8.
        most: The greatest magnitude that this processor may multiply: 127, or 63 where sums would saturate.
        spared: Nodes whose weights keep the bits they have.

    Returns:
        The greatest magnitude of integers of each weight that was on a grid.
    """
    constants = {tensor.name: tensor for tensor in before.graph.initializer}
    quantized = {tensor.name: tensor for tensor in after.graph.initializer}
    done: set[str] = set()
    kept: dict[str, int] = {}
    for node in before.graph.node:
        for name in onnx_graph.matrices(node, constants):
            parts = onnx_graph.parts(quantized, name)
            if parts is None or name in done:
                continue
            done.add(name)
            weight = _Weight(numpy_helper.to_array(constants[name]), parts)
            found = math.on_grid(weight.whole, weight.axis, most)
            if found is not None:
                kept[name] = int(np.abs(found[0]).max(initial=0))
            elif bits < _ALL and node.name not in spared:
                found = math.narrowed(weight.whole, weight.axis, bits)
            if found is not None:
                weight.write(*found)
                _rescale_biases(after, quantized, name)
    return kept


class _Weight:
    """A weight and what a quantizer made of it.

    Attributes:
        whole: The floats, laid out as the integers are.
        axis: Along which scales run; None of one scale.
    """

    def __init__(self, weight: Array, parts: tuple[TensorProto, ...]) -> None:
        self.parts = parts
        self.values, self.scale, self.zero = (numpy_helper.to_array(part) for part in parts)
        turned, axis = onnx_graph.layout(weight, self.values, self.scale, self.zero)
        self.whole = (weight.swapaxes(-1, -2) if turned else weight).astype(np.float32)
        self.axis = axis if self.scale.size > 1 else None

    def write(self, integers: Array, found: Array) -> None:
        """Write integers, scales and zero points."""
        middle = 128 if self.zero.dtype == np.uint8 else 0
        replaced = (
            (integers.astype(np.int16) + middle).astype(self.values.dtype),
            found.reshape(self.scale.shape).astype(self.scale.dtype),
            np.full(self.zero.shape, middle, self.zero.dtype),
        )
        for part, array in zip(self.parts, replaced, strict=True):
            part.CopyFrom(numpy_helper.from_array(array, part.name))


def _rescale_biases(after: ModelProto, quantized: Mapping[str, TensorProto], name: str) -> None:
    """Bring the INT32 bias of each layer that reads a weight into units of the input's scale times the weight's."""
    makers = {made: node for node in after.graph.node for made in node.output}
    readers = [node for node in after.graph.node if _weight_of(node, makers) == f"{name}_quantized"]
    done: set[str] = set()
    for node in readers:
        shown, bias = makers[node.input[0]], makers.get(node.input[2]) if len(node.input) > 2 else None
        if bias is None or bias.op_type != "DequantizeLinear" or bias.input[0] in done:
            continue
        integers, scale = (quantized[part] for part in bias.input[:2])
        old = numpy_helper.to_array(scale)
        units = [numpy_helper.to_array(quantized[part]) for part in (shown.input[1], f"{name}_scale")]
        new = (units[0] * units[1].reshape(-1)).astype(old.dtype).reshape(old.shape)
        floats = numpy_helper.to_array(integers).astype(np.float64) * old
        again = np.clip(np.rint(floats / new), -(2**31), 2**31 - 1).astype(np.int32)
        integers.CopyFrom(numpy_helper.from_array(again, integers.name))
        scale.CopyFrom(numpy_helper.from_array(new, scale.name))
        done.add(bias.input[0])


def _weight_of(node: NodeProto, makers: Mapping[str, NodeProto]) -> str:
    """Return the integers that a layer's second input is dequantized from."""
    maker = makers.get(node.input[1]) if len(node.input) > 1 else None
    return maker.input[0] if maker is not None and maker.op_type == "DequantizeLinear" else ""
