"""What the training of a Keras model minimises: the counterpart of ``whet.train.objectives`` in TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from whet.data.tasks import Task
from whet.errors import RecipeError, in_one_line
from whet.train.judged import own_loss
from whet.train.spec import Recovery

if TYPE_CHECKING:
    from whet.types import Array

Outputs = Mapping[str, Any]
"""Tensors by the name of the output, the sample first."""

_LEAST = 1e-12


@dataclass(frozen=True)
class Objective:
    """The loss of a model's outputs.

    Attributes:
        task: Whose answers they are; its classes and logits tell which distance is meant.
        answer: The output that the task is about; every other is compared as numbers.
        settings: alpha, temperature, and the user's own loss.
        spread: Variance of each output of the original, and of the labels (``""``): numbers are measured by it.
        range: Least and greatest label of similarity.
    """

    task: Task
    answer: str
    settings: Recovery
    spread: Mapping[str, float] = field(default_factory=dict)
    range: tuple[float, float] = (0.0, 1.0)

    def __call__(self, outputs: Outputs, targets: Outputs | None, labels: Any) -> Any:
        """Return the loss, a scalar: ``alpha * soft + (1 - alpha) * hard``, or the user's own."""
        outputs = {name: tf.cast(value, tf.float32) for name, value in outputs.items() if value.dtype.is_floating}
        if self.settings.loss:
            return _own(self.settings.loss, outputs, targets, labels)
        alpha = self.settings.alpha if targets is not None else 0.0
        parts = []
        if alpha > 0 and targets is not None:
            parts.append(alpha * self.soft(outputs, targets))
        if alpha < 1 and labels is not None:
            parts.append((1 - alpha) * self.hard(outputs[self.answer], labels))
        return tf.add_n(parts)

    def soft(self, outputs: Outputs, targets: Outputs) -> Any:
        """Return the distance from the original's outputs.

        Of classes ``T**2 * KL``, of sides of pairs ``1 - cosine``, of numbers the squared error over the variance.
        """
        losses = []
        for name, output in outputs.items():
            target = tf.cast(targets[name], tf.float32)
            if name == self.answer and self.task.classes:
                logits = as_logits(output, logits=self.task.logits), as_logits(target, logits=self.task.logits)
                losses.append(soft_classes(*logits, self.settings.temperature))
            elif name == self.answer and self.task.name == "similarity":
                losses.append(tf.reduce_mean(1 - _cosine(output, target)))
            else:
                losses.append(tf.reduce_mean(tf.square(output - target)) / self.spread[name])
        return tf.add_n(losses)

    def hard(self, output: Any, labels: Any) -> Any:
        """Return the distance from the labels: cross-entropy, or the squared error over the labels' variance.

        Of pairs, the squared error of the cosine of their sides from the score, brought to 0..1.
        """
        if self.task.classes:
            logits = as_logits(output, logits=self.task.logits)
            return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(tf.cast(labels, tf.int64), logits))
        labels = tf.cast(labels, tf.float32)
        if self.task.name == "similarity":
            low, high = self.range
            wanted = (tf.reshape(labels, [-1]) - low) / max(high - low, _LEAST)
            return tf.reduce_mean(tf.square(_cosine(output[0::2], output[1::2]) - wanted))
        return tf.reduce_mean(tf.square(output - tf.reshape(labels, tf.shape(output)))) / self.spread[""]


def as_logits(output: Any, *, logits: bool) -> Any:
    """Return (N, classes) logits of logits or probabilities (N, classes), (N, 1) or (N,) of two classes."""
    if len(output.shape) == 1:
        output = output[:, None]
    if output.shape[1] == 1:
        if logits:
            return tf.concat([tf.zeros_like(output), output], axis=1)
        output = tf.concat([1 - output, output], axis=1)
    return output if logits else tf.math.log(tf.maximum(output, 1e-7))


def soft_classes(logits: Any, targets: Any, temperature: float) -> Any:
    """Return ``T**2 * KL(softmax(targets / T) || softmax(logits / T))``, the mean over samples.

    Source: Hinton et al. 2015; the factor keeps gradients of one size whatever the temperature.
    """
    ours = tf.nn.log_softmax(logits / temperature, axis=1)
    theirs = tf.nn.log_softmax(targets / temperature, axis=1)
    samples = tf.cast(tf.shape(logits)[0], tf.float32)
    return tf.reduce_sum(tf.exp(theirs) * (theirs - ours)) / samples * temperature**2


def variance(values: Array) -> float:
    """Return how far values (N, ...) lie from their mean over the samples, squared; 1 where they do not."""
    wide = values.astype(np.float64)
    found = float(np.square(wide - wide.mean(axis=0)).mean())
    return found if found > _LEAST else 1.0


def _cosine(one: Any, other: Any) -> Any:
    return tf.reduce_sum(tf.nn.l2_normalize(one, axis=-1) * tf.nn.l2_normalize(other, axis=-1), axis=-1)


def _own(name: str, outputs: Outputs, targets: Outputs | None, labels: Any) -> Any:
    """Call the user's own loss, which is compiled with the step.

    Raises:
        RecipeError: It raised, or returned no scalar.
    """
    try:
        loss = own_loss(name)(outputs, targets, labels)
    except Exception as error:  # from the user's own function
        raise RecipeError(f"the loss {name} raised {type(error).__name__}: {in_one_line(error)}") from error
    if not tf.is_tensor(loss) or loss.shape.num_elements() != 1:
        shape = list(loss.shape) if tf.is_tensor(loss) else type(loss).__name__
        raise RecipeError(f"the loss {name} returned {shape}, not one number; return a scalar tensor")
    return tf.reshape(loss, [])
