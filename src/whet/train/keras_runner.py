"""A Keras model that is learned from or judged: batches in, named outputs with the sample first out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.errors import SignatureError
from whet.models.keras import describe
from whet.models.keras.adapter import KerasAdapter, output_names
from whet.models.model import Model
from whet.progress import Event

import keras  # after the adapter, which chooses its backend  # isort: skip
import tensorflow as tf

if TYPE_CHECKING:
    from whet.train.samples import TrainingSet
    from whet.train.spec import Recovery, Trainer
    from whet.types import Array, Batch

_LOT = 256  # rows in one call where nothing is learned
_MEMORY_SHARE = 0.1  # of the machine's, that the original's outputs may take


class Runner:
    """A network with the signature that binds data to it.

    Attributes:
        network: What is called; it may give more than its model does, after its outputs.
        signature: Its inputs and outputs.
        names: Of the outputs.
    """

    def __init__(self, model: Model, network: keras.Model) -> None:
        """Compile a network that takes what ``model`` takes."""
        if model.signature is None:
            raise SignatureError("the model has not been run on data yet, so that its outputs are unknown; open it "
                                 "with a sample, or give --input")  # fmt: skip
        self.network, self.signature = network, model.signature
        self.names = output_names(model.payload)
        self._inputs = KerasAdapter.inputs(model.payload)
        self._infer = tf.function(
            lambda *values: self.forward(list(values), training=False),
            input_signature=specs(network.inputs),
            autograph=False,
        ).get_concrete_function()

    def values(self, batch: Batch) -> list[Any]:
        """Return a batch under any names that fit as tensors, in the order of the network's inputs."""
        bound = self.signature.bind(batch)
        return [tf.convert_to_tensor(bound[name]) for name in self._inputs]

    def forward(self, values: list[Any], training: bool) -> tuple[dict[str, Any], list[Any]]:
        """Return the outputs by name, and what the network gives besides."""
        found = keras.tree.flatten(self.network(describe.arranged(self.network, values), training=training))
        return dict(zip(self.names, found, strict=False)), found[len(self.names) :]

    def infer(self, values: list[Any]) -> tuple[dict[str, Any], list[Any]]:
        """The same as in inference, compiled."""
        outputs, heard = self._infer(*values)
        return dict(outputs), list(heard)

    def outputs(
        self, samples: TrainingSet, numbers: Array, tell: Callable[[int], None] = lambda done: None
    ) -> dict[str, Array]:
        """Return all outputs on some samples, as in inference: a row for each row of a batch."""
        size = max(1, _LOT // samples.sides)
        parts: dict[str, list[Array]] = {}
        for start in range(0, len(numbers), size):
            tell(start)
            found, _ = self.infer(self.values(samples.batch(numbers[start : start + size])))
            for name, value in found.items():
                parts.setdefault(name, []).append(value.numpy())
        return {name: np.concatenate(values) for name, values in parts.items()}


def specs(tensors: list[Any]) -> list[tf.TensorSpec]:
    """Return what tensors of a network look like, for any number of samples: what is compiled once fits all."""
    return [tf.TensorSpec((None, *tensor.shape[1:]), str(tensor.dtype)) for tensor in tensors]


class Teacher:
    """What a student learns: the original's outputs on every sample, found once where they fit into memory.

    Attributes:
        runner: The original.
        held: Its outputs on the samples that are held out.
    """

    def __init__(self, runner: Runner, samples: TrainingSet, settings: Recovery, context: Trainer) -> None:
        """Run the original on all samples, unless it has to see what the student sees: augmented, or by layer."""
        self.runner, self._sides = runner, samples.sides
        self.held = runner.outputs(samples, samples.held)
        total = len(samples.fit) + len(samples.held)
        a_sample = sum(value.nbytes for value in self.held.values()) / len(samples.held)
        self._kept: dict[str, Array] | None = None
        fits = a_sample * total <= _MEMORY_SHARE * context.machine.memory_bytes
        if fits and not settings.augment and not settings.features:
            self._kept = runner.outputs(
                samples,
                np.arange(max(samples.fit.max(), samples.held.max()) + 1),
                lambda done: context.on_event(Event("train: outputs of the original", done, total)),
            )

    def __call__(self, numbers: Array, values: list[Any]) -> tuple[dict[str, Any], list[Any]]:
        """Return its outputs on these samples, whose inputs are given, and what was heard of its layers."""
        if self._kept is None:
            return self.runner.infer(values)
        rows = (numbers[:, None] * self._sides + np.arange(self._sides)).reshape(-1)
        return {name: tf.convert_to_tensor(value[rows]) for name, value in self._kept.items()}, []
