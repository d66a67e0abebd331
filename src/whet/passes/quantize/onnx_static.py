"""Static INT8 in QDQ form: our calibration, ONNX Runtime's quantizer."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import ModelProto, NodeProto
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

from whet.data.data import Part
from whet.errors import PassError, RecipeError, in_one_line
from whet.models.model import Model
from whet.passes.base import Outcome, PassContext, excluded
from whet.passes.quantize import onnx_bias, onnx_calibrate, onnx_graph, onnx_mixed, onnx_narrow
from whet.passes.quantize.calibration import sample_count
from whet.passes.quantize.spec import StaticInt8
from whet.progress import Event
from whet.types import Range, Signature, Trait, TraitKind

if TYPE_CHECKING:
    from whet.types import Batch

_BATCH = 16
_ALL = 8  # bits of an integer
_ACTIVATIONS = ("Relu", "LeakyRelu", "Clip", "Sigmoid")
_PER_CHANNEL = 13  # the opset from which on a DequantizeLinear has an axis
_WHY = {
    "LSTM": "ONNX Runtime has no static INT8 LSTM; dynamic-int8 quantizes it",
    "GRU": "ONNX Runtime has no quantized GRU kernel",
    "RNN": "ONNX Runtime has no quantized RNN kernel",
    "ConvTranspose": "ONNX Runtime runs a transposed convolution in float",
}


def static_int8(request: StaticInt8, model: Model, context: PassContext) -> Outcome:
    """Calibrate (unless the model brings its ranges) and quantize weights and activations."""
    assert model.signature is not None
    float_proto = onnx_graph.named(onnx_graph.upgraded(model.payload, _PER_CHANNEL if request.per_channel else 0))
    onnx_graph.unshare(float_proto)
    layers = onnx_graph.layers_of(float_proto)
    barred = _barred(request, layers)
    samples = 0
    ranges = dict(model.ranges)
    if not ranges:
        samples = sample_count(request, context)
        ranges = _calibrate(request, float_proto, model.signature, context, samples)
    biases = _biases(request, float_proto, model.signature, context)
    quantizer = _Quantizer(request, float_proto, ranges, context)
    maker = _Maker(quantizer, barred, biases)
    mixed = _mixed(maker, model.with_payload(float_proto), context)
    lower = "in 7 bits" if request.weight_bits < _ALL else "in float"
    given = {node: f"given back, {lower}: alone it errs by {mixed.sensitivity[node]:.2g}" for node in mixed.given}
    proto, kept = maker.final(mixed.given)
    reduced = quantizer.reduced and max(kept.values(), default=0) <= onnx_graph.SEVEN
    changed, skipped = onnx_graph.account(
        layers, onnx_graph.left_in_float(float_proto, proto), {**given, **barred}, _WHY
    )
    skipped += onnx_graph.unfolded(float_proto)
    if not changed:
        return Outcome(model, (), skipped)
    # Signed activations too: ONNX Runtime makes unsigned ones of them on x86, and sums the same way.
    quantized = model.with_payload(proto, ranges={}, needs=model.needs | onnx_graph.needs(reduced))
    notes = {
        "calibration_samples": samples,
        "activations": "uint8" if quantizer.unsigned else "int8",
        "weight_bits": min(request.weight_bits, 7 if reduced else 8),
        "grids_kept": len(kept),
        "weight_sqnr_db_by_type": onnx_graph.weight_sqnr(float_proto, proto),
        **_told(request, mixed, layers),
        **(biases.told(layers) if biases else {}),
    }
    return Outcome(quantized.with_traits(Trait(TraitKind.QUANTIZED, request.weight_bits)), changed, skipped, notes)


def _biases(
    request: StaticInt8, proto: ModelProto, signature: Signature, context: PassContext
) -> onnx_bias.Biases | None:
    """Look at the biases of a graph, which gives each layer one of its own, where they are to be corrected."""
    if not request.bias_correction:
        return None
    if context.data is None or not context.data.size(Part.CALIBRATE):
        raise RecipeError("bias_correction looks at calibration samples, and none were given; give --data")
    some = min(onnx_bias.SAMPLES, context.data.size(Part.CALIBRATE))
    batches = onnx_calibrate.samples(context.data, signature, some, _BATCH)
    return onnx_bias.Biases(proto, batches, context)


def _mixed(maker: _Maker, model: Model, context: PassContext) -> onnx_mixed.Mixed:
    """Choose the layers to give back, where a limit of the error is asked for."""
    most = maker.quantizer.request.max_error
    if not most:
        return onnx_mixed.Mixed()
    if context.data is None:
        raise RecipeError("max_error is measured on calibration samples, and no data was given; give --data")
    nodes = {node: name for node, (name, _) in maker.quantizer.layers.items() if node not in maker.barred}
    return onnx_mixed.choose(model, maker, nodes, most, context)


def _told(request: StaticInt8, mixed: onnx_mixed.Mixed, layers: Mapping[str, tuple[str, str]]) -> dict[str, object]:
    """Return what was found of the layers' sensitivity, for the report."""
    if not request.max_error:
        return {}
    told: dict[str, object] = {
        "output_error": mixed.error,
        "given_back": [layers[node][0] for node in mixed.given],
        "sensitivity": {layers[node][0]: error for node, error in mixed.sensitivity.items()},
    }
    if mixed.error > request.max_error:
        told["max_error"] = (
            f"not reached: with every layer given back outputs err by {mixed.error:.2g}; what lies between them is "
            f"in 8 bits still"
        )
    return told


def _barred(request: StaticInt8, layers: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Return the nodes that stay float by the recipe, each with its reason."""
    barred = {
        node: reason
        for node, (name, kind) in layers.items()
        if (reason := excluded(name, kind, request.exclude, request.exclude_types))
    }
    if request.float_edges and layers:
        for node in (next(iter(layers)), list(layers)[-1]):
            barred.setdefault(node, "left in float by float_edges")
    return barred


def _calibrate(
    request: StaticInt8, proto: ModelProto, signature: Signature, context: PassContext, samples: int
) -> dict[str, Range]:
    data = context.data
    assert data is not None
    size = signature.batch or _BATCH

    def batches() -> Iterable[Batch]:
        for index, batch in enumerate(onnx_calibrate.samples(data, signature, samples, _BATCH)):
            context.on_event(Event("calibrate", min(index * size, samples), samples))
            yield batch

    return onnx_calibrate.ranges(proto, batches, request.calibration, request.percentile, context.folder)


class _Quantizer:
    """Runs ONNX Runtime's quantizer on ranges of ours, which it reads from a file; weights are then written anew.

    Attributes:
        layers: Name and type by node.
        reduced: Whether weights have 7 bits, or fewer.
        unsigned: Whether activations are unsigned.
    """

    def __init__(
        self, request: StaticInt8, proto: ModelProto, ranges: Mapping[str, Range], context: PassContext
    ) -> None:
        self.request, self.proto, self.folder = request, proto, context.folder
        self.layers = onnx_graph.layers_of(proto)
        self.most = onnx_graph.most(request.reduce_range, context.machine)
        self.reduced = request.weight_bits < _ALL or onnx_graph.seven_bits(request.reduce_range, context.machine)
        self.unsigned = request.activations == "uint8" or (request.activations == "auto" and _x86())
        as_float = {name: (np.float32(seen.low), np.float32(seen.high)) for name, seen in ranges.items()}
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, as_float), self.folder / "ranges.json")

    def __call__(self, barred: Iterable[str], given: Sequence[str] = ()) -> tuple[ModelProto, dict[str, int]]:
        """Quantize, but for what is barred; what is given back stays float, or has all bits where others have few.

        Returns:
            The graph, and the greatest integer of each weight that lay on a grid.
        """
        few = self.request.weight_bits < _ALL
        try:
            with onnx_graph.quiet():
                self._run([*barred, *(() if few else self._with_activations(given))])
        except Exception as error:  # ONNX Runtime's quantizer raises bare Exception
            raise PassError(
                f"ONNX Runtime cannot quantize this graph: {type(error).__name__}: {in_one_line(error)}"
            ) from error
        after = onnx_graph.finished(onnx.load(str(self.folder / "static.onnx")))
        spared = set(given) if few else set()
        return after, onnx_narrow.narrow(self.proto, after, self.request.weight_bits, self.most, spared)

    def _with_activations(self, nodes: Iterable[str]) -> list[str]:
        """Return nodes, and the activations that follow them alone: what lies between is float then, too."""
        by_name = {node.name: node for node in self.proto.graph.node}
        readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.proto.graph.node:
            for name in node.input:
                readers[name].append(node)
        found = list(nodes)
        for name in found:  # which grows
            following = [node for output in by_name[name].output for node in readers[output]]
            if len(following) == 1 and following[0].op_type in _ACTIVATIONS:
                found.append(following[0].name)
        return found

    def _run(self, floats: list[str]) -> None:
        quantize_static(
            onnx_graph.save(self.proto, self.folder / "float.onnx"),
            self.folder / "static.onnx",
            None,
            quant_format=QuantFormat.QDQ,
            calibration_cache_path=self.folder / "ranges.json",
            calibrate_method=CalibrationMethod.MinMax,
            activation_type=QuantType.QUInt8 if self.unsigned else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            per_channel=self.request.per_channel,
            reduce_range=self.reduced,
            nodes_to_exclude=floats,
            extra_options={"ActivationSymmetric": not self.unsigned},
        )


class _Maker:
    """Makes the graph for each choice of nodes to give back, with its biases corrected or not."""

    def __init__(self, quantizer: _Quantizer, barred: Mapping[str, str], biases: onnx_bias.Biases | None) -> None:
        self.quantizer, self.barred, self.biases = quantizer, barred, biases
        self.last: tuple[tuple[str, ...], tuple[ModelProto, dict[str, int]]] | None = None

    def alone(self, node: str, nodes: Sequence[str]) -> ModelProto:
        """Return the graph with one of some nodes quantized, its own bias corrected."""
        made = self.quantizer(self.barred, [other for other in nodes if other != node])[0]
        if self.biases:
            self.biases.correct(made, only=node)
        return made

    def final(self, given: Sequence[str]) -> tuple[ModelProto, dict[str, int]]:
        """Return what would be shipped, and the greatest integer of each weight that lay on a grid."""
        if self.last is None or self.last[0] != tuple(given):
            made = self.quantizer(self.barred, given)
            if self.biases:
                self.biases.correct(made[0])
            self.last = tuple(given), made
        return self.last[1]


def _x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64", "i686", "x86")
