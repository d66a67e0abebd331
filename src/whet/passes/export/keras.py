"""Keras to TFLite, to torch, and through torch to ONNX; torch back to Keras."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from whet.data.data import Part
from whet.errors import PassError, in_one_line
from whet.models.keras import describe, translate
from whet.models.keras.adapter import KerasAdapter
from whet.models.model import Model
from whet.models.source import Origin, Source
from whet.models.tflite.adapter import TfliteAdapter
from whet.models.tflite.naming import named
from whet.models.torch.adapter import TorchAdapter
from whet.passes.base import Outcome, PassContext
from whet.passes.export.agreement import compare
from whet.passes.export.spec import ExportOnnx, ExportTflite, ToKeras, ToTorch
from whet.storage import write_bytes
from whet.types import Format, Signature

import keras  # after the adapter, which chooses its backend  # isort: skip
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

if TYPE_CHECKING:
    from whet.types import Batch

_COMPARED = 8  # samples


def export_tflite(request: ExportTflite, model: Model, context: PassContext) -> Outcome:
    """Convert by TensorFlow's converter, in float; compare with the source on real inputs."""
    signature = model.signature
    assert signature is not None
    content = _converted(model.payload, signature, request.batch)
    names = ([spec.name for spec in specs] for specs in (signature.inputs, signature.outputs))
    content, path = named(content, *names), context.folder / "converted.tflite"
    write_bytes(path, content)
    batch = sample(signature, context, request.batch or _COMPARED)
    made = TfliteAdapter().open(Source(Origin.FILE, Format.TFLITE, str(path)), batch)
    made = model.with_payload(content, format=Format.TFLITE, signature=_known(made.signature, signature))
    notes = compare(KerasAdapter().forward(model, batch), TfliteAdapter().forward(made, batch), request.tolerance)
    return Outcome(made, tuple(describe.layers(model.payload)), (), notes)


def _converted(model: keras.Model, signature: Signature, batch: int) -> bytes:
    """Return a model as a TFLite file, its inputs and outputs named as the converter likes."""
    flat = _inference(model)
    specs = [tf.TensorSpec((batch or None, *spec.concrete(1)[1:]), spec.dtype, name=spec.name)
             for spec in signature.inputs]  # fmt: skip
    serve = tf.function(
        lambda *values: keras.tree.flatten(flat(describe.arranged(flat, list(values)), training=False)),
        input_signature=specs, autograph=False,
    )  # fmt: skip
    with _quiet():
        try:
            frozen = convert_variables_to_constants_v2(serve.get_concrete_function())
            return bytes(tf.lite.TFLiteConverter.from_concrete_functions([frozen]).convert())
        except Exception as error:  # the converter raises whatever its stages do
            raise PassError(f"TensorFlow cannot convert the model: {in_one_line(error, 300)}") from error


def to_torch(request: ToTorch, model: Model, context: PassContext) -> Outcome:
    """Translate layer by layer; compare with the source on real inputs."""
    made = translate.to_torch(model, context.folder)
    assert model.signature is not None
    batch = sample(model.signature, context, _COMPARED)
    notes = compare(KerasAdapter().forward(model, batch), TorchAdapter().forward(made, batch), request.tolerance)
    return Outcome(made, tuple(describe.layers(model.payload)), (), notes)


def to_keras(request: ToKeras, model: Model, context: PassContext) -> Outcome:
    """Give widths and weights of a module back to the Keras model it came from; compare the two."""
    if context.original is None:
        raise PassError("to-keras needs the Keras model that the module came from; run it in a recipe")
    original = context.original()
    if original.format is not Format.KERAS:
        raise PassError("to-keras leads back to Keras, and this model did not come from there; use export-onnx")
    made = model.with_payload(translate.to_keras(model, original.payload), format=Format.KERAS)
    assert model.signature is not None
    batch = sample(model.signature, context, _COMPARED)
    notes = compare(TorchAdapter().forward(model, batch), KerasAdapter().forward(made, batch), request.tolerance)
    return Outcome(made, tuple(describe.layers(made.payload)), (), notes)


def export_onnx(request: ExportOnnx, model: Model, context: PassContext) -> Outcome:
    """Translate into torch, whose export folds BatchNorm, and export that."""
    from whet.passes.export.torch import export_onnx as from_torch

    translated = translate.to_torch(model, context.folder)
    return from_torch(request, translated, context)


def sample(signature: Signature, context: PassContext, most: int) -> Batch:
    """Return real samples where there are data, drawn ones else."""
    if context.data is None:
        return signature.synthetic(most)
    some = min(most, context.data.size(Part.CALIBRATE))
    return signature.bind(context.data.batch(Part.CALIBRATE, range(some)))


def _inference(model: keras.Model) -> keras.Model:
    """Return a copy without what only training knows, which the converter would keep as a branch."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.trainable = False
    return copy


def _known(found: Signature | None, source: Signature) -> Signature:
    """Return the signature of the file, with what the source knew of its inputs."""
    assert found is not None
    known = {spec.name: spec for spec in source.inputs}
    lost = [spec.name for spec in found.inputs if spec.name not in known]
    if lost:
        raise PassError(f"the converter named inputs {', '.join(lost)}, not {', '.join(known)}")
    inputs = [replace(known[spec.name], shape=spec.shape, sample=spec.sample) for spec in found.inputs]
    return Signature(tuple(inputs), found.outputs)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converter from telling on standard error, below Python, what it does."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            logger.setLevel(level)
