"""Torch to ONNX."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from torch import nn

from whet import userfile
from whet.data.data import Part
from whet.errors import PassError, UnsupportedOperator, in_one_line
from whet.models.model import Model
from whet.models.onnx.adapter import OnnxAdapter
from whet.models.onnx.initializers import flush_subnormals
from whet.models.onnx.signature import graph_signature
from whet.models.torch.adapter import run, tensors
from whet.passes.base import Outcome, PassContext
from whet.passes.export.agreement import compare
from whet.passes.export.spec import ExportOnnx
from whet.types import Format, Signature, TensorSpec

if TYPE_CHECKING:
    from whet.types import Batch

_COMPARED = 16  # samples


def export_onnx(request: ExportOnnx, model: Model, context: PassContext) -> Outcome:
    """Export, check, flush subnormals, and compare with the source on real inputs."""
    signature = model.signature
    if signature is None:
        raise PassError("the model's inputs are not known; give data, or --input 'name=dtype[axes]'")
    request = replace(request, batch=request.batch or signature.batch or 0)  # a program may have fixed it
    batch = _inputs(signature, context, request.batch or _COMPARED)
    proto = _export(request, model.payload.module, signature, batch)
    flushed = flush_subnormals(proto)
    onnx.checker.check_model(proto, full_check=True)
    exported = model.with_payload(
        proto, format=Format.ONNX, signature=_signature(graph_signature(proto), signature, request.batch)
    )
    notes: dict[str, Any] = {"subnormals_flushed": flushed}
    # One sample alone, too: the exporter takes it that there are two or more.
    for count in (1, _COMPARED) if not request.batch else (request.batch,):
        part = {name: array[:count] for name, array in batch.items()}
        wanted, found = run(model.payload.module, part), OnnxAdapter().forward(exported, part)
        for name, difference in compare(wanted, found, request.tolerance).items():
            notes[name] = max(notes.get(name, 0.0), difference)
    return Outcome(exported, tuple(node.name for node in proto.graph.node), (), notes)


def _signature(declared: Signature, before: Signature, batch: int) -> Signature:
    """Return the signature of the exported graph.

    Raises:
        PassError: An axis that was to be free was fixed on the way.
    """
    inputs, outputs = [], []
    for spec, source in zip(declared.inputs, before.inputs, strict=True):
        shape = (batch or source.shape[0], *source.shape[1:])
        for axis, (have, want) in enumerate(zip(spec.shape, shape, strict=True)):
            if want is None and have is not None:
                raise _fixed(spec.name, axis, have)
        inputs.append(replace(source, dtype=spec.dtype, shape=shape))
    for spec, source in zip(declared.outputs, before.outputs, strict=True):
        shape = tuple((batch or None) if axis == source.sample else size for axis, size in enumerate(spec.shape))
        outputs.append(replace(spec, shape=shape, sample=source.sample))
    return Signature(tuple(inputs), tuple(outputs))


def _fixed(name: str, axis: int, size: int) -> PassError:
    if axis == 0:
        return PassError(
            f"the model fixes its number of samples (at the {size} it was exported with), so it cannot be exported "
            f"with a free one; set batch = 1 in the export-onnx step, or mend what depends on it in its forward"
        )
    return PassError(
        f"the model fixes axis {axis} of {name!r} at {size}, so it cannot be exported with a free one; "
        f"declare it without the ?, or mend what depends on it in its forward"
    )


def _inputs(signature: Signature, context: PassContext, count: int) -> Batch:
    """Return so many inputs: real ones (repeated where there are too few) if there is data, synthetic ones else."""
    if context.data is None:
        return signature.synthetic(count, context.seed)
    available = context.data.size(Part.CALIBRATE)
    batch = signature.bind(context.data.batch(Part.CALIBRATE, range(min(count, available))))
    return {name: np.resize(array, (count, *array.shape[1:])) for name, array in batch.items()}


def _export(request: ExportOnnx, module: nn.Module, signature: Signature, batch: Batch) -> onnx.ModelProto:
    bounds = [most for spec in signature.inputs if spec.most and (most := spec.most[0])]
    dimension = torch.export.Dim("batch", max=min(bounds)) if bounds else torch.export.Dim("batch")
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
    """Name the free axes of an input; that of samples is the same of all inputs."""
    free = (axis for axis, size in enumerate(spec.shape) if size is None and axis != spec.sample)
    axes = dict.fromkeys(free, torch.export.Dim.DYNAMIC)
    return axes if spec.sample is None else {spec.sample: dimension, **axes}


def _explain(error: Exception) -> PassError:
    """Find the cause below torch.onnx's wrapping."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and isinstance(cause, Exception):
        chain.append(cause)
    text = "\n".join(str(item) for item in chain)
    operator = re.search(r"No (?:ONNX function|decompositions?)[^<\n]*<OpOverload\(op='([^']+)'", text)
    if operator:
        return UnsupportedOperator(f"ONNX has no operator for {operator[1]}; replace it in the model's forward")
    axis = re.search(r"static shape of (\d+) for dimension inputs\['([^']+)'\]\.shape\[(\d+)\]", text)
    if axis:
        return _fixed(axis[2], int(axis[3]), int(axis[1]))
    if "Constraints violated" in text or "specialized" in text:
        return _fixed("", 0, _COMPARED)
    root = chain[-1]
    frames = re.finditer(r'File "([^"]+)", line (\d+)', text)
    where = next((frame for frame in frames if userfile.is_users(frame[1])), None)
    place = f" (at {where[1]}, line {where[2]})" if where else ""
    return PassError(f"the model cannot be exported: {type(root).__name__}: {in_one_line(root, 300)}{place}")


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
