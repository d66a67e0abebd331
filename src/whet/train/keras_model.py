"""A Keras model that is trained under constraints by its own ``compile`` and ``fit``."""

from __future__ import annotations

from typing import Any

from whet.models.keras import describe
from whet.train.keras_constraints import Constraints

import keras  # after the constraints, whose adapter chooses its backend  # isort: skip
import tensorflow as tf


class Constrained(keras.Model):  # type: ignore[misc]
    """The layers of a model, trained so that its weights stay what compression made of them.

    It is compiled and fitted like any model, by any optimizer, losses and metrics. In every step the forward pass
    computes with weights as they will be, gradients of one cluster are summed, and the weights are brought back to
    where they may be. It computes the same in ``evaluate`` and ``predict``.
    """

    def train_step(self, data: Any) -> Any:
        """Make one step under the constraints."""
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        with self.kept.seen():
            with tf.GradientTape() as tape:
                found = self(x, training=True)
                loss = self.compute_loss(x=x, y=y, y_pred=found, sample_weight=weight, training=True)
                scaled = self.optimizer.scale_loss(loss)
            gradients = tape.gradient(scaled, self.trainable_weights)
        gradients = self.kept.gradients(self.trainable_weights, gradients)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_weights, strict=True))
        self.kept.hold()
        self.kept.steps.assign_add(1)
        return self._told(x, y, weight, found, loss)

    def test_step(self, data: Any) -> Any:
        """Judge with the weights as they will be."""
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        with self.kept.seen():
            found = self(x, training=False)
            loss = self.compute_loss(x=x, y=y, y_pred=found, sample_weight=weight, training=False)
        return self._told(x, y, weight, found, loss)

    def predict_step(self, data: Any) -> Any:
        """Answer with the weights as they will be."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        with self.kept.seen():
            return self(x, training=False)

    def _told(self, x: Any, y: Any, weight: Any, found: Any, loss: Any) -> Any:
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss, sample_weight=tf.shape(keras.tree.flatten(x)[0])[0])
        return self.compute_metrics(x, y, found, sample_weight=weight)


def constrained(constraints: Constraints) -> Constrained:
    """Return the network that constraints are seen through as a model that keeps them while it is fitted."""
    graph = describe.functional(constraints.network)
    made = Constrained(graph._inputs_struct, graph._outputs_struct, name=constraints.network.name)
    made.kept = constraints
    return made
