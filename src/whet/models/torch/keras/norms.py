"""Norms, and what scales and shifts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from whet.models.torch.keras.graph import Call, Layer, NotTranslated, Value, Writer

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


LAYERS: Mapping[str, Layer] = {
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Rescaling": _rescaling,
    "Normalization": _normalization,
}
