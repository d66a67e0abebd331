"""The layers of Keras that have an equal in torch."""

from __future__ import annotations

from whet.models.torch.keras import activations, kernels, norms, recurrent, shapes
from whet.models.torch.keras.graph import Call, Layer, NotTranslated, Value, Writer

_LAYERS: dict[str, Layer] = {
    name: write
    for family in (activations, kernels, norms, shapes, recurrent)
    for name, write in family.LAYERS.items()
}
_NAMED = ("query", "value", "key")  # arguments that may be given by name, in this order


def build(writer: Writer, call: Call) -> Value:
    """Write one layer.

    Raises:
        NotTranslated: It has no equal here; the message says what.
    """
    if call.kind not in _LAYERS:
        raise NotTranslated(f"layers of type {call.kind} have no translation")
    if call.named != tuple(name for name in _NAMED if name in call.named):
        raise NotTranslated(f"a {call.kind} that is called with {', '.join(call.named)} has no translation")
    return _LAYERS[call.kind](writer, call)
