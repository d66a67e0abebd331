"""The words every floor shares: formats, traits, signatures, batches and steps. Standard library only."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
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
    GRID = "grid"  # amount: bits of the integers that weights, trained so, are multiples of
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
        shape: One entry an axis, ``None`` where the length is free.
        example: A length for each free axis, used where none is given by data (the sample's excepted).
        low: Least value of synthetic data. ``high`` is the greatest; floats are drawn between them. Where both are
            the same, an input that the data does not have is held at that value.
        sample: The axis that is the sample; None of a constant, which is the same for all samples. The state of a
            recurrent network often has it second: (layers, sample, width).
        most: The greatest length of each axis; ``None`` (or too few entries) where there is no bound.
        coded: The integer type in which the file holds the numbers of a quantized input or output, whose ``low``
            and ``high`` are then the least and the greatest; arrays of this type go in as they are. Empty where the
            file holds ``dtype``.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    example: tuple[int, ...] = ()
    low: float | None = None
    high: float | None = None
    sample: int | None = 0
    most: tuple[int | None, ...] = ()
    coded: str = ""

    def __str__(self) -> str:
        """Return ``name=dtype[?,3,32,32]``."""
        axes = ",".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name}={self.dtype}[{axes}]"

    @property
    def held(self) -> bool:
        """Whether it has one value, which stands in where the data has no such input."""
        return self.low is not None and self.low == self.high

    @property
    def step(self) -> float:
        """The distance between two neighbouring numbers of a quantized input or output; 0 of any other."""
        if not self.coded or self.low is None or self.high is None:
            return 0.0
        return float(self.high - self.low) / ((1 << 8 * itemsize(self.coded)) - 1)

    def concrete(self, batch: int) -> tuple[int, ...]:
        """Return a shape without free axes: ``batch`` samples, the example (or 1) elsewhere."""
        shape: list[int] = []
        for axis, size in enumerate(self.shape):
            if size is not None:
                shape.append(size)
            elif axis == self.sample:
                shape.append(batch)
            else:
                shape.append(self.example[axis] if axis < len(self.example) else 1)
        return tuple(shape)

    def check(self, array: Array) -> None:
        """Raise SignatureError unless ``array`` has this type and shape, and no axis is too long."""
        if array.dtype != self.dtype:
            or_coded = f" (or {self.coded}, as the file holds it)" if self.coded else ""
            raise SignatureError(
                f"input {self.name!r} takes {self.dtype}{or_coded}, the data has {array.dtype}; convert the data, "
                f"or normalise it with --preprocess"
            )
        fits = array.ndim == len(self.shape) and all(
            want is None or axis == self.sample or want == have
            for axis, (want, have) in enumerate(zip(self.shape, array.shape, strict=True))
        )
        if not fits:
            axes = ["?" if axis == self.sample else str(size) for axis, size in enumerate(array.shape)]
            raise SignatureError(
                f"input {self} does not take the data's shape [{','.join(axes)}]; "
                f"reshape the data, or bring it to size with --preprocess"
            )
        for axis, (most, have) in enumerate(zip(self.most, array.shape, strict=False)):
            if most is not None and axis != self.sample and have > most:
                raise SignatureError(
                    f"input {self} takes at most {most} along axis {axis}, the data has {have}; cut it to {most} "
                    f"(texts with max_length={most} in --preprocess)"
                )

    def fit(self, array: Array) -> Array:
        """Return ``array``, checked; whole numbers of another width than a model of tokens takes are converted.

        Of a quantized input, numbers or the integers that the file holds are taken.

        Raises:
            SignatureError: It has another type or shape, or holds a number that the type cannot.
        """
        if array.dtype != self.dtype and array.dtype.kind in "iu" and self.dtype in ("int64", "int32"):
            array = self._converted(array)
        (replace(self, dtype=self.coded, coded="") if array.dtype == self.coded else self).check(array)
        return array

    def _converted(self, array: Array) -> Array:
        import numpy as np

        holds = np.iinfo(self.dtype)
        if array.size and not holds.min <= int(array.min()) <= int(array.max()) <= holds.max:
            raise SignatureError(
                f"input {self.name!r} takes {self.dtype}, which holds {holds.min} to {holds.max}; "
                f"the data runs from {array.min()} to {array.max()}"
            )
        return array.astype(self.dtype)

    def synthetic(self, batch: int, rng: np.random.Generator) -> Array:
        """Draw data that fits, of shape ``concrete(batch)``: standard normal, or between low and high."""
        import numpy as np

        shape = self.concrete(batch)
        if self.dtype.startswith(("int", "uint")):
            low, high = int(self.low or 0), int(self.high if self.high is not None else 1)
            return np.asarray(rng.integers(low, high, shape, dtype=self.dtype, endpoint=True), self.dtype)
        if self.dtype == "bool":
            low, high = int(self.low or 0), int(self.high if self.high is not None else 1)
            return np.asarray(rng.integers(low, high, shape, endpoint=True), bool)
        if self.low is None and self.high is None:
            return np.asarray(rng.standard_normal(shape), self.dtype)
        low_f, high_f = self.low or 0.0, 1.0 if self.high is None else self.high
        return np.asarray(rng.uniform(low_f, high_f, shape)).astype(self.dtype)


@dataclass(frozen=True, slots=True)
class Signature:
    """What goes into a model and what comes out, in order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def batch(self) -> int | None:
        """The fixed number of samples, or None where any number may be given."""
        sizes = {spec.shape[spec.sample] for spec in self.inputs if spec.shape and spec.sample is not None}
        fixed = sizes - {None}
        return fixed.pop() if len(fixed) == 1 else None

    @property
    def most(self) -> int | None:
        """The greatest number of samples in one call, or None where there is no bound."""
        bounds = [spec.most[spec.sample] for spec in self.inputs if spec.sample is not None and spec.most]
        return min((bound for bound in bounds if bound is not None), default=None)

    @property
    def answer(self) -> str:
        """The name of the first output that has a row a sample, which is what a model is judged by.

        Raises:
            SignatureError: None has.
        """
        for spec in self.outputs:
            if spec.sample is not None:
                return spec.name
        told = ", ".join(map(str, self.outputs))
        raise SignatureError(f"no output has an axis for the sample ({told}); reshape one in the model")

    def synthetic(self, batch: int, seed: int = 0) -> Batch:
        """Draw one batch of synthetic inputs."""
        import numpy as np

        rng = np.random.default_rng(seed)
        return {spec.name: spec.synthetic(self.batch or batch, rng) for spec in self.inputs}

    def bind(self, batch: Batch) -> Batch:
        """Return ``batch`` under the model's own input names, checked; inputs that are held are put in.

        A batch of one array fits a model of one input whatever its name.

        Raises:
            SignatureError: Names, types or shapes do not fit.
        """
        names = [spec.name for spec in self.inputs]
        asked = [spec.name for spec in self.inputs if not spec.held] or names
        if len(batch) == 1 and len(asked) == 1 and not set(batch) & set(names):  # whatever its name
            batch = {asked[0]: next(iter(batch.values()))}
        missing = [name for name in asked if name not in batch]
        extra = [name for name in batch if name not in names]
        if missing or extra:
            raise SignatureError(self._misfit(batch, missing))
        count = self.count(batch)
        return {spec.name: spec.fit(batch[spec.name]) if spec.name in batch else _hold(spec, count)
                for spec in self.inputs}  # fmt: skip

    def count(self, batch: Batch) -> int:
        """Return the number of samples in a batch under the model's own names."""
        for spec in self.inputs:
            axis, array = spec.sample, batch.get(spec.name)
            if axis is not None and array is not None and array.ndim > axis:
                return int(array.shape[axis])
        return 1

    def take(self, batch: Batch, start: int, stop: int) -> Batch:
        """Return some samples of a bound batch; constants go with each."""
        axes = {spec.name: spec.sample for spec in self.inputs}
        return {
            name: array if (axis := axes[name]) is None else array[(slice(None),) * axis + (slice(start, stop),)]
            for name, array in batch.items()
        }

    def fill(self, batch: Batch, samples: int) -> Batch:
        """Return a bound batch of so many samples: those that are there, over and over."""
        import numpy as np

        numbers = np.arange(samples) % self.count(batch)
        axes = {spec.name: spec.sample for spec in self.inputs}
        return {
            name: array if (axis := axes[name]) is None else array.take(numbers, axis)
            for name, array in batch.items()
        }

    def _misfit(self, batch: Batch, missing: list[str]) -> str:
        """Say which inputs are wanted; of what is no input by the sample, how it is given."""
        odd = [spec for spec in self.inputs if spec.name in missing and spec.sample != 0]
        names = ", ".join(spec.name for spec in self.inputs)
        told = f"the model's inputs are {names}; the data has {', '.join(batch)}"
        if not odd:
            return f"{told}; name the arrays as the inputs are named"
        kinds = [
            f"{spec.name} is {'the same for all samples' if spec.sample is None else 'a state'}" for spec in odd
        ]
        forms = [f"{spec.name}={spec.dtype}[{','.join(map(str, spec.concrete(1)))}]" for spec in odd]
        values = ["VALUE" if spec.sample is None else "0" for spec in odd]  # a state begins at 0; a rate does not
        cure = " ".join(f"--input '{form}:{value}'" for form, value in zip(forms, values, strict=True))
        return f"{told}; {', '.join(kinds)}: hold {'it' if len(odd) == 1 else 'each'} at a value with {cure}"


def _hold(spec: TensorSpec, samples: int) -> Array:
    """Return an input that has one value, for so many samples."""
    import numpy as np

    return np.full(spec.concrete(samples), spec.low).astype(spec.dtype)


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

    @staticmethod
    def macs_of(layers: Iterable[Layer]) -> int | None:
        """Return the MACs of all layers; None where those of one are unknown."""
        macs = [layer.macs for layer in layers]
        return None if None in macs else sum(count or 0 for count in macs)

    def of_one(self, samples: int) -> Layer:
        """Return the layer with the MACs of one sample, where they were counted for several."""
        return self if self.macs is None else replace(self, macs=self.macs // samples)


def itemsize(dtype: str) -> int:
    """Return the bytes of one element of a NumPy dtype name."""
    import numpy as np

    return int(np.dtype(dtype).itemsize)


def elements(shape: tuple[int | None, ...]) -> int:
    """Return the number of elements of one sample of ``shape`` (axis 0 and free axes counted as 1)."""
    return math.prod(size or 1 for size in shape[1:])
