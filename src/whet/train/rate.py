"""The learning rate, found on the model at hand."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from whet.progress import Event

if TYPE_CHECKING:
    from whet.train.course import Learner
    from whet.types import Array

RATES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
_SHARE, _FEWEST, _MOST = 50, 8, 40  # steps of a miniature: a fiftieth of the run's, 8 to 40
_JUDGED = 512  # held-out samples
_CLOSE = 1.02
_TIME_SHARE = 0.2  # of a time budget


def find_rate(training: Learner, steps: int) -> float:
    """Train a miniature of the run at each rate, and return the best; the model is as it was afterwards.

    Miniatures fall to zero as the run does, so that a rate is not blamed for noise that would have gone. Of rates
    whose losses are within 2 %, the greatest is taken: short runs favour small rates (Wu et al. 2018,
    "Understanding short-horizon bias in stochastic meta-optimization").
    """
    count = min(steps, max(_FEWEST, min(_MOST, steps // _SHARE)))
    judged = training.samples.held[:_JUDGED]
    start, losses = training.snapshot(), dict[float, float]()
    for at, rate in enumerate(RATES):
        if losses and training.share_of_time() > _TIME_SHARE:
            break
        training.context.on_event(Event("train: find the learning rate", at, len(RATES)))
        training.reseed()
        losses[rate] = _miniature(training, rate, count, np.arange(len(judged)))
        training.restore(start)
        training.begin()
    best = min(losses.values())
    if not math.isfinite(best):
        return min(losses)
    return max(rate for rate, loss in losses.items() if loss <= _CLOSE * best)


def _miniature(training: Learner, rate: float, count: int, judged: Array) -> float:
    order = training.samples.order(0, training.context.seed)
    for step in range(count):
        numbers = order.take(np.arange(step * training.size, (step + 1) * training.size), mode="wrap")
        if not math.isfinite(training.step(numbers, rate * (1 - step / count), step)):
            return math.inf
    loss = training.evaluate(judged)
    return loss if math.isfinite(loss) else math.inf
