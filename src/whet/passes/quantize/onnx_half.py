"""Float16 weights in ONNX."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from whet.errors import PassError, in_one_line
from whet.models.model import Model
from whet.passes.base import Outcome, PassContext
from whet.passes.quantize import onnx_graph
from whet.passes.quantize.spec import Half
from whet.types import Trait, TraitKind

_GREATEST = float(np.finfo(np.float16).max)


def half(request: Half, model: Model, context: PassContext) -> Outcome:
    """Convert weights and inner tensors; inputs and outputs keep their types, by casts at the edges."""
    float_proto = onnx_graph.named(model.payload)
    clipped = sum(_beyond(tensor) for tensor in float_proto.graph.initializer)
    try:
        with onnx_graph.quiet():
            converted = convert_float_to_float16(float_proto, keep_io_types=True)
    except Exception as error:
        raise PassError(
            f"the graph cannot be converted to float16: {type(error).__name__}: {in_one_line(error)}"
        ) from error
    proto = onnx_graph.finished(converted)
    before = {tensor.name for tensor in model.payload.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    changed = tuple(
        tensor.name
        for tensor in proto.graph.initializer
        if tensor.data_type == TensorProto.FLOAT16 and tensor.name in before
    )
    if not changed:
        return Outcome(model, ())
    notes = {"weights": "float16", "values_clipped_to_65504": clipped}
    return Outcome(model.with_payload(proto).with_traits(Trait(TraitKind.HALF, 16)), changed, (), notes)


def _beyond(tensor: TensorProto) -> int:
    """Count the weights that float16 cannot hold."""
    if tensor.data_type != TensorProto.FLOAT:
        return 0
    return int((np.abs(numpy_helper.to_array(tensor)) > _GREATEST).sum())
