"""A Keras model as a module of torch, and back: the same layers, under the same names, with the same weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import torch

from whet import plain
from whet.errors import PassError
from whet.models.keras import describe
from whet.models.model import Model
from whet.models.source import DESCRIPTION, Origin, Source
from whet.models.torch import edits
from whet.models.torch.adapter import TorchPayload
from whet.models.torch.keras import weights as torch_weights
from whet.models.torch.keras.module import NotTranslated, module
from whet.storage import write_text
from whet.types import Format

if TYPE_CHECKING:
    from whet.types import Array

_WIDTHS = ("filters", "units")


def to_torch(model: Model, folder: Path) -> Model:
    """Return a native module of a Keras model; of its description in ``folder`` torch alone builds it again.

    Raises:
        PassError: Layers have no equal in torch; all of them are named.
    """
    description = describe.describe(model.payload)
    text = json.dumps(description, sort_keys=True)
    write_text(folder / DESCRIPTION, text)
    try:
        made = module(description)
    except NotTranslated as error:
        raise PassError(f"the model has no translation into torch: {error}") from error
    state = made.state_dict()
    for name, value in _state(description, describe.weights(model.payload)).items():
        state[name] = torch.from_numpy(value)
    made.load_state_dict(state)
    origin = Source(
        Origin.KERAS,
        Format.TORCH,
        str(folder / DESCRIPTION),
        model.payload.name,
        identity=hashlib.sha256(text.encode()).hexdigest()[:24],
    )
    payload = TorchPayload(made.eval(), (edits.student_edit(plain.builtins(origin)),))
    return model.with_payload(payload, format=Format.TORCH)


def to_keras(model: Model, original: keras.Model) -> keras.Model:
    """Return the Keras model of a module that ``to_torch`` made and passes have changed since.

    Layers are those of the original, as wide as the module's.

    Args:
        model: The module; its layers may be thinner, not others.
        original: What it came from.

    Raises:
        PassError: The module has other layers than the original.
    """
    description = describe.describe(original)
    state = {name: value.detach().cpu().numpy() for name, value in model.payload.module.state_dict().items()}
    kinds = {call["layer"]: (call["kind"], call["config"]) for call in description["calls"]}
    found: dict[str, list[Array]] = {}
    for name in describe.weights(original):
        kind, config = kinds[name]
        own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        if torch_weights.known(kind):
            if not own:
                raise PassError(
                    f"layer {name} has gone from the module: only widths and weights can go back to Keras"
                )
            found[name] = torch_weights.to_keras(kind, config, own)
    thinner = _rebuilt(original, found)
    for name, layer in describe.layers(thinner).items():
        if name in found:
            layer.set_weights(found[name])
    return thinner


def _state(description: describe.Description, weights: dict[str, list[Array]]) -> dict[str, Array]:
    """Return all weights by their names in torch."""
    kinds = {call["layer"]: (call["kind"], call["config"]) for call in description["calls"]}
    return {
        f"{layer}.{name}": value
        for layer, arrays in weights.items()
        for name, value in torch_weights.to_torch(*kinds[layer], arrays).items()
    }


def _rebuilt(original: keras.Model, weights: dict[str, list[Array]], prefix: str = "") -> keras.Model:
    """Return a copy of a model whose layers are as wide as these weights; they are not filled in."""

    def copied(layer: keras.Layer) -> keras.Layer:
        if isinstance(layer, keras.Model):
            return _rebuilt(layer, weights, f"{prefix}{describe.safe(layer.name)}.")
        config = layer.get_config()
        arrays = weights.get(f"{prefix}{describe.safe(layer.name)}")
        width = next((name for name in _WIDTHS if name in config), None)
        if arrays is not None and width is not None and type(layer).__name__ in torch_weights.WIDTHS:
            config[width] = torch_weights.WIDTHS[type(layer).__name__](arrays)
        return type(layer).from_config(config)

    return keras.models.clone_model(original, clone_function=copied)
