"""The clock of factorization: small graphs raced against each other in ONNX Runtime, on one thread."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import onnxruntime
from onnx import ModelProto

_ROUNDS, _BLOCK_S = 30, 0.001


def race(models: Sequence[ModelProto], shape: Sequence[int]) -> list[float]:
    """Return the milliseconds of a call of each model on one ``x`` of this shape: the least over rounds.

    Whatever else the machine does only adds to it. They take turns, in an order that changes.
    """
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    sessions = [_open(model) for model in models]
    calls = [_calls(session, x) for session in sessions]
    rounds = np.zeros((_ROUNDS, len(models)))
    for number in range(_ROUNDS):
        for at in np.roll(np.arange(len(models)), number):
            rounds[number, at] = _seconds(sessions[at], x, calls[at])
    return [1000 * float(value) for value in rounds.min(axis=0)]


def _open(model: ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _calls(session: onnxruntime.InferenceSession, x: object) -> int:
    """Return how many calls fill a block of time, after a warm-up."""
    _seconds(session, x, 3)
    return max(1, round(_BLOCK_S / _seconds(session, x, 3)))


def _seconds(session: onnxruntime.InferenceSession, x: object, calls: int) -> float:
    """Return the seconds of one call, of so many."""
    start = time.perf_counter()
    for _ in range(calls):
        session.run(None, {"x": x})
    return (time.perf_counter() - start) / calls
