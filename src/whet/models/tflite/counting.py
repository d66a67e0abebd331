"""What a TFLite file is made of: operators with weights, parameters, multiply-accumulate operations."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from whet.models.tflite import constants
from whet.models.tflite.flatbuffer import Content, Graph, Operator, Tensor, parse
from whet.types import Layer, Trait, TraitKind

if TYPE_CHECKING:
    from whet.types import Array

Shapes = Mapping[int, tuple[int, ...]]

_LSTM = (*range(1, 9), 16)  # matrices of input and state for four gates, and the projection
# Operators that multiply by matrices and windows, and the positions of these.
KERNELS = {
    "CONV_2D": (1,), "DEPTHWISE_CONV_2D": (1,), "FULLY_CONNECTED": (1,), "TRANSPOSE_CONV": (1,), "CONV_3D": (1,),
    "BATCH_MATMUL": (0, 1), "UNIDIRECTIONAL_SEQUENCE_LSTM": _LSTM, "LSTM": _LSTM,
    "UNIDIRECTIONAL_SEQUENCE_RNN": (1, 2), "RNN": (1, 2), "SVDF": (1, 2),
}  # fmt: skip
# What hands a constant on: to float, or filled up.
_THROUGH = {"DEQUANTIZE", "DENSIFY"}
_HOLDERS = {"IF", "WHILE", "CALL", "CALL_ONCE"}
_NAMELESS = re.compile(r"^(arith\.constant|tfl\.|std\.constant|tensor_\d|tfl_|const)")


def layers(content: Content, shapes: Shapes | None) -> list[Layer]:
    """Return every operator that owns weights or multiplies.

    Args:
        content: The file.
        shapes: Of the tensors of the first graph in a call; None leaves MACs unknown.
    """
    found: list[Layer] = []
    for at, graph in enumerate(parse(content)):
        through = handed_on(graph)
        taken: set[int] = set()
        known = shapes if at == 0 else None  # how often a loop runs is known as it runs
        for name, operator in zip(names(graph), graph.operators, strict=True):
            if operator.kind in _THROUGH:
                continue
            owned = [tensor for tensor in _constants(graph, operator, through) if _learned(tensor)]
            learned = [tensor for tensor in owned if tensor.place not in taken]
            count = macs(operator, graph, known)
            if not owned and count == 0:
                continue
            taken.update(tensor.place for tensor in owned)
            matrices = kernels(graph, operator, through)
            weights = tuple(tensor.name for tensor in matrices if replaceable(tensor))
            sizes = sum(math.prod(tensor.shape) for tensor in learned)
            found.append(Layer(name, operator.kind, weights, sizes, sum(map(size, learned)), count))
    return found


def names(graph: Graph) -> list[str]:
    """Name operators, which have no names: by what they multiply by, else by what they yield.

    A converter joins the names of what it fused by semicolons; the first stands for all.
    """
    return list(naming(graph))


def naming(graph: Graph) -> dict[str, int | None]:
    """Return the name of every operator, and the place of the tensor that gave it, or could; None if none can."""
    through = handed_on(graph)
    found: dict[str, int | None] = {}
    for operator in graph.operators:
        given = [tensor.place for tensor in kernels(graph, operator, through)[:1]] + list(operator.outputs[:1])
        told = [(graph.tensors[place].name, place) for place in given]
        nameless = (operator.kind, given[0] if given else None)
        name, place = next((one for one in told if not _NAMELESS.match(one[0])), nameless)
        name = name.partition(";")[0]
        number = next(at for at in range(1, len(found) + 2) if (name if at == 1 else f"{name}_{at}") not in found)
        found[name if number == 1 else f"{name}_{number}"] = place
    return found


def kernels(graph: Graph, operator: Operator, through: Mapping[int, int]) -> list[Tensor]:
    """Return the constants that an operator multiplies by: matrices and windows, not biases and tables."""
    places = (operator.inputs[at] for at in KERNELS.get(operator.kind, ()) if at < len(operator.inputs))
    found = (graph.tensors[through.get(place, place)] for place in places if place >= 0)
    return [tensor for tensor in found if tensor.data is not None and len(tensor.shape) > 1]


def handed_on(graph: Graph) -> dict[int, int]:
    """Map what a DEQUANTIZE or DENSIFY of a constant yields to that constant."""
    found: dict[int, int] = {}
    for operator in graph.operators:
        if operator.kind in _THROUGH:
            source = found.get(operator.inputs[0], operator.inputs[0])
            if graph.tensors[source].data is not None:
                found[operator.outputs[0]] = source
    return found


def matrices(content: Content) -> dict[str, Array]:
    """Return every constant that is multiplied by, as stored; integers less their zero point."""
    found: dict[str, Array] = {}
    for graph in parse(content):
        through = handed_on(graph)
        for operator in graph.operators:
            found |= {tensor.name: constants.centred(tensor) for tensor in kernels(graph, operator, through)}
    return found


def weights(content: Content) -> dict[str, Tensor]:
    """Return every constant that operators read and that was learned: floats, and integers with a scale."""
    found: dict[str, Tensor] = {}
    for graph in parse(content):
        read = {place for operator in graph.operators for place in operator.inputs}
        found |= {one.name: one for one in graph.tensors if one.place in read and _learned(one)}
    return found


def replaceable(tensor: Tensor) -> bool:
    """Tell whether a constant is held in floats, every one of them, so that others can take their place."""
    return tensor.type in ("FLOAT32", "FLOAT16") and tensor.sparsity is None


def traits(content: Content) -> frozenset[Trait]:
    """Return what a file says of itself: integer weights, or weights of 16 bits."""
    widths: set[int] = set()
    half = False
    for graph in parse(content):
        through = handed_on(graph)
        for operator in graph.operators:
            for tensor in kernels(graph, operator, through):
                half = half or tensor.type == "FLOAT16"
                if tensor.quantization is not None and tensor.type not in constants.FLOATS:
                    widths.add(constants.bits(tensor))
    found = [Trait(TraitKind.QUANTIZED, min(widths))] if widths else []
    return frozenset([*found, *([Trait(TraitKind.HALF, 16)] if half else [])])


def size(tensor: Tensor) -> int:
    """Return the bytes that a constant takes in the file."""
    return 0 if tensor.data is None else int(tensor.data.size)


def _constants(graph: Graph, operator: Operator, through: Mapping[int, int]) -> list[Tensor]:
    places = dict.fromkeys(through.get(place, place) for place in operator.inputs if place >= 0)
    return [graph.tensors[place] for place in places if graph.tensors[place].data is not None]


def _learned(tensor: Tensor) -> bool:
    """Tell weights from shapes and axes (integers without a scale), and from the one number of a formula."""
    typed = tensor.type in constants.FLOATS or tensor.quantization is not None
    return tensor.data is not None and typed and bool(tensor.shape)


def macs(operator: Operator, graph: Graph, shapes: Shapes | None) -> int | None:
    """Return the multiply-accumulate operations of an operator; 0 if it has none, None if they cannot be known.

    That is where shapes are unknown, and where a loop or a branch decides as it runs.
    """
    count = _MACS.get(operator.kind)
    if count is None:
        return None if operator.kind in _HOLDERS or operator.custom else 0
    if shapes is None:
        return None
    try:
        return count(operator, shapes)
    except (KeyError, IndexError):
        return None


def _conv(operator: Operator, shapes: Shapes) -> int:
    return math.prod(shapes[operator.outputs[0]]) * math.prod(shapes[operator.inputs[1]][1:])  # (out, *window, in)


def _depthwise(operator: Operator, shapes: Shapes) -> int:
    return math.prod(shapes[operator.outputs[0]]) * math.prod(shapes[operator.inputs[1]][1:3])  # (1, *window, out)


def _transposed(operator: Operator, shapes: Shapes) -> int:
    out, *window, _ = shapes[operator.inputs[1]]  # (out, *window, in); the first input is the output's shape
    return math.prod(shapes[operator.inputs[2]]) * math.prod(window) * out


def _conv_3d(operator: Operator, shapes: Shapes) -> int:
    return math.prod(shapes[operator.outputs[0]]) * math.prod(shapes[operator.inputs[1]][:-1])  # (*window, in, out)


def _connected(operator: Operator, shapes: Shapes) -> int:
    return math.prod(shapes[operator.outputs[0]]) * shapes[operator.inputs[1]][-1]  # (out, in)


def _matmul(operator: Operator, shapes: Shapes) -> int:
    first, out = shapes[operator.inputs[0]], shapes[operator.outputs[0]]
    inner = math.prod(first) // math.prod((*first[:-2], out[-2]))  # whichever of the two is transposed
    return math.prod(out) * inner


def _recurrent(operator: Operator, shapes: Shapes) -> int:
    """Every matrix is multiplied by once for every sample and step: (samples, steps, width), in either order."""
    places = (operator.inputs[at] for at in KERNELS[operator.kind] if at < len(operator.inputs))
    return math.prod(shapes[operator.inputs[0]][:-1]) * sum(math.prod(shapes[at]) for at in places if at >= 0)


_MACS: Mapping[str, Callable[[Operator, Shapes], int]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _connected,
    "TRANSPOSE_CONV": _transposed,
    "CONV_3D": _conv_3d,
    "BATCH_MATMUL": _matmul,
    **dict.fromkeys(
        ("UNIDIRECTIONAL_SEQUENCE_LSTM", "LSTM", "UNIDIRECTIONAL_SEQUENCE_RNN", "RNN", "SVDF"), _recurrent
    ),
}
