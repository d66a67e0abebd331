"""Magnitude pruning of torch modules along a schedule of training."""

from __future__ import annotations

import torch

from whet.errors import PassError
from whet.models.model import Model
from whet.models.torch.adapter import TorchAdapter
from whet.passes.base import Outcome, PassContext
from whet.passes.prune.schedule import last_step, sparsity_at
from whet.passes.prune.spec import MagnitudePrune
from whet.passes.prune.weights import Prunable, prunable
from whet.train.constraints import Constraints, Sparse
from whet.train.torch import recover


def magnitude_prune(request: MagnitudePrune, model: Model, context: PassContext) -> Outcome:
    """Train a copy of the model while its least weights become zero."""
    if context.original is None:
        raise PassError(
            "a schedule is training, which learns from the original, and there is none here; run it in a recipe"
        )
    found = prunable(request, model, context)
    if not found.arrays:
        return Outcome(model, (), found.skipped)
    copy = TorchAdapter().clone(model)
    schedule = _Schedule(request, copy, found)
    trained = recover(
        copy,
        context.teacher(),
        request.recovery,
        context,
        constraints=schedule.constraints,
        on_step=schedule.before,
    )
    if trained.stopped != "finished" and not schedule.final:
        schedule.choose(request.wanted)  # what was asked for is there, if less trained
        schedule.constraints.bake(copy.payload.module)
    notes = {
        **trained.notes, "epochs": trained.epochs, "steps": trained.steps, "seconds": trained.seconds,
        "losses": trained.losses, "loss_after": trained.best_loss,
    }  # fmt: skip
    weights = TorchAdapter().weights(copy)
    return found.outcome(copy, {name: weights[name] for name in found.arrays}, notes)


class _Schedule:
    """Which weights are zero, at every step."""

    def __init__(self, request: MagnitudePrune, model: Model, found: Prunable) -> None:
        """Begin with no zeros but those that are there."""
        self.request, self.module, self.found = request, model.payload.module, found
        self.constraints = Constraints(
            {name: [Sparse(torch.ones_like(self.module.get_parameter(name)))] for name in found.arrays}
        )
        self.final = False

    def before(self, step: int, steps: int) -> bool:
        """Choose zeros where the schedule says so; tell whether the last are chosen."""
        sparsity = sparsity_at(self.request, step, steps)
        if sparsity is not None:
            self.choose(sparsity)
        self.final = step >= last_step(self.request, steps)
        return self.final

    @torch.no_grad()
    def choose(self, sparsity: float) -> None:
        """Choose the least weights of now."""
        arrays = {
            name: self.module.get_parameter(name).detach().cpu().float().numpy() for name in self.found.arrays
        }
        for name, array in self.found.pruned(self.request, arrays, sparsity).items():
            constraint = self.constraints.of(name, Sparse)
            assert isinstance(constraint, Sparse)
            constraint.mask = torch.from_numpy(array != 0).to(self.module.get_parameter(name).dtype)
