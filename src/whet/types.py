"""The words every floor shares: formats, traits, signatures, batches and steps. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from whet.errors import SignatureError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Batch = Mapping[str, NDArray[Any]]
    """Named arrays whose first axis is the sample: ``{"ids": (N, 200) int64}``."""


class Format(StrEnum):
    """A representation of a model. A pass is realised per format; an adapter opens each."""

    TORCH = "torch"
    KERAS = "keras"
    ONNX = "onnx"
    TFLITE = "tflite"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"


class TraitKind(StrEnum):
    """A property that a pass establishes and that a later pass could erase."""

    SPARSE = "sparse"  # amount: share of zeros among the prunable weights
    CLUSTERED = "clustered"  # amount: distinct values a tensor, channel or group
    LOW_RANK = "low-rank"  # amount: kept energy
    QUANTIZED = "quantized"  # amount: bits a weight
    HALF = "half"  # amount: bits a weight
    PACKED = "packed"  # amount: bits a stored weight


@dataclass(frozen=True, slots=True, order=True)
class Trait:
    """A property of a model's weights, with its amount: ``Trait(TraitKind.SPARSE, 0.4)``."""

    kind: TraitKind
    amount: float


@dataclass(frozen=True, slots=True)
class Range:
    """The least and greatest value an activation takes, as calibrated or trained."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One named input or output.

    Attributes:
        name: As the model knows it.
        dtype: A NumPy name, ``float32`` or ``int64``.
        shape: One entry an axis, ``None`` where the length is free. Axis 0 is the sample.
        example: A length for each free axis, used where none is given by data (batch excepted).
        low: Least value of synthetic data. ``high`` is the greatest; floats are drawn between them.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    example: tuple[int, ...] = ()
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """Return ``name=dtype[?,3,32,32]``."""
        axes = ",".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name}={self.dtype}[{axes}]"

    def concrete(self, batch: int) -> tuple[int, ...]:
        """Return a shape without free axes: ``batch`` on a free axis 0, the example (or 1) elsewhere."""
        shape: list[int] = []
        for axis, size in enumerate(self.shape):
            if size is not None:
                shape.append(size)
            elif axis == 0:
                shape.append(batch)
            else:
                shape.append(self.example[axis] if axis < len(self.example) else 1)
        return tuple(shape)

    def check(self, array: Array) -> None:
        """Raise SignatureError unless ``array`` has this type and shape."""
        if array.dtype != self.dtype:
            raise SignatureError(
                f"input {self.name!r} takes {self.dtype}, the data has {array.dtype}; convert the data, "
                f"or normalise it with --preprocess"
            )
        fits = array.ndim == len(self.shape) and all(
            want is None or axis == 0 or want == have
            for axis, (want, have) in enumerate(zip(self.shape, array.shape, strict=True))
        )
        if not fits:
            given = ",".join(map(str, ("?", *array.shape[1:]))) if array.ndim else ""
            raise SignatureError(
                f"input {self} does not take the data's shape [{given}]; "
                f"reshape the data, or bring it to size with --preprocess"
            )

    def synthetic(self, batch: int, rng: np.random.Generator) -> Array:
        """Draw data that fits, of shape ``concrete(batch)``: standard normal, or between low and high."""
        import numpy as np

        shape = self.concrete(batch)
        if self.dtype.startswith(("int", "uint")):
            low, high = int(self.low or 0), int(self.high if self.high is not None else 1)
            return rng.integers(low, high, shape, dtype=self.dtype, endpoint=True)
        if self.dtype == "bool":
            return rng.integers(0, 1, shape, endpoint=True).astype(bool)
        if self.low is None and self.high is None:
            return rng.standard_normal(shape).astype(self.dtype)
        low_f, high_f = self.low or 0.0, 1.0 if self.high is None else self.high
        return np.asarray(rng.uniform(low_f, high_f, shape)).astype(self.dtype)


@dataclass(frozen=True, slots=True)
class Signature:
    """What goes into a model and what comes out, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def batch(self) -> int | None:
        """The fixed length of axis 0, or None where any number of samples may be given."""
        sizes = {spec.shape[0] for spec in self.inputs if spec.shape}
        fixed = sizes - {None}
        return fixed.pop() if len(fixed) == 1 else None

    def synthetic(self, batch: int, seed: int = 0) -> Batch:
        """Draw one batch of synthetic inputs."""
        import numpy as np

        rng = np.random.default_rng(seed)
        return {spec.name: spec.synthetic(self.batch or batch, rng) for spec in self.inputs}

    def bind(self, batch: Batch) -> Batch:
        """Return ``batch`` under the model's own input names, checked.

        A batch of one array fits a model of one input whatever its name.

        Raises:
            SignatureError: Names, types or shapes do not fit.
        """
        names = [spec.name for spec in self.inputs]
        if len(batch) == 1 and len(names) == 1:
            batch = {names[0]: next(iter(batch.values()))}
        missing = [name for name in names if name not in batch]
        extra = [name for name in batch if name not in names]
        if missing or extra:
            raise SignatureError(
                f"the model's inputs are {', '.join(names)}; the data has {', '.join(batch)}; "
                f"name the arrays as the inputs are named"
            )
        for spec in self.inputs:
            spec.check(batch[spec.name])
        return {name: batch[name] for name in names}


@dataclass(frozen=True, slots=True)
class Skipped:
    """A layer that a pass left alone, and why."""

    layer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Step:
    """One pass that was applied: what was asked, what became of it, in which versions."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a model, counted.

    Attributes:
        name: The module's path, or the node's name.
        kind: The type as its framework calls it: ``Conv2d``, ``Gemm``.
        weights: Names of the arrays it owns that a pass may prune, cluster or factorize.
        parameters: Learned numbers, of any type. ``bytes`` is what they take.
        macs: Multiply-accumulate operations for one sample; None where unknown.
    """

    name: str
    kind: str
    weights: tuple[str, ...]
    parameters: int
    bytes: int
    macs: int | None = None


def itemsize(dtype: str) -> int:
    """Return the bytes of one element of a NumPy dtype name."""
    import numpy as np

    return int(np.dtype(dtype).itemsize)


def elements(shape: tuple[int | None, ...]) -> int:
    """Return the number of elements of one sample of ``shape`` (axis 0 and free axes counted as 1)."""
    return math.prod(size or 1 for size in shape[1:])
