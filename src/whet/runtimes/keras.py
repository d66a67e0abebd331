"""Keras on TensorFlow: the user's own model as given, traced once for each form of its inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from whet.errors import RuntimeFailure, WhetError, in_one_line
from whet.models.keras import describe
from whet.models.keras.adapter import KerasAdapter, output_names
from whet.models.model import Stored
from whet.runtimes.base import Closing, Deployment
from whet.types import Format

import keras  # after the adapter, which chooses its backend  # isort: skip
import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from whet.types import Array, Batch


def use_threads(threads: int) -> None:
    """Have TensorFlow compute on so many threads, which it takes at its first use in a process.

    Raises:
        RuntimeFailure: It has begun with another number.
    """
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError as error:
        if os.environ.get("TF_NUM_INTRAOP_THREADS") != str(threads):
            raise RuntimeFailure(
                f"TensorFlow has chosen its threads in this process already; ask for {threads} in a fresh one"
            ) from error


class KerasRuntime:
    """Runs Keras models in inference mode, as ``predict`` does: their graph (``tf.function``), not call by call."""

    name = "keras"
    formats = (Format.KERAS,)
    options: Mapping[str, tuple[Any, ...]] = {}

    def open(self, stored: Stored, deployment: Deployment) -> KerasSession:
        """Load the stored model. TensorFlow takes its number of threads at the first use in a process."""
        use_threads(deployment.threads)
        model = KerasAdapter().load(stored.path, stored.source)
        facts = {
            "runtime": "keras",
            "version": keras.__version__,
            "tensorflow": tf.__version__,
            "threads": deployment.threads,
            "device": "cpu",
        }
        return KerasSession(model, facts)


class KerasSession(Closing):
    """A model, run on arrays."""

    def __init__(self, model: keras.Model, facts: Mapping[str, Any]) -> None:
        self.facts = facts
        self._names = output_names(model)
        self._inputs = list(KerasAdapter.inputs(model))
        self._call = tf.function(
            lambda values: model(describe.arranged(model, values), training=False), reduce_retracing=True
        )

    def run(self, batch: Batch) -> dict[str, Array]:
        """Run the model.

        Raises:
            RuntimeFailure: TensorFlow refuses it.
        """
        try:
            values = [tf.constant(batch[name]) for name in self._inputs]
            found = self._call(values)
            return dict(zip(self._names, map(np.asarray, keras.tree.flatten(found)), strict=True))
        except WhetError:
            raise
        except Exception as error:  # TensorFlow raises whatever its kernels do
            raise RuntimeFailure(f"TensorFlow cannot run the model: {in_one_line(error, 300)}") from error
