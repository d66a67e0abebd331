"""What the quantizers of ONNX share: files in and out of ONNX Runtime's tools, and what they left alone."""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper, shape_inference, version_converter

from whet.errors import PassError, in_one_line
from whet.machine import Machine
from whet.models.onnx import counting, initializers
from whet.models.onnx.adapter import LEFT_TO_THE_RUNTIME
from whet.models.onnx.initializers import reads
from whet.types import Skipped

if TYPE_CHECKING:
    from whet.types import Array

# Layers whose weights one would expect to be quantized.
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN", "Gather")
_EXACT = "exact-u8s8"
SEVEN = 64
"""The greatest magnitude of seven bits."""
_PARTS = ("quantized", "scale", "zero_point")


def seven_bits(asked: str, machine: Machine) -> bool:
    """Resolve ``reduce_range``: 7 bits where sums of full-range products would saturate."""
    return asked == "on" or (asked == "auto" and not machine.can(_EXACT))


def most(asked: str, machine: Machine) -> int:
    """Return the greatest magnitude of a weight's integers that this processor multiplies without saturating."""
    return 63 if seven_bits(asked, machine) else 127


def needs(reduced: bool) -> frozenset[str]:
    """Return what a processor must be capable of for the results to be right."""
    return frozenset() if reduced else frozenset({_EXACT})


def named(proto: ModelProto) -> ModelProto:
    """Return a copy whose nodes all have names, each its own, and whose inner shapes are inferred.

    Weights that are among the inputs too, as in old files, are no longer: a tool must take them for constants.
    Nor have weights a second description, which a tool that transposes them would leave behind.
    """
    copy = ModelProto()
    copy.CopyFrom(proto)
    initializers.close_inputs(copy)
    constants = {tensor.name for tensor in copy.graph.initializer}
    shapes = [value for value in proto.graph.value_info if value.name not in constants]
    del copy.graph.value_info[:]
    copy.graph.value_info.extend(shapes)
    taken: set[str] = set()
    for index, node in enumerate(copy.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
        taken.add(node.name)
    return shape_inference.infer_shapes(copy, data_prop=True)


def upgraded(
    proto: ModelProto,
    least: int,
    what: str = "a scale for each channel",
    cure: str = "set per_channel = false, or export it anew",
) -> ModelProto:
    """Return a graph in an opset that has ``what`` is to be written into it.

    Raises:
        PassError: It cannot be converted.
    """
    opset = next((item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")), least)
    if opset >= least:
        return proto
    try:
        return version_converter.convert_version(proto, least)
    except Exception as error:  # the converter raises RuntimeError and kinds of its own
        raise PassError(
            f"{what} needs opset {least}; this file is of opset {opset} and cannot be converted "
            f"({in_one_line(error)}); {cure}"
        ) from error


def finished(proto: ModelProto) -> ModelProto:
    """Return what a tool made of a graph, its nodes in order, checked.

    Raises:
        PassError: The tool broke it.
    """
    initializers.sort_nodes(proto.graph)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        if not any(known in str(error) for known in LEFT_TO_THE_RUNTIME):
            raise PassError(f"ONNX Runtime's tool broke this graph: {in_one_line(error)}") from error
    return proto


def unshare(proto: ModelProto) -> None:
    """Give layers that share a weight one of their own each, in place, where quantizers would spoil it.

    ONNX Runtime transposes a Gemm's weight for whoever reads it, and quantizes an embedding's table along another
    axis than a product's matrix. Layers of one other type may share: a convolution that is applied twice.
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    readers: dict[str, list[tuple[int, NodeProto]]] = defaultdict(list)
    for index, node in enumerate(proto.graph.node):
        for name in set(reads(node)) & constants.keys():
            readers[name].append((index, node))
    for name, nodes in readers.items():
        kinds = {node.op_type for _, node in nodes}
        if len(nodes) < 2 or (len(kinds) == 1 and kinds != {"Gemm"}):
            continue
        for index, node in nodes:
            if name in matrices(node, constants):
                own = proto.graph.initializer.add()
                own.CopyFrom(constants[name])
                own.name = f"{name.removesuffix('.weight')}_{index}.weight"
                _replace(node, name, own.name)
    initializers.drop_unused(proto)


def turn_gemms(proto: ModelProto) -> None:
    """Transpose the weight of each Gemm with ``transB``, in place and under its name, where nothing else reads it.

    ONNX Runtime's quantizer needs to transpose none of them then: from 1.32 on it gives those another name, after
    which integers, scale and zero point would be named.
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    readers = Counter(name for node in proto.graph.node for name in reads(node))
    readers.update(output.name for output in proto.graph.output)
    for node in proto.graph.node:
        turned = [item for item in node.attribute if item.name == "transB" and item.i]
        if node.op_type == "Gemm" and turned and node.input[1] in constants and readers[node.input[1]] == 1:
            weight = constants[node.input[1]]
            weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).T.copy(), weight.name))
            turned[0].i = 0


def _replace(node: NodeProto, name: str, by: str) -> None:
    for at, have in enumerate(node.input):
        if have == name:
            node.input[at] = by


def layers_of(proto: ModelProto) -> dict[str, tuple[str, str]]:
    """Map the name of each node that has weights to its layer's name and type."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    found = {}
    for index, node in enumerate(proto.graph.node):
        if weights := matrices(node, constants):
            found[node.name] = (counting.layer_name(node, index, weights), node.op_type)
    return found


def left_in_float(before: ModelProto, after: ModelProto) -> set[str]:
    """Return the names of the nodes of ``before`` whose weight matrix is still float in ``after``."""
    floats = {tensor.name for tensor in after.graph.initializer if _floating(tensor) and len(tensor.dims) > 1}
    constants = {tensor.name: tensor for tensor in before.graph.initializer}
    return {node.name for node in before.graph.node if floats & set(matrices(node, constants))}


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


def unfolded(proto: ModelProto) -> tuple[Skipped, ...]:
    """Return the layers whose weights are made by other nodes, which no quantizer looks through."""
    constants = {tensor.name for tensor in proto.graph.initializer}
    made: set[str] = set()
    found = []
    for index, node in enumerate(proto.graph.node):
        if made & {node.input[at] for at in counting.KERNELS.get(node.op_type, ()) if at < len(node.input)}:
            reason = "its weights are made by other nodes; fold them with an optimize-graph step before this one"
            found.append(Skipped(counting.layer_name(node, index, ()), reason))
        if all(name in constants or name in made for name in reads(node) if name):
            made |= set(node.output)
    return tuple(found)


def weight_sqnr(before: ModelProto, after: ModelProto) -> dict[str, float]:
    """Return by layer type how loud the weights are over their quantization error, in dB.

    ONNX Runtime's quantizers name a weight's integers, scale and zero point after it.
    """
    constants = {tensor.name: tensor for tensor in before.graph.initializer}
    quantized = {tensor.name: tensor for tensor in after.graph.initializer}
    energy: dict[str, float] = defaultdict(float)
    noise: dict[str, float] = defaultdict(float)
    for node in before.graph.node:
        for name in matrices(node, constants):
            found = parts(quantized, name)
            if found is None:
                continue
            weight = numpy_helper.to_array(constants[name]).astype(np.float64)
            errors = _errors(weight, *(numpy_helper.to_array(part) for part in found))
            if errors:
                energy[node.op_type] += float((weight**2).sum())
                noise[node.op_type] += min(errors.values())
    return {kind: decibel(energy[kind], noise[kind]) for kind in energy}


def decibel(energy: float, noise: float) -> float:
    """Return the ratio of two energies in dB, at most 200."""
    return 200.0 if noise <= energy * 1e-20 else 10 * math.log10(energy / noise)


def parts(quantized: Mapping[str, TensorProto], name: str) -> tuple[TensorProto, ...] | None:
    """Return the integers, scale and zero point of a weight, as the quantizers name them; None if it has none."""
    found = tuple(quantized[end] for part in _PARTS if (end := f"{name}_{part}") in quantized)
    return found if len(found) == len(_PARTS) else None


def layout(weight: Array, values: Array, scale: Array, zero: Array) -> tuple[bool, int]:
    """Return whether ``values`` hold a weight transposed, and the axis of ``values`` along which scales run."""
    errors = _errors(weight.astype(np.float64), values, scale, zero)
    turned, axis = min(errors, key=lambda key: errors[key])
    swapped = {weight.ndim - 1: weight.ndim - 2, weight.ndim - 2: weight.ndim - 1}
    return turned, swapped.get(axis, axis) if turned else axis


def _errors(weight: Array, values: Array, scale: Array, zero: Array) -> dict[tuple[bool, int], float]:
    """Return the squared error of a dequantized weight, by how its integers lie: turned or not, the scale's axis.

    DynamicQuantizeLSTM, and the MatMul that is made of a Gemm, hold their weights transposed.
    """
    errors = {}
    for turned in (False, True):
        whole = (values.swapaxes(-1, -2) if turned else values).astype(np.float64)
        if whole.shape != weight.shape:
            continue
        for axis, length in enumerate(weight.shape):
            if scale.size in (1, length):
                shape = [-1 if at == axis else 1 for at in range(weight.ndim)]
                restored = (whole - zero.astype(np.float64).reshape(shape)) * scale.reshape(shape)
                errors[turned, axis] = float(((weight - restored) ** 2).sum())
    return errors


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


def matrices(node: NodeProto, constants: Mapping[str, TensorProto]) -> tuple[str, ...]:
    """Return the float matrices a node multiplies by or, of an embedding, looks up in."""
    if node.op_type not in _WEIGHTED:
        return ()
    names = node.input[:1] if node.op_type == "Gather" else counting.kernels(node, constants)
    return tuple(
        name for name in names if name in constants and len(constants[name].dims) > 1 and _floating(constants[name])
    )


def _floating(tensor: TensorProto) -> bool:
    return tensor.data_type in (TensorProto.FLOAT, TensorProto.FLOAT16)
