"""Torch to ONNX."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from torch import nn

from whet.data.data import Part
from whet.errors import PassError, UnsupportedOperator
from whet.models.model import Model
from whet.models.onnx.adapter import OnnxAdapter, graph_signature
from whet.models.onnx.initializers import flush_subnormals
from whet.models.torch.adapter import run, tensors
from whet.passes.base import Outcome, PassContext
from whet.passes.export.spec import ExportOnnx
from whet.types import Format, Signature, TensorSpec

if TYPE_CHECKING:
    from whet.types import Array, Batch

_COMPARED = 16  # samples


def export_onnx(request: ExportOnnx, model: Model, context: PassContext) -> Outcome:
    """Export, check, flush subnormals, and compare with the source on real inputs."""
    signature = model.signature
    if signature is None:
        raise PassError("the model's inputs are not known; give data, or --input 'name=dtype[axes]'")
    batch = _inputs(signature, context, request.batch or _COMPARED)
    proto = _export(request, model.payload.module, signature, batch)
    flushed = flush_subnormals(proto)
    onnx.checker.check_model(proto, full_check=True)
    declared = graph_signature(proto)
    inputs = tuple(_carry(spec, before) for spec, before in zip(declared.inputs, signature.inputs, strict=True))
    outputs = tuple(
        TensorSpec(spec.name, spec.dtype, before.shape)
        for spec, before in zip(declared.outputs, signature.outputs, strict=True)
    )
    exported = model.with_payload(proto, format=Format.ONNX, signature=Signature(inputs, outputs))
    wanted = run(model.payload.module, batch)
    found = OnnxAdapter().forward(exported, batch)
    notes = {"subnormals_flushed": flushed, **compare(wanted, found, request.tolerance)}
    return Outcome(exported, tuple(node.name for node in proto.graph.node), (), notes)


def compare(wanted: dict[str, Array], found: dict[str, Array], tolerance: float) -> dict[str, Any]:
    """Return the greatest difference of outputs by name, absolute and as a share of the greatest output.

    Raises:
        PassError: It exceeds the tolerance.
    """
    worst = {"max_abs_difference": 0.0, "max_rel_difference": 0.0}
    for name, array in wanted.items():
        difference = float(np.abs(found[name].astype(np.float64) - array.astype(np.float64)).max(initial=0.0))
        scale = float(np.abs(array.astype(np.float64)).max(initial=0.0))
        share = difference / scale if scale else difference
        if not share <= tolerance:
            raise PassError(
                f"the exported model's output {name!r} is off the source's by {share:.2g} of its greatest value "
                f"(allowed: {tolerance:.2g}); the export changed what the model computes"
            )
        worst["max_abs_difference"] = max(worst["max_abs_difference"], difference)
        worst["max_rel_difference"] = max(worst["max_rel_difference"], share)
    return worst


def _inputs(signature: Signature, context: PassContext, count: int) -> Batch:
    """Return real inputs if there is data, synthetic ones else; two at least, so that no axis of one is fixed."""
    if context.data is None:
        return signature.synthetic(max(count, 2), context.seed)
    available = context.data.size(Part.CALIBRATE)
    batch = signature.bind(context.data.batch(Part.CALIBRATE, range(min(count, available))))
    if available >= count or count == 1:
        return batch
    return {name: np.resize(array, (max(count, 2), *array.shape[1:])) for name, array in batch.items()}


def _export(request: ExportOnnx, module: nn.Module, signature: Signature, batch: Batch) -> onnx.ModelProto:
    dimension = torch.export.Dim("batch")
    dynamic: Any = None
    if not request.batch:
        dynamic = {spec.name: _free_axes(spec, dimension) for spec in signature.inputs}
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                kwargs=dict(tensors(batch)),
                dynamo=True,
                dynamic_shapes=dynamic,
                opset_version=request.opset,
                input_names=[spec.name for spec in signature.inputs],
                output_names=[spec.name for spec in signature.outputs],
                verbose=False,
            )
    except Exception as error:  # torch.onnx wraps whatever its stages raise
        raise _explain(error) from error
    assert program is not None
    return program.model_proto


def _free_axes(spec: TensorSpec, dimension: Any) -> dict[int, Any]:
    """Name the free axes of an input; axis 0 is the same of all inputs."""
    axes = {axis: torch.export.Dim.DYNAMIC for axis, size in enumerate(spec.shape) if size is None and axis}
    return {0: dimension, **axes}


def _carry(spec: TensorSpec, before: TensorSpec) -> TensorSpec:
    return TensorSpec(spec.name, spec.dtype, before.shape, before.example, before.low, before.high)


def _explain(error: Exception) -> PassError:
    """Find the cause below torch.onnx's wrapping."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and isinstance(cause, Exception):
        chain.append(cause)
    text = "\n".join(str(item) for item in chain)
    operator = re.search(r"No (?:ONNX function|decompositions?)[^<\n]*<OpOverload\(op='([^']+)'", text)
    if operator:
        return UnsupportedOperator(f"ONNX has no operator for {operator[1]}; replace it in the model's forward")
    if "Constraints violated" in text or "specialized" in text:
        return PassError(
            "the model fixes its number of samples, so it cannot be exported with a free one; "
            "set batch = 1 in the export-onnx step, or mend the reshape in its forward"
        )
    root = chain[-1]
    line = next((line.strip() for line in str(root).splitlines() if line.strip()), "")
    where = re.search(r'File "(?!.*site-packages)([^"]+)", line (\d+)', text)
    place = f" (at {where[1]}, line {where[2]})" if where else ""
    return PassError(f"the model cannot be exported: {type(root).__name__}: {line[:300]}{place}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's own warnings, which a user can do nothing about, off the screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(level)
