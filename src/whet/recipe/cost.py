"""What a model costs to run, for passes that aim at it: exported, in ONNX Runtime, on one thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from whet.errors import PassError
from whet.models.adapter import adapter_for
from whet.models.model import Model, Stored
from whet.passes.base import PassContext
from whet.passes.export.spec import ExportOnnx
from whet.runtimes.base import Deployment, open_session
from whet.types import Format

_OPENINGS, _CALLS, _SECONDS = 3, 200, 0.25


def latency_ms(model: Model) -> float:
    """Return the milliseconds that one sample takes: the least of three openings' medians.

    Other work on the machine makes calls slower and never faster, so that the least is the nearest to the truth.

    Raises:
        PassError: The model cannot be exported, or its inputs are not known.
    """
    if model.signature is None:
        raise PassError("the model's inputs are not known; give data, or --input 'name=dtype[axes]'")
    batch = model.signature.synthetic(1)
    with TemporaryDirectory() as folder:
        if model.format is Format.TORCH:
            model = ExportOnnx().apply(model, PassContext(Path(folder))).model
        path = adapter_for(model.format).save(model, Path(folder) / "model")
        medians = []
        for _ in range(_OPENINGS):
            with open_session(Stored(model.format, path, model.source), Deployment()) as session:
                medians.append(_median_ms(lambda: session.run(batch)))
    return min(medians)


def _median_ms(call: Callable[[], object]) -> float:
    """Return the median time of calls, warmed up."""
    taken: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(taken) < 10 or (len(taken) < _CALLS and time.perf_counter() < end):
        start = time.perf_counter_ns()
        call()
        taken.append((time.perf_counter_ns() - start) / 1e6)
    return float(np.median(taken[3:]))
