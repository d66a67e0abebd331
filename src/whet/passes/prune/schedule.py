"""When zeros are chosen along a training, and how many: after Zhu and Gupta 2017, by TensorFlow's names."""

from __future__ import annotations

from whet.errors import RecipeError
from whet.passes.prune import math
from whet.passes.prune.spec import MagnitudePrune


def last_step(request: MagnitudePrune, steps: int) -> int:
    """Return the step of so many after which zeros stay.

    Raises:
        RecipeError: The schedule begins after the last.
    """
    begin = request.begin_step
    end = min(request.end_step if request.end_step >= 0 else max(begin, int(0.75 * steps)), steps - 1)
    if begin > end:
        raise RecipeError(
            f"magnitude-prune: begin_step = {begin} lies beyond the {steps} steps of the training; begin "
            f"earlier, or train longer"
        )
    return end


def sparsity_at(request: MagnitudePrune, step: int, steps: int) -> float | None:
    """Return the share of zeros that is chosen before a step; None where none are.

    Before the step after the last, which is not made, it is that of the end: what a learning rate is found for.
    """
    begin, end = request.begin_step, last_step(request, steps)
    if step == steps:
        return request.wanted
    if step != end and not (begin <= step < end and (step - begin) % request.frequency == 0):
        return None
    if request.schedule == "polynomial":
        return math.polynomial(step, begin, end, request.initial_sparsity, request.wanted)
    return request.wanted
