"""A Keras model as a native module of torch, from a plain description: no Keras is needed to build it again.

The description is JSON: ``inputs`` (name, shape, dtype), ``calls`` (layer, kind, config, inputs, output, shape,
arguments, named) in the order of the graph, ``outputs`` (names with the tensor each gives). Tensors are numbered.
Samples go in as Keras takes them, channels last; inside, tensors lie as torch's kernels take them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.fx import GraphModule

from whet.models.torch.keras.graph import Call, NotTranslated, Value, Writer
from whet.models.torch.keras.layers import build

__all__ = ["NotTranslated", "module"]


def module(description: Mapping[str, Any]) -> nn.Module:
    """Build the module of a description, unfilled, in evaluation mode.

    Raises:
        NotTranslated: A layer has no equal in torch; the message names all of them.
    """
    writer = Writer()
    values: dict[int, Value] = {}
    for given in description["inputs"]:
        node = writer.graph.placeholder(given["name"])
        values[given["tensor"]] = Value(node, tuple(given["shape"]))
    refused: dict[str, str] = {}
    for call in description["calls"]:
        shape = tuple(call["shape"])
        try:
            found = build(writer, _call(call, values, shape))
        except NotTranslated as error:
            refused.setdefault(call["layer"], str(error))
            found = Value(next(iter(values.values())).node, shape)  # to look on for others
        values[call["output"]] = found
    if refused:
        raise NotTranslated("; ".join(f"{layer}: {reason}" for layer, reason in refused.items()))
    outputs = {given["name"]: writer.last(values[given["tensor"]]) for given in description["outputs"]}
    writer.graph.output(next(iter(outputs.values())) if len(outputs) == 1 else outputs)
    forward = type(GraphModule(writer.root, writer.graph)).forward  # the graph as Python
    made: nn.Module = type("KerasModule", (nn.Module,), {"forward": forward})()
    for name, part in writer.root.named_children():
        made.add_module(name, part)
    return made.eval()


def _call(call: Mapping[str, Any], values: Mapping[int, Value], shape: tuple[int | None, ...]) -> Call:
    inputs = tuple(values[number] for number in call["inputs"])
    named, arguments = tuple(call["named"]), tuple(call["arguments"])
    return Call(call["layer"], call["kind"], call["config"], inputs, shape, named, arguments)
