"""Weight constraints of Keras models: what training must keep, re-derived from the arrays, as graphs of TensorFlow.

The counterpart of ``whet.train.constraints``, with the same three questions to a constraint: what a weight may be
(``hold``), what the forward pass computes with (``seen``), how a gradient of that becomes one of what is trained
(``gradient``). Variables of the model stay its own; masks lie in variables, so that a schedule may change them
between steps of a compiled function.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from whet.models.keras import axes as places
from whet.models.keras import counting
from whet.models.keras.adapter import KerasAdapter
from whet.models.keras.axes import Axes
from whet.models.model import Model
from whet.train import levels
from whet.types import TraitKind

import tensorflow as tf  # after the adapter, which chooses the backend of Keras  # isort: skip

if TYPE_CHECKING:
    from whet.types import Array

_GROUPS = (256, 128, 64, 32, 16)  # weights of a channel that may share a codebook
_CLIPS = np.linspace(0.3, 1.0, 36)  # shares of the greatest magnitude that a grid may end at
_LEAST = 1e-12


class Constraint(Protocol):
    """A property of one weight that training keeps. ``state`` is what a checkpoint has to know of it."""

    def hold(self, weight: Any) -> Any:
        """Return the nearest weight that has the property; applied after every step."""

    def seen(self, weight: Any) -> Any:
        """Return what the forward pass computes with."""

    def gradient(self, gradient: Any, weight: Any) -> Any:
        """Return the gradient of what is trained, given that of what was seen."""

    def state(self) -> dict[str, Array]:
        """Return its arrays, which ``load`` takes."""

    def load(self, state: Mapping[str, Array]) -> None:
        """Take up its arrays again."""


class Sparse:
    """Zeros stay zero. ``mask`` is 1 where a weight lives; a schedule may assign it anew between steps."""

    def __init__(self, mask: Array) -> None:
        self.mask = tf.Variable(mask, trainable=False)

    def hold(self, weight: Any) -> Any:
        """Zero what the mask does."""
        return weight * self.mask

    def seen(self, weight: Any) -> Any:
        """Return the weight, which is held already."""
        return weight

    def gradient(self, gradient: Any, weight: Any) -> Any:
        """Pass on nothing to what is zero."""
        return gradient * self.mask

    def state(self) -> dict[str, Array]:
        """Return the mask."""
        return {"mask": self.mask.numpy()}

    def load(self, state: Mapping[str, Array]) -> None:
        """Set the mask."""
        self.mask.assign(state["mask"])


class Clustered:
    """Weights of one cluster stay equal: codes are fixed, centroids are trained by the sum of their gradients.

    Attributes:
        codes: int32 of the weight's shape: the cluster of each, numbered over the whole weight, so that codebooks
            of a channel or a group have numbers of their own.
        clusters: How many there are.

    Source: Han et al. 2016, "Deep compression".
    """

    def __init__(self, codes: Array, clusters: int) -> None:
        self.codes, self.clusters = np.ascontiguousarray(codes, np.int32), clusters
        self._flat = tf.constant(self.codes.reshape(-1))
        self._counts = tf.constant(np.bincount(self.codes.reshape(-1), minlength=clusters), tf.float32)
        self._firsts = tf.constant(np.unique(self.codes, return_index=True)[1].astype(np.int32))

    @classmethod
    def of(cls, weight: Array, most: int, axes: Axes) -> Clustered | None:
        """Find clusters of at most ``most`` values: of the weight, of each channel, or of groups along one.

        None where the weight has more distinct values than that.
        """
        rows = axes.rows(weight)
        sizes = [rows.size, rows.shape[1], *(size for size in _GROUPS if rows.shape[1] % size == 0)]
        for size in sizes:
            parts = rows.reshape(-1, size)
            values, codes = np.unique(parts, return_inverse=True)
            whose = np.repeat(np.arange(len(parts)), size) * len(values)
            used, numbers = np.unique(codes.reshape(-1) + whose, return_inverse=True)
            if int(np.bincount(used // len(values), minlength=len(parts)).max()) <= most:
                return cls(axes.back(numbers.reshape(rows.shape), weight.shape), len(used))
        return None

    def hold(self, weight: Any) -> Any:
        """Set every weight to the mean of its cluster; weights that are equal stay as they are, bit by bit."""
        firsts = tf.gather(tf.reshape(weight, [-1]), self._firsts)
        means = self._sums(weight - self._spread(firsts)) / tf.cast(self._counts, weight.dtype)
        return self._spread(firsts + means)

    def seen(self, weight: Any) -> Any:
        """Return the weight, which is held already."""
        return weight

    def gradient(self, gradient: Any, weight: Any) -> Any:
        """Give every weight the summed gradient of its cluster."""
        return self._spread(self._sums(gradient))

    def state(self) -> dict[str, Array]:
        """Return nothing: codes follow from the weights that training began with, and stay."""
        return {}

    def load(self, state: Mapping[str, Array]) -> None:
        """Take up nothing."""

    def _sums(self, values: Any) -> Any:
        return tf.math.unsorted_segment_sum(tf.reshape(values, [-1]), self._flat, self.clusters)

    def _spread(self, values: Any) -> Any:
        return tf.reshape(tf.gather(values, self._flat), self.codes.shape)


class FakeQuant:
    """The forward pass sees weights on the grid that TFLite will find of them; gradients go straight through.

    The grid is symmetric, of ``2**bits - 1`` values a channel, and ends at the channel's greatest magnitude of now,
    as LiteRT's quantizer takes it from a file: so the integers of the file are those that were trained, whatever a
    BatchNorm that is folded in makes of the channel. Of 4 bits and fewer, weights are clipped to where the squared
    error is least when training begins. Zero is on the grid; equal weights of a channel stay equal.

    Source: Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons"; Jacob et al. 2018.
    """

    def __init__(self, bits: int, axes: Axes, count: int) -> None:
        """Lay a grid of ``bits`` (2 to 8) over a weight of ``count`` axes."""
        self.most = 2 ** (bits - 1) - 1
        self.bits, self._others = bits, axes.others(count)

    def clipped(self, weight: Array) -> Array:
        """Return a weight that ends where a grid of few bits errs least."""
        greatest = np.abs(weight).max(axis=self._others, keepdims=True).clip(_LEAST)
        if self.bits > 4:
            return weight
        best, least = greatest, np.full_like(greatest, np.inf)
        for clip in _CLIPS[::-1]:
            scale = clip * greatest / self.most
            rounded = np.clip(np.rint(weight / scale), -self.most, self.most) * scale
            error = np.square(rounded - weight).sum(axis=self._others, keepdims=True)
            best, least = np.where(error < least, clip * greatest, best), np.minimum(error, least)
        return np.clip(weight, -best, best).astype(weight.dtype)

    def hold(self, weight: Any) -> Any:
        """Return the weight: what is trained may lie between the values of the grid."""
        return weight

    def seen(self, weight: Any) -> Any:
        """Return the nearest values of the grid."""
        greatest = tf.reduce_max(tf.abs(weight), axis=self._others, keepdims=True)
        scale = tf.maximum(greatest, _LEAST) / self.most
        return self._rounded(weight / scale) * scale

    def _rounded(self, steps: Any) -> Any:
        return tf.round(steps)

    def gradient(self, gradient: Any, weight: Any) -> Any:
        """Pass the gradient straight through: no weight lies beyond the grid's end."""
        return gradient

    def state(self) -> dict[str, Array]:
        """Return nothing: the grid follows from the weight."""
        return {}

    def load(self, state: Mapping[str, Array]) -> None:
        """Take up nothing."""


class Levels(FakeQuant):
    """The forward pass sees weights on the few integers of a 4-bit grid that clustering chose for their tensor.

    Which of them a weight has may change; a channel ends at its greatest magnitude, as on any grid.

    Attributes:
        integers: Sorted, both ends of the grid among them.
    """

    def __init__(self, integers: Array, axes: Axes, count: int) -> None:
        super().__init__(4, axes, count)
        self.integers = tf.constant(integers, tf.float32)
        self._between = ((integers[1:] + integers[:-1]) / 2).tolist()

    @classmethod
    def of(cls, weight: Array, most: int, axes: Axes) -> Levels | None:
        """Find the at most ``most`` integers of a weight's channels; None where it is on no such grid."""
        integers = levels.shared(axes.rows(weight), most)
        return None if integers is None else cls(integers, axes, weight.ndim)

    def _rounded(self, steps: Any) -> Any:
        return tf.gather(self.integers, tf.raw_ops.Bucketize(input=steps, boundaries=self._between))


class Constraints:
    """The constraints of a model's weights, by name, each weight's in order of application.

    Attributes:
        kept: By name of the weight.
        network: What is trained under them: the model, or one over its layers in which something stands between.
        steps: How many were made by a model that trains under them.
    """

    def __init__(self, model: Any) -> None:
        self._variables = counting.named_weights(model)
        self.network = model
        self.kept: dict[str, list[Constraint]] = {}
        self.steps = tf.Variable(0, dtype=tf.int64, trainable=False)

    def __bool__(self) -> bool:
        return bool(self.kept)

    def add(self, name: str, constraint: Constraint) -> None:
        """Keep one more property of a weight, after those it has."""
        self.kept.setdefault(name, []).append(constraint)

    def of(self, name: str, kind: type[Any]) -> Any:
        """Return the constraint of this kind on a weight, if it has one."""
        return next((item for item in self.kept.get(name, []) if isinstance(item, kind)), None)

    def quantize(self, name: str, bits: int, axes: Axes) -> int:
        """Lay a grid over one weight, clipped to it, unless it keeps to a coarser one; return the bits it has."""
        known = self.of(name, Levels)
        if known is not None and known.bits <= bits:
            return int(known.bits)
        variable = self._variables[name]
        grid = FakeQuant(bits, axes, len(variable.shape))
        variable.assign(grid.clipped(np.array(variable.value)))
        self.add(name, grid)
        return bits

    def hold(self) -> None:
        """Bring the weights back to where they may be; called before the first step and after each."""
        for name, constraints in self.kept.items():
            held = [item for item in constraints if not isinstance(item, FakeQuant)]
            if held:
                self._variables[name].assign(_through(held, "hold", self._variables[name].value))

    @contextmanager
    def seen(self) -> Iterator[None]:
        """Let the model compute with the weights as they will be; what is trained is back afterwards."""
        latent = {}
        for name, constraints in self._rounded():
            latent[name] = tf.identity(self._variables[name].value)
            self._variables[name].assign(_through(constraints, "seen", latent[name]))
        try:
            yield
        finally:
            for name, value in latent.items():
                self._variables[name].assign(value)

    def gradients(self, variables: Sequence[Any], gradients: Sequence[Any]) -> list[Any]:
        """Return gradients of what is trained, given those of what was seen; None stays None."""
        names = {id(self._variables[name]): name for name in self.kept}
        found = []
        for variable, gradient in zip(variables, gradients, strict=True):
            name = names.get(id(variable))
            if gradient is None or name is None:
                found.append(gradient)
                continue
            own = tf.convert_to_tensor(gradient)  # of a table: not of the rows alone that were read
            for constraint in reversed(self.kept[name]):
                own = constraint.gradient(own, variable.value)
            found.append(own)
        return found

    def bake(self) -> None:
        """Leave the weights as the forward pass saw them."""
        self.hold()
        for name, constraints in self._rounded():
            self._variables[name].assign(_through(constraints, "seen", self._variables[name].value))

    def broken(self) -> list[str]:
        """Return the names of weights that are not as they may be."""
        found = []
        for name, constraints in self.kept.items():
            weight = np.array(self._variables[name].value)
            held = np.array(_through(constraints, "hold", tf.constant(weight)))
            if not np.allclose(weight, held, rtol=1e-5, atol=1e-6 * np.abs(weight).max(initial=0)):
                found.append(name)
        return found

    def state(self) -> dict[str, Array]:
        """Return all arrays of all constraints: ``name.0.mask``."""
        return {
            f"{name}.{at}.{key}": value
            for name, constraints in self.kept.items()
            for at, constraint in enumerate(constraints)
            for key, value in constraint.state().items()
        }

    def load(self, state: Mapping[str, Array]) -> None:
        """Take up the arrays that ``state`` gave."""
        for name, constraints in self.kept.items():
            for at, constraint in enumerate(constraints):
                start = f"{name}.{at}."
                constraint.load({key.removeprefix(start): value for key, value in state.items()
                                 if key.startswith(start)})  # fmt: skip

    def _rounded(self) -> Iterator[tuple[str, list[Constraint]]]:
        for name, constraints in self.kept.items():
            if any(isinstance(item, FakeQuant) for item in constraints):
                yield name, constraints


def constraints_of(model: Model) -> Constraints:
    """Re-derive from the arrays what a model's traits promise: zeros stay zero, k values stay k.

    Of prunable weights, the zeros become a mask where the model is SPARSE; where it is CLUSTERED, a weight on a
    4-bit grid keeps to its k integers, a weight, channel or group of at most k distinct values becomes codes and
    centroids, and one of more (a layer that was left alone) stays free. Tables may be clustered too; they are
    never pruned.
    """
    amounts = {trait.kind: trait.amount for trait in model.traits}
    found = Constraints(model.payload)
    prunable = [name for layer in KerasAdapter().layers(model) for name in layer.weights]
    axes = places.axes(model.payload)
    weights = KerasAdapter().weights(model)
    for name in dict.fromkeys([*prunable, *places.tables(model.payload).values()]):
        weight, k = weights[name], int(amounts.get(TraitKind.CLUSTERED, 0))
        few = Levels.of(weight, k, axes[name]) if k else None
        clustered = Clustered.of(weight, k, axes[name]) if k and few is None else None
        sparse = TraitKind.SPARSE in amounts and name in prunable and bool((weight == 0).any())
        for each in (clustered, Sparse((weight != 0).astype(weight.dtype)) if sparse else None, few):
            if each is not None:
                found.add(name, each)
    return found


def _through(constraints: Iterable[Constraint], what: str, weight: Any) -> Any:
    for constraint in constraints:
        weight = getattr(constraint, what)(weight)
    return weight
