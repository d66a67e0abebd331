"""What the quantizers of ONNX share: files in and out of ONNX Runtime's tools, and what they left alone."""

from __future__ import annotations

import logging
import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper, shape_inference

from whet.machine import Machine
from whet.models.onnx import counting
from whet.types import Skipped

if TYPE_CHECKING:
    from whet.types import Array

# Layers whose weights one would expect to be quantized.
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Gather")
_EXACT = "exact-u8s8"


def seven_bits(asked: str, machine: Machine) -> bool:
    """Resolve ``reduce_range``: 7 bits where sums of full-range products would saturate."""
    return asked == "on" or (asked == "auto" and not machine.can(_EXACT))


def needs(reduced: bool) -> frozenset[str]:
    """Return what a processor must be capable of for the results to be right."""
    return frozenset() if reduced else frozenset({_EXACT})


def named(proto: ModelProto) -> ModelProto:
    """Return a copy whose nodes all have names, each its own, and whose inner shapes are inferred."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    taken: set[str] = set()
    for index, node in enumerate(copy.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)
    return shape_inference.infer_shapes(copy, data_prop=True)


def layers_of(proto: ModelProto) -> dict[str, tuple[str, str]]:
    """Map the name of each node that has weights to its layer's name and type."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    found = {}
    for index, node in enumerate(proto.graph.node):
        matrices = _matrices(node, constants)
        if matrices:
            found[node.name] = (counting.layer_name(node, index, matrices), node.op_type)
    return found


def left_in_float(before: ModelProto, after: ModelProto) -> set[str]:
    """Return the names of the nodes of ``before`` whose weight matrix is still float in ``after``."""
    floats = {tensor.name for tensor in after.graph.initializer if _floating(tensor) and len(tensor.dims) > 1}
    constants = {tensor.name: tensor for tensor in before.graph.initializer}
    return {node.name for node in before.graph.node if floats & set(_matrices(node, constants))}


def account(
    layers: Mapping[str, tuple[str, str]], floats: set[str], excluded: Mapping[str, str], why: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[Skipped, ...]]:
    """Tell the layers that were quantized from those that were not, each with its reason.

    Args:
        layers: Name and type by node.
        floats: Nodes that are still float.
        excluded: Reason by node, of those the recipe excluded.
        why: Reason by type, of those a runtime has no kernel for.
    """
    changed, skipped = [], []
    for node, (name, kind) in layers.items():
        if node not in floats:
            changed.append(name)
            continue
        reason = excluded.get(node) or why.get(kind, f"ONNX Runtime's quantizer left this {kind} alone")
        skipped.append(Skipped(name, reason))
    return tuple(changed), tuple(skipped)


def weight_sqnr(before: ModelProto, after: ModelProto) -> dict[str, float]:
    """Return by layer type how loud the weights are over their quantization error, in dB.

    ONNX Runtime's quantizers name a weight's integers, scale and zero point after it.
    """
    constants = {tensor.name: tensor for tensor in before.graph.initializer}
    quantized = {tensor.name: tensor for tensor in after.graph.initializer}
    energy: dict[str, float] = defaultdict(float)
    noise: dict[str, float] = defaultdict(float)
    for node in before.graph.node:
        for name in _matrices(node, constants):
            parts = [quantized.get(f"{name}_{end}") for end in ("quantized", "scale", "zero_point")]
            if any(part is None for part in parts):
                continue
            weight = numpy_helper.to_array(constants[name]).astype(np.float64)
            error = _least_error(weight, *(numpy_helper.to_array(part).astype(np.float64) for part in parts))
            if error is not None:
                energy[node.op_type] += float((weight**2).sum())
                noise[node.op_type] += error
    return {kind: decibel(energy[kind], noise[kind]) for kind in energy}


def decibel(energy: float, noise: float) -> float:
    """Return the ratio of two energies in dB, at most 200."""
    return 200.0 if noise <= energy * 1e-20 else 10 * math.log10(energy / noise)


def _least_error(weight: Array, values: Array, scale: Array, zero: Array) -> float | None:
    """Return the squared error of a dequantized weight; the scale's axis is the one that fits best."""
    if values.shape != weight.shape and values.ndim == 3 and values.swapaxes(1, 2).shape == weight.shape:
        values = values.swapaxes(1, 2)  # DynamicQuantizeLSTM holds its weights transposed
    if values.shape != weight.shape:
        return None
    if scale.size == 1:
        return float(((weight - (values - zero.reshape(-1)[0]) * scale.reshape(-1)[0]) ** 2).sum())
    errors = []
    for axis, length in enumerate(weight.shape):
        if length == scale.size:
            shape = [-1 if at == axis else 1 for at in range(weight.ndim)]
            errors.append(float(((weight - (values - zero.reshape(shape)) * scale.reshape(shape)) ** 2).sum()))
    return min(errors, default=None)


def save(proto: ModelProto, path: Path) -> Path:
    """Write a model for a tool that takes files."""
    onnx.save_model(proto, str(path), save_as_external_data=proto.ByteSize() > 1 << 30)
    return path


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what ONNX Runtime's quantizers print and log off the screen: none of it calls for an action."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def _matrices(node: NodeProto, constants: Mapping[str, TensorProto]) -> tuple[str, ...]:
    """Return the float matrices a node multiplies by or, of an embedding, looks up in."""
    if node.op_type not in _WEIGHTED:
        return ()
    names = node.input[:1] if node.op_type == "Gather" else counting.kernels(node, constants)
    return tuple(
        name for name in names if name in constants and len(constants[name].dims) > 1 and _floating(constants[name])
    )


def _floating(tensor: TensorProto) -> bool:
    return tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
