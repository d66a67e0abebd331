"""What a laboratory has to know of its classifier before any work. Runs in a child, which alone loads Keras."""

from __future__ import annotations

from dataclasses import dataclass

from whet.errors import ModelError, SignatureError
from whet.models.adapter import adapter_for
from whet.models.source import Source
from whet.progress import Event, OnEvent

_SCALING = ("Rescaling", "Normalization")


@dataclass(frozen=True, slots=True)
class Seen:
    """A Keras classifier.

    Attributes:
        height, width, channels: Of the picture that goes in, channels last.
        classes: Numbers that come out; one is the probability of the second of two.
        scales: Whether a layer of its own brings 0..255 to what it was trained on.
    """

    height: int
    width: int
    channels: int
    classes: int
    scales: bool


def look(source: Source, on_event: OnEvent) -> Seen:
    """Open a classifier and see what it takes and gives.

    Raises:
        ModelError: It cannot be opened, or is no classifier of pictures.
        SignatureError: The size of the pictures is not fixed.
    """
    on_event(Event("open the model"))
    model = adapter_for(source.format).open(source, None)
    assert model.signature is not None
    told = f"{source.name} takes {', '.join(map(str, model.signature.inputs))}"
    if len(model.signature.inputs) != 1 or len(model.signature.inputs[0].shape) != 4:
        raise ModelError(
            f"{told}; the laboratory takes a classifier of pictures, one input [?,height,width,channels]"
        )
    _, high, wide, channels = model.signature.inputs[0].shape
    if high is None or wide is None:
        raise SignatureError(f"{told}, of any size; say which with --input, or save the model with a fixed one")
    if channels not in (1, 3):
        raise ModelError(f"{told}; pictures have 1 channel (grey) or 3 (RGB), last")
    (output, *others) = model.signature.outputs
    if others or len(output.shape) != 2 or output.shape[1] is None:
        given = ", ".join(map(str, model.signature.outputs))
        raise ModelError(f"{source.name} gives {given}; a classifier gives one number a class, [?,classes]")
    scales = any(type(layer).__name__ in _SCALING for layer in _layers(model.payload))
    return Seen(high, wide, int(channels), int(output.shape[1]), scales)


def _layers(model: object) -> list[object]:
    """Return the layers of a Keras model, those of models inside it too."""
    found: list[object] = []
    for layer in getattr(model, "layers", ()):
        found += [layer, *_layers(layer)]
    return found
