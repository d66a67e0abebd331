"""Channels of activations brought to like ranges, by what lies before and after them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from whet.data.data import Part
from whet.errors import RecipeError
from whet.models.model import Model
from whet.models.onnx import counting, initializers
from whet.passes.base import Outcome, PassContext, excluded
from whet.passes.quantize import onnx_calibrate, onnx_graph
from whet.passes.quantize.spec import Equalize
from whet.types import Skipped

if TYPE_CHECKING:
    from whet.types import Array

_BATCH = 16
# What a factor a channel goes through: f(s x) = s f(x) for s > 0.
_THROUGH = ("Relu", "LeakyRelu", "GlobalAveragePool", "AveragePool", "MaxPool")
_LEAST = 1e-3  # of the greatest channel: what is smaller is next to dead, and stays so


@dataclass(frozen=True)
class _Pair:
    """Two convolutions, what the first gives being read by the second alone."""

    first: NodeProto
    second: NodeProto
    name: str


def equalize(request: Equalize, model: Model, context: PassContext) -> Outcome:
    """Scale the channels between every two convolutions that nothing else reads between."""
    if context.data is None or not context.data.size(Part.CALIBRATE):
        raise RecipeError("equalize looks at calibration samples, and none were given; give --data")
    proto = onnx_graph.named(model.payload)
    pairs, skipped = _pairs(request, proto)
    if not pairs:
        return Outcome(model, (), skipped)
    greatest = _greatest(request, model, proto, [pair.first.output[0] for pair in pairs], context)
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    spreads = []
    for pair in pairs:
        ranges = greatest[pair.first.output[0]]
        factors = _factors(ranges, numpy_helper.to_array(constants[pair.second.input[1]]), request.share)
        for name in pair.first.input[1:]:
            _scale(constants[name], 1 / factors, depthwise=True)
        _scale(constants[pair.second.input[1]], factors, depthwise=_depthwise(pair.second, constants))
        spreads.append([_spread(ranges), _spread(ranges / factors)])
    before, after = np.median(spreads, axis=0)
    notes = {"pairs": len(pairs), "median_spread_before": float(before), "median_spread_after": float(after)}
    return Outcome(model.with_payload(proto), tuple(pair.name for pair in pairs), skipped, notes)


def _pairs(request: Equalize, proto: ModelProto) -> tuple[list[_Pair], tuple[Skipped, ...]]:
    """Return the convolutions that can be equalized with the next, and why others cannot."""
    graph = _Graph(proto)
    pairs, skipped = [], []
    for index, node in enumerate(proto.graph.node):
        if node.op_type != "Conv" or any(name not in graph.constants for name in node.input[1:]):
            continue
        label = counting.layer_name(node, index, node.input[1:2])
        second = graph.next(node)
        reason = excluded(label, "Conv", request.exclude, ()) or graph.unfit(node, second)
        if reason is None and second is not None:
            pairs.append(_Pair(node, second, label))
        else:
            skipped.append(Skipped(label, reason or ""))
    return pairs, tuple(skipped)


class _Graph:
    """Who reads what in a graph."""

    def __init__(self, proto: ModelProto) -> None:
        self.constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        self.outputs = {value.name for value in proto.graph.output}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in proto.graph.node:
            for name in initializers.reads(node):
                self.readers[name].append(node)

    def next(self, node: NodeProto) -> NodeProto | None:
        """Return what reads a convolution, behind what a factor goes through; None where several do."""
        while True:
            tensor = node.output[0]
            if tensor in self.outputs or len(self.readers[tensor]) != 1:
                return None
            node = self.readers[tensor][0]
            if node.op_type not in _THROUGH:
                return node

    def unfit(self, first: NodeProto, second: NodeProto | None) -> str | None:
        """Return why two nodes cannot be equalized, or None."""
        if second is None:
            return "what it gives is read by more than one, or is an output"
        if second.op_type != "Conv" or second.input[1] not in self.constants:
            return f"a {second.op_type} follows, not a convolution of constant weights"
        if _groups(second) > 1 and not _depthwise(second, self.constants):
            return "a convolution in groups follows"
        if any(len(self.readers[name]) > 1 for name in [*first.input[1:], second.input[1]]):
            return "its weights, or those of the next, are shared"
        return None


def _groups(node: NodeProto) -> int:
    return next((int(helper.get_attribute_value(each)) for each in node.attribute if each.name == "group"), 1)


def _depthwise(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    shape = constants[node.input[1]].dims
    return _groups(node) > 1 and int(shape[0]) == _groups(node) and int(shape[1]) == 1


def _greatest(
    request: Equalize, model: Model, proto: ModelProto, names: list[str], context: PassContext
) -> dict[str, Array]:
    """Return the greatest magnitude of each channel, (channels,), the mean over samples, by tensor."""
    assert context.data is not None
    assert model.signature is not None
    data, signature = context.data, model.signature
    count = min(request.samples, data.size(Part.CALIBRATE))
    seen: dict[str, list[Array]] = {name: [] for name in names}

    def sink(name: str, array: Array) -> None:
        seen[name].extend(np.abs(array).reshape(*array.shape[:2], -1).max(axis=2))

    sinks = {name: (lambda array, name=name: sink(name, array)) for name in names}
    onnx_calibrate.watch(
        proto, lambda: onnx_calibrate.samples(data, signature, count, _BATCH), sinks, context.folder
    )
    return {name: np.asarray(np.mean(rows, axis=0, dtype=np.float64)) for name, rows in seen.items()}


def _factors(ranges: Array, weight: Array, share: float) -> Array:
    """Return what each channel is divided by, (channels,), at most 1.

    Args:
        ranges: Of the channels.
        weight: Of the next convolution, (out, in, ...), or (channels, 1, ...) of a depthwise one, where each
            channel has a scale of its own and can take everything over.
        share: Of the difference that other weights take over.
    """
    factors = np.maximum(ranges / max(float(ranges.max()), 1e-30), _LEAST)
    if weight.shape[1] != 1:
        rows = np.abs(weight).reshape(*weight.shape[:2], -1).max(axis=2)  # (out, in)
        rows = rows / np.maximum(rows.max(axis=1, keepdims=True), 1e-30)
        factors = factors**share / np.maximum(rows.max(axis=0), _LEAST) ** (1 - share)
    return np.asarray(factors / factors.max())


def _scale(tensor: TensorProto, factors: Array, *, depthwise: bool) -> None:
    """Multiply a weight or a bias by a factor a channel, in place: along the first axis, or that of its inputs."""
    array = numpy_helper.to_array(tensor)
    shape = [1] * array.ndim
    shape[0 if depthwise else 1] = len(factors)
    scaled = (array * factors.reshape(shape)).astype(array.dtype)
    tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))


def _spread(ranges: Array) -> float:
    """Return how many times the greatest channel is the median one."""
    return float(ranges.max() / max(float(np.median(ranges)), 1e-30))
