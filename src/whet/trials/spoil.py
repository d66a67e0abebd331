"""Run models on spoilt test samples: as many as the time allows, the same for every model."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from whet.data.data import Part, Splits, stratified
from whet.data.samples import Subset
from whet.data.tasks import Task
from whet.measure import corruptions, robustness
from whet.measure.corruptions import Corruption, Usual
from whet.measure.robustness import Answers, Robustness
from whet.progress import Event, OnEvent

if TYPE_CHECKING:
    from whet.types import Array, Batch

Run = Callable[["Batch"], "Array"]
"""From one batch to the task's output."""

SAMPLES = (1000, 500, 250, 100)  # the most, and what is tried where time is short
_BATCH = 50
_LEARNT_FROM = 128  # samples of select that say what inputs usually are


@dataclass(frozen=True)
class Asked:
    """What is asked.

    Attributes:
        task: What the outputs are for.
        truth: The labels of ``test``; None where the first model's own outputs are the truth.
        seed: Of what is drawn.
        confidence: One-sided, of all limits together.
        seconds: That it may take, about; None is as long as it takes.
    """

    task: Task
    truth: Array | None
    seed: int = 0
    confidence: float = 0.95
    seconds: float | None = None


@dataclass(frozen=True)
class _Conditions:
    """The clean inputs (None) and every corruption of them, drawn anew the same way for each batch."""

    usual: Mapping[str, Usual]
    hows: tuple[Corruption | None, ...]
    seed: int

    def apply(self, batch: Batch, how: Corruption | None, at: int) -> Batch:
        """Return batch number ``at``, spoilt."""
        if how is None:
            return batch
        drawn = [abs(self.seed), at, zlib.crc32(how.name.encode()), how.severity]
        return corruptions.corrupt(batch, how, self.usual, np.random.default_rng(drawn))


def spoil(runs: Mapping[str, Run], splits: Splits, asked: Asked, on_event: OnEvent) -> dict[str, Robustness]:
    """Compare models with the first one on spoilt samples of ``test``; empty where no corruption fits the inputs.

    Args:
        runs: The models by name.
        splits: The data.
        asked: What is asked.
        on_event: Told of progress.
    """
    usual = corruptions.learn(splits.batch(Part.SELECT, range(min(_LEARNT_FROM, splits.size(Part.SELECT)))))
    known = corruptions.known(usual)
    if not known:
        return {}
    conditions = _Conditions(usual, (None, *known), asked.seed)
    taken = _taken(runs, splits, conditions, asked)
    some = replace(splits, parts={**splits.parts, Part.TEST: Subset(splits.parts[Part.TEST], taken)})
    parts: list[list[dict[str, Array]]] = [[] for _ in conditions.hows]  # by condition, then by batch
    for at, batch in enumerate(some.batches(Part.TEST, _BATCH)):
        on_event(Event("corrupted inputs", at * _BATCH, len(taken)))
        for part, how in zip(parts, conditions.hows, strict=True):
            spoilt = conditions.apply(batch, how, at)
            part.append(splits.fold({name: run(spoilt) for name, run in runs.items()}))
    clean, *others = ({name: np.concatenate([lot[name] for lot in part]) for name in runs} for part in parts)
    truth = None if asked.truth is None else asked.truth[taken]
    answers = Answers(clean, list(zip(known, others, strict=True)), truth, splits.size(Part.TEST))
    return robustness.judge(asked.task, answers, asked.confidence, asked.seed)


def _taken(runs: Mapping[str, Run], splits: Splits, conditions: _Conditions, asked: Asked) -> Array:
    """Return the numbers of the samples that can be run in the time there is, each class as often as in all."""
    total = splits.size(Part.TEST)
    count = SAMPLES[0]
    if asked.seconds is not None:
        each = len(conditions.hows) * _seconds_each(runs, splits, conditions)
        count = next((count for count in SAMPLES if count * each <= asked.seconds), SAMPLES[-1])
    return np.arange(total) if count >= total else stratified(total, splits.labels(Part.TEST), count, asked.seed)


def _seconds_each(runs: Mapping[str, Run], splits: Splits, conditions: _Conditions) -> float:
    """Return what one sample takes under one condition in all models, by a look at one batch after a warm-up."""
    batch = splits.batch(Part.SELECT, range(min(_BATCH, splits.size(Part.SELECT))))
    for run in runs.values():
        run(batch)
    started = time.perf_counter()
    spoilt = conditions.apply(batch, conditions.hows[-1], 0)
    for run in runs.values():
        run(spoilt)
    return (time.perf_counter() - started) / len(next(iter(batch.values())))
