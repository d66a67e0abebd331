"""Time by layer of a Keras model: each call compiled by itself, several times over, on what reaches it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.models.keras import describe
from whet.models.keras.adapter import KerasAdapter
from whet.models.model import Model
from whet.runtimes.keras import use_threads
from whet.train import keras_graph

import tensorflow as tf  # after the adapter, which chooses the backend of Keras  # isort: skip

if TYPE_CHECKING:
    from whet.types import Batch

_WARM_UP, _CALLS = 3, 15
_OPTIMIZER = "disable_meta_optimizer"
_MORE = 8  # calls in one function, beyond the first


def layer_times(model: Model, batch: Batch, threads: int) -> tuple[float, Mapping[str, tuple[str, float]]]:
    """Return the median milliseconds of a whole call, and of each layer by name, with its type.

    The whole is compiled as it is served, where TensorFlow fuses what it can: layers have the shares of it that
    they have when each is compiled alone. What calling TensorFlow takes by itself is in no share.
    """
    use_threads(threads)
    network = model.payload
    values = [tf.constant(batch[name]) for name in KerasAdapter.inputs(network)]
    total = _milliseconds(lambda *given: network(describe.arranged(network, list(given)), training=False), values)
    kinds: dict[str, str] = {}
    spent: dict[str, float] = {}

    def timed(name: str, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        once, more = (_milliseconds(_over(count, operation, args, kwargs), []) for count in (1, 1 + _MORE))
        kinds[name] = type(operation).__name__
        spent[name] = spent.get(name, 0.0) + max(more - once, 0.0)
        return operation(*args, **kwargs)

    with _as_written():
        keras_graph.run(network, values, timed)
    scale = total / (sum(spent.values()) or 1.0)
    return total, {name: (kinds[name], scale * each) for name, each in spent.items()}


def _over(count: int, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], list[Any]]:
    """Return what calls a layer so many times, one after the other."""

    def call() -> list[Any]:
        found: list[Any] = []
        for _ in range(count):
            with tf.control_dependencies(found[-1:]):
                found += tf.nest.flatten(operation(*args, **kwargs))
        return found

    return call


@contextmanager
def _as_written() -> Iterator[None]:
    """Keep TensorFlow from seeing that calls are the same, and making one of them."""
    before = tf.config.optimizer.get_experimental_options().get(_OPTIMIZER, False)
    tf.config.optimizer.set_experimental_options({_OPTIMIZER: True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({_OPTIMIZER: before})


def _milliseconds(call: Callable[..., Any], values: list[Any]) -> float:
    compiled = tf.function(call, autograph=False)
    for _ in range(_WARM_UP):
        compiled(*values)
    seconds = []
    for _ in range(_CALLS):
        start = time.perf_counter()
        compiled(*values)
        seconds.append(time.perf_counter() - start)
    return 1000 * float(np.median(seconds))
