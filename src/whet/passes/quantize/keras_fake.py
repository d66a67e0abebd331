"""Activations in 8 bits while a Keras model is trained, where LiteRT's quantizer will put them."""

from __future__ import annotations

from enum import Enum
from typing import Any

from whet.models.keras import describe
from whet.models.keras.adapter import KerasAdapter
from whet.models.model import Model
from whet.train.keras_graph import replayed

import keras  # after the adapter, which chooses its backend  # isort: skip
import tensorflow as tf

# What the converter makes of layers: computed in integers, inputs and outputs; one with the layer before them, so
# that nothing is rounded between; moving numbers only, so that what goes in rounded comes out rounded.
_NAMES = """
Conv1D Conv2D DepthwiseConv1D DepthwiseConv2D SeparableConv1D SeparableConv2D Conv2DTranspose Dense Add Subtract
Multiply Maximum Minimum Average Concatenate AveragePooling1D AveragePooling2D GlobalAveragePooling1D
GlobalAveragePooling2D UpSampling2D LeakyReLU Softmax Mean

BatchNormalization ReLU Dropout SpatialDropout1D SpatialDropout2D Relu Relu6

Flatten Reshape Permute MaxPooling1D MaxPooling2D GlobalMaxPooling1D GlobalMaxPooling2D ZeroPadding1D ZeroPadding2D
Cropping1D Cropping2D RepeatVector Transpose Squeeze ExpandDims GetItem
"""
_WHOLE, _FUSED, _MOVES = (frozenset(part.split()) for part in _NAMES.split("\n\n"))
_FUSED_FUNCTIONS = ("relu", "relu6", "linear")  # of an Activation

_BITS = 8
_LOOKED_AT = 1 << 16  # numbers of an activation that its range is taken from
_EVERY, _MOMENTUM = 16, 0.1  # steps between two looks while it trains, and what a look weighs
_NARROW = 1e-6


class _Is(Enum):
    """What is known of a tensor."""

    DUE = 1  # held in integers by the file: whoever reads it gets it rounded
    ROUNDED = 2


class Rounded(keras.layers.Layer):  # type: ignore[misc]
    """Rounds an activation to 8 bits in a range of its own; gradients go straight through within it.

    The range is set by ``watched``, follows the training slowly, and stands still once ``still`` is true.
    """

    def __init__(self, percentile: float, still: tf.Variable, **settings: Any) -> None:
        super().__init__(**settings)
        self._cut, self._still, self.watches = (1 - percentile / 100) / 2, still, False
        self.supports_jit = False  # XLA knows no slice of an unknown stride

    def build(self, shape: Any) -> None:
        """Lay out the range, and how many steps were seen."""
        self.ends = self.add_weight(shape=(2,), initializer="zeros", trainable=False, name="ends")
        self.passes = self.add_weight(shape=(), initializer="zeros", dtype="int32", trainable=False, name="passes")

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Round; look at the range now and then."""
        if self.watches:
            self.ends.assign(self._seen(x))
            return x
        if training:
            self.passes.assign_add(1)
            looks = tf.logical_and(tf.logical_not(self._still), tf.equal(self.passes.value % _EVERY, 0))
            tf.cond(looks, lambda: self._follow(x), lambda: False)
        low, high = self.ends.value[0], self.ends.value[1]
        return tf.quantization.fake_quant_with_min_max_vars(x, low, tf.maximum(high, low + _NARROW), _BITS)

    def compute_output_shape(self, shape: Any) -> Any:
        """Return the shape that goes in."""
        return shape

    def _follow(self, x: Any) -> bool:
        self.ends.assign(self.ends.value + _MOMENTUM * (self._seen(x) - self.ends.value))
        return True

    def _seen(self, x: Any) -> Any:
        """Return the least and the greatest number (2,) but for outliers; zero is among them."""
        flat = tf.reshape(tf.stop_gradient(x), [-1])
        stride = tf.maximum(tf.size(flat) // _LOOKED_AT, 1) | 1  # an odd stride meets every column of a picture
        some = tf.sort(tf.reshape(flat[::stride], [-1]))
        last = tf.cast(tf.size(some) - 1, tf.float32)
        at = tf.cast(tf.stack([tf.floor(self._cut * last), tf.math.ceil((1 - self._cut) * last)]), tf.int32)
        low, high = tf.unstack(tf.gather(some, at), num=2)
        return tf.stack([tf.minimum(low, 0.0), tf.maximum(high, 0.0)])


class Still(keras.layers.Layer):  # type: ignore[misc]
    """A BatchNormalization whose statistics stand still once ``still`` is true; what it learns goes on."""

    def __init__(self, norm: keras.Layer, still: tf.Variable) -> None:
        super().__init__(name=norm.name)
        self.norm, self._still = norm, still

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Normalize, by the statistics of the batch or by those that are held."""
        if not training:
            return self.norm(x, training=False)
        return tf.cond(self._still, lambda: self.norm(x, training=False), lambda: self.norm(x, training=True))

    def compute_output_shape(self, shape: Any) -> Any:
        """Return the shape that goes in."""
        return shape


class FakeActivations:
    """A network over a model's layers in which activations are rounded where a file will round them.

    Attributes:
        network: The network.
        still: Whether ranges and statistics stand still.
        roundings: The layers that round.
        called: Kind of every layer that is called, in order, by name.
    """

    def __init__(self, model: Model, percentile: float, *, rounds: bool = True) -> None:
        self.still = tf.Variable(False, trainable=False)
        self.called: dict[str, str] = {}
        self.roundings: list[Rounded] = []
        self._percentile, self._rounds = percentile, rounds
        self._known: dict[int, _Is] = {}
        self._copies: dict[int, Any] = {}
        self._kept: list[Any] = []  # so that no identity is given twice
        self._norms: dict[int, Still] = {}
        inputs, outputs = replayed(model.payload, self._call)
        self.network = keras.Model(inputs, keras.tree.map_structure(self._rounded, outputs))

    def watch(self, model: Model, batch: Any) -> None:
        """Run samples through, unrounded, and take the ranges from them."""
        values = [tf.convert_to_tensor(batch[name]) for name in KerasAdapter.inputs(model.payload)]
        for each in self.roundings:
            each.watches = True
        self.network(describe.arranged(self.network, values), training=False)
        for each in self.roundings:
            each.watches = False

    def _call(self, name: str, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        kind = type(operation).__name__
        self.called.setdefault(name, kind)
        if kind == "BatchNormalization" and kwargs.get("mask") is None:
            kwargs = {}
            operation = self._norms.setdefault(id(operation), Still(operation, self.still))
        fused = kind in _FUSED or (kind == "Activation" and operation.activation.__name__ in _FUSED_FUNCTIONS)
        if fused:
            before = self._known.get(id(args[0]))
            found = operation(*args, **kwargs)
            unfolded = kind == "BatchNormalization" and before is _Is.ROUNDED
            return self._mark(found, None if unfolded else before)
        every = kind in _WHOLE or kind in _MOVES
        args, kwargs = keras.tree.map_structure(lambda value: self._rounded(value, every=every), (args, kwargs))
        found = operation(*args, **kwargs)
        return self._mark(found, _Is.DUE if kind in _WHOLE else _Is.ROUNDED if kind in _MOVES else None)

    def _mark(self, found: Any, what: _Is | None) -> Any:
        for value in keras.tree.flatten(found):
            self._kept.append(value)
            if what is None or not self._rounds:
                self._known.pop(id(value), None)
            else:
                self._known[id(value)] = what
        return found

    def _rounded(self, value: Any, every: bool = False) -> Any:
        """Return an activation rounded, if that is due or ``every`` one is read in integers."""
        if not self._rounds or not isinstance(value, keras.KerasTensor) or "float" not in str(value.dtype):
            return value
        known = self._known.get(id(value))
        if known is _Is.ROUNDED or (known is None and not every):
            return value
        if id(value) not in self._copies:
            layer = Rounded(self._percentile, self.still, name=f"rounded_{len(self.roundings)}")
            self.roundings.append(layer)
            self._kept.append(value)
            self._copies[id(value)] = self._mark(layer(value), _Is.ROUNDED)
        return self._copies[id(value)]
