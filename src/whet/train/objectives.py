"""What training minimises: the distance from the original's outputs, from the labels, or from both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from whet.data.tasks import Task
from whet.errors import RecipeError, in_one_line
from whet.train.judged import own_loss
from whet.train.spec import Recovery

Outputs = Mapping[str, Tensor]
"""Tensors by the name of the output, the sample first."""

_LEAST = 1e-12


@dataclass(frozen=True)
class Objective:
    """The loss of a model's outputs.

    Attributes:
        task: Whose answers they are; its classes and logits tell which distance is meant.
        answer: The output that the task is about; every other is compared as numbers.
        settings: alpha, temperature, and the user's own loss.
        spread: Variance of each output of the original, and of the labels (``""``): numbers are measured by it.
        range: Least and greatest label of similarity.
    """

    task: Task
    answer: str
    settings: Recovery
    spread: Mapping[str, float] = field(default_factory=dict)
    range: tuple[float, float] = (0.0, 1.0)

    def __call__(self, outputs: Outputs, targets: Outputs | None, labels: Tensor | None) -> Tensor:
        """Return the loss, a scalar: ``alpha * soft + (1 - alpha) * hard``, or the user's own."""
        outputs = {name: value.float() for name, value in outputs.items() if value.is_floating_point()}
        if self.settings.loss:
            return _own(self.settings.loss, outputs, targets, labels)
        alpha = self.settings.alpha if targets is not None else 0.0
        parts = []
        if alpha > 0 and targets is not None:
            parts.append(alpha * self.soft(outputs, targets))
        if alpha < 1 and labels is not None:
            parts.append((1 - alpha) * self.hard(outputs[self.answer], labels))
        return torch.stack(parts).sum()

    def soft(self, outputs: Outputs, targets: Outputs) -> Tensor:
        """Return the distance from the original's outputs.

        Of classes ``T**2 * KL``, of sides of pairs ``1 - cosine``, of numbers the squared error over the variance.
        """
        losses = []
        for name, output in outputs.items():
            target = targets[name].float()
            if name == self.answer and self.task.classes:
                logits = as_logits(output, logits=self.task.logits), as_logits(target, logits=self.task.logits)
                losses.append(soft_classes(*logits, self.settings.temperature))
            elif name == self.answer and self.task.name == "similarity":
                losses.append((1 - functional.cosine_similarity(output, target, dim=-1)).mean())
            else:
                losses.append(functional.mse_loss(output, target) / self.spread[name])
        return torch.stack(losses).sum()

    def hard(self, output: Tensor, labels: Tensor) -> Tensor:
        """Return the distance from the labels: cross-entropy, or the squared error over the labels' variance.

        Of pairs, the squared error of the cosine of their sides from the score, brought to 0..1.
        """
        if self.task.classes:
            return functional.cross_entropy(as_logits(output, logits=self.task.logits), labels.long())
        if self.task.name == "similarity":
            cosine = functional.cosine_similarity(output[0::2], output[1::2], dim=-1)
            low, high = self.range
            return functional.mse_loss(cosine, (labels.reshape(-1).float() - low) / max(high - low, _LEAST))
        return functional.mse_loss(output, labels.reshape(output.shape).float()) / self.spread[""]


def as_logits(output: Tensor, *, logits: bool) -> Tensor:
    """Return (N, classes) logits of logits or probabilities (N, classes), (N, 1) or (N,) of two classes."""
    if output.ndim == 1:
        output = output.unsqueeze(1)
    if output.shape[1] == 1:
        if logits:
            return torch.cat([torch.zeros_like(output), output], dim=1)
        output = torch.cat([1 - output, output], dim=1)
    return output if logits else output.clamp(min=1e-7).log()


def soft_classes(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return ``T**2 * KL(softmax(targets / T) || softmax(logits / T))``, the mean over samples.

    Source: Hinton et al. 2015; the factor keeps gradients of one size whatever the temperature.
    """
    ours = functional.log_softmax(logits / temperature, dim=1)
    theirs = functional.log_softmax(targets / temperature, dim=1)
    return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def variance(values: Tensor) -> float:
    """Return how far values (N, ...) lie from their mean over the samples, squared; 1 where they do not."""
    found = float((values.double() - values.double().mean(dim=0)).square().mean())
    return found if found > _LEAST else 1.0


def _own(name: str, outputs: Outputs, targets: Outputs | None, labels: Tensor | None) -> Tensor:
    """Call the user's own loss.

    Raises:
        RecipeError: It raised, or returned no scalar that has a gradient.
    """
    try:
        loss = own_loss(name)(outputs, targets, labels)
    except Exception as error:  # from the user's own function
        raise RecipeError(f"the loss {name} raised {type(error).__name__}: {in_one_line(error)}") from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise RecipeError(f"the loss {name} returned {shape}, not one number; return a scalar tensor")
    return loss.reshape(())
