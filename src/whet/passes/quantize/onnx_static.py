"""Static INT8 in QDQ form: our calibration, ONNX Runtime's quantizer."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import ModelProto
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

from whet.data.data import Part
from whet.errors import PassError, RecipeError, in_one_line
from whet.models.model import Model
from whet.passes.base import Outcome, PassContext, excluded
from whet.passes.quantize import onnx_calibrate, onnx_graph, onnx_narrow
from whet.passes.quantize.spec import StaticInt8
from whet.progress import Event
from whet.types import Range, Signature, Trait, TraitKind

if TYPE_CHECKING:
    from pathlib import Path

    from whet.types import Batch

_SAMPLES = 512  # at most, where the recipe names no number
_BATCH = 16
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
        samples = _sample_count(request, context)
        ranges = _calibrate(request, float_proto, model.signature, context, samples)
    reduced = request.weight_bits < 8 or onnx_graph.seven_bits(request.reduce_range, context.machine)
    unsigned = request.activations == "uint8" or (request.activations == "auto" and _x86())
    proto = _quantize(
        request,
        float_proto,
        ranges,
        context.folder,
        {"barred": list(barred), "reduced": reduced, "unsigned": unsigned},
    )
    most = onnx_graph.most(request.reduce_range, context.machine)
    kept = onnx_narrow.narrow(float_proto, proto, request.weight_bits, most)
    reduced = reduced and max(kept.values(), default=0) <= onnx_graph.SEVEN
    changed, skipped = onnx_graph.account(layers, onnx_graph.left_in_float(float_proto, proto), barred, _WHY)
    if not changed:
        return Outcome(model, (), skipped)
    # Signed activations too: ONNX Runtime makes unsigned ones of them on x86, and sums the same way.
    quantized = model.with_payload(proto, ranges={}, needs=model.needs | onnx_graph.needs(reduced))
    notes = {
        "calibration_samples": samples,
        "activations": "uint8" if unsigned else "int8",
        "weight_bits": min(request.weight_bits, 7 if reduced else 8),
        "grids_kept": len(kept),
        "weight_sqnr_db_by_type": onnx_graph.weight_sqnr(float_proto, proto),
    }
    return Outcome(quantized.with_traits(Trait(TraitKind.QUANTIZED, request.weight_bits)), changed, skipped, notes)


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


def _sample_count(request: StaticInt8, context: PassContext) -> int:
    if context.data is None:
        raise RecipeError("static-int8 calibrates on data, and none was given; give --data, or use dynamic-int8")
    available = context.data.size(Part.CALIBRATE)
    if request.samples > available:
        raise RecipeError(
            f"static-int8 asks for {request.samples} calibration samples, the data has {available}; "
            f"give more, or set samples = {available}"
        )
    return request.samples or min(_SAMPLES, available)


def _calibrate(
    request: StaticInt8, proto: ModelProto, signature: Signature, context: PassContext, samples: int
) -> dict[str, Range]:
    data = context.data
    assert data is not None
    size = signature.batch or _BATCH

    def batches() -> Iterable[Batch]:
        for index, batch in enumerate(data.batches(Part.CALIBRATE, size, limit=samples)):
            context.on_event(Event("calibrate", min(index * size, samples), samples))
            bound = signature.bind(batch)
            if signature.batch is not None:  # the last lot is filled up with samples of its own
                bound = signature.fill(bound, size)
            yield bound

    return onnx_calibrate.ranges(proto, batches, request.calibration, request.percentile, context.folder)


def _quantize(
    request: StaticInt8, proto: ModelProto, ranges: Mapping[str, Range], folder: Path, choice: Mapping[str, object]
) -> ModelProto:
    """Run ONNX Runtime's quantizer on ranges of ours, which it reads from a file."""
    as_float = {name: (np.float32(seen.low), np.float32(seen.high)) for name, seen in ranges.items()}
    cache, target = folder / "ranges.json", folder / "static.onnx"
    save_tensors_data(TensorsData(CalibrationMethod.MinMax, as_float), cache)
    try:
        with onnx_graph.quiet():
            quantize_static(
                onnx_graph.save(proto, folder / "float.onnx"),
                target,
                None,
                quant_format=QuantFormat.QDQ,
                calibration_cache_path=cache,
                calibrate_method=CalibrationMethod.MinMax,
                activation_type=QuantType.QUInt8 if choice["unsigned"] else QuantType.QInt8,
                weight_type=QuantType.QInt8,
                per_channel=request.per_channel,
                reduce_range=choice["reduced"],
                nodes_to_exclude=choice["barred"],
                extra_options={"ActivationSymmetric": not choice["unsigned"]},
            )
    except Exception as error:  # ONNX Runtime's quantizer raises bare Exception
        raise PassError(
            f"ONNX Runtime cannot quantize this graph: {type(error).__name__}: {in_one_line(error)}"
        ) from error
    return onnx_graph.finished(onnx.load(str(target)))


def _x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64", "i686", "x86")
