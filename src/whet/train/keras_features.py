"""Feature distillation of Keras models: outputs of named layers follow those of the original's layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.errors import RecipeError, did_you_mean
from whet.train.keras_graph import replayed
from whet.train.keras_objectives import variance

import keras  # after the description, whose package chooses the backend  # isort: skip
import tensorflow as tf

if TYPE_CHECKING:
    from whet.types import Array


class Features:
    """The distance between pairs of layers; where their widths differ, through a learned linear map of channels.

    A layer that is called several times in one forward is compared call by call.

    Source: Romero et al. 2015, "FitNets: hints for thin deep nets" (their hint of a 1x1 regressor).

    Attributes:
        student, teacher: Models that give what was heard after their outputs.
    """

    def __init__(self, names: tuple[str, ...], student: keras.Model, teacher: keras.Model) -> None:
        """Listen to layers; ``names`` are ``layer``, or ``mine=theirs``.

        Raises:
            RecipeError: A model has no such layer, or two layers differ in more than their width.
        """
        self._pairs = [(name.partition("=")[0], name.rpartition("=")[2]) for name in names]
        self.student, ours = _heard(student, "model", [mine for mine, _ in self._pairs])
        self.teacher, theirs = _heard(teacher, "original", [other for _, other in self._pairs])
        self._maps: list[Any] = []
        self._spread: list[float] = []
        if len(ours) != len(theirs):
            raise RecipeError("features: a layer is called more often than that of the original; name others")
        for (name, one), (other, wanted) in zip(ours, theirs, strict=True):
            if list(one[:-1]) != list(wanted[:-1]):
                raise RecipeError(
                    f"features: {name} gives {list(one)}, {other} of the original {list(wanted)}; name layers that "
                    f"differ in width alone"
                )
            self._maps.append(None if one[-1] == wanted[-1] else _map(one[-1], wanted[-1]))

    @property
    def variables(self) -> list[Any]:
        """The maps between widths, which are learned."""
        return [each for each in self._maps if each is not None]

    def prepare(self, heard: list[Array]) -> None:
        """Measure how far what was heard of the original's layers on a batch varies."""
        self._spread = [variance(each) for each in heard]

    def __call__(self, ours: list[Any], theirs: list[Any]) -> Any:
        """Return the squared error over the original's variance, the mean over layers."""
        losses = []
        for one, other, wide, spread in zip(ours, theirs, self._maps, self._spread, strict=True):
            mapped = one if wide is None else tf.tensordot(one, wide.value, axes=1)
            losses.append(tf.reduce_mean(tf.square(mapped - other)) / spread)
        return tf.add_n(losses) / len(losses)

    def state(self) -> dict[str, Array]:
        """Return the maps."""
        return {str(at): np.array(each.value) for at, each in enumerate(self.variables)}

    def load(self, state: Mapping[str, Array]) -> None:
        """Take up the maps again."""
        for at, each in enumerate(self.variables):
            each.assign(state[str(at)])


def _heard(model: keras.Model, whose: str, names: list[str]) -> tuple[keras.Model, list[tuple[str, Any]]]:
    """Return a model that gives the outputs of layers after its own, and the shape of each."""
    seen: dict[str, list[Any]] = {}

    def call(name: str, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found = operation(*args, **kwargs)
        seen.setdefault(name, []).append(keras.tree.flatten(found)[0])
        return found

    inputs, outputs = replayed(model, call)
    for name in names:
        if name not in seen:
            raise RecipeError(f"features: the {whose} has no layer {name!r}{did_you_mean(name, seen)}")
    found = [(name, tensor) for name in names for tensor in seen[name]]
    made = keras.Model(inputs, [*keras.tree.flatten(outputs), *(tensor for _, tensor in found)])
    return made, [(name, tensor.shape) for name, tensor in found]


def _map(width: int, wanted: int) -> Any:
    """Return a linear map from so many channels to others, drawn small."""
    limit = 1 / np.sqrt(width)
    drawn = np.random.default_rng(width * wanted).uniform(-limit, limit, (width, wanted))
    return keras.Variable(drawn.astype(np.float32))
