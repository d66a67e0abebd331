"""A model that is trained or learned from: batches in, named outputs with the sample first out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from whet.errors import PassError, SignatureError
from whet.models.model import Model
from whet.models.torch.adapter import flatten, tensors
from whet.types import Signature

if TYPE_CHECKING:
    from whet.train.samples import TrainingSet
    from whet.types import Array, Batch

_LOT = 256  # rows in one call where nothing is learned


class Runner:
    """A module with the signature that binds data to it.

    Attributes:
        module: What is called.
        signature: Its inputs and outputs.
        device: Where it computes.
        layout: How kernels of convolutions lie in memory, by which torch lays out what they give.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        if model.signature is None:
            raise SignatureError("the model has not been run on data yet, so that its outputs are unknown; open it "
                                 "with a sample, or give --input")  # fmt: skip
        self.module: nn.Module = model.payload.module.to(device)
        self.signature: Signature = model.signature
        self.device = device
        self.layout = torch.contiguous_format
        self._axes = {spec.name: spec.sample for spec in self.signature.outputs}

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Run on a batch under any names that fit; return the outputs that have a row a sample."""
        bound = tensors(self.signature.bind(batch))
        found = flatten(self.module(**{name: value.to(self.device) for name, value in bound.items()}))
        axes = {name: self._axes.get(name, 0) for name in found}
        return {name: value.movedim(axis, 0) for name, value in found.items() if (axis := axes[name]) is not None}

    def lay_out(self, samples: TrainingSet) -> None:
        """Put channels last, in which convolutions of a processor learn a third faster, if that answers alike.

        A module may depend on how its tensors lie (``view`` fails on what lies otherwise): it stays as it is.
        """
        if self.device.type != "cpu" or not any(isinstance(part, nn.Conv2d) for part in self.module.modules()):
            return
        few = samples.held[: self.lot(2)]
        wanted = self.outputs(samples, few)
        self._lie(torch.channels_last)
        try:
            found = self.outputs(samples, few)
            same = all(torch.allclose(found[name], value, 1e-3, 1e-4) for name, value in wanted.items())
        except RuntimeError:
            same = False
        if not same:
            self.as_it_was()

    def as_it_was(self) -> None:
        """Have the module lie in memory as modules do."""
        if self.layout is torch.channels_last:
            self._lie(torch.contiguous_format)

    def lot(self, wanted: int) -> int:
        """Return how many rows one call takes: as many as wanted, or what the model is bound to."""
        return self.signature.batch or min(wanted, self.signature.most or wanted)

    def _lie(self, layout: torch.memory_format) -> None:
        for parameter in self.module.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=layout)
        self.layout = layout

    @torch.no_grad()
    def outputs(
        self, samples: TrainingSet, numbers: Array, tell: Callable[[int], None] = lambda done: None
    ) -> dict[str, Tensor]:
        """Return all outputs on some samples, in inference mode, on the CPU: a row for each row of a batch."""
        size = max(1, self.lot(_LOT) // samples.sides)
        parts: dict[str, list[Tensor]] = {}
        with evaluating(self.module):
            for start in range(0, len(numbers), size):
                tell(start)
                for name, value in self._filled(samples, numbers[start : start + size]).items():
                    parts.setdefault(name, []).append(value.float().cpu())
        return {name: torch.cat(values) for name, values in parts.items()}

    def _filled(self, samples: TrainingSet, numbers: Array) -> dict[str, Tensor]:
        """Run on samples; where a batch has a fixed length, it is filled up and cut again."""
        fixed = self.signature.batch
        if fixed is None:
            return self(samples.batch(numbers))
        if fixed % samples.sides:
            raise PassError(f"the model takes {fixed} rows at once, pairs need an even number; free its batch axis")
        padded = np.resize(numbers, fixed // samples.sides)
        kept = len(numbers) * samples.sides
        return {name: value[:kept] for name, value in self(samples.batch(padded)).items()}


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Have a module compute as in inference; each of its parts is in its own mode again afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def learning(module: nn.Module, *, batch_of_one: bool) -> None:
    """Put a module in training mode: dropout draws, BatchNorm counts.

    BatchNorm keeps its statistics where its own parameters are frozen, and where batches are of one sample, of
    which there is no variance.
    """
    module.train()
    for part in module.modules():
        if not isinstance(part, nn.modules.batchnorm._BatchNorm):
            continue
        own = list(part.parameters(recurse=False))
        if batch_of_one or (own and not any(parameter.requires_grad for parameter in own)):
            part.eval()
