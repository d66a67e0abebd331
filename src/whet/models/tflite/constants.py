"""Constants of TFLite files as arrays: sparse ones filled up, few bits unpacked, integers as the numbers meant."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from whet.errors import ModelError, in_one_line
from whet.models.tflite.flatbuffer import Quantization, Tensor

if TYPE_CHECKING:
    from whet.types import Array

FLOATS = {"FLOAT32": "float32", "FLOAT16": "float16", "FLOAT64": "float64"}
DTYPES = {
    **FLOATS, "INT8": "int8", "UINT8": "uint8", "INT16": "int16", "UINT16": "uint16", "INT32": "int32",
    "UINT32": "uint32", "INT64": "int64", "UINT64": "uint64", "BOOL": "bool",
}  # fmt: skip
_PACKED = {"INT4": (4, True), "UINT4": (4, False), "INT2": (2, True)}  # bits, whether there is a sign


def bits(tensor: Tensor) -> int:
    """Return the bits that an element takes."""
    return _PACKED[tensor.type][0] if tensor.type in _PACKED else 8 * np.dtype(DTYPES[tensor.type]).itemsize


def stored(tensor: Tensor) -> Array:
    """Return a constant in the type it is stored in (of 4 bits: int8), its zeros filled in.

    Raises:
        ModelError: Its type is none that is read, or it is damaged.
    """
    assert tensor.data is not None
    try:
        return _stored(tensor)
    except (ValueError, IndexError, KeyError, AttributeError) as error:
        raise ModelError(
            f"the constant {tensor.name!r} is damaged ({in_one_line(error)}); convert the model again"
        ) from error


def _stored(tensor: Tensor) -> Array:
    assert tensor.data is not None
    if tensor.type in _PACKED:
        flat = _unpacked(tensor.data, *_PACKED[tensor.type])
    elif tensor.type in DTYPES:
        flat = np.frombuffer(tensor.data.tobytes(), DTYPES[tensor.type])
    else:
        raise ModelError(f"the constant {tensor.name!r} is {tensor.type}, which is not read by this version")
    if tensor.sparsity is not None:
        return _dense(flat, tensor.sparsity, tensor.shape)
    return flat[: math.prod(tensor.shape)].reshape(tensor.shape)


def centred(tensor: Tensor) -> Array:
    """Return a constant as it is stored, integers less their zero point: what stands for zero is zero."""
    array, how = stored(tensor), tensor.quantization
    return array if how is None else array.astype(np.int32) - _spread(how.zeros, how, array.ndim).astype(np.int32)


def numbers(tensor: Tensor) -> Array:
    """Return the numbers that a constant stands for: float32 where it is quantized, else as stored."""
    how = tensor.quantization
    if how is None:
        return stored(tensor)
    whole = centred(tensor).astype(np.float32)
    if how.block:
        return np.asarray(whole * np.repeat(how.scales, how.block, axis=-1).reshape(whole.shape), np.float32)
    return np.asarray(whole * _spread(how.scales, how, whole.ndim), np.float32)


def _spread(values: Array, how: Quantization, axes: int) -> Array:
    """Return one value an index of the quantized axis in a shape that broadcasts."""
    if len(values.ravel()) == 1 or how.block:
        return values.ravel()[:1].reshape((1,) * axes)
    return values.reshape([-1 if axis == how.axis else 1 for axis in range(axes)])


def _unpacked(data: Array, width: int, signed: bool) -> Array:
    """Return numbers of a few bits, the first in the lowest bits of a byte."""
    shifts = np.arange(0, 8, width, dtype=np.uint8)
    flat = ((data[:, None] >> shifts) & (2**width - 1)).ravel().astype(np.int8)
    return np.asarray(np.where(flat >= 2 ** (width - 1), flat - 2**width, flat), np.int8) if signed else flat


def packed(array: Array, kind: str) -> Array:
    """Return the bytes (uint8) in which a file holds integers of a type, several to a byte where it is narrow."""
    flat = np.ascontiguousarray(array).reshape(-1)
    if kind not in _PACKED:
        return flat.astype(DTYPES[kind]).view(np.uint8)
    width = _PACKED[kind][0]
    each = np.zeros((-(-len(flat) * width // 8), 8 // width), np.uint8)
    each.reshape(-1)[: len(flat)] = flat.astype(np.int8).view(np.uint8) & (2**width - 1)
    return np.asarray((each << np.arange(0, 8, width, dtype=np.uint8)).sum(axis=1), np.uint8)


def _dense(flat: Array, raw: Any, shape: tuple[int, ...]) -> Array:
    """Fill up a sparse constant (the schema's ``SparsityParameters``): levels are walked in order of traversal.

    A level is an axis, or a block of one, all of whose indices are there or only those that are listed.
    """
    order = [int(axis) for axis in raw.TraversalOrderAsNumpy()]
    mapped = [] if raw.BlockMapIsNone() else [int(axis) for axis in raw.BlockMapAsNumpy()]
    levels = [raw.DimMetadata(at) for at in range(raw.DimMetadataLength())]
    blocks = [levels[order.index(len(shape) + at)].DenseSize() for at in range(len(mapped))]
    places = np.zeros((1, len(order)), np.int64)  # (nodes so far, levels): an index along every level
    nodes = np.zeros(1, np.int64)
    for depth, level in enumerate(levels):
        places, nodes = _descend(places, nodes, depth, level, math.prod(shape))
    whole = np.zeros((len(nodes), len(shape)), np.int64)
    for depth, axis in enumerate(order):
        if axis < len(shape):
            size = math.prod(blocks[at] for at, over in enumerate(mapped) if over == axis)
            whole[:, axis] += places[:, depth] * size
        else:
            whole[:, mapped[axis - len(shape)]] += places[:, depth]
    if (whole < 0).any() or (whole >= shape).any() or (nodes >= len(flat)).any():
        raise ValueError("elements outside of it")
    found = np.zeros(shape, flat.dtype)
    found[tuple(whole.T)] = flat[nodes]
    return found


def _descend(places: Array, nodes: Array, depth: int, level: Any, room: int) -> tuple[Array, Array]:
    """Return every node of the next level: its indices so far, and its number among those that are stored.

    Raises:
        ValueError: They are more than the tensor has room for, or run backwards.
    """
    dense = level.Format() == 0
    if dense:
        starts, counts = nodes * level.DenseSize(), np.full(len(nodes), level.DenseSize())
    else:
        segments, listed = _vector(level, "ArraySegments"), _vector(level, "ArrayIndices")
        starts, counts = segments[nodes], segments[nodes + 1] - segments[nodes]
    if (counts < 0).any() or (starts < 0).any() or counts.sum() > room:
        raise ValueError("its indices are not those of its shape")
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)  # 0, 1, ... for every node
    numbered = np.repeat(starts, counts) + within
    deeper = np.repeat(places, counts, axis=0)
    deeper[:, depth] = within if dense else listed[numbered]
    return deeper, numbered


def _vector(level: Any, name: str) -> Array:
    """Return a vector of indices, which the schema stores in 8, 16 or 32 bits."""
    kinds = {1: schema.Int32Vector, 2: schema.Uint16Vector, 3: schema.Uint8Vector}
    vector, table = kinds[getattr(level, f"{name}Type")()](), getattr(level, name)()
    vector.Init(table.Bytes, table.Pos)
    return np.asarray(vector.ValuesAsNumpy(), np.int64)
