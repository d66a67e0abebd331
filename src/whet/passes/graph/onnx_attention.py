"""Attention in ONNX graphs: found as exporters write it, and made one node of ONNX Runtime's own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from whet.models.onnx import initializers

if TYPE_CHECKING:
    from whet.types import Array

_DOMAIN = "com.microsoft"
_SPLIT = [0, 2, 1, 3]  # (B, S, heads, size) <-> (B, heads, S, size)
_LEAST = np.float32(np.finfo(np.float32).min)


class NoMatch(Exception):
    """A Softmax that is not the middle of an attention that can be fused; the message says why."""


@dataclass(frozen=True)
class Attention:
    """One attention: softmax(scale Q K^T + mask) V, by heads.

    Attributes:
        query: Name of the tensor (B, S, heads * size), before it is split into heads.
        key: The same of the keys, (B, T, heads * size).
        value: The same of the values.
        mask: Name of the tensor that is added to the scores, broadcast to (B, heads, S, T); empty for none.
        scale: What the scores are multiplied by.
        heads: How many.
        joined: Name of the tensor (B, S, heads, size) that comes of it.
    """

    query: str
    key: str
    value: str
    mask: str
    scale: float
    heads: int
    joined: str


class Graph:
    """A graph to be searched: who makes a tensor, who reads it, what is constant, what shapes are known."""

    def __init__(self, proto: ModelProto) -> None:
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
        self.nodes = list(proto.graph.node)
        self.outputs = {value.name for value in proto.graph.output}
        self.makers = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in set(initializers.reads(node)):
                self.readers[name].append(node)
        self._tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._shapes = {v.name: _shape(v) for v in [*inferred.value_info, *inferred.input, *inferred.output]}

    def maker(self, name: str, kind: str) -> NodeProto:
        """Return the node that makes a tensor, if it is of a kind."""
        node = self.makers.get(name)
        if node is None or node.op_type != kind:
            raise NoMatch(f"{name} comes of {node.op_type if node is not None else 'no node'}, not of a {kind}")
        return node

    def constant(self, name: str) -> Array | None:
        """Return the value of a tensor that is constant, else None."""
        if name in self._tensors:
            return np.asarray(numpy_helper.to_array(self._tensors[name]))
        node = self.makers.get(name)
        value = _attribute(node, "value") if node is not None and node.op_type == "Constant" else None
        return None if value is None else np.asarray(numpy_helper.to_array(value))

    def sizes(self, name: str) -> tuple[int, ...]:
        """Return the numbers in a shape tensor, -1 where one is not constant."""
        known = self.constant(name)
        if known is not None:
            return tuple(int(size) for size in known)
        found: list[int] = []
        for part in self.maker(name, "Concat").input:
            array = self.constant(part)
            found.extend([-1] if array is None else [int(size) for size in array])
        return tuple(found)

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Return the shape of a tensor as far as it is known without running."""
        return tuple(self._tensors[name].dims) if name in self._tensors else self._shapes.get(name)


def find(proto: ModelProto) -> tuple[list[Attention], dict[str, str]]:
    """Return the attentions of a graph, and by name of its Softmax why another was not taken for one."""
    graph = Graph(proto)
    found, missed = [], {}
    for index, node in enumerate(graph.nodes):
        if node.op_type == "Softmax":
            try:
                found.append(_match(graph, node))
            except NoMatch as reason:
                missed[node.name or f"Softmax_{index}"] = str(reason)
    return found, missed


def replace(proto: ModelProto, found: list[Attention]) -> None:
    """Put a MultiHeadAttention in the place of each attention, in place.

    Its mask must have an axis for every query, and may not hold infinities.
    """
    if _DOMAIN not in {item.domain for item in proto.opset_import}:
        proto.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    taken = {name for node in proto.graph.node for name in [node.name, *node.output]}
    fresh = _names("attention", taken)
    masks: dict[str, str] = {}
    for each in found:
        if each.mask and each.mask not in masks:
            masks[each.mask] = _spread(proto, each, fresh)
        inputs = [each.query, each.key, each.value, *(["", "", masks[each.mask]] if each.mask else [])]
        node = helper.make_node(
            "MultiHeadAttention", inputs, [fresh()], fresh(), domain=_DOMAIN, num_heads=each.heads, scale=each.scale
        )
        proto.graph.node.append(node)
        _reread(proto, each.joined, node.output[0])
    _drop_dead(proto)
    initializers.drop_unused(proto)
    initializers.sort_nodes(proto.graph)


def _match(graph: Graph, softmax: NodeProto) -> Attention:
    """Read an attention around its Softmax."""
    if _attribute(softmax, "axis") not in (-1, 3, None):
        raise NoMatch("its Softmax is not over the last axis")
    product, mask, scale = _scores(graph, softmax.input[0])
    query_split, query_scale = _unscaled(graph, product.input[0])
    key_turned, key_scale = _unscaled(graph, product.input[1])
    context = _context(graph, softmax)
    query, heads = _whole(graph, query_split)
    key, key_heads = _keys(graph, key_turned)
    value, value_heads = _whole(graph, context.input[1])
    if {key_heads, value_heads} != {heads}:
        raise NoMatch(f"its query has {heads} heads, its key {key_heads}, its value {value_heads}")
    joined = _transposed_to(graph, context.output[0])
    return Attention(query, key, value, mask, scale * query_scale * key_scale, heads, joined)


def _scores(graph: Graph, name: str) -> tuple[NodeProto, str, float]:
    """Return the product of queries and keys below a Softmax, the mask that was added, and the scale."""
    node = graph.makers.get(name)
    if node is None or node.op_type != "Add":
        inner, scale = _unscaled(graph, name)
        return graph.maker(inner, "MatMul"), "", scale
    for scores, mask in _either(node):
        inner, scale = _unscaled(graph, scores)
        maker = graph.makers.get(inner)
        if maker is not None and maker.op_type == "MatMul":
            return maker, mask, scale
    raise NoMatch(f"nothing that is added to make {name} is a product")


def _unscaled(graph: Graph, name: str) -> tuple[str, float]:
    """Return what a tensor was before it was multiplied or divided by a number, and the factor."""
    node = graph.makers.get(name)
    if node is None or node.op_type not in ("Mul", "Div"):
        return name, 1.0
    for other, by in _either(node)[: 1 if node.op_type == "Div" else 2]:
        number = graph.constant(by)
        if number is not None and number.size == 1:
            factor = float(number.reshape(()))
            return other, factor if node.op_type == "Mul" else 1 / factor
    return name, 1.0


def _either(node: NodeProto) -> list[tuple[str, str]]:
    """Return the two inputs of a node, in both orders."""
    first, second = node.input
    return [(first, second), (second, first)]


def _context(graph: Graph, softmax: NodeProto) -> NodeProto:
    """Return the product of the weights with the values, past torch's guard for queries that see no key."""
    name = softmax.output[0]
    kinds = sorted(node.op_type for node in graph.readers[name])
    if kinds == ["IsNaN", "Where"] and name not in graph.outputs:
        guard = next(node for node in graph.readers[name] if node.op_type == "Where")
        if guard.input[2] != name or np.any(graph.constant(guard.input[1]) != 0):
            raise NoMatch("its weights are changed before they meet the values")
        name = guard.output[0]
        kinds = sorted(node.op_type for node in graph.readers[name])
    (context,) = graph.readers[name] if kinds == ["MatMul"] and name not in graph.outputs else (None,)
    if context is None or context.input[0] != name:
        raise NoMatch("its weights are read by more than the product with the values")
    return context


def _whole(graph: Graph, name: str) -> tuple[str, int]:
    """Return the tensor (B, S, heads * size) that was split into (B, heads, S, size), and the heads."""
    return _joined(graph, _transposed(graph, name, _SPLIT))


def _keys(graph: Graph, name: str) -> tuple[str, int]:
    """Return the same of keys, which are (B, heads, size, T) by now."""
    node = graph.makers.get(name)
    if node is not None and node.op_type == "Reshape":  # torch turns them flat: (B * heads, T, size)
        flat = graph.maker(_transposed(graph, node.input[0], [0, 2, 1]), "Reshape")
        return _whole(graph, flat.input[0])
    turn = graph.maker(name, "Transpose")
    if list(_attribute(turn, "perm") or []) == [0, 2, 3, 1]:
        return _joined(graph, turn.input[0])
    return _whole(graph, _transposed(graph, name, [0, 1, 3, 2]))


def _joined(graph: Graph, name: str) -> tuple[str, int]:
    """Return the tensor that was reshaped to (B, S, heads, size), and the heads."""
    reshape = graph.maker(name, "Reshape")
    shape, parts = graph.shape(reshape.input[0]), graph.sizes(reshape.input[1])
    if shape is None or len(shape) != 3 or not shape[2] or len(parts) != 4:
        raise NoMatch(f"{reshape.input[0]} is not known to be (samples, positions, width)")
    heads, size = parts[2], parts[3]
    if heads <= 0 < size:
        heads = shape[2] // size
    if heads <= 0 or shape[2] % heads:
        raise NoMatch(f"the heads of {name} are not constant")
    return reshape.input[0], heads


def _transposed(graph: Graph, name: str, order: list[int]) -> str:
    """Return what a tensor was before its axes were put in this order."""
    node = graph.maker(name, "Transpose")
    if list(_attribute(node, "perm") or []) != order:
        raise NoMatch(f"the axes of {name} are in another order than {order}")
    return str(node.input[0])


def _transposed_to(graph: Graph, name: str) -> str:
    """Return the tensor (B, S, heads, size) that the context (B, heads, S, size) becomes and is then reshaped."""
    readers = graph.readers[name]
    if len(readers) != 1 or name in graph.outputs or readers[0].op_type != "Transpose":
        raise NoMatch(f"{name} is not brought back from heads by one Transpose")
    joined = str(readers[0].output[0])
    _transposed(graph, joined, _SPLIT)
    if joined in graph.outputs or {node.op_type for node in graph.readers[joined]} != {"Reshape"}:
        raise NoMatch(f"{joined} is read with its heads apart")
    return joined


def _spread(proto: ModelProto, each: Attention, fresh: Callable[[], str]) -> str:
    """Add nodes that give a mask an axis for every query, (1 or B, 1 or heads, S, T), and make it finite."""
    one, ones, least = (fresh() for _ in range(3))
    for name, array in ((one, np.array([1])), (ones, np.array([1, 1])), (least, _LEAST)):
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    steps: tuple[tuple[str, list[str], dict[str, int]], ...] = (
        ("Shape", [each.query], {}),
        ("Gather", ["", one], {}),
        ("Concat", [ones, "", one], {"axis": 0}),
        ("Expand", [each.mask, ""], {}),
        ("Max", ["", least], {}),
    )

    def add(last: str, step: tuple[str, list[str], dict[str, int]]) -> str:
        kind, inputs, attributes = step
        made = fresh()
        names = [name or last for name in inputs]
        proto.graph.node.append(helper.make_node(kind, names, [made], fresh(), **attributes))
        return made

    return reduce(add, steps, "")


def _reread(proto: ModelProto, name: str, by: str) -> None:
    for node in proto.graph.node:
        for at, have in enumerate(node.input):
            if have == name:
                node.input[at] = by


def _drop_dead(proto: ModelProto) -> None:
    """Drop nodes whose outputs nothing reads, and those that only they read, in place."""
    outputs = {value.name for value in proto.graph.output}
    alive = list(proto.graph.node)
    while True:
        read = outputs | {name for node in alive for name in initializers.reads(node)}
        kept = [node for node in alive if read & set(node.output)]
        if len(kept) == len(alive):
            break
        alive = kept
    copies = [NodeProto.FromString(node.SerializeToString()) for node in alive]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)


def _attribute(node: NodeProto, name: str) -> Any:
    return next((helper.get_attribute_value(item) for item in node.attribute if item.name == name), None)


def _shape(value: ValueInfoProto) -> tuple[int | None, ...] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)


def _names(stem: str, taken: set[str]) -> Callable[[], str]:
    """Return what gives a name that is not taken, another at each call."""
    numbers = count()
    return lambda: next(name for name in (f"{stem}_{number}" for number in numbers) if name not in taken)
