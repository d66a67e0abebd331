"""A graph of torch, written call by call: its tensors, the layers that are asked for, and the writer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

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
        named: Names of arguments that it is given by name.
        arguments: All arguments of an operation that is no layer, in order: None for each tensor, numbers, else the
            name of a type that has no translation.
    """

    name: str
    kind: str
    config: Config
    inputs: tuple[Value, ...]
    shape: Shape
    named: tuple[str, ...] = ()
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
            if part not in place._modules:
                place.add_module(_free(part), nn.Module())
            place = getattr(place, part)
        if last not in place._modules:
            place.add_module(_free(last), build())
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


def _free(name: str) -> str:
    """Return a layer's name, unless modules of torch have something of that name."""
    if hasattr(nn.Module(), name):
        raise NotTranslated(f"{name!r} is no name for a part of a torch module; give the layer another")
    return name


Layer = Callable[[Writer, Call], Value]
"""Writes the layers of one kind."""
