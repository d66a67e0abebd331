"""The port to one framework, and the table of adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from whet.errors import ModelError
from whet.lazy import resolve
from whet.models.model import Model
from whet.models.source import Source
from whet.types import Format, Layer

if TYPE_CHECKING:
    from whet.types import Array, Batch


class Adapter(Protocol):
    """Everything the house asks of a framework. An adapter has no state.

    ``whet.testing.AdapterContract`` is its conformance suite.
    """

    format: Format

    def open(self, source: Source, sample: Batch | None) -> Model:
        """Open a user's model; ``sample`` (or ``source.inputs``) lets its signature be found by running."""

    def save(self, model: Model, folder: Path) -> Path:
        """Write the model's files into a folder and return the path that ``load`` takes."""

    def load(self, path: Path, source: Source | None) -> Any:
        """Return the payload of stored files, opened afresh."""

    def files(self, path: Path) -> list[Path]:
        """Return every file of the stored model."""

    def clone(self, model: Model) -> Model:
        """Return a model that can be changed without changing this one."""

    def forward(self, model: Model, batch: Batch) -> dict[str, Array]:
        """Run the model once, plainly."""

    def layers(self, model: Model) -> list[Layer]:
        """Return the layers that own parameters or cost time, counted."""

    def weights(self, model: Model) -> dict[str, Array]:
        """Return every floating parameter by name, as arrays (copies)."""

    def matrices(self, model: Model) -> dict[str, Array]:
        """Return the matrices and kernels a model multiplies by, in whatever type: zero is zero in each."""

    def with_weights(self, model: Model, weights: Mapping[str, Array]) -> Model:
        """Return a model with some of its weights replaced; shapes stay as they are."""


_ADAPTERS = {
    Format.TORCH: ("whet.models.torch.adapter:TorchAdapter", "torch"),
    Format.ONNX: ("whet.models.onnx.adapter:OnnxAdapter", "onnx"),
    Format.KERAS: ("whet.models.keras.adapter:KerasAdapter", "keras"),
    Format.TFLITE: ("whet.models.tflite.adapter:TfliteAdapter", "litert"),
}


def adapter_for(wanted: Format) -> Adapter:
    """Return the adapter of a format.

    Raises:
        ModelError: No adapter is written for it.
        MissingDependency: Its framework is not installed.
    """
    if wanted not in _ADAPTERS:
        raise ModelError(f"this version of whet does not open {wanted} models; it opens {', '.join(_ADAPTERS)}")
    name, extra = _ADAPTERS[wanted]
    return cast("Adapter", resolve(name, extra)())


def formats() -> tuple[Format, ...]:
    """Return the formats that have an adapter."""
    return tuple(_ADAPTERS)
