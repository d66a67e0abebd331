"""Torch to TFLite, by litert-torch."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from whet.data.data import Part
from whet.errors import MissingDependency, PassError, in_one_line
from whet.models.model import Model
from whet.models.source import Origin, Source
from whet.models.tflite.adapter import TfliteAdapter
from whet.models.tflite.naming import named
from whet.models.torch.adapter import flatten, run, tensors
from whet.passes.base import Outcome, PassContext
from whet.passes.export.agreement import compare
from whet.passes.export.spec import ExportTflite
from whet.storage import write_bytes
from whet.types import Format, Signature

if TYPE_CHECKING:
    from whet.types import Batch

_COMPARED = 16  # samples


def export_tflite(request: ExportTflite, model: Model, context: PassContext) -> Outcome:
    """Convert in float, for a fixed number of samples; compare with the source on real inputs."""
    signature = model.signature
    if signature is None:
        raise PassError("the model's inputs are not known; give data, or --input 'name=dtype[axes]'")
    count = signature.batch or request.batch or 1
    batches = _batches(signature, context, count)
    content = named(
        _converted(model.payload.module, signature, batches[0]),
        [spec.name for spec in signature.inputs],
        [spec.name for spec in signature.outputs],
    )
    path = context.folder / "converted.tflite"
    write_bytes(path, content)
    made = TfliteAdapter().open(Source(Origin.FILE, Format.TFLITE, str(path)), batches[0])
    made = model.with_payload(content, format=Format.TFLITE, signature=_fixed(signature, count))
    notes: dict[str, Any] = {"samples_a_call": count}
    for batch in batches:
        wanted, found = run(model.payload.module, batch), TfliteAdapter().forward(made, batch)
        for name, difference in compare(wanted, found, request.tolerance).items():
            notes[name] = max(notes.get(name, 0.0), difference)
    return Outcome(made, tuple(layer.name for layer in TfliteAdapter().layers(made)), (), notes)


def _batches(signature: Signature, context: PassContext, count: int) -> list[Batch]:
    """Return inputs of so many samples each: real ones if there is data, drawn ones else."""
    calls = max(1, _COMPARED // count)
    if context.data is None:
        return [signature.synthetic(count, context.seed + at) for at in range(calls)]
    there = context.data.size(Part.CALIBRATE)
    places = [np.arange(at * count, (at + 1) * count) % there for at in range(min(calls, -(-there // count)))]
    return [signature.bind(context.data.batch(Part.CALIBRATE, list(map(int, place)))) for place in places]


def _converted(module: nn.Module, signature: Signature, batch: Batch) -> bytes:
    """Return a module as a TFLite file, made for inputs of these shapes."""
    if importlib.util.find_spec("litert_torch") is None:
        raise MissingDependency(
            "TFLite of a torch model needs litert_torch, which is not installed; run: pip install "
            "'whet[litert-torch]', or make ONNX of it: export-onnx, without --runtime litert"
        )
    given = tensors(batch)
    wrapped = _Positional(module, [spec.name for spec in signature.inputs]).eval()
    with _quiet():
        try:
            import litert_torch

            made = litert_torch.convert(wrapped, tuple(given[spec.name] for spec in signature.inputs))
            return bytes(made.model_content())
        except Exception as error:  # the converter raises whatever its stages do
            raise PassError(
                f"litert-torch cannot convert the model: {type(error).__name__}: "
                f"{in_one_line(_cause(error), 300)}; make ONNX of it instead: export-onnx, without --runtime litert"
            ) from error


class _Positional(nn.Module):
    """A module that takes its inputs in order and returns its outputs flat."""

    def __init__(self, module: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = flatten(self.module(**dict(zip(self.names, values, strict=True))))
        return tuple(found.values())


def _fixed(signature: Signature, count: int) -> Signature:
    """Return the source's signature with the number of samples, and what was free at the lengths it was run at."""
    specs = [
        tuple(
            replace(spec, shape=spec.concrete(count), example=()) if spec.sample is not None else spec
            for spec in part
        )
        for part in (signature.inputs, signature.outputs)
    ]
    return Signature(*specs)


def _cause(error: BaseException) -> BaseException:
    """Return what lies below a converter's wrapping."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converter's progress and warnings, which a user can do nothing about, off the screen."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(level)
