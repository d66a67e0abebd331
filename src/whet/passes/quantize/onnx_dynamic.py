"""Dynamic INT8 by ONNX Runtime's quantizer."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import ModelProto
from onnxruntime.quantization import QuantType, quantize_dynamic

from whet.errors import PassError, in_one_line
from whet.models.model import Model
from whet.passes.base import Outcome, PassContext, excluded
from whet.passes.quantize import onnx_graph, onnx_narrow
from whet.passes.quantize.spec import DynamicInt8
from whet.types import Trait, TraitKind

_TYPES = ["MatMul", "Gemm", "LSTM", "Gather", "Attention", "EmbedLayerNormalization"]
_WHY = {
    "GRU": "ONNX Runtime has no quantized GRU kernel",
    "RNN": "ONNX Runtime has no quantized RNN kernel",
    "Conv": "dynamic INT8 convolutions run at 0.2-0.5 of the float speed; set convolutions = true to have them",
    "ConvTranspose": "ONNX Runtime has no dynamic INT8 transposed convolution",
}


def dynamic_int8(request: DynamicInt8, model: Model, context: PassContext) -> Outcome:
    """Quantize matrix products, LSTMs and embeddings; convolutions where asked."""
    float_proto = onnx_graph.named(model.payload)
    onnx_graph.unshare(float_proto)
    onnx_graph.turn_gemms(float_proto)
    layers = onnx_graph.layers_of(float_proto)
    barred = {
        node: reason
        for node, (name, kind) in layers.items()
        if (reason := excluded(name, kind, request.exclude, request.exclude_types))
    }
    reduced = request.weight_bits < 8 or onnx_graph.seven_bits(request.reduce_range, context.machine)
    proto = _quantize(request, float_proto, context.folder, list(barred), reduced)
    most = onnx_graph.most(request.reduce_range, context.machine)
    kept = onnx_narrow.narrow(float_proto, proto, request.weight_bits, most)
    reduced = reduced and max(kept.values(), default=0) <= onnx_graph.SEVEN
    changed, skipped = onnx_graph.account(layers, onnx_graph.left_in_float(float_proto, proto), barred, _WHY)
    skipped += onnx_graph.unfolded(float_proto)
    if not changed:
        return Outcome(model, (), skipped)
    quantized = model.with_payload(proto, needs=model.needs | onnx_graph.needs(reduced))
    notes = {
        "weight_bits": min(request.weight_bits, 7 if reduced else 8),
        "grids_kept": len(kept),
        "per_channel": request.per_channel,
        "weight_sqnr_db_by_type": onnx_graph.weight_sqnr(float_proto, proto),
    }
    return Outcome(quantized.with_traits(Trait(TraitKind.QUANTIZED, request.weight_bits)), changed, skipped, notes)


def _quantize(
    request: DynamicInt8, proto: ModelProto, folder: Path, barred: list[str], reduced: bool
) -> ModelProto:
    """Run ONNX Runtime's quantizer, which takes files."""
    source, target = onnx_graph.save(proto, folder / "float.onnx"), folder / "dynamic.onnx"
    try:
        with onnx_graph.quiet():
            quantize_dynamic(
                source,
                target,
                op_types_to_quantize=[*_TYPES, *(["Conv"] if request.convolutions else [])],
                per_channel=request.per_channel,
                reduce_range=reduced,
                weight_type=QuantType.QInt8,
                # The quantizer has made a MatMul of every Gemm before it looks at their names.
                nodes_to_exclude=[name for node in barred for name in (node, f"{node}_MatMul")],
            )
    except Exception as error:  # ONNX Runtime's quantizer raises bare Exception
        raise PassError(
            f"ONNX Runtime cannot quantize this graph: {type(error).__name__}: {in_one_line(error)}"
        ) from error
    return onnx_graph.finished(onnx.load(str(target)))
