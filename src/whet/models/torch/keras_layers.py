"""The layers of Keras in torch: what each is built of, and how its weights go there and back.

Tensors of three axes or more may lie channels first, as torch's kernels take them; a ``Value`` says so. This file
imports torch alone, so that a bundle can carry it and load without Keras.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

Config = Mapping[str, Any]
Shape = tuple[int | None, ...]


class NotTranslated(ValueError):
    """A layer, or a setting of one, has no equal in torch."""


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    Attributes:
        node: That computes it.
        shape: As Keras has it, samples first and channels last.
        first: Whether it lies channels first instead.
    """

    node: fx.Node
    shape: Shape
    first: bool = False


@dataclass(frozen=True)
class Call:
    """One use of a layer.

    Attributes:
        name: Of the layer; one that is used twice is built once.
        kind: Its class in Keras.
        config: Its settings there.
        inputs: Tensors that go in.
        shape: Of what comes out.
        arguments: Plain arguments of an operation that is no layer.
    """

    name: str
    kind: str
    config: Config
    inputs: tuple[Value, ...]
    shape: Shape
    arguments: tuple[Any, ...] = ()


class Writer:
    """Writes a graph of torch, layer by layer."""

    def __init__(self) -> None:
        self.root, self.graph = nn.Module(), fx.Graph()

    def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> fx.Node:
        """Write a call of a function."""
        return self.graph.call_function(function, arguments, named)

    def layer(self, name: str, build: Callable[[], nn.Module], *inputs: fx.Node) -> fx.Node:
        """Write a call of a layer, which is built at its first use."""
        owner, _, last = name.rpartition(".")
        place: nn.Module = self.root
        for part in filter(None, owner.split(".")):
            if not hasattr(place, part):
                place.add_module(part, nn.Module())
            place = getattr(place, part)
        if not hasattr(place, last):
            place.add_module(last, build())
        return self.graph.call_module(name, inputs)

    def first(self, value: Value) -> fx.Node:
        """Return a tensor channels first."""
        rank = len(value.shape)
        if value.first or rank < 3:
            return value.node
        return self.call(torch.permute, value.node, (0, rank - 1, *range(1, rank - 1)))

    def last(self, value: Value) -> fx.Node:
        """Return a tensor channels last."""
        rank = len(value.shape)
        if not value.first:
            return value.node
        return self.call(torch.permute, value.node, (0, *range(2, rank), 1))


def build(writer: Writer, call: Call) -> Value:
    """Write one layer.

    Raises:
        NotTranslated: It has no equal here; the message says what.
    """
    if call.kind not in _LAYERS:
        raise NotTranslated(f"layers of type {call.kind} have no translation")
    return _LAYERS[call.kind](writer, call)


# Activations ------------------------------------------------------------------------------------------------------


def _activate(writer: Writer, value: Value, name: Any) -> Value:
    """Write an activation by its name in Keras."""
    if isinstance(name, Mapping):  # a serialized layer, or a function of the user's own
        name = name.get("class_name") if name.get("module") in ("builtins", None) else name.get("config", name)
    if name in (None, "linear"):
        return value
    if name in ("softmax", "log_softmax"):
        found = {"softmax": torch.softmax, "log_softmax": torch.log_softmax}[name]
        return Value(writer.call(found, writer.last(value), dim=-1), value.shape)
    if name not in _ACTIVATIONS:
        raise NotTranslated(f"the activation {name!r} has no translation")
    return Value(writer.call(_ACTIVATIONS[name], value.node), value.shape, value.first)


def _hard_sigmoid(x: Tensor) -> Tensor:
    return functional.relu6(x + 3) / 6


_ACTIVATIONS: Mapping[str, Callable[..., Any]] = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "leaky_relu": partial(functional.leaky_relu, negative_slope=0.2),
    "elu": functional.elu,
    "selu": functional.selu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "swish": functional.silu,
    "mish": functional.mish,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": functional.hardswish,
    "hard_swish": functional.hardswish,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "softsign": functional.softsign,
    "exponential": torch.exp,
}


def _activation(writer: Writer, call: Call) -> Value:
    return _activate(writer, call.inputs[0], call.config["activation"])


def _relu(writer: Writer, call: Call) -> Value:
    (value,), config = call.inputs, call.config
    slope, most = config.get("negative_slope") or 0.0, config.get("max_value")
    if config.get("threshold"):
        raise NotTranslated("a ReLU with a threshold has no translation")
    node = writer.call(functional.leaky_relu, value.node, slope) if slope else None
    if most is not None:
        node = writer.call(torch.clamp, node or value.node, min=None if slope else 0.0, max=most)
    return Value(node or writer.call(functional.relu, value.node), value.shape, value.first)


def _unary(function: Callable[..., Any], **settings: str) -> Callable[[Writer, Call], Value]:
    """Write an elementwise function, with arguments by their names in the layer's settings."""

    def write(writer: Writer, call: Call) -> Value:
        (value, *_), named = call.inputs, {ours: call.config[theirs] for ours, theirs in settings.items()}
        return Value(writer.call(function, value.node, **named), value.shape, value.first)

    return write


def _prelu(writer: Writer, call: Call) -> Value:
    (value,), shared = call.inputs, call.config["shared_axes"] or []
    rank, width = len(value.shape), value.shape[-1]
    if set(shared) != set(range(1, rank - 1)):
        raise NotTranslated("a PReLU with a slope for each position has no translation")
    build = partial(nn.PReLU, width, init=0.0)
    return Value(writer.layer(call.name, build, writer.first(value)), value.shape, rank > 2)


def _softmax(writer: Writer, call: Call) -> Value:
    (value,) = call.inputs
    return Value(writer.call(torch.softmax, writer.last(value), dim=call.config.get("axis", -1)), value.shape)


def _same(_writer: Writer, call: Call) -> Value:
    """What only training knows, and what names nothing to do."""
    return call.inputs[0]


# Kernels ----------------------------------------------------------------------------------------------------------


def _sizes(value: Any, axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


def _pads(
    call: Call, window: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[tuple[int, int]]:
    """Return what ``padding`` adds before and after each axis of the window, as TensorFlow does it."""
    axes, padding = len(window), call.config["padding"]
    if padding == "valid":
        return [(0, 0)] * axes
    lengths = call.inputs[0].shape[1:-1]
    found = []
    for length, size, step, spread in zip(lengths, window, stride, dilation, strict=True):
        reach = (size - 1) * spread + 1
        if padding == "causal":
            found.append((reach - 1, 0))
            continue
        if length is None and step > 1:
            raise NotTranslated(f"{call.name} pads by a size that is left open; give the model's input a fixed one")
        total = reach - 1 if length is None else max((math.ceil(length / step) - 1) * step + reach - length, 0)
        found.append((total // 2, total - total // 2))
    return found


def _padded(writer: Writer, node: fx.Node, pads: Sequence[tuple[int, int]], value: float = 0.0) -> fx.Node:
    """Write padding, unless there is none."""
    if not any(map(any, pads)):
        return node
    flat = [side for pad in reversed(pads) for side in pad]
    return writer.call(functional.pad, node, flat, value=value)


_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def _convolution(axes: int, *, depthwise: bool = False) -> Callable[[Writer, Call], Value]:
    def write(writer: Writer, call: Call) -> Value:
        (value,), config = call.inputs, call.config
        _channels_last(config)
        window, stride = _sizes(config["kernel_size"], axes), _sizes(config["strides"], axes)
        dilation = _sizes(config.get("dilation_rate", 1), axes)
        pads, inner = _pads(call, window, stride, dilation), value.shape[-1]
        assert inner is not None
        outer = inner * config["depth_multiplier"] if depthwise else config["filters"]
        groups = inner if depthwise else config.get("groups", 1)
        even = all(before == after for before, after in pads)
        named = {"stride": stride, "dilation": dilation, "groups": groups, "bias": config["use_bias"],
                 "padding": tuple(before for before, _ in pads) if even else 0}  # fmt: skip
        node = writer.first(value) if even else _padded(writer, writer.first(value), pads)
        found = writer.layer(call.name, lambda: _CONVOLUTIONS[axes](inner, outer, window, **named), node)
        return _activate(writer, Value(found, call.shape, first=True), config.get("activation"))

    return write


def _separable(axes: int) -> Callable[[Writer, Call], Value]:
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


_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def _transposed(axes: int) -> Callable[[Writer, Call], Value]:
    def write(writer: Writer, call: Call) -> Value:
        (value,), config = call.inputs, call.config
        _channels_last(config)
        if config.get("output_padding") is not None or set(_sizes(config.get("dilation_rate", 1), axes)) != {1}:
            raise NotTranslated("a transposed convolution with output_padding or dilation has no translation")
        window, stride = _sizes(config["kernel_size"], axes), _sizes(config["strides"], axes)
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
        return _activate(writer, Value(node, call.shape, first=True), config.get("activation"))

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


def _channels_last(config: Config) -> None:
    if config.get("data_format") == "channels_first":
        raise NotTranslated("channels_first is not translated; TensorFlow does not run it on a CPU either")


def _dense(writer: Writer, call: Call) -> Value:
    (value,), config = call.inputs, call.config
    inner, units = value.shape[-1], config["units"]
    assert inner is not None
    node = writer.layer(call.name, lambda: nn.Linear(inner, units, bias=config["use_bias"]), writer.last(value))
    return _activate(writer, Value(node, call.shape), config.get("activation"))


def _embedding(writer: Writer, call: Call) -> Value:
    config = call.config
    if config.get("mask_zero"):
        raise NotTranslated("masks (mask_zero) have no translation: torch's layers take no mask along")
    build = partial(nn.Embedding, config["input_dim"], config["output_dim"])
    return Value(writer.layer(call.name, build, call.inputs[0].node), call.shape)


# Norms ------------------------------------------------------------------------------------------------------------

_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def _batch_norm(writer: Writer, call: Call) -> Value:
    (value,), config = call.inputs, call.config
    axis = config["axis"]
    axis = axis[0] if isinstance(axis, list | tuple) else axis
    rank, channels = len(value.shape), value.shape[-1]
    if axis not in (-1, rank - 1) or rank not in _NORMS:
        raise NotTranslated(f"a BatchNormalization along axis {axis} of {rank} has no translation")
    assert channels is not None

    def made() -> nn.Module:
        norm = _NORMS[rank](channels, eps=config["epsilon"], momentum=1 - config["momentum"])
        norm.weight.requires_grad_(config["scale"])
        norm.bias.requires_grad_(config["center"])
        return norm

    return Value(writer.layer(call.name, made, writer.first(value)), value.shape, rank > 2)


def _layer_norm(writer: Writer, call: Call) -> Value:
    (value,), config = call.inputs, call.config
    axis, rank, width = config["axis"], len(value.shape), value.shape[-1]
    axis = list(axis) if isinstance(axis, list | tuple) else [axis]
    if axis not in ([-1], [rank - 1]) or config.get("rms_scaling"):
        raise NotTranslated(f"a LayerNormalization along axes {axis} has no translation")
    assert width is not None

    def made() -> nn.Module:
        norm = nn.LayerNorm(width, eps=config["epsilon"])
        norm.weight.requires_grad_(config["scale"])
        norm.bias.requires_grad_(config["center"])
        return norm

    return Value(writer.layer(call.name, made, writer.last(value)), value.shape)


class Affine(nn.Module):
    """Scale and shift along the last axis: the Rescaling and Normalization layers. (..., c) to (..., c)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("offset", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift."""
        scale, offset = self.get_buffer("scale"), self.get_buffer("offset")
        return x * scale + offset


def _rescaling(writer: Writer, call: Call) -> Value:
    (value,), config = call.inputs, call.config
    scale, offset = (_plain(config[name]) for name in ("scale", "offset"))
    node = writer.last(value)
    node = writer.call(torch.mul, node, scale) if isinstance(scale, float) else writer.layer(
        call.name, partial(_affine, scale, offset), node)  # fmt: skip
    if isinstance(scale, float) and offset:
        node = writer.call(torch.add, node, offset)
    return Value(node, value.shape)


def _affine(scale: Sequence[float], offset: float | Sequence[float]) -> nn.Module:
    made = Affine(len(scale))
    made.get_buffer("scale").copy_(torch.tensor(scale))
    made.get_buffer("offset").copy_(torch.as_tensor(offset).expand(len(scale)))
    return made


def _plain(given: Any) -> Any:
    """Return a setting as a float or a list of them, however Keras wrote it."""
    if isinstance(given, Mapping):
        given = given["config"]["value"]
    flat = torch.as_tensor(given, dtype=torch.float32).reshape(-1).tolist()
    return flat if len(flat) > 1 else flat[0]


def _normalization(writer: Writer, call: Call) -> Value:
    (value,), config = call.inputs, call.config
    if config.get("invert") or config["axis"] not in (-1, [-1], (-1,), [len(value.shape) - 1]):
        raise NotTranslated(f"a Normalization along axis {config['axis']} has no translation")
    mean, variance = (torch.tensor(config[name]) for name in ("mean", "variance"))
    scale = 1 / variance.sqrt().clamp(min=1e-7)
    build = partial(_affine, scale.tolist(), (-mean * scale).tolist())
    return Value(writer.layer(call.name, build, writer.last(value)), value.shape)


# Pooling and shapes -----------------------------------------------------------------------------------------------

_POOLS = {
    ("max", 1): functional.max_pool1d, ("max", 2): functional.max_pool2d, ("max", 3): functional.max_pool3d,
    ("average", 1): functional.avg_pool1d, ("average", 2): functional.avg_pool2d,
    ("average", 3): functional.avg_pool3d,
}  # fmt: skip


def _pool(kind: str, axes: int) -> Callable[[Writer, Call], Value]:
    def write(writer: Writer, call: Call) -> Value:
        (value,), config = call.inputs, call.config
        _channels_last(config)
        window, stride = _sizes(config["pool_size"], axes), _sizes(config["strides"] or config["pool_size"], axes)
        pads = _pads(call, window, stride, (1,) * axes)
        node, pool = writer.first(value), _POOLS[kind, axes]
        if kind == "max":
            node = writer.call(pool, _padded(writer, node, pads, -math.inf), window, stride)
        elif any(map(any, pads)):  # samples that are only padding count for nothing
            ones = _padded(writer, writer.call(torch.ones_like, node), pads)
            sums = writer.call(pool, _padded(writer, node, pads), window, stride)
            node = writer.call(torch.div, sums, writer.call(pool, ones, window, stride))
        else:
            node = writer.call(pool, node, window, stride)
        return Value(node, call.shape, first=True)

    return write


def _global(function: Callable[..., Any]) -> Callable[[Writer, Call], Value]:
    def write(writer: Writer, call: Call) -> Value:
        (value,), config = call.inputs, call.config
        _channels_last(config)
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
    sizes = [-1, *target] if None not in target else [value.node, *target]
    if None in target:
        sizes = [writer.call(Tensor.size, value.node, 0), *(-1 if size is None else size for size in target)]
    return Value(writer.call(torch.reshape, writer.last(value), tuple(sizes)), call.shape)


def _permute(writer: Writer, call: Call) -> Value:
    return Value(writer.call(torch.permute, writer.last(call.inputs[0]), (0, *call.config["dims"])), call.shape)


def _repeat(writer: Writer, call: Call) -> Value:
    node = writer.call(torch.unsqueeze, call.inputs[0].node, 1)
    return Value(writer.call(Tensor.repeat, node, 1, call.config["n"], 1), call.shape)


def _zero_padding(writer: Writer, call: Call) -> Value:
    (value,), given = call.inputs, call.config["padding"]
    _channels_last(call.config)
    pads = [tuple(given)] if isinstance(given[0], int) and len(call.shape) == 3 else [tuple(pad) for pad in given]
    return Value(_padded(writer, writer.first(value), pads), call.shape, first=True)


def _cropping(writer: Writer, call: Call) -> Value:
    (value,), given = call.inputs, call.config["cropping"]
    _channels_last(call.config)
    crops = [given] if isinstance(given[0], int) and len(call.shape) == 3 else given
    pads = [(-before, -after) for before, after in crops]
    return Value(_padded(writer, writer.first(value), pads), call.shape, first=True)


def _upsampling(writer: Writer, call: Call) -> Value:
    (value,), config = call.inputs, call.config
    mode = {"nearest": "nearest", "bilinear": "bilinear"}.get(config.get("interpolation", "nearest"))
    if mode is None:
        raise NotTranslated(f"an UpSampling with {config['interpolation']} interpolation has no translation")
    axes = len(value.shape) - 2
    factors = tuple(float(size) for size in _sizes(config["size"], axes))
    node = writer.call(functional.interpolate, writer.first(value), scale_factor=factors, mode=mode)
    return Value(node, call.shape, first=True)


# Several tensors --------------------------------------------------------------------------------------------------


def _together(writer: Writer, values: Sequence[Value]) -> tuple[list[fx.Node], bool]:
    """Return tensors that lie alike: channels first where any does, and all have as many axes."""
    first = any(value.first for value in values) and len({len(value.shape) for value in values}) == 1
    return [writer.first(value) if first else writer.last(value) for value in values], first


def _merge(function: Callable[..., Any], *, mean: bool = False) -> Callable[[Writer, Call], Value]:
    def write(writer: Writer, call: Call) -> Value:
        nodes, first = _together(writer, call.inputs)
        node = nodes[0]
        for other in (*nodes[1:], *call.arguments):
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


# Recurrent layers and attention -----------------------------------------------------------------------------------

_CELLS: Mapping[str, type[nn.RNNBase]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "SimpleRNN": nn.RNN}
_USUAL = {"LSTM": ("tanh", "sigmoid"), "GRU": ("tanh", "sigmoid"), "SimpleRNN": ("tanh", None)}


def _checked_cell(kind: str, config: Config) -> None:
    """Refuse settings that torch's kernels do not have."""
    if (config["activation"], config.get("recurrent_activation")) != _USUAL[kind]:
        raise NotTranslated(f"{kind} layers have a translation with their usual activations alone")
    if kind == "GRU" and not config.get("reset_after", True):
        raise NotTranslated("a GRU with reset_after=False has no translation")
    for name in ("return_state", "stateful", "unroll"):
        if config.get(name) and name != "unroll":
            raise NotTranslated(f"a {kind} with {name} has no translation")


def _recurrent(kind: str) -> Callable[[Writer, Call], Value]:
    def write(writer: Writer, call: Call) -> Value:
        (value, *states), config = call.inputs, call.config
        _checked_cell(kind, config)
        if states:
            raise NotTranslated(f"a {kind} that is given a state has no translation")
        width, backwards = value.shape[-1], config.get("go_backwards")
        assert width is not None
        node = writer.last(value)
        node = writer.call(torch.flip, node, (1,)) if backwards else node
        build = partial(_CELLS[kind], width, config["units"], bias=config["use_bias"], batch_first=True)
        found = writer.call(_item, writer.layer(call.name, build, node), 0)
        if not config["return_sequences"]:
            found = writer.call(torch.select, found, 1, -1)
        return Value(found, call.shape)

    return write


def _item(given: Sequence[Any], at: int) -> Any:
    return given[at]


def _bidirectional(writer: Writer, call: Call) -> Value:
    config, (value,) = call.config, call.inputs
    inner, merge = config["layer"], config["merge_mode"]
    kind, settings = inner["class_name"], inner["config"]
    if kind not in _CELLS:
        raise NotTranslated(f"a Bidirectional of {kind} has no translation")
    _checked_cell(kind, settings)
    if merge != "concat":
        raise NotTranslated(f"a Bidirectional with merge_mode={merge!r} has no translation")
    width, units = value.shape[-1], settings["units"]
    assert width is not None
    build = partial(_CELLS[kind], width, units, bias=settings["use_bias"], batch_first=True, bidirectional=True)
    found = writer.call(_item, writer.layer(call.name, build, writer.last(value)), 0)
    if not settings["return_sequences"]:
        found = writer.call(_ends, found, units)
    return Value(found, call.shape)


def _ends(x: Tensor, units: int) -> Tensor:
    """Return the last states of both directions: (n, t, 2u) to (n, 2u)."""
    return torch.cat([x[:, -1, :units], x[:, 0, units:]], dim=-1)


class Attention(nn.Module):
    """Multi-head attention as Keras has it. (n, t, d), (n, s, d), (n, s, d) to (n, t, o)."""

    def __init__(self, widths: Sequence[int], heads: int, sizes: tuple[int, int], out: int, *, bias: bool) -> None:
        super().__init__()
        self.heads, (key, value) = heads, sizes
        self.query = nn.Linear(widths[0], heads * key, bias=bias)
        self.key = nn.Linear(widths[2], heads * key, bias=bias)
        self.value = nn.Linear(widths[1], heads * value, bias=bias)
        self.output = nn.Linear(heads * value, out, bias=bias)

    def forward(self, query: Tensor, value: Tensor, key: Tensor) -> Tensor:
        """Attend."""
        parts = [part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (n, h, t, d)
                 for part, x in ((self.query, query), (self.key, key), (self.value, value))]  # fmt: skip
        mixed: Tensor = self.output(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        return mixed


def _attention(writer: Writer, call: Call) -> Value:
    config = call.config
    if config.get("attention_axes") not in (None, [1], (1,)) or config.get("output_shape") is not None:
        raise NotTranslated("attention along other axes, or to another shape, has no translation")
    query, value, *more = call.inputs
    values = (query, value, more[0] if more else value)
    widths = [each.shape[-1] or 0 for each in values]
    sizes = (config["key_dim"], config.get("value_dim") or config["key_dim"])
    build = partial(Attention, widths, config["num_heads"], sizes, widths[0], bias=config["use_bias"])
    return Value(writer.layer(call.name, build, *(writer.last(each) for each in values)), call.shape)


# The table --------------------------------------------------------------------------------------------------------

_TRAINING_ONLY = (
    "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "AlphaDropout", "GaussianDropout",
    "GaussianNoise", "ActivityRegularization", "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation",
    "RandomContrast", "RandomBrightness", "RandomCrop", "Identity",
)  # fmt: skip

_LAYERS: Mapping[str, Callable[[Writer, Call], Value]] = {
    **dict.fromkeys(_TRAINING_ONLY, _same),
    **{f"Conv{axes}D": _convolution(axes) for axes in (1, 2, 3)},
    **{f"DepthwiseConv{axes}D": _convolution(axes, depthwise=True) for axes in (1, 2)},
    **{f"SeparableConv{axes}D": _separable(axes) for axes in (1, 2)},
    **{f"Conv{axes}DTranspose": _transposed(axes) for axes in (1, 2, 3)},
    **{f"MaxPooling{axes}D": _pool("max", axes) for axes in (1, 2, 3)},
    **{f"AveragePooling{axes}D": _pool("average", axes) for axes in (1, 2, 3)},
    **{f"GlobalAveragePooling{axes}D": _global(torch.mean) for axes in (1, 2, 3)},
    **{f"GlobalMaxPooling{axes}D": _global(torch.amax) for axes in (1, 2, 3)},
    **{f"ZeroPadding{axes}D": _zero_padding for axes in (1, 2, 3)},
    **{f"Cropping{axes}D": _cropping for axes in (1, 2, 3)},
    **{f"UpSampling{axes}D": _upsampling for axes in (1, 2, 3)},
    **{kind: _recurrent(kind) for kind in _CELLS},
    "Activation": _activation,
    "ReLU": _relu,
    "PReLU": _prelu,
    "LeakyReLU": _unary(functional.leaky_relu, negative_slope="negative_slope"),
    "ELU": _unary(functional.elu, alpha="alpha"),
    "Softmax": _softmax,
    "Dense": _dense,
    "Embedding": _embedding,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Rescaling": _rescaling,
    "Normalization": _normalization,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Permute": _permute,
    "RepeatVector": _repeat,
    "Concatenate": _concatenate,
    "Bidirectional": _bidirectional,
    "MultiHeadAttention": _attention,
    "Add": _merge(torch.add),
    "Subtract": _merge(torch.sub),
    "Multiply": _merge(torch.mul),
    "Maximum": _merge(torch.maximum),
    "Minimum": _merge(torch.minimum),
    "Average": _merge(torch.add, mean=True),
    "TrueDivide": _merge(torch.div),
}
