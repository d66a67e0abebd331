"""Magnitude pruning of Keras models along a schedule of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from whet.models.model import Model
from whet.passes.base import Outcome, PassContext
from whet.passes.prune.schedule import Schedule, scheduled
from whet.passes.prune.spec import MagnitudePrune
from whet.passes.prune.weights import Prunable
from whet.train.keras import recover
from whet.train.keras_constraints import Constraints, Sparse
from whet.train.spec import Trained

if TYPE_CHECKING:
    from whet.types import Array


def magnitude_prune(request: MagnitudePrune, model: Model, context: PassContext) -> Outcome:
    """Train a copy of the model while its least weights become zero."""
    return scheduled(request, model, context, _Schedule)


class _Schedule(Schedule):
    """Masks in variables, which a compiled step reads."""

    def __init__(self, request: MagnitudePrune, model: Model, found: Prunable) -> None:
        super().__init__(request, model, found)
        self.constraints = Constraints(model.payload)
        for name, array in found.arrays.items():
            self.constraints.add(name, Sparse(np.ones_like(array)))

    def mask(self, name: str, mask: Array) -> None:
        """Have a weight be zero where a mask is."""
        self.constraints.of(name, Sparse).mask.assign(mask)

    def train(self, context: PassContext) -> Trained:
        """Train in Keras, from the original."""
        assert context.original is not None
        return recover(
            self.model, context.original(), self.request.recovery, context,
            constraints=self.constraints, on_step=self.before,
        )  # fmt: skip

    def bake(self) -> None:
        """Leave the weights as the masks make them."""
        self.constraints.bake()
