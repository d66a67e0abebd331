"""Biases that make up for what rounding does to the mean of a channel."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from whet.models.onnx.initializers import reads
from whet.passes.base import PassContext
from whet.passes.quantize import onnx_calibrate, onnx_graph
from whet.progress import Event

if TYPE_CHECKING:
    from whet.types import Array, Batch

SAMPLES = 64
"""As many as are run, at most: of a MobileNet's error 64 samples take off what 200 do."""
_CHANNELS = {"Conv": 1, "Gemm": 1, "MatMul": -1}  # their axis in what a layer gives


@dataclass(frozen=True)
class _Site:
    """Where a bias is added.

    Attributes:
        layer: The node that multiplies.
        node: The node that adds it: the same, or the Add after a MatMul.
        bias: The constant, of as many numbers as there are channels.
        axis: Of the channels in what the node gives.
        level: How many layers lie before it, on the longest way.
    """

    layer: str
    node: str
    bias: str
    axis: int
    level: int


class Biases:
    """The biases of a float graph, corrected in what a quantizer makes of it.

    A layer's inputs and weights are rounded, and the errors need not cancel: the mean of a channel over samples and
    positions shifts. The shift is taken off the bias, level by level of the graph, so that deeper layers see what
    corrected ones give. Layers of one level do not see each other, and take one run. A layer that is left in float
    sees shifted inputs, and is corrected too.

    Attributes:
        skipped: Why a layer's bias is left alone, by node.
    """

    def __init__(self, proto: ModelProto, batches: Iterable[Batch], context: PassContext) -> None:
        """Give each layer a bias of its own, in place, and look at what the float graph gives."""
        self.batches, self.context = list(batches), context
        self.sites, self.skipped = _prepared(proto)
        self.wanted = self._means(proto, self.sites)

    def correct(self, after: ModelProto, only: str | None = None) -> None:
        """Correct the biases of what a quantizer made of the graph, in place; ``only`` that of one node."""
        constants = {tensor.name: tensor for tensor in after.graph.initializer}
        levels: dict[int, list[_Site]] = defaultdict(list)
        for site in (site for site in self.sites if only in (None, site.layer)):
            levels[site.level].append(site)
        for done, level in enumerate(sorted(levels)):
            self.context.on_event(Event("correct biases", done, len(levels)))
            have = self._means(after, levels[level])
            for site in levels[level]:
                _add(constants, site.bias, self.wanted[site.node] - have[site.node])

    def told(self, layers: Mapping[str, tuple[str, str]]) -> dict[str, object]:
        """Return what was corrected, and what was not, for the report.

        Args:
            layers: Name and type by node.
        """
        left = {layers[node][0]: reason for node, reason in self.skipped.items()}
        return {"biases_corrected": len(self.sites), **({"biases_left": left} if left else {})}

    def _means(self, proto: ModelProto, sites: Sequence[_Site]) -> dict[str, Array]:
        """Return the mean of each channel that a node gives, (channels,), by node."""
        gives = {node.name: node.output[0] for node in proto.graph.node}
        names = [gives[site.node] for site in sites]
        sums: dict[str, Array] = {}
        counts: Counter[str] = Counter()
        for arrays in onnx_calibrate.inner(proto, names, self.batches, self.context.folder):
            for site, array in zip(sites, arrays, strict=True):
                rows = np.moveaxis(array, site.axis, -1).reshape(-1, array.shape[site.axis])
                sums[site.node] = sums.get(site.node, 0.0) + rows.sum(axis=0, dtype=np.float64)
                counts[site.node] += len(rows)
        return {node: total / counts[node] for node, total in sums.items()}


def _add(constants: Mapping[str, TensorProto], bias: str, shift: Array) -> None:
    """Add to a bias, in place: to its floats, or to its integers in units of their scale."""
    scale = constants.get(f"{bias}_quantized_scale", constants.get(f"{bias}_scale"))
    tensor = constants[bias if scale is None else f"{bias}_quantized"]
    old = numpy_helper.to_array(tensor)
    new = old + shift.reshape(old.shape)
    if scale is not None:
        units = np.rint(shift / numpy_helper.to_array(scale).astype(np.float64))
        limits = np.iinfo(old.dtype)
        new = np.clip(old + units.reshape(old.shape), limits.min, limits.max)
    tensor.CopyFrom(numpy_helper.from_array(new.astype(old.dtype), tensor.name))


def _prepared(proto: ModelProto) -> tuple[list[_Site], dict[str, str]]:
    """Find the layers of a graph, in order, and give each a bias of its own, in place."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in proto.graph.node:
        for name in reads(node):
            readers[name].append(node)
    levels = _levels(proto, constants)
    sites, skipped = [], {}
    for node in proto.graph.node:
        if not onnx_graph.matrices(node, constants):
            continue
        found = _adder(node, constants, readers)
        if isinstance(found, str):
            skipped[node.name] = found
            continue
        adder, at, channels = found
        bias = _own(proto, adder, at, np.zeros(channels, np.float32), readers)
        sites.append(_Site(node.name, adder.name, bias, _CHANNELS[node.op_type], levels[node.name]))
    return sites, skipped


def _levels(proto: ModelProto, constants: Mapping[str, TensorProto]) -> dict[str, int]:
    """Return how many layers lie before each node, on the longest way."""
    depths: dict[str, int] = {}
    levels = {}
    for node in proto.graph.node:
        levels[node.name] = max((depths.get(name, 0) for name in reads(node)), default=0)
        after = levels[node.name] + bool(onnx_graph.matrices(node, constants))
        depths.update(dict.fromkeys(node.output, after))
    return levels


def _adder(
    node: NodeProto, constants: Mapping[str, TensorProto], readers: Mapping[str, Sequence[NodeProto]]
) -> tuple[NodeProto, int, int] | str:
    """Return the node that adds a layer's bias, at which input, of how many channels; or why there is none."""
    if node.op_type not in _CHANNELS or node.input[1] not in constants:
        return f"a {node.op_type} adds no bias to a product by a constant matrix"
    settings = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    shape = constants[node.input[1]].dims
    adder, at, channels = node, 2, int(shape[0])
    if node.op_type == "MatMul":
        following = readers[node.output[0]]
        if [each.op_type for each in following] != ["Add"]:
            return "a MatMul has no bias, and no Add alone follows"
        adder, channels = following[0], int(shape[-1])
        at = 1 if adder.input[0] == node.output[0] else 0
    elif node.op_type == "Gemm" and not settings.get("transB", 0):
        channels = int(shape[1])
    name = adder.input[at] if at < len(adder.input) else ""
    held = list(constants[name].dims) if name in constants else []
    if name and (math.prod(held) != channels or held[-1:] != [channels]):
        return "its bias is no constant of one number a channel"
    if settings.get("beta", 1.0) != 1:
        return "its bias is multiplied by a beta"
    return adder, at, channels


def _own(
    proto: ModelProto, node: NodeProto, at: int, zeros: Array, readers: Mapping[str, Sequence[NodeProto]]
) -> str:
    """Give a node a bias that no other reads, in place, and return its name."""
    have = node.input[at] if at < len(node.input) else ""
    if have and len(readers[have]) == 1:
        return have
    own = numpy_helper.from_array(zeros)
    if have:
        own.CopyFrom(next(tensor for tensor in proto.graph.initializer if tensor.name == have))
    name = f"{node.name}.bias_of_its_own"
    own.name = name
    proto.graph.initializer.append(own)
    if at < len(node.input):
        node.input[at] = name
    else:
        node.input.append(name)
    return name
