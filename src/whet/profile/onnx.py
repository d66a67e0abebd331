"""Time by node, from ONNX Runtime's own profiler."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from onnx import ModelProto

from whet.models.model import Model
from whet.models.onnx import counting

if TYPE_CHECKING:
    from whet.types import Batch

_WARM_UP, _CALLS = 3, 30
_TIME = "_kernel_time"
_FUSED = re.compile(r"(_nchwc|_token_\d+|_nhwc)+$")
_HOLDERS = {"If", "Loop", "Scan"}  # whose time is that of the nodes in them, and more

Event = Mapping[str, Any]


def layer_times(model: Model, batch: Batch, threads: int) -> tuple[float, Mapping[str, tuple[str, float]]]:
    """Return the median milliseconds of a whole call, and of each layer, with its type.

    What ONNX Runtime runs is the graph as it optimized it: an activation fused into a convolution is part of it,
    and the reordering of data that it put in has rows of its own, in parentheses. Its profiler takes time itself
    at every node: the call is timed without it, and the layers have their shares of that.
    """
    proto = _named(model.payload)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix="whet-") as folder:
        content = proto.SerializeToString()
        totals = _whole(onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]), batch)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        _whole(session, batch)
        events = json.loads(Path(session.end_profiling()).read_text())
    owners = _owners(proto)
    kinds: dict[str, str] = {}
    calls = _by_call(events)
    shares: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(calls))
    for number, (duration, nodes) in enumerate(calls):
        for event in nodes:
            kind = event["args"]["op_name"]
            name = owners.get(_FUSED.sub("", event["name"].removesuffix(_TIME)), f"({kind})")
            kinds.setdefault(name, kind)
            shares[name][number] += event["dur"] / duration
    total = float(np.median(totals))
    return total, {name: (kinds[name], total * float(np.median(each))) for name, each in shares.items()}


def _by_call(events: Sequence[Event]) -> list[tuple[float, list[Event]]]:
    """Return the length and the nodes of every call after the warm-up; nodes in an If or a Loop are left to it."""
    calls = sorted((event["ts"], event["ts"] + event["dur"]) for event in events if event["name"] == "model_run")
    nodes = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(_TIME)]
    nodes.sort(key=lambda event: (event["ts"], -event["dur"]))
    found = []
    for start, end in calls[_WARM_UP:]:
        until = start
        inside: list[Event] = []
        for event in nodes:
            if until <= event["ts"] < end:
                inside.append(event)
                if event["args"]["op_name"] in _HOLDERS:
                    until = event["ts"] + event["dur"]
        found.append((max(end - start, 1), inside))
    return found


def _whole(session: onnxruntime.InferenceSession, batch: Batch) -> list[float]:
    totals = []
    for at in range(_WARM_UP + _CALLS):
        start = time.perf_counter()
        session.run(None, dict(batch))
        if at >= _WARM_UP:
            totals.append(1000 * (time.perf_counter() - start))
    return totals


def _named(proto: ModelProto) -> ModelProto:
    """Return a copy whose nodes all have names: those that counting gives them."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    for index, node in enumerate(copy.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return copy


def _owners(proto: ModelProto) -> dict[str, str]:
    """Map names of nodes, and of tensors that flow out of a layer through activations, to the layer's name.

    ONNX Runtime names a fused node after the first or after the tensor it yields.
    """
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    through = counting.dequantized(proto, constants)
    owners: dict[str, str] = {}
    flows: dict[str, str] = {}
    for index, node in enumerate(proto.graph.node):
        matrices = counting.kernels(node, constants, through)
        name = counting.layer_name(node, index, matrices)
        if not matrices and not counting.macs_known(node.op_type):
            carried = [flows[tensor] for tensor in node.input if tensor in flows]
            flows.update(dict.fromkeys(node.output, carried[0]) if carried else {})
            for output in node.output:
                if carried:
                    owners.setdefault(output, carried[0])
            if node.name:
                owners[node.name] = node.name
            continue
        flows.update(dict.fromkeys(node.output, name))
        owners.update({key: name for key in (node.name, *node.output) if key})
    return owners
