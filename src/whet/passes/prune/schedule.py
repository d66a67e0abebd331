"""When zeros are chosen along a training, and how many: after Zhu and Gupta 2017, by TensorFlow's names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from whet.errors import PassError, RecipeError
from whet.models.adapter import adapter_for
from whet.models.model import Model
from whet.passes.base import Outcome, PassContext
from whet.passes.prune import math
from whet.passes.prune.spec import MagnitudePrune
from whet.passes.prune.weights import Prunable, prunable
from whet.train.spec import Trained

if TYPE_CHECKING:
    from whet.types import Array


class Schedule(ABC):
    """Which weights of a model are zero, at every step of its training.

    Attributes:
        request: What was asked for.
        model: Whose weights they are.
        found: Those that can be pruned.
        final: Whether the last zeros are chosen.
    """

    def __init__(self, request: MagnitudePrune, model: Model, found: Prunable) -> None:
        """Begin with no zeros but those that are there."""
        self.request, self.model, self.found = request, model, found
        self.final = False

    def before(self, step: int, steps: int) -> bool:
        """Choose zeros where the schedule says so; tell whether the last are chosen."""
        sparsity = sparsity_at(self.request, step, steps)
        if sparsity is not None:
            self.choose(sparsity)
        self.final = step >= last_step(self.request, steps)
        return self.final

    def choose(self, sparsity: float) -> None:
        """Choose the least weights of now."""
        weights = adapter_for(self.model.format).weights(self.model)
        arrays = {name: weights[name] for name in self.found.arrays}
        for name, array in self.found.pruned(self.request, arrays, sparsity).items():
            self.mask(name, (array != 0).astype(array.dtype))

    @abstractmethod
    def mask(self, name: str, mask: Array) -> None:
        """Have a weight be zero where a mask is."""

    @abstractmethod
    def train(self, context: PassContext) -> Trained:
        """Train the model from the original, with ``before`` told of every step."""

    @abstractmethod
    def bake(self) -> None:
        """Leave the weights as the masks make them."""


def scheduled(
    request: MagnitudePrune,
    model: Model,
    context: PassContext,
    make: Callable[[MagnitudePrune, Model, Prunable], Schedule],
) -> Outcome:
    """Train a copy of the model while its least weights become zero.

    Raises:
        PassError: There is no original to learn from.
        RecipeError: The schedule begins after the last step.
    """
    if context.original is None:
        raise PassError(
            "a schedule is training, which learns from the original, and there is none here; run it in a recipe"
        )
    found = prunable(request, model, context)
    if not found.arrays:
        return Outcome(model, (), found.skipped)
    adapter = adapter_for(model.format)
    copy = adapter.clone(model)
    schedule = make(request, copy, found)
    trained = schedule.train(context)
    notes = trained.told()
    if not schedule.final:
        schedule.choose(request.wanted)  # what was asked for is there, if less trained
        schedule.bake()
        notes["schedule"] = "the training ended before its last choice; the rest was zeroed afterwards"
    weights = adapter.weights(copy)
    return found.outcome(copy, {name: weights[name] for name in found.arrays}, notes)


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
