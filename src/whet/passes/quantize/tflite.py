"""Quantization of TFLite files, by LiteRT's own quantizer on ranges that are calibrated here."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.quantizer import Quantizer

from whet.data.data import Part
from whet.errors import PassError, in_one_line
from whet.models.model import Model
from whet.models.tflite.adapter import TfliteAdapter
from whet.models.tflite.counting import names
from whet.models.tflite.flatbuffer import Graph, parse
from whet.models.tflite.interpreter import Running, quiet
from whet.models.tflite.naming import apart
from whet.models.tflite.signature import file_signature
from whet.passes.base import Outcome, PassContext, excluded
from whet.passes.quantize import tflite_grid
from whet.passes.quantize.calibration import sample_count
from whet.passes.quantize.math import Extremes, Histogram
from whet.passes.quantize.spec import DynamicInt8, Half, Int4Weights, StaticInt8
from whet.progress import Event
from whet.types import Range, Signature, Skipped, TensorSpec, Trait, TraitKind

if TYPE_CHECKING:
    from whet.types import Batch

_BATCH = 16
_EVERY = qtyping.TFLOperationName.ALL_SUPPORTED
_IN_4_BITS = (qtyping.TFLOperationName.CONV_2D, qtyping.TFLOperationName.FULLY_CONNECTED)
_ENDS = (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT)
_HELD = ("FLOAT32", "FLOAT16", "INT8", "INT4")  # types of weights; those of shapes and axes are others
Configure = Callable[[Quantizer], None]


def dynamic_int8(request: DynamicInt8, model: Model, context: PassContext) -> Outcome:
    """Hold weights in integers; LiteRT quantizes activations as they come."""

    def configure(quantizer: Quantizer) -> None:
        quantizer.add_dynamic_config(".*", _EVERY, 8)
        for kind in _IN_4_BITS if request.weight_bits == 4 else ():
            quantizer.add_dynamic_config(".*", kind, 4)

    return _quantized(request, model, Trait(TraitKind.QUANTIZED, request.weight_bits), configure)


def half(request: Half, model: Model, context: PassContext) -> Outcome:
    """Hold weights in float16; LiteRT turns them into float32 as it opens the file."""
    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )

    def configure(quantizer: Quantizer) -> None:
        quantizer.update_quantization_recipe(".*", _EVERY, config, AlgorithmName.FLOAT_CASTING)

    return _quantized(request, model, Trait(TraitKind.HALF, 16), configure)


def int4_weights(request: Int4Weights, model: Model, context: PassContext) -> Outcome:
    """Hold weights in INT4, a scale a channel, and multiply in float."""

    def configure(quantizer: Quantizer) -> None:
        quantizer.add_weight_only_config(".*", _EVERY, 4)

    return _quantized(request, model, Trait(TraitKind.QUANTIZED, 4), configure)


def static_int8(request: StaticInt8, model: Model, context: PassContext) -> Outcome:
    """Calibrate, and hold weights and activations in integers."""
    samples = sample_count(request, context)
    ranges = _calibrate(request, model, context, samples)
    bits = 16 if request.activations == "int16" else 8

    def configure(quantizer: Quantizer) -> None:
        quantizer.add_static_config(".*", _EVERY, bits, 8)
        for kind in _IN_4_BITS if request.weight_bits == 4 else ():
            quantizer.add_static_config(".*", kind, bits, 4)
        for end in _ENDS if request.io == "float" else ():
            quantizer.update_quantization_recipe(".*", end, algorithm_key=AlgorithmName.NO_QUANTIZE)

    outcome = _quantized(request, model, Trait(TraitKind.QUANTIZED, request.weight_bits), configure, ranges)
    return replace(outcome, notes={"calibration_samples": samples, **outcome.notes})


def _quantized(
    request: Any, model: Model, trait: Trait, configure: Configure, ranges: Mapping[str, Range] = {}
) -> Outcome:
    """Run the quantizer and tell which operators it changed."""
    layers = [layer for layer in TfliteAdapter().layers(model) if layer.weights]
    spared = {
        layer.name: reason
        for layer in layers
        if (reason := excluded(layer.name, layer.kind, request.exclude, request.exclude_types))
    } if hasattr(request, "exclude") else {}  # fmt: skip
    if getattr(request, "float_edges", False) and layers:
        spared |= {layers[at].name: "left in float by float_edges" for at in (0, -1)}
    content = _run(model, configure, [_yielded(model)[name] for name in spared], ranges)
    content, kept = tflite_grid.keep(model.payload, content)
    made = model.with_payload(content, signature=_signature(file_signature(content), model.signature))
    changed, skipped, notes = _account(model, made, spared)
    notes |= {"grids_kept": len(kept)} if kept else {}
    return Outcome(made.with_traits(trait) if changed else model, changed, skipped, notes)


def _run(model: Model, configure: Configure, spared: Iterable[str], ranges: Mapping[str, Range]) -> bytes:
    with _silent():
        try:
            content, key = apart(model.payload)
            quantizer = Quantizer(content)
            configure(quantizer)
            for name in spared:
                only = (
                    f"(^|;){re.escape(name)}(;|$)"  # an operator goes by all it yields; the regex is searched for
                )
                quantizer.update_quantization_recipe(only, _EVERY, algorithm_key=AlgorithmName.NO_QUANTIZE)
            known = None
            if quantizer.need_calibration:
                assert model.signature is not None
                known = quantizer.calibrate({key: [dict(model.signature.synthetic(1))]}, num_threads=1)
                known = {name: _range(seen, ranges.get(name)) for name, seen in known.items()}
            found = quantizer.quantize(known, enable_progress_bar=False, enable_progress_report=False)
        except Exception as error:  # the quantizer raises bare errors of many kinds
            raise PassError(f"LiteRT's quantizer refuses this file: {in_one_line(error, 300)}") from error
    assert found.quantized_model is not None
    return bytes(found.quantized_model)


def _range(seen: Mapping[str, Any], own: Range | None) -> Mapping[str, Any]:
    """Return what the quantizer holds of a tensor, with a range of ours in place of one sample's."""
    if own is None or "min" not in seen:
        return seen
    return {
        **seen,
        "min": np.full_like(seen["min"], own.low),
        "max": np.full_like(seen["max"], own.high),
    }


def _account(
    before: Model, after: Model, spared: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[Skipped, ...], dict[str, Any]]:
    """Return the layers whose weights are held otherwise now, why others are not, and how many hold which type."""
    had, has = (_types(parse(model.payload)[0]) for model in (before, after))
    yielded = _yielded(before)
    layers = TfliteAdapter().layers(before)
    changed = tuple(each.name for each in layers if has.get(yielded[each.name]) != had[yielded[each.name]])
    left = [layer for layer in layers if layer.name not in changed and layer.weights]
    why = "LiteRT's quantizer has no such form of it"
    skipped = tuple(Skipped(layer.name, spared.get(layer.name, f"{layer.kind}: {why}")) for layer in left)
    held = Counter(has[yielded[name]][0].lower() for name in changed if has[yielded[name]])
    return changed, skipped, {f"layers_in_{kind}": count for kind, count in sorted(held.items())}


def _yielded(model: Model) -> dict[str, str]:
    """Return the tensor that each layer yields, by which the quantizer knows it."""
    graph = parse(model.payload)[0]
    return {
        name: graph.tensors[one.outputs[0]].name
        for name, one in zip(names(graph), graph.operators, strict=True)
        if one.outputs
    }


def _types(graph: Graph) -> dict[str, tuple[str, ...]]:
    """Return the types of the weights of each operator, as they are stored, by the name of what it yields.

    Of an operator without weights, the types of all that goes in.
    """
    stored = {one.outputs[0]: one.inputs[0] for one in graph.operators if one.kind == "DEQUANTIZE"}
    found = {}
    for one in graph.operators:
        tensors = [graph.tensors[stored.get(at, at)] for at in one.inputs if at >= 0]
        types = tuple(tensor.type for tensor in tensors if tensor.data is not None and tensor.type in _HELD)
        if one.outputs and one.kind != "DEQUANTIZE":
            found[graph.tensors[one.outputs[0]].name] = types or tuple(tensor.type for tensor in tensors)
    return found


def _signature(found: Signature, source: Signature | None) -> Signature:
    """Return the file's signature with the free axes of the float file."""
    assert source is not None
    return Signature(
        tuple(_like(spec, source.inputs) for spec in found.inputs),
        tuple(_like(spec, source.outputs) for spec in found.outputs),
    )


def _like(spec: TensorSpec, specs: tuple[TensorSpec, ...]) -> TensorSpec:
    known = {each.name: each for each in specs}[spec.name]
    return replace(spec, shape=known.shape, sample=known.sample, example=known.example)


def _calibrate(request: StaticInt8, model: Model, context: PassContext, samples: int) -> dict[str, Range]:
    """Return the range of every float tensor that is no constant, by name."""
    graph = parse(model.payload)[0]
    places = {
        at: tensor.name
        for at, tensor in enumerate(graph.tensors)
        if tensor.type == "FLOAT32" and tensor.data is None
    }
    extremes = {at: Extremes() for at in places}
    calls = _watch(model, context, samples, {at: extremes[at].add for at in places})
    found = {at: seen.range() for at, seen in extremes.items()}
    if request.calibration == "minmax":
        return {places[at]: seen for at, seen in found.items()}
    histograms = {at: Histogram(seen, calls) for at, seen in found.items()}
    _watch(model, context, samples, {at: histograms[at].add for at in places})
    if request.calibration == "entropy":
        return {places[at]: histogram.entropy() for at, histogram in histograms.items()}
    return {places[at]: histogram.percentile(request.percentile) for at, histogram in histograms.items()}


def _watch(model: Model, context: PassContext, samples: int, sinks: Mapping[int, Callable[..., None]]) -> int:
    """Run every calibration sample and hand tensors to those who look at them, by place; return the calls."""
    running, calls = Running(model.payload, keep=True), 0
    for batch in _batches(model, context, samples):
        running.run(batch)
        for at, add in sinks.items():
            add(running.interpreter.get_tensor(at))
        calls += 1
    return calls


def _batches(model: Model, context: PassContext, samples: int) -> Iterator[Batch]:
    assert context.data is not None
    assert model.signature is not None
    size = model.signature.batch or _BATCH
    for index, batch in enumerate(context.data.batches(Part.CALIBRATE, size, limit=samples)):
        bound = model.signature.bind(batch)
        yield bound if model.signature.batch is None else model.signature.fill(bound, size)
        context.on_event(Event("calibrate", min((index + 1) * size, samples), samples))


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the quantizer from telling what it does on both of the program's outputs."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quiet(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
