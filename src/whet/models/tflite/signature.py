"""What goes into a TFLite file and what comes out, in floats also where the file holds integers.

An input or output of 8 or 16 bit integers with a scale is ``float32`` in a signature, with the integer type as
``coded`` and the least and the greatest number it can stand for as ``low`` and ``high``: the house, its data and
its metrics see numbers. Data that has the integer type already goes in as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from whet.errors import SignatureError
from whet.models.tflite.constants import DTYPES
from whet.models.tflite.flatbuffer import Content, Tensor, parse
from whet.types import Signature, TensorSpec

if TYPE_CHECKING:
    from whet.types import Array, Batch

_CODED = {"INT8", "UINT8", "INT16"}


@dataclass(frozen=True, slots=True)
class Code:
    """How a file holds the numbers of an input or output: ``scale * (integer - zero)``, or as is (scale 0)."""

    dtype: str
    scale: float = 0.0
    zero: int = 0

    def encode(self, array: Array) -> Array:
        """Return numbers as the file holds them, rounded and cut off at the ends; integers of its own type as is.

        Raises:
            SignatureError: A number is none (NaN).
        """
        if not self.scale or array.dtype == self.dtype:
            return np.ascontiguousarray(array)
        holds = np.iinfo(self.dtype)
        whole = np.clip(np.rint(array / np.float32(self.scale)) + self.zero, holds.min, holds.max)
        try:
            with np.errstate(invalid="raise"):
                return np.ascontiguousarray(whole, self.dtype)
        except FloatingPointError as error:
            raise SignatureError(
                f"an input has values that are no numbers (NaN), which {self.dtype} cannot hold; fill them in"
            ) from error

    def decode(self, array: Array) -> Array:
        """Return the numbers that an array of the file stands for."""
        if not self.scale:
            return array
        return (array.astype(np.float32) - np.float32(self.zero)) * np.float32(self.scale)


def code_of(tensor: Tensor) -> Code:
    """Return how a tensor holds its numbers."""
    how = tensor.quantization
    if how is None or tensor.type not in _CODED or len(how.scales) != 1 or not how.scales[0] > 0:
        return Code(DTYPES.get(tensor.type, tensor.type))
    return Code(DTYPES[tensor.type], float(how.scales[0]), int(how.zeros[0]))


def file_signature(content: Content) -> Signature:
    """Return the signature that a file declares, of its first graph.

    The axis of samples is the first of the first input that has axes, and the first of every other tensor that is
    as long there; an input of another fixed length is the same for all samples.

    Raises:
        SignatureError: An input or output is no tensor of numbers.
    """
    graph = parse(content)[0]
    inputs = [_spec(name, graph.tensors[place]) for name, place in graph.inputs]
    outputs = [_spec(name, graph.tensors[place]) for name, place in graph.outputs]
    size = next((spec.shape[0] for spec in inputs if spec.shape), None)
    return Signature(
        tuple(_by_sample(spec, size) for spec in inputs), tuple(_by_sample(spec, size) for spec in outputs)
    )


def as_it_runs(signature: Signature, found: Batch, samples: int) -> Signature:
    """Return a signature whose outputs have the axes they were found to have in a call of so many samples.

    A file may leave the number of samples free and yet reshape to one: then it takes one.
    """
    by_sample = [array.ndim > 0 and len(array) == samples for array in found.values()]
    if signature.batch is None and samples > 1 and not any(by_sample):
        raise SignatureError("no output has a row a sample")
    outputs = []
    for spec, array, rows in zip(signature.outputs, found.values(), by_sample, strict=True):
        first = (None if signature.batch is None else samples,) if rows else array.shape[:1]
        rest = tuple(
            None if axis < len(spec.shape) and spec.shape[axis] is None else size
            for axis, size in enumerate(array.shape)
            if axis
        )
        outputs.append(replace(spec, shape=(*first, *rest), sample=0 if rows else None))
    return Signature(signature.inputs, tuple(outputs))


def one_at_a_time(signature: Signature) -> Signature:
    """Return a signature that takes one sample in a call."""
    inputs = [
        replace(spec, shape=(1, *spec.shape[1:])) if spec.sample == 0 and spec.shape else spec
        for spec in signature.inputs
    ]
    return Signature(tuple(inputs), signature.outputs)


def _by_sample(spec: TensorSpec, size: int | None) -> TensorSpec:
    return replace(spec, sample=0 if spec.shape and spec.shape[0] in (None, size) else None)


def _spec(name: str, tensor: Tensor) -> TensorSpec:
    if tensor.type not in DTYPES:
        what = "text" if tensor.type == "STRING" else tensor.type
        raise SignatureError(f"{name!r} is {what}, not a tensor of numbers; convert the model without it")
    shape = tuple(None if axis in tensor.free else size for axis, size in enumerate(tensor.shape))
    code = code_of(tensor)
    if not code.scale:
        return TensorSpec(name, code.dtype, shape)
    ends = [float(end) for end in code.decode(np.array([np.iinfo(code.dtype).min, np.iinfo(code.dtype).max]))]
    return TensorSpec(name, "float32", shape, low=ends[0], high=ends[1], coded=code.dtype)
