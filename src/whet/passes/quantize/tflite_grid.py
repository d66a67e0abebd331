"""Weights that training left on a grid: their own integers and scales, in a file that LiteRT's quantizer wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.models.tflite import constants, counting, writing
from whet.models.tflite.flatbuffer import Content, Graph, Operator, Tensor, parse
from whet.passes.quantize import math

if TYPE_CHECKING:
    from whet.types import Array

_MOST = {"INT4": 7, "INT8": 127}  # the greatest magnitude of an integer
_BIASES = {"INT32": "int32", "INT64": "int64"}
_BIAS = 2  # its position among what an operator reads


def keep(before: Content, after: bytes) -> tuple[bytes, dict[str, int]]:
    """Write the integers and scales of weights that lie on a grid, in place of those of the greatest weight.

    The quantizer takes for a channel's scale its greatest magnitude over 7 or 127: a channel whose greatest level
    is another is rounded off the grid that it was trained on. The scale is found from the array itself, so that a
    BatchNorm may have been folded in since. Biases, which count in units of the weight's scale, are rounded anew
    from the floats.

    Args:
        before: The float file.
        after: The same, quantized.

    Returns:
        The file, and the greatest magnitude of integers of each weight that was on a grid, by name.
    """
    source, made = parse(before)[0], parse(after)[0]
    raw = writing.unpacked(after)
    floats = {_yielded(source, one): one for one in source.operators}
    through, given = counting.handed_on(made), counting.handed_on(source)
    kept: dict[str, int] = {}
    for operator in made.operators:
        known = floats.get(_yielded(made, operator))
        if known is None or known.kind != operator.kind:
            continue
        for at in counting.KERNELS.get(operator.kind, ()):
            weight, whole = _constant(made, operator, at, through), _constant(source, known, at, given)
            if weight is None or whole is None or weight.type not in _MOST or whole.type != "FLOAT32":
                continue
            top = _write(raw, weight, constants.stored(whole))
            if top is not None:
                kept[whole.name] = top
                _write_bias(raw, (made, operator, weight.place), _constant(source, known, _BIAS, given))
    return (writing.packed(raw) if kept else after), kept


def _yielded(graph: Graph, operator: Operator) -> str:
    return graph.tensors[operator.outputs[0]].name if operator.outputs else ""


def _constant(graph: Graph, operator: Operator, at: int, through: Mapping[int, int]) -> Tensor | None:
    """Return the constant that an operator reads at a position, if it is one."""
    if at >= len(operator.inputs) or operator.inputs[at] < 0:
        return None
    tensor = graph.tensors[through.get(operator.inputs[at], operator.inputs[at])]
    return tensor if tensor.data is not None and tensor.sparsity is None else None


def _write(raw: Any, weight: Tensor, whole: Array) -> int | None:
    """Write a weight's own integers and scales; return the greatest integer, None where it is on no grid."""
    how = weight.quantization
    if how is None or how.block or weight.shape != whole.shape or np.any(how.zeros):
        return None
    found = math.on_grid(whole, how.axis if len(how.scales) > 1 else None, _MOST[weight.type])
    if found is None:
        return None
    integers, scales = found
    tensor = raw.subgraphs[0].tensors[weight.place]
    writing.hold(raw, tensor, constants.packed(integers, weight.type))
    tensor.quantization.scale = scales.astype(np.float32)
    return int(np.abs(integers).max(initial=0))


def _write_bias(raw: Any, read: tuple[Graph, Operator, int], whole: Tensor | None) -> None:
    """Write the bias of an operator in units of its input's scale times its weight's, from the floats it was."""
    graph, operator, weight = read
    place = operator.inputs[_BIAS] if len(operator.inputs) > _BIAS else -1
    if place < 0 or whole is None or graph.tensors[place].type not in _BIASES:
        return
    tensors = raw.subgraphs[0].tensors
    data = graph.tensors[operator.inputs[0]].quantization
    assert data is not None
    scales = (np.float64(data.scales[0]) * tensors[weight].quantization.scale).astype(np.float32)
    holds = np.iinfo(_BIASES[graph.tensors[place].type])
    integers = np.rint(constants.stored(whole).astype(np.float64) / scales)
    integers = np.clip(integers, holds.min, holds.max).astype(holds.dtype)
    writing.hold(raw, tensors[place], integers.view(np.uint8))
    tensors[place].quantization.scale = scales
