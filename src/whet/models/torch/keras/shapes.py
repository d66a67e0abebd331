"""Pools, changes of shape, and layers that take several tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from whet.models.torch.keras.graph import Call, Layer, NotTranslated, Value, Writer
from whet.models.torch.keras.windows import channels_last, padded, pads_of, sizes

_POOLS: Mapping[tuple[str, int], Callable[..., Any]] = {
    ("max", 1): functional.max_pool1d, ("max", 2): functional.max_pool2d, ("max", 3): functional.max_pool3d,
    ("average", 1): functional.avg_pool1d, ("average", 2): functional.avg_pool2d,
    ("average", 3): functional.avg_pool3d,
}  # fmt: skip


def _pool(kind: str, axes: int) -> Layer:
    def write(writer: Writer, call: Call) -> Value:
        (value,), config = call.inputs, call.config
        channels_last(config)
        window, stride = sizes(config["pool_size"], axes), sizes(config["strides"] or config["pool_size"], axes)
        pads = pads_of(call, window, stride, (1,) * axes)
        node, pool = writer.first(value), _POOLS[kind, axes]
        if kind == "max":
            node = writer.call(pool, padded(writer, node, pads, -math.inf), window, stride)
        elif any(map(any, pads)):  # samples that are only padding count for nothing
            ones = padded(writer, writer.call(torch.ones_like, node), pads)
            sums = writer.call(pool, padded(writer, node, pads), window, stride)
            node = writer.call(torch.div, sums, writer.call(pool, ones, window, stride))
        else:
            node = writer.call(pool, node, window, stride)
        return Value(node, call.shape, first=True)

    return write


def _global(function: Callable[..., Any]) -> Layer:
    def write(writer: Writer, call: Call) -> Value:
        (value,), config = call.inputs, call.config
        channels_last(config)
        keep = bool(config.get("keepdims"))
        node = writer.call(function, writer.first(value), dim=tuple(range(2, len(value.shape))), keepdim=keep)
        return Value(node, call.shape, first=keep)

    return write


def _flatten(writer: Writer, call: Call) -> Value:
    return Value(writer.call(torch.flatten, writer.last(call.inputs[0]), 1), call.shape)


def _reshape(writer: Writer, call: Call) -> Value:
    (value,), target = call.inputs, list(call.shape[1:])
    if target.count(None) > 1:
        raise NotTranslated(f"{call.name} reshapes to sizes that are left open")
    samples = writer.call(torch.Tensor.size, value.node, 0) if None in target else -1
    lengths = (samples, *(-1 if size is None else size for size in target))
    return Value(writer.call(torch.reshape, writer.last(value), lengths), call.shape)


def _permute(writer: Writer, call: Call) -> Value:
    return Value(writer.call(torch.permute, writer.last(call.inputs[0]), (0, *call.config["dims"])), call.shape)


def _repeat(writer: Writer, call: Call) -> Value:
    node = writer.call(torch.unsqueeze, call.inputs[0].node, 1)
    return Value(writer.call(torch.Tensor.repeat, node, 1, call.config["n"], 1), call.shape)


def _zero_padding(writer: Writer, call: Call) -> Value:
    (value,), given = call.inputs, call.config["padding"]
    channels_last(call.config)
    pads = [tuple(given)] if isinstance(given[0], int) and len(call.shape) == 3 else [tuple(pad) for pad in given]
    return Value(padded(writer, writer.first(value), pads), call.shape, first=True)


def _cropping(writer: Writer, call: Call) -> Value:
    (value,), given = call.inputs, call.config["cropping"]
    channels_last(call.config)
    crops = [given] if isinstance(given[0], int) and len(call.shape) == 3 else given
    pads = [(-before, -after) for before, after in crops]
    return Value(padded(writer, writer.first(value), pads), call.shape, first=True)


def _upsampling(writer: Writer, call: Call) -> Value:
    (value,), config = call.inputs, call.config
    mode = {"nearest": "nearest", "bilinear": "bilinear"}.get(config.get("interpolation", "nearest"))
    if mode is None:
        raise NotTranslated(f"an UpSampling with {config['interpolation']} interpolation has no translation")
    axes = len(value.shape) - 2
    factors = tuple(float(size) for size in sizes(config["size"], axes))
    node = writer.call(functional.interpolate, writer.first(value), scale_factor=factors, mode=mode)
    return Value(node, call.shape, first=True)


def _together(writer: Writer, values: Sequence[Value]) -> tuple[list[fx.Node], bool]:
    """Return tensors that lie alike: channels first where any does, and all have as many axes."""
    first = any(value.first for value in values) and len({len(value.shape) for value in values}) == 1
    return [writer.first(value) if first else writer.last(value) for value in values], first


def _merge(function: Callable[..., Any], *, mean: bool = False) -> Layer:
    def write(writer: Writer, call: Call) -> Value:
        nodes, first = _together(writer, call.inputs)
        tensors = iter(nodes)
        operands = [next(tensors) if given is None else given for given in call.arguments or [None] * len(nodes)]
        if lost := [given for given in operands if isinstance(given, str)]:
            raise NotTranslated(f"{call.kind} with {', '.join(lost)} as an operand has no translation")
        node = operands[0]
        for other in operands[1:]:
            node = writer.call(function, node, other)
        if mean:
            node = writer.call(torch.div, node, len(nodes))
        return Value(node, call.shape, first)

    return write


def _concatenate(writer: Writer, call: Call) -> Value:
    axis, rank = call.config.get("axis", -1), len(call.shape)
    axis = axis % rank
    nodes, first = _together(writer, call.inputs)
    if first and axis:
        axis = 1 if axis == rank - 1 else axis + 1
    return Value(writer.call(torch.cat, nodes, dim=axis), call.shape, first)


LAYERS: Mapping[str, Layer] = {
    **{f"MaxPooling{axes}D": _pool("max", axes) for axes in (1, 2, 3)},
    **{f"AveragePooling{axes}D": _pool("average", axes) for axes in (1, 2, 3)},
    **{f"GlobalAveragePooling{axes}D": _global(torch.mean) for axes in (1, 2, 3)},
    **{f"GlobalMaxPooling{axes}D": _global(torch.amax) for axes in (1, 2, 3)},
    **{f"ZeroPadding{axes}D": _zero_padding for axes in (1, 2, 3)},
    **{f"Cropping{axes}D": _cropping for axes in (1, 2, 3)},
    **{f"UpSampling{axes}D": _upsampling for axes in (1, 2, 3)},
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "RepeatVector": _repeat,
    "Concatenate": _concatenate,
    "Add": _merge(torch.add),
    "Subtract": _merge(torch.sub),
    "Multiply": _merge(torch.mul),
    "Maximum": _merge(torch.maximum),
    "Minimum": _merge(torch.minimum),
    "Average": _merge(torch.add, mean=True),
    "TrueDivide": _merge(torch.div),
    "Divide": _merge(torch.div),
}
