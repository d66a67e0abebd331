"""A Keras model as a native module of torch, from a plain description: no Keras is needed to build it again.

The description is JSON: ``inputs`` (name, shape, dtype), ``calls`` (layer, kind, config, inputs, output, shape,
arguments, named) in the order of the graph, ``outputs`` (names with the tensor each gives). Tensors are numbered.
Samples go in as Keras takes them, channels last; inside, tensors lie as torch's kernels take them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.fx import GraphModule

from whet.errors import ModelError
from whet.models.torch.keras.graph import Call, NotTranslated, Value, Writer
from whet.models.torch.keras.layers import build

_LAYER_NAME = re.compile(r"[\w./ \-:>]+")  # as Keras names layers: conv2d_1, block/conv, tf.__operators__.add

__all__ = ["NotTranslated", "module"]


def module(description: Mapping[str, Any]) -> nn.Module:
    """Build the module of a description, unfilled, in evaluation mode.

    Raises:
        NotTranslated: A layer has no equal in torch; the message names all of them.
        ModelError: A name could not be part of Python code, which torch makes of the graph.
    """
    _check_names(description)
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


def _check_names(description: Mapping[str, Any]) -> None:
    """Refuse names that would become more than a name in the Python that torch writes and runs."""
    inputs = [str(given["name"]) for given in description["inputs"]]
    layers = [str(call["layer"]) for call in description["calls"]]
    bad = [name for name in inputs if not name.isidentifier()]
    bad += [name for name in layers if not _LAYER_NAME.fullmatch(name)]
    if bad:
        raise ModelError(f"{ascii(bad[0])[:60]} is no name of an input or a layer; do not use this file")


def _call(call: Mapping[str, Any], values: Mapping[int, Value], shape: tuple[int | None, ...]) -> Call:
    inputs = tuple(values[number] for number in call["inputs"])
    named, arguments = tuple(call["named"]), tuple(call["arguments"])
    return Call(call["layer"], call["kind"], call["config"], inputs, shape, named, arguments)
