"""The original as a teacher: its outputs on every sample, found once where they fit into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from whet.models.model import Model
from whet.progress import Event
from whet.train.runner import Runner, evaluating

if TYPE_CHECKING:
    from whet.train.samples import TrainingSet
    from whet.train.spec import Recovery, Trainer
    from whet.types import Array, Batch

_MEMORY_SHARE = 0.1  # of the machine's, that its outputs may take


class Teacher:
    """What a student learns.

    Attributes:
        runner: The original.
        held: Its outputs on the samples that are held out.
    """

    def __init__(
        self, model: Model, samples: TrainingSet, settings: Recovery, context: Trainer, device: torch.device
    ) -> None:
        """Run the original on all samples, unless it has to see what the student sees: augmented, or by layer."""
        self.runner = Runner(model, device)
        self._sides = samples.sides
        self.held = self.runner.outputs(samples, samples.held)
        total = len(samples.fit) + len(samples.held)
        a_sample = sum(value.nbytes for value in self.held.values()) / len(samples.held)
        self._kept: dict[str, Tensor] | None = None
        fits = a_sample * total <= _MEMORY_SHARE * context.machine.memory_bytes
        if fits and not settings.augment and not settings.features:
            self._kept = self.runner.outputs(
                samples,
                np.arange(max(samples.fit.max(), samples.held.max()) + 1),
                lambda done: context.on_event(Event("train: outputs of the original", done, total)),
            )

    @torch.no_grad()
    def __call__(self, numbers: Array, batch: Batch) -> dict[str, Tensor]:
        """Return its outputs on a batch of these samples."""
        if self._kept is None:
            with evaluating(self.runner.module):
                return self.runner(batch)
        rows = torch.from_numpy((numbers[:, None] * self._sides + np.arange(self._sides)).reshape(-1))
        return {name: value[rows].to(self.runner.device) for name, value in self._kept.items()}
