"""Windows that move over a tensor, and what is padded around it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import fx
from torch.nn import functional

from whet.models.torch.keras.graph import Call, Config, NotTranslated, Writer


def sizes(value: Any, axes: int) -> tuple[int, ...]:
    """Return a setting with a number for each axis."""
    return (value,) * axes if isinstance(value, int) else tuple(value)


def pads_of(
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


def padded(writer: Writer, node: fx.Node, pads: Sequence[tuple[int, int]], value: float = 0.0) -> fx.Node:
    """Write padding, unless there is none."""
    if not any(map(any, pads)):
        return node
    flat = [side for pad in reversed(pads) for side in pad]
    return writer.call(functional.pad, node, flat, value=value)


def channels_last(config: Config) -> None:
    """Refuse a layer that takes channels first."""
    if config.get("data_format") == "channels_first":
        raise NotTranslated("channels_first is not translated; TensorFlow does not run it on a CPU either")
