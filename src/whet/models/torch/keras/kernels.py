"""Convolutions, dense layers and embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import fx, nn

from whet.models.torch.keras.activations import activate
from whet.models.torch.keras.graph import Call, Layer, NotTranslated, Value, Writer
from whet.models.torch.keras.windows import channels_last, padded, pads_of, sizes

_CONVOLUTIONS: Mapping[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def _convolution(axes: int, *, depthwise: bool = False) -> Layer:
    def write(writer: Writer, call: Call) -> Value:
        (value,), config = call.inputs, call.config
        channels_last(config)
        window, stride = sizes(config["kernel_size"], axes), sizes(config["strides"], axes)
        dilation = sizes(config.get("dilation_rate", 1), axes)
        pads, inner = pads_of(call, window, stride, dilation), value.shape[-1]
        assert inner is not None
        outer = inner * config["depth_multiplier"] if depthwise else config["filters"]
        groups = inner if depthwise else config.get("groups", 1)
        even = all(before == after for before, after in pads)
        named = {"stride": stride, "dilation": dilation, "groups": groups, "bias": config["use_bias"],
                 "padding": tuple(before for before, _ in pads) if even else 0}  # fmt: skip
        node = writer.first(value) if even else padded(writer, writer.first(value), pads)
        found = writer.layer(call.name, lambda: _CONVOLUTIONS[axes](inner, outer, window, **named), node)
        return activate(writer, Value(found, call.shape, first=True), config.get("activation"))

    return write


def _separable(axes: int) -> Layer:
    def write(writer: Writer, call: Call) -> Value:
        config = dict(call.config)
        (value,) = call.inputs
        middle = (*call.shape[:-1], (value.shape[-1] or 0) * config["depth_multiplier"])
        first = Call(
            f"{call.name}.depthwise", "", {**config, "use_bias": False, "activation": None}, (value,), middle
        )
        found = _convolution(axes, depthwise=True)(writer, first)
        point = {**config, "kernel_size": 1, "strides": 1, "dilation_rate": 1, "padding": "valid", "groups": 1}
        return _convolution(axes)(writer, Call(f"{call.name}.pointwise", "", point, (found,), call.shape))

    return write


_TRANSPOSED: Mapping[int, Callable[..., nn.Module]] = {
    1: nn.ConvTranspose1d,
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}


def _transposed(axes: int) -> Layer:
    def write(writer: Writer, call: Call) -> Value:
        (value,), config = call.inputs, call.config
        channels_last(config)
        if config.get("output_padding") is not None or set(sizes(config.get("dilation_rate", 1), axes)) != {1}:
            raise NotTranslated("a transposed convolution with output_padding or dilation has no translation")
        window, stride = sizes(config["kernel_size"], axes), sizes(config["strides"], axes)
        more = [max(step - size, 0) for size, step in zip(window, stride, strict=True)]  # gaps between windows
        named = {"stride": stride, "output_padding": more, "bias": config["use_bias"]}
        inner, outer = value.shape[-1], config["filters"]
        assert inner is not None
        build = partial(_TRANSPOSED[axes], inner, outer, window, **named)
        node = writer.layer(call.name, build, writer.first(value))
        if config["padding"] == "same":
            node = _cropped(
                writer, call, node, [max(size - step, 0) for size, step in zip(window, stride, strict=True)]
            )
        return activate(writer, Value(node, call.shape, first=True), config.get("activation"))

    return write


def _cropped(writer: Writer, call: Call, node: fx.Node, over: Sequence[int]) -> fx.Node:
    """Bring the axes of a transposed convolution to the lengths that padding "same" gives them."""
    for axis, (length, more) in enumerate(zip(call.shape[1:-1], over, strict=True), 2):
        if more and length is None:
            raise NotTranslated(
                f"{call.name} crops to a size that is left open; give the model's input a fixed one"
            )
        node = writer.call(torch.narrow, node, axis, more // 2, length) if more else node
    return node


def _dense(writer: Writer, call: Call) -> Value:
    (value,), config = call.inputs, call.config
    inner, units = value.shape[-1], config["units"]
    assert inner is not None
    node = writer.layer(call.name, lambda: nn.Linear(inner, units, bias=config["use_bias"]), writer.last(value))
    return activate(writer, Value(node, call.shape), config.get("activation"))


def _embedding(writer: Writer, call: Call) -> Value:
    config = call.config
    if config.get("mask_zero"):
        raise NotTranslated("masks (mask_zero) have no translation: torch's layers take no mask along")
    build = partial(nn.Embedding, config["input_dim"], config["output_dim"])
    return Value(writer.layer(call.name, build, call.inputs[0].node), call.shape)


LAYERS: Mapping[str, Layer] = {
    **{f"Conv{axes}D": _convolution(axes) for axes in (1, 2, 3)},
    **{f"DepthwiseConv{axes}D": _convolution(axes, depthwise=True) for axes in (1, 2)},
    **{f"SeparableConv{axes}D": _separable(axes) for axes in (1, 2)},
    **{f"Conv{axes}DTranspose": _transposed(axes) for axes in (1, 2, 3)},
    "Dense": _dense,
    "Embedding": _embedding,
}
