"""Profile a model: its layers, counted and timed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from whet import markup
from whet.errors import RuntimeFailure, WhetError, in_one_line
from whet.lazy import resolve
from whet.machine import Machine, this_machine
from whet.models.adapter import adapter_for
from whet.models.model import Model
from whet.types import Format, Layer, Signature

if TYPE_CHECKING:
    from collections.abc import Callable

    from whet.types import Batch

    Times = Mapping[str, tuple[str, float]]

_TIMERS = {
    Format.TORCH: ("whet.profile.torch:layer_times", "torch"),
    Format.KERAS: ("whet.profile.keras:layer_times", "keras"),
    Format.ONNX: ("whet.profile.onnx:layer_times", "onnx"),
    Format.TFLITE: ("whet.profile.tflite:layer_times", "litert"),
}


@dataclass(frozen=True, slots=True)
class LayerProfile:
    """One layer in numbers.

    Attributes:
        name, kind: As its framework calls it; what a runtime put in by itself has no parameters.
        parameters, bytes: Learned numbers, and what they take.
        macs: For one sample; None where unknown.
        time_ms: Median over calls of the time spent in it alone; None where the runtime fused it into another.
    """

    name: str
    kind: str
    parameters: int
    bytes: int
    macs: int | None
    time_ms: float | None


@dataclass(frozen=True)
class Profile:
    """A model in numbers.

    Attributes:
        format: Of the model.
        signature: Its inputs and outputs.
        batch_size, threads: It was timed with.
        layers: In the model's order, then what the runtime added.
        parameters, bytes, macs: Of all layers; MACs None where those of a layer are unknown.
        time_ms: Median of a whole call.
        machine: It was timed on.
    """

    format: Format
    signature: Signature
    batch_size: int
    threads: int
    layers: Sequence[LayerProfile]
    parameters: int
    bytes: int
    macs: int | None
    time_ms: float
    machine: Machine

    def _repr_html_(self) -> str:
        whole = sum(layer.time_ms or 0 for layer in self.layers) or 1.0
        rows = [[layer.name, layer.kind, *_counts(layer), *_time(layer, whole)] for layer in self.layers]
        rows.append(["all", "", *_counts(self), f"{self.time_ms:.4f}", ""])
        title = f"{self.format}, batch {self.batch_size}, {self.threads} thread(s), {self.machine.cpu}"
        return markup.table(("layer", "type", "parameters", "bytes", "MACs", "ms", "share"), rows, title)


def _counts(one: LayerProfile | Profile) -> list[str]:
    return [f"{one.parameters:,}", f"{one.bytes:,}", markup.number(one.macs, ",") or "?"]


def _time(layer: LayerProfile, whole: float) -> list[str]:
    return ["fused", ""] if layer.time_ms is None else [f"{layer.time_ms:.4f}", f"{layer.time_ms / whole:.0%}"]


def profile(model: Model, batch: Batch, threads: int = 1) -> Profile:
    """Count and time every layer of a model on a batch.

    Raises:
        SignatureError: The batch does not fit.
        RuntimeFailure: The model cannot be run on it.
    """
    assert model.signature is not None
    batch = model.signature.bind(batch)
    layers = adapter_for(model.format).layers(model)
    total, times = _times(model, batch, threads)
    return Profile(
        format=model.format,
        signature=model.signature,
        batch_size=model.signature.count(batch),
        threads=threads,
        layers=_rows(layers, times),
        parameters=sum(layer.parameters for layer in layers),
        bytes=sum(layer.bytes for layer in layers),
        macs=Layer.macs_of(layers),
        time_ms=total,
        machine=this_machine(),
    )


def _times(model: Model, batch: Batch, threads: int) -> tuple[float, Times]:
    """Return the milliseconds of a call, and the type and milliseconds of each layer."""
    timer = cast("Callable[..., tuple[float, Times]]", resolve(*_TIMERS[model.format]))
    try:
        return timer(model, batch, threads)
    except WhetError:
        raise
    except Exception as error:  # an engine's own, or from the user's forward
        raise RuntimeFailure(
            f"the model cannot be run to be timed ({in_one_line(error)}); "
            f"give data, or say what goes in with --input"
        ) from error


def _rows(layers: Sequence[Layer], times: Times) -> list[LayerProfile]:
    """Put counts and times together: the model's layers, then what was timed besides."""
    rows = [
        LayerProfile(
            layer.name,
            layer.kind,
            layer.parameters,
            layer.bytes,
            layer.macs,
            times[layer.name][1] if layer.name in times else None,
        )
        for layer in layers
    ]
    counted = {layer.name for layer in layers}
    return rows + [
        LayerProfile(name, kind, 0, 0, 0, spent) for name, (kind, spent) in times.items() if name not in counted
    ]
