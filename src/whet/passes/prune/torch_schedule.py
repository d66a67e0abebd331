"""Magnitude pruning of torch modules along a schedule of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from whet.models.model import Model
from whet.passes.base import Outcome, PassContext
from whet.passes.prune.schedule import Schedule, scheduled
from whet.passes.prune.spec import MagnitudePrune
from whet.passes.prune.weights import Prunable
from whet.train.constraints import Constraints, Sparse
from whet.train.spec import Trained
from whet.train.torch import recover

if TYPE_CHECKING:
    from whet.types import Array


def magnitude_prune(request: MagnitudePrune, model: Model, context: PassContext) -> Outcome:
    """Train a copy of the model while its least weights become zero."""
    return scheduled(request, model, context, _Schedule)


class _Schedule(Schedule):
    """Masks in tensors of the parameters' own types."""

    def __init__(self, request: MagnitudePrune, model: Model, found: Prunable) -> None:
        super().__init__(request, model, found)
        self.module = model.payload.module
        self.constraints = Constraints(
            {name: [Sparse(torch.ones_like(self.module.get_parameter(name)))] for name in found.arrays}
        )

    def mask(self, name: str, mask: Array) -> None:
        """Have a weight be zero where a mask is."""
        constraint = self.constraints.of(name, Sparse)
        assert isinstance(constraint, Sparse)
        constraint.mask = torch.from_numpy(mask).to(self.module.get_parameter(name).dtype)

    def train(self, context: PassContext) -> Trained:
        """Train in torch, from the original."""
        return recover(
            self.model, context.teacher(), self.request.recovery, context,
            constraints=self.constraints, on_step=self.before,
        )  # fmt: skip

    def bake(self) -> None:
        """Leave the weights as the masks make them."""
        self.constraints.bake(self.module)
