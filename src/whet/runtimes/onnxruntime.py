"""ONNX Runtime, on the GPU where it has one and on the CPU else."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import onnxruntime

from whet.errors import RuntimeFailure
from whet.models.model import Stored
from whet.models.onnx.refusals import sentence
from whet.runtimes.base import Closing, Deployment, beyond_table
from whet.types import Format

if TYPE_CHECKING:
    from whet.types import Array, Batch

_LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "disabled": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_BEYOND = re.compile(r"idx=(-?\d+) must be within the inclusive range \[-\d+,(\d+)\]")
_PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


class OnnxRuntime:
    """Runs ONNX files."""

    name = "onnxruntime"
    formats = (Format.ONNX,)
    options: Mapping[str, tuple[Any, ...]] = {"graph_level": tuple(_LEVELS), "provider": tuple(_PROVIDERS)}

    def open(self, stored: Stored, deployment: Deployment) -> OnnxSession:
        """Open a file; ``provider`` is the fastest that is there unless asked for."""
        available = onnxruntime.get_available_providers()
        asked = deployment.options.get("provider")
        if asked and _PROVIDERS[asked] not in available:
            raise RuntimeFailure(f"this onnxruntime has no {asked} provider; it has {', '.join(available)}")
        wanted = [_PROVIDERS[asked]] if asked else [name for name in _PROVIDERS.values() if name in available]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = deployment.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = _LEVELS[deployment.options.get("graph_level", "all")]
        options.log_severity_level = 4  # what it would print stands in the error that is raised
        try:
            session = onnxruntime.InferenceSession(str(stored.path), options, providers=wanted)
        except Exception as error:  # onnxruntime raises its own kinds, without a common base
            raise RuntimeFailure(f"ONNX Runtime cannot open {stored.path.name}: {sentence(error)}") from error
        facts = {
            "runtime": "onnxruntime",
            "version": onnxruntime.__version__,
            "provider": session.get_providers()[0],
            "threads": deployment.threads,
            "graph_level": deployment.options.get("graph_level", "all"),
        }
        return OnnxSession(session, facts)


class OnnxSession(Closing):
    """An inference session, run on arrays."""

    def __init__(self, session: onnxruntime.InferenceSession, facts: Mapping[str, Any]) -> None:
        self.facts = facts
        self._session = session
        self._outputs = [output.name for output in session.get_outputs()]

    def run(self, batch: Batch) -> dict[str, Array]:
        """Run the session.

        Raises:
            SignatureError: A number of the batch has no entry in a table of the model.
            RuntimeFailure: The engine refuses it otherwise.
        """
        try:
            values = self._session.run(self._outputs, dict(batch))
        except Exception as error:
            if found := _BEYOND.search(str(error)):
                raise beyond_table(f"{found[1]}, of which a table has {int(found[2]) + 1} entries") from error
            raise RuntimeFailure(
                f"ONNX Runtime cannot run the model: {sentence(error)}{self._advice(batch)}"
            ) from error
        return dict(zip(self._outputs, values, strict=True))

    def _advice(self, batch: Batch) -> str:
        """Say how to declare inputs whose lengths the file leaves free, beyond the number of samples."""
        for value in self._session.get_inputs():
            if any(not isinstance(size, int) for size in value.shape[1:]):
                array = batch[value.name]
                axes, form = ",".join(map(str, array.shape)), f"{value.name}={array.dtype}[1,?128]"
                return f"; {value.name} was [{axes}]: declare the lengths that it takes, --input '{form}'"
        return ""
