"""Mixed precision: which layers to give back to a higher one, by what each does to the outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from onnx import ModelProto

from whet.data.data import Part
from whet.models.model import Model
from whet.models.onnx.adapter import OnnxAdapter
from whet.passes.base import PassContext
from whet.passes.quantize import onnx_calibrate
from whet.progress import Event

if TYPE_CHECKING:
    from whet.types import Array

_JUDGED = 64  # samples
_LOT = 16
_LEAST = 1e-3  # a share of bytes and MACs below which layers cost the same: every one has a rounding more or less


class Maker(Protocol):
    """Quantizes a graph, but for the nodes that are given back."""

    def alone(self, node: str, nodes: Sequence[str]) -> ModelProto:
        """Return it with one of some nodes quantized, the others given back."""

    def final(self, given: Sequence[str]) -> tuple[ModelProto, object]:
        """Return it as it would be shipped, first."""


@dataclass(frozen=True)
class Mixed:
    """What was found.

    Attributes:
        given: Nodes to give back, in the order that was taken.
        error: Of the outputs with these given back: squared error over variance.
        sensitivity: The same by node, with that node alone as low as was asked for.
    """

    given: tuple[str, ...] = ()
    error: float = 0.0
    sensitivity: dict[str, float] = field(default_factory=dict)


def choose(model: Model, maker: Maker, nodes: Mapping[str, str], most: float, context: PassContext) -> Mixed:
    """Give back as few layers as the outputs need to err by ``most`` or less.

    Every layer is quantized alone first (the others given back); then they are given back until the whole is good
    enough: it is bisected how many. Two orders are tried, by the error that was seen, and by that error over what
    giving back costs (the layer's share of all bytes and of all MACs); the cheaper set is taken. Where all given
    back are not enough, all are given back.

    Args:
        model: The float graph.
        maker: Quantizes it.
        nodes: Those that may be given back, with the name of each one's layer.
        most: Squared error of the outputs over their variance.
        context: Its calibration samples are run, 64 of them.
    """
    judge = _Judge(model, context)
    plain = judge.error(maker.final(())[0])
    if plain <= most:
        return Mixed((), plain)
    sensitivity = {}
    for at, node in enumerate(nodes):
        context.on_event(Event("measure sensitivity", at, len(nodes)))
        sensitivity[node] = judge.error(maker.alone(node, list(nodes)))
    by_layer = _costs(model)
    costs = {node: by_layer.get(name, _LEAST) for node, name in nodes.items()}
    orders = [sorted(nodes, key=lambda node: -sensitivity[node]),
              sorted(nodes, key=lambda node: -sensitivity[node] / costs[node])]  # fmt: skip
    found = [_fewest(order, plain, most, lambda given: judge.error(maker.final(given)[0])) for order in orders]
    given, error = min(found, key=lambda each: (each[1] > most, sum(costs[node] for node in each[0])))
    return Mixed(given, error, dict(sorted(sensitivity.items(), key=lambda item: -item[1])))


def _fewest(
    order: Sequence[str], plain: float, most: float, error: Callable[[Sequence[str]], float]
) -> tuple[tuple[str, ...], float]:
    """Return the first few of an order that are enough, by bisection, and the error with these given back."""
    errors = {0: plain}
    low, high = 0, len(order)  # low are too few
    while high - low > 1:
        middle = (low + high) // 2
        errors[middle] = error(order[:middle])
        low, high = (low, middle) if errors[middle] <= most else (middle, high)
    return tuple(order[:high]), errors[high] if high in errors else error(order[:high])


def _costs(model: Model) -> dict[str, float]:
    """Return what giving a layer back costs, by name: its share of the bytes and of the MACs."""
    layers = OnnxAdapter().layers(model)
    size, macs = sum(layer.bytes for layer in layers) or 1, sum(layer.macs or 0 for layer in layers) or 1
    return {layer.name: max(layer.bytes / size + (layer.macs or 0) / macs, _LEAST) for layer in layers}


class _Judge:
    """Runs a graph on calibration samples, and says how far its outputs are from the float graph's."""

    def __init__(self, model: Model, context: PassContext) -> None:
        assert model.signature is not None
        assert context.data is not None
        self.model = model
        some = min(_JUDGED, context.data.size(Part.CALIBRATE))
        self.batches = list(onnx_calibrate.samples(context.data, model.signature, some, _LOT))
        self.wanted = self._outputs(model)

    def error(self, proto: ModelProto) -> float:
        """Return the squared error of the outputs over their variance, the mean of all outputs."""
        shares = []
        for name, have in self._outputs(self.model.with_payload(proto)).items():
            want = self.wanted[name]
            spread = float(((want - want.mean(axis=0)) ** 2).sum()) or 1.0
            shares.append(float(((have - want) ** 2).sum()) / spread)
        return float(np.mean(shares))

    def _outputs(self, model: Model) -> dict[str, Array]:
        parts = [OnnxAdapter().forward(model, batch) for batch in self.batches]
        floats = [name for name, array in parts[0].items() if array.dtype.kind == "f"]
        return {name: np.concatenate([part[name].astype(np.float64) for part in parts]) for name in floats}
