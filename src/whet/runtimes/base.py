"""The port to a runtime, how an artifact is deployed in it, and the table of runtimes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

import numpy as np

from whet.errors import RecipeError, SignatureError, did_you_mean
from whet.lazy import resolve
from whet.models.model import Stored
from whet.types import Format, Signature

if TYPE_CHECKING:
    from whet.types import Array, Batch


@dataclass(frozen=True, slots=True)
class Deployment:
    """How an artifact is run.

    Attributes:
        runtime: A name of the table; empty for the usual one of the artifact's format.
        options: The runtime's own, checked before any work: ``{"graph_level": "all"}``.
        threads: For the arithmetic inside one operator.
        batch_sizes: Samples in one call, each measured.
    """

    runtime: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    batch_sizes: tuple[int, ...] = (1, 32)


class Session(Protocol):
    """An artifact, opened. A context manager."""

    facts: Mapping[str, Any]
    """What was really used: provider, threads, graph level, version."""

    def run(self, batch: Batch) -> dict[str, Array]:
        """Return the named outputs of a batch whose names, types and shapes fit."""

    def close(self) -> None:
        """Let go of the artifact."""

    def __enter__(self) -> Self:
        """Return itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""


class Runtime(Protocol):
    """One engine. ``whet.testing.RuntimeContract`` is its conformance suite."""

    name: str
    formats: tuple[Format, ...]
    options: Mapping[str, tuple[Any, ...]]
    """Known options with the values each may take; an empty tuple is any value."""

    def open(self, stored: Stored, deployment: Deployment) -> Session:
        """Open an artifact.

        Raises:
            RuntimeFailure: The engine refuses it.
        """


_RUNTIMES = {
    "torch": ("whet.runtimes.torch:TorchRuntime", "torch"),
    "onnxruntime": ("whet.runtimes.onnxruntime:OnnxRuntime", "onnx"),
    "litert": ("whet.runtimes.litert:LiteRT", "litert"),
    "keras": ("whet.runtimes.keras:KerasRuntime", "keras"),
}
_USUAL = {Format.TORCH: "torch", Format.ONNX: "onnxruntime", Format.TFLITE: "litert", Format.KERAS: "keras"}


def runtime_for(deployment: Deployment, wanted: Format) -> Runtime:
    """Return the runtime of a deployment, checked against the format and its options.

    Raises:
        RecipeError: No such runtime, it does not run the format, or an option is unknown.
    """
    name = deployment.runtime or usual(wanted)
    if name not in _RUNTIMES:
        raise RecipeError(f"unknown runtime {name!r}{did_you_mean(name, _RUNTIMES)}")
    runtime = cast("Runtime", resolve(*_RUNTIMES[name])())
    if wanted not in runtime.formats:
        raise RecipeError(f"{name} does not run {wanted} models; it runs {', '.join(runtime.formats)}")
    for key, value in deployment.options.items():
        if key not in runtime.options:
            raise RecipeError(f"{name} has no option {key!r}{did_you_mean(key, runtime.options)}")
        known = runtime.options[key]
        if known and value not in known:
            raise RecipeError(f"{name}'s {key} is one of {', '.join(map(str, known))}, not {value!r}")
    return runtime


def usual(wanted: Format) -> str:
    """Return the name of the runtime that a format is usually run in."""
    if wanted not in _USUAL:
        raise RecipeError(f"this version of whet has no runtime for {wanted} models")
    return _USUAL[wanted]


def formats_of(name: str) -> tuple[Format, ...]:
    """Return the formats that a runtime runs.

    Raises:
        RecipeError: No such runtime.
    """
    if name not in _RUNTIMES:
        raise RecipeError(f"unknown runtime {name!r}{did_you_mean(name, _RUNTIMES)}")
    return cast("Runtime", resolve(*_RUNTIMES[name])()).formats


def parse_runtime(text: str) -> tuple[str, dict[str, str]]:
    """Read a runtime with its options: ``onnxruntime:graph_level=basic,provider=cpu``. Options are checked later.

    Raises:
        RecipeError: An option has no value.
    """
    name, _, rest = text.partition(":")
    options: dict[str, str] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals:
            raise RecipeError(f"cannot read {part!r} in the runtime {text!r}; write name:option=value,option=value")
        options[key.strip()] = value.strip()
    return name.strip(), options


def names() -> tuple[str, ...]:
    """Return the known runtimes."""
    return tuple(_RUNTIMES)


def open_session(stored: Stored, deployment: Deployment) -> Session:
    """Open an artifact in its deployment's runtime."""
    return runtime_for(deployment, stored.format).open(stored, deployment)


def predict(session: Session, signature: Signature, batches: Iterable[Batch], wanted: str = "") -> dict[str, Array]:
    """Run batches and return each output whole, (N, ...): its axis of samples is brought to the front.

    A model of a fixed batch length is fed that many samples at a time; the last lot is filled up and cut again.
    One that takes a limited number is fed no more at once. Outputs that are the same for all samples are left out.

    Args:
        session: What runs them.
        signature: Of the model.
        batches: Its inputs.
        wanted: The one output that is kept, where there is one of that name; the others may then differ in length
            from batch to batch, and take no memory.

    Raises:
        SignatureError: A batch does not fit, or an output has no row a sample, or rows of differing lengths.
    """
    collected: dict[str, list[Array]] = {}
    for batch in batches:
        outputs = _run(session, signature, signature.bind(batch))
        for name, array in ({wanted: outputs[wanted]} if wanted in outputs else outputs).items():
            collected.setdefault(name, []).append(array)
    return {name: _joined(name, arrays) for name, arrays in collected.items()}


def _run(session: Session, signature: Signature, batch: Batch) -> dict[str, Array]:
    count = signature.count(batch)
    fixed, most = signature.batch, signature.most
    if fixed == count or (fixed is None and count <= (most or count)):
        return by_sample(session.run(batch), signature, count)
    size = fixed or most or count
    parts: dict[str, list[Array]] = {}
    for start in range(0, count, size):
        lot = signature.take(batch, start, start + size)
        if fixed:
            lot = signature.fill(lot, fixed)
        for name, array in by_sample(session.run(lot), signature, signature.count(lot)).items():
            parts.setdefault(name, []).append(array[: min(size, count - start)])
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def by_sample(outputs: Mapping[str, Array], signature: Signature, count: int) -> dict[str, Array]:
    """Return the outputs that have a row a sample, (count, ...) each.

    Raises:
        SignatureError: The axis that should be the sample has another length.
    """
    axes = {spec.name: spec.sample for spec in signature.outputs}
    found = {}
    for name, array in outputs.items():
        axis = axes.get(name, 0)
        if axis is None:
            continue
        if array.ndim <= axis or array.shape[axis] != count:
            raise SignatureError(
                f"output {name!r} has shape {list(array.shape)} for {count} samples; axis {axis} must be the "
                f"sample: reshape it in the model, or leave it out of the outputs"
            )
        found[name] = np.moveaxis(array, axis, 0)
    return found


def _joined(name: str, arrays: list[Array]) -> Array:
    """Join the rows of several batches, which must be of one size."""
    shapes = dict.fromkeys(array.shape[1:] for array in arrays)
    if len(shapes) > 1:
        told = " and ".join(str(list(shape)) for shape in list(shapes)[:2])
        raise SignatureError(
            f"output {name!r} is {told} a sample in different batches, and no table of samples can be made of it; "
            f"pad all inputs to one length (texts with padding=max in --preprocess), or have the model pool them"
        )
    return np.concatenate(arrays)


def beyond_table(told: str) -> SignatureError:
    """Return what is raised where a number of the inputs has no entry in an embedding: no fault of the engine."""
    return SignatureError(
        f"the model looks up a number that it does not have: {told}; give the tokenizer, or the numbers, that it "
        f"was trained with, and no more positions than it has"
    )


class Closing:
    """What every session's context manager does."""

    def close(self) -> None:
        """Let go of the artifact; overridden where there is something to let go of."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
