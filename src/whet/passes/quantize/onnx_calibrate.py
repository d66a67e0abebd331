"""Ranges of every activation of an ONNX graph, from any number of samples in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, ValueInfoProto

from whet.data.data import Part, Splits
from whet.errors import PassError
from whet.passes.quantize import onnx_graph
from whet.passes.quantize.math import Extremes, Histogram
from whet.types import Range, Signature

if TYPE_CHECKING:
    from whet.types import Array, Batch

Batches = Callable[[], Iterable["Batch"]]
"""Starts the samples over: they are read twice where histograms are taken."""


def ranges(proto: ModelProto, batches: Batches, method: str, percentile: float, folder: Path) -> dict[str, Range]:
    """Return the range of every float tensor but the weights.

    The first reading finds extremes, the second (but for ``minmax``) fills a histogram between them. One batch of
    activations is in memory at a time.

    Args:
        proto: Shape-inferred.
        batches: Samples by input name.
        method: ``minmax``, ``percentile`` or ``entropy``.
        percentile: Share kept, for ``percentile``.
        folder: For the graph that shows its inner tensors.

    Raises:
        PassError: A tensor took a value that is not finite.
    """
    session, names = _open(proto, folder)
    extremes = {name: Extremes() for name in names}
    calls = _read(session, names, batches, {name: extremes[name].add for name in names})
    found = {name: seen.range() for name, seen in extremes.items()}
    for name, seen in found.items():
        if not (np.isfinite(seen.low) and np.isfinite(seen.high)):
            raise PassError(f"tensor {name!r} took a NaN or infinite value on a calibration sample")
    if method == "minmax":
        return found
    histograms = {name: Histogram(seen, calls) for name, seen in found.items()}
    _read(session, names, batches, {name: histograms[name].add for name in names})
    if method == "entropy":
        return {name: histogram.entropy() for name, histogram in histograms.items()}
    return {name: histogram.percentile(percentile) for name, histogram in histograms.items()}


def watch(proto: ModelProto, batches: Batches, sinks: Mapping[str, Callable[[Array], None]], folder: Path) -> None:
    """Run every sample and hand float tensors to those who look at them, by name."""
    session, names = _open(proto, folder)
    _read(session, [name for name in names if name in sinks], batches, sinks)


def inner(proto: ModelProto, names: Sequence[str], batches: Iterable[Batch], folder: Path) -> Iterator[list[Array]]:
    """Yield what a graph has at some inner tensors, a list for each batch; what lies behind them is not run."""
    cut = ModelProto()
    cut.CopyFrom(proto)
    del cut.graph.output[:]
    cut.graph.output.extend(ValueInfoProto(name=name) for name in names)
    session = _session(cut, folder / "cut.onnx")
    for batch in batches:
        yield session.run(list(names), dict(batch))


def samples(data: Splits, signature: Signature, limit: int, size: int) -> Iterator[Batch]:
    """Yield calibration samples in lots that the model takes; a last one that is too short has samples twice."""
    size = signature.batch or size
    for batch in data.batches(Part.CALIBRATE, size, limit=limit):
        bound = signature.bind(batch)
        yield bound if signature.batch is None else signature.fill(bound, size)


def _open(proto: ModelProto, folder: Path) -> tuple[onnxruntime.InferenceSession, list[str]]:
    """Open a copy of the graph whose every float tensor is an output; return it and their names in order."""
    shown = ModelProto()
    shown.CopyFrom(proto)
    constants = {tensor.name for tensor in proto.graph.initializer}
    known = [*proto.graph.input, *proto.graph.value_info, *proto.graph.output]
    floats = {value.name: value for value in known if _is_float(value) and value.name not in constants}
    inputs = [value.name for value in proto.graph.input]
    order = dict.fromkeys([*inputs, *(name for node in proto.graph.node for name in node.output)])
    names = [name for name in order if name in floats]
    present = {*inputs, *(value.name for value in proto.graph.output)}
    shown.graph.output.extend(floats[name] for name in names if name not in present)
    return _session(shown, folder / "shown.onnx", optimized=False), names


def _session(proto: ModelProto, path: Path, *, optimized: bool = True) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    onnx_graph.save(proto, path)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _read(
    session: onnxruntime.InferenceSession,
    names: list[str],
    batches: Batches,
    sinks: Mapping[str, Callable[[Array], None]],
) -> int:
    """Feed every sample and hand each tensor to its sink; return how many calls that took."""
    inputs = {value.name for value in session.get_inputs()}
    inner = [name for name in names if name not in inputs]
    count = 0
    for batch in batches():
        for name in inputs & set(names):
            sinks[name](batch[name])
        for name, array in zip(inner, session.run(inner, dict(batch)), strict=True):
            sinks[name](array)
        count += 1
    if not count:
        raise PassError("there are no samples to calibrate on")
    return count


def _is_float(value: object) -> bool:
    kind = value.type.tensor_type.elem_type  # type: ignore[attr-defined]
    return kind in (TensorProto.FLOAT, TensorProto.FLOAT16)
