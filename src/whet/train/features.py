"""Feature distillation: outputs of named layers follow those of the original's layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from whet.errors import RecipeError, did_you_mean
from whet.train.objectives import variance

_CHANNELS_FIRST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.modules.batchnorm._NormBase)


class Features(nn.Module):
    """The distance between pairs of layers; where their widths differ, through a learned linear map of channels.

    A layer that is called several times in one forward is compared call by call.

    Source: Romero et al. 2015, "FitNets: hints for thin deep nets" (their hint of a 1x1 regressor).
    """

    def __init__(self, names: tuple[str, ...], student: nn.Module, teacher: nn.Module) -> None:
        """Listen to layers; ``names`` are ``layer``, or ``mine=theirs``.

        Raises:
            RecipeError: A model has no such layer.
        """
        super().__init__()
        self.projections = nn.ModuleDict()
        self.pairs = [(name.partition("=")[0], name.rpartition("=")[2]) for name in names]
        self._mine: dict[str, list[Tensor]] = {}
        self._theirs: dict[str, list[Tensor]] = {}
        self._axes: dict[str, int] = {}
        self._spread: dict[str, float] = {}
        self.listening = True
        self._hooks = []
        for mine, theirs in self.pairs:
            self._hooks += [self._listen(student, "model", mine, self._mine)]
            self._hooks += [self._listen(teacher, "original", theirs, self._theirs)]

    def _listen(self, module: nn.Module, whose: str, name: str, heard: dict[str, list[Tensor]]) -> Any:
        layers = dict(module.named_modules(remove_duplicate=False))
        if not name or name not in layers:
            raise RecipeError(
                f"features: the {whose} has no layer {name!r}{did_you_mean(name, filter(None, layers))}"
            )
        self._axes.setdefault(name, 1 if isinstance(layers[name], _CHANNELS_FIRST) else -1)

        def hear(_: nn.Module, args: Any, output: Any) -> None:
            if self.listening:
                heard.setdefault(name, []).append(_tensor(output, name))

        return layers[name].register_forward_hook(hear)

    def prepare(self) -> None:
        """Lay out the maps between widths, out of what was heard of one batch.

        Raises:
            RecipeError: Two layers differ in more than their width.
        """
        for mine, theirs in self.pairs:
            ours, others = self._mine[mine], self._theirs[theirs]
            axis = self._axis(mine, ours[0])
            if len(ours) != len(others) or _but(ours[0].shape, axis) != _but(others[0].shape, axis):
                raise RecipeError(
                    f"features: {mine} gives {list(ours[0].shape)}, {theirs} of the original "
                    f"{list(others[0].shape)}; name layers that differ in width alone"
                )
            self._spread[mine] = variance(others[0])
            width, wanted = ours[0].shape[axis], others[0].shape[axis]
            if width != wanted:
                self.projections[mine.replace(".", "-")] = nn.Linear(width, wanted, bias=False)
        self.forget()

    def forward(self) -> Tensor:
        """Return the squared error over the original's variance, the mean over layers, of what was heard last."""
        losses = []
        for mine, theirs in self.pairs:
            for ours, target in zip(self._mine[mine], self._theirs[theirs], strict=True):
                losses.append(
                    functional.mse_loss(self._mapped(mine, ours.float()), target.float()) / self._spread[mine]
                )
        self.forget()
        return torch.stack(losses).mean()

    def _mapped(self, name: str, value: Tensor) -> Tensor:
        key, axis = name.replace(".", "-"), self._axis(name, value)
        if key not in self.projections:
            return value
        mapped: Tensor = self.projections[key](value.movedim(axis, -1))
        return mapped.movedim(-1, axis)

    def _axis(self, name: str, value: Tensor) -> int:
        """Return the axis of channels: the second of pictures, the last of sequences."""
        return 1 if value.ndim >= 4 else self._axes[name]

    def forget(self) -> None:
        """Let go of what was heard."""
        self._mine.clear()
        self._theirs.clear()

    def close(self) -> None:
        """Stop listening."""
        for hook in self._hooks:
            hook.remove()


def _tensor(output: Any, name: str) -> Tensor:
    """Return the first tensor of what a layer gave."""
    if isinstance(output, Tensor):
        return output
    parts = output.values() if isinstance(output, Mapping) else output
    for part in parts if isinstance(parts, tuple | list) or hasattr(parts, "__iter__") else ():
        if isinstance(part, Tensor):
            return part
    raise RecipeError(f"features: the layer {name} gives no tensor; name another")


def _but(shape: torch.Size, axis: int) -> list[int]:
    """Return a shape without one axis."""
    sizes = list(shape)
    sizes.pop(axis)
    return sizes
