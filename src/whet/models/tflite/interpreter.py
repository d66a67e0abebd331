"""A TFLite file in LiteRT's interpreter: floats in, floats out, whatever integers the file holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ai_edge_litert.interpreter import Interpreter, OpResolverType

from whet.models.tflite.flatbuffer import parse
from whet.models.tflite.signature import code_of

if TYPE_CHECKING:
    from whet.types import Array, Batch

KERNELS: Mapping[str, Any] = MappingProxyType(
    {
        "xnnpack": OpResolverType.BUILTIN,  # LiteRT's default delegate, where it takes an operator
        "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        "reference": OpResolverType.BUILTIN_REF,
    }
)


class Running:
    """An interpreter of a file's first graph, run on arrays by name.

    Every call begins anew: what the file keeps from one call to the next is cleared.
    """

    def __init__(self, content: bytes, kernels: str = "", threads: int = 1, *, keep: bool = False) -> None:
        """Open a file.

        Args:
            content: The file.
            kernels: One of KERNELS; by default LiteRT's own, but XNNPACK's where weights have a scale a block.
            threads: Inside one operator.
            keep: Leave every tensor of a call to be looked at.

        Raises:
            ValueError, RuntimeError: LiteRT refuses it.
        """
        self.interpreter = _interpreter(content, kernels or "builtin", threads, keep)  # which verifies the file
        graph = parse(content)[0]
        self.in_blocks = any(one.quantization and one.quantization.block for one in graph.tensors)
        if self.in_blocks and not kernels:
            self.interpreter = _interpreter(content, "xnnpack", threads, keep)
        if not any(axis for _, place in graph.inputs for axis in graph.tensors[place].free):
            self._allocate()  # of other free lengths, only a call tells any that it takes
        self._inputs = {name: (place, code_of(graph.tensors[place])) for name, place in graph.inputs}
        self._outputs = {name: (place, code_of(graph.tensors[place])) for name, place in graph.outputs}
        self._keeps = any(tensor.variable for tensor in graph.tensors)
        self._shapes: dict[str, tuple[int, ...]] = {}

    def run(self, batch: Batch) -> dict[str, Array]:
        """Return copies of the named outputs.

        Raises:
            ValueError, RuntimeError: LiteRT refuses the shapes, or an operator cannot be run.
        """
        shapes = {name: array.shape for name, array in batch.items()}
        if shapes != self._shapes:
            self._shapes = {}
            for name, shape in shapes.items():
                self.interpreter.resize_tensor_input(self._inputs[name][0], list(shape))
            self._allocate()
            self._shapes = shapes
        if self._keeps:
            self.interpreter.reset_all_variables()
        for name, array in batch.items():
            place, code = self._inputs[name]
            self.interpreter.set_tensor(place, code.encode(array))
        self.interpreter.invoke()
        return {
            name: code.decode(self.interpreter.get_tensor(place)) for name, (place, code) in self._outputs.items()
        }

    def _allocate(self) -> None:
        with quiet():  # LiteRT tells on standard error, past Python, that it makes its delegate
            self.interpreter.allocate_tensors()

    def delegated(self) -> bool:
        """Tell whether a delegate took any operators."""
        return any(one["op_name"] == "DELEGATE" for one in self.interpreter._get_ops_details())

    def shapes(self) -> dict[int, tuple[int, ...]]:
        """Return the shapes of all tensors, by place, as they were in the last call."""
        return {int(one["index"]): tuple(map(int, one["shape"])) for one in self.interpreter.get_tensor_details()}


def _interpreter(content: bytes, kernels: str, threads: int, keep: bool) -> Interpreter:
    return Interpreter(
        model_content=content,
        experimental_op_resolver_type=KERNELS[kernels],
        num_threads=threads,
        experimental_preserve_all_tensors=keep,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what a library writes to standard error past Python from being seen."""
    sys.stderr.flush()
    told = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(told, 2)
        os.close(told)
        os.close(nowhere)
