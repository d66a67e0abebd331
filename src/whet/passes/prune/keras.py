"""Magnitude pruning of Keras models along a schedule of training."""

from __future__ import annotations

from whet.errors import PassError
from whet.models.keras.adapter import KerasAdapter
from whet.models.model import Model
from whet.passes.base import Outcome, PassContext
from whet.passes.prune.schedule import last_step, sparsity_at
from whet.passes.prune.spec import MagnitudePrune
from whet.passes.prune.weights import Prunable, prunable
from whet.train.keras import recover
from whet.train.keras_constraints import Constraints, Sparse

import numpy as np  # isort: skip


def magnitude_prune(request: MagnitudePrune, model: Model, context: PassContext) -> Outcome:
    """Train a copy of the model while its least weights become zero."""
    if context.original is None:
        raise PassError(
            "a schedule is training, which learns from the original, and there is none here; run it in a recipe"
        )
    found = prunable(request, model, context)
    if not found.arrays:
        return Outcome(model, (), found.skipped)
    copy = KerasAdapter().clone(model)
    schedule = _Schedule(request, copy, found)
    trained = recover(
        copy,
        context.original(),
        request.recovery,
        context,
        constraints=schedule.constraints,
        on_step=schedule.before,
    )
    cut_short = {}
    if not schedule.final:
        schedule.choose(request.wanted)  # what was asked for is there, if less trained
        schedule.constraints.bake()
        cut_short = {"schedule": "the training ended before its last choice; the rest was zeroed afterwards"}
    notes = {
        **cut_short,
        **trained.notes, "epochs": trained.epochs, "steps": trained.steps, "seconds": trained.seconds,
        "losses": trained.losses, "loss_after": trained.best_loss,
    }  # fmt: skip
    weights = KerasAdapter().weights(copy)
    return found.outcome(copy, {name: weights[name] for name in found.arrays}, notes)


class _Schedule:
    """Which weights are zero, at every step."""

    def __init__(self, request: MagnitudePrune, model: Model, found: Prunable) -> None:
        """Begin with no zeros but those that are there."""
        self.request, self.model, self.found = request, model, found
        self.constraints = Constraints(model.payload)
        for name, array in found.arrays.items():
            self.constraints.add(name, Sparse(np.ones_like(array)))
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
        weights = KerasAdapter().weights(self.model)
        arrays = {name: weights[name] for name in self.found.arrays}
        for name, array in self.found.pruned(self.request, arrays, sparsity).items():
            self.constraints.of(name, Sparse).mask.assign((array != 0).astype(array.dtype))
