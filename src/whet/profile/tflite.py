"""Time by operator of TFLite files: each alone, as a file of its own, on what reaches it in a call of the whole."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from whet.errors import RuntimeFailure, in_one_line
from whet.models.model import Model
from whet.models.tflite import counting
from whet.models.tflite.flatbuffer import parse
from whet.models.tflite.interpreter import Running, quiet

if TYPE_CHECKING:
    from whet.types import Array, Batch

_WARM_UP, _CALLS = 3, 30


def layer_times(model: Model, batch: Batch, threads: int) -> tuple[float, Mapping[str, tuple[str, float]]]:
    """Return the median milliseconds of a whole call, and of each operator, with its type.

    LiteRT has no profiler in Python: every operator is cut out of the file and timed alone, with XNNPACK as in the
    whole, and has its share of the whole call's time. What the whole gains by running one after another (data that
    is still in the cache, operators that XNNPACK fuses) is spread over all by that.

    Raises:
        RuntimeFailure: An operator cannot be run alone.
    """
    running = Running(model.payload, "xnnpack", threads)
    running.run(batch)
    total = float(np.median([_seconds(running.interpreter.invoke) for _ in range(_WARM_UP + _CALLS)][_WARM_UP:]))
    graph = parse(model.payload)[0]
    handed = counting.handed_on(graph)
    tensors = _observed(model.payload, batch)
    alone: dict[str, tuple[str, float]] = {}
    for at, (name, operator) in enumerate(zip(counting.names(graph), graph.operators, strict=True)):
        if operator.outputs[0] in handed:
            continue  # goes with what it is handed on to
        try:
            alone[name] = operator.kind, _alone(_cut_out(model.payload, at), tensors, threads)
        except (ValueError, RuntimeError) as error:
            raise RuntimeFailure(
                f"the layer {name} ({operator.kind}) cannot be run alone to be timed ({in_one_line(error)}); "
                f"time the whole model with whet bench"
            ) from error
    whole = sum(seconds for _, seconds in alone.values()) or 1.0
    return 1000 * total, {name: (kind, 1000 * total * seconds / whole) for name, (kind, seconds) in alone.items()}


def _observed(content: bytes, batch: Batch) -> dict[int, Array]:
    """Return every tensor of a call of the whole file, by place."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that keeping tensors takes memory
        running = Running(content, keep=True)
    running.run(batch)
    found = {}
    for details in running.interpreter.get_tensor_details():
        try:
            found[int(details["index"])] = running.interpreter.get_tensor(details["index"])
        except ValueError:  # one that no operator of this graph yields
            continue
    return found


def _cut_out(content: bytes, at: int) -> bytes:
    """Return a file of one operator of the first graph, with its constants and what hands these on."""
    model: Any = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    through = counting.handed_on(parse(content)[0])
    operators = [graph.operators[at]]
    read = _places(operators[0].inputs)
    for one in reversed(graph.operators[:at]):
        if _places(one.outputs) & read & through.keys():
            operators.insert(0, one)
            read |= _places(one.inputs)
    constants = {place for place in read if model.buffers[graph.tensors[place].buffer].data is not None}
    graph.inputs = sorted(read - constants - through.keys())
    graph.outputs = operators[-1].outputs
    graph.operators = operators
    constants |= {place for tensor in graph.tensors for place in _scales(tensor.quantization)}
    kept = {graph.tensors[place].buffer for place in constants}
    kept |= {tensor.buffer for other in model.subgraphs[1:] for tensor in other.tensors}
    for number in set(range(len(model.buffers))) - kept:
        model.buffers[number].data = None
    model.signatureDefs, model.metadata = None, None
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _scales(quantization: Any) -> list[int]:
    """Return the places of tensors that hold the scales of blocks, and their zero points."""
    details = None if quantization is None else quantization.details
    return [at for at in (getattr(details, "scales", -1), getattr(details, "zeroPoints", -1)) if at > 0]


def _places(listed: Any) -> set[int]:
    return {int(place) for place in listed if place >= 0}


def _alone(content: bytes, tensors: Mapping[int, Array], threads: int) -> float:
    """Return the median seconds of a file of one operator, on the tensors that it reads in the whole."""
    with quiet():
        interpreter = Interpreter(
            model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN, num_threads=threads
        )
        places = [int(details["index"]) for details in interpreter.get_input_details()]
        if missing := [place for place in places if place not in tensors]:
            raise ValueError(f"nothing is known of tensor {missing[0]}, which it reads")
        for place in places:
            interpreter.resize_tensor_input(place, list(tensors[place].shape))
        interpreter.allocate_tensors()
    for place in places:
        interpreter.set_tensor(place, tensors[place])
    return float(np.median([_seconds(interpreter.invoke) for _ in range(_WARM_UP + _CALLS)][_WARM_UP:]))


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
