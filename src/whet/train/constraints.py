"""Weight constraints: what training must keep of a compressed model, re-derived from its arrays.

A constraint says what a weight may be (``hold``), what the forward pass computes with (``seen``), and how a
gradient of the seen weight becomes one of the weight that is trained (``gradient``). Training applies those of a
weight in order, so that sparse + clustered + quantized is three constraints and no case of its own. The parameters
of the module stay plain dense tensors under their own names: state dicts, shared weights and recurrent layers know
nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from whet.models.torch import counting
from whet.train import levels
from whet.types import Trait, TraitKind

_GROUPS = (256, 128, 64, 32, 16)  # weights along a row that may share a codebook
_CLIPS = torch.linspace(0.3, 1.0, 36)  # shares of the greatest magnitude that a scale is tried at


class Constraint(Protocol):
    """A property of one weight that training keeps. ``state`` is what a checkpoint has to know of it."""

    def hold(self, weight: Tensor) -> Tensor:
        """Return the nearest weight that has the property; applied after every step."""

    def seen(self, weight: Tensor) -> Tensor:
        """Return what the forward pass computes with."""

    def gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient of what is trained, given that of what was seen."""

    def state(self) -> dict[str, Tensor]:
        """Return its tensors, which ``load`` takes."""

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up its tensors again."""


class Sparse:
    """Zeros stay zero. ``mask`` is 1 where a weight lives; a schedule may set it anew between steps."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    @classmethod
    def of(cls, weight: Tensor) -> Sparse:
        """Keep the zeros that a weight has now."""
        return cls((weight != 0).to(weight.dtype))

    def hold(self, weight: Tensor) -> Tensor:
        """Zero what the mask does."""
        held: Tensor = weight * self.mask.to(weight.device)
        return held

    def seen(self, weight: Tensor) -> Tensor:
        """Return the weight, which is held already."""
        return weight

    def gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """Pass on nothing to what is zero."""
        return gradient * self.mask.to(gradient.device)

    def state(self) -> dict[str, Tensor]:
        """Return the mask."""
        return {"mask": self.mask}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set the mask."""
        self.mask = state["mask"]


class Clustered:
    """Weights of one cluster stay equal: codes are fixed, centroids are trained by the sum of their gradients.

    Attributes:
        codes: int64 of the weight's shape: the cluster of each, numbered over the whole tensor, so that codebooks
            of a channel or a group have numbers of their own.
        clusters: How many there are.

    Source: Han et al. 2016, "Deep compression".
    """

    def __init__(self, codes: Tensor, clusters: int) -> None:
        self.codes, self.clusters = codes, clusters

    @classmethod
    def of(cls, weight: Tensor, most: int) -> Clustered | None:
        """Find clusters of at most ``most`` values: of the tensor, of each row (axis 0), or of groups along it.

        None where the weight has more distinct values than that.
        """
        rows = weight.detach().reshape(len(weight), -1)
        sizes = [rows.numel(), rows.shape[1], *(size for size in _GROUPS if rows.shape[1] % size == 0)]
        for size in sizes:
            parts = rows.reshape(-1, size)
            values, codes = torch.unique(parts.reshape(-1), return_inverse=True)
            whose = torch.arange(len(parts), device=codes.device).repeat_interleave(size) * len(values)
            used, numbers = torch.unique(codes + whose, return_inverse=True)
            counts = torch.bincount(used // len(values), minlength=len(parts))
            if int(counts.max()) <= most:
                return cls(numbers.reshape(weight.shape), len(used))
        return None

    def hold(self, weight: Tensor) -> Tensor:
        """Set every weight to the mean of its cluster."""
        codes = self.codes.to(weight.device).reshape(-1)
        sums = weight.new_zeros(self.clusters).index_add_(0, codes, weight.reshape(-1))
        counts = torch.bincount(codes, minlength=self.clusters).clamp(min=1).to(weight.dtype)
        return (sums / counts)[codes].reshape(weight.shape)

    def seen(self, weight: Tensor) -> Tensor:
        """Return the weight, which is held already."""
        return weight

    def gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """Give every weight the summed gradient of its cluster."""
        codes = self.codes.to(gradient.device).reshape(-1)
        sums = gradient.new_zeros(self.clusters).index_add_(0, codes, gradient.reshape(-1))
        return sums[codes].reshape(gradient.shape)

    def state(self) -> dict[str, Tensor]:
        """Return the codes."""
        return {"codes": self.codes, "clusters": torch.tensor(self.clusters)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set the codes."""
        self.codes, self.clusters = state["codes"], int(state["clusters"])


class FakeQuant:
    """The forward pass sees weights on a symmetric grid of ``2**bits - 1`` values; gradients go straight through.

    A weight beyond the grid's end gets no gradient. Zero is on the grid, so zeros stay zero; equal weights of one
    scale stay equal.

    Attributes:
        scale: Step of the grid, broadcastable to the weight: one a channel, or one alone. Of 5 bits and more it
            spans the greatest magnitude, of fewer it is where the squared error is least. Set when training begins.

    Source: Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons"; Jacob et al. 2018.
    """

    def __init__(self, weight: Tensor, bits: int, axis: int | None = 0) -> None:
        """Lay a grid of ``bits`` (2 to 8) over a weight: a scale an index of ``axis``, or one where it is None."""
        self.most = 2 ** (bits - 1) - 1
        self.bits, self.axis = bits, axis
        self.scale = self._fit(weight.detach())

    def _fit(self, weight: Tensor) -> Tensor:
        axes = [at for at in range(weight.ndim) if at != self.axis]
        greatest = weight.abs().amax(dim=axes, keepdim=True).clamp(min=1e-12)
        best: Tensor = greatest / self.most
        if self.bits > 4:
            return best
        least = torch.full_like(best, torch.inf)
        for clip in _CLIPS.tolist():
            scale = clip * greatest / self.most
            error = (self._rounded(weight, scale) - weight).square().sum(dim=axes, keepdim=True)
            best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
        return best

    def _rounded(self, weight: Tensor, scale: Tensor) -> Tensor:
        rounded: Tensor = (weight / scale).round().clamp(-self.most, self.most) * scale
        return rounded

    def hold(self, weight: Tensor) -> Tensor:
        """Return the weight: what is trained may lie between the values of the grid."""
        return weight

    def seen(self, weight: Tensor) -> Tensor:
        """Return the nearest values of the grid."""
        return self._rounded(weight, self.scale.to(weight.device))

    def gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """Pass the gradient straight through, but for weights beyond the grid's end."""
        inside = weight.abs() <= (self.most + 0.5) * self.scale.to(weight.device)
        passed: Tensor = gradient * inside.to(gradient.dtype)
        return passed

    def state(self) -> dict[str, Tensor]:
        """Return the scale."""
        return {"scale": self.scale}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Set the scale."""
        self.scale = state["scale"]


class Levels(FakeQuant):
    """The forward pass sees weights on the few integers of a 4-bit grid that clustering chose for their tensor.

    Which of them a weight has may change. A channel ends at its greatest magnitude of now, as it does in a file, so
    that what comes out is such a weight again.

    Attributes:
        integers: Sorted, both ends of the grid among them.
    """

    def __init__(self, weight: Tensor, integers: Tensor, axis: int) -> None:
        self.integers = integers.to(weight.dtype)
        super().__init__(weight, 4, axis)

    @classmethod
    def of(cls, weight: Tensor, most: int) -> Levels | None:
        """Find the at most ``most`` integers of a weight's channels, along its first axis or its second."""
        for axis in range(min(weight.ndim, 2)):
            rows = weight.detach().movedim(axis, 0).flatten(1).cpu().numpy()
            integers = levels.shared(rows, most)
            if integers is not None:
                return cls(weight, torch.from_numpy(integers), axis)
        return None

    def _fit(self, weight: Tensor) -> Tensor:
        axes = [at for at in range(weight.ndim) if at != self.axis]
        scale: Tensor = weight.abs().amax(dim=axes, keepdim=True).clamp(min=1e-12) / self.most
        return scale

    def seen(self, weight: Tensor) -> Tensor:
        """Return the nearest of the integers, times the scale of each channel."""
        scale, integers = self._fit(weight), self.integers.to(weight.device)
        steps = (weight / scale).contiguous()  # bucketize warns where channels lie last
        return integers[torch.bucketize(steps, (integers[1:] + integers[:-1]) / 2)] * scale

    def gradient(self, gradient: Tensor, weight: Tensor) -> Tensor:
        """Pass the gradient straight through: no weight lies beyond the grid's end."""
        return gradient

    def state(self) -> dict[str, Tensor]:
        """Return nothing: integers follow from the weights that training began with, scales from those of now."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up nothing."""


class Constraints:
    """The constraints of a module's weights, by parameter name, each weight's in order of application."""

    def __init__(self, kept: Mapping[str, Iterable[Constraint]] | None = None) -> None:
        self.kept: dict[str, list[Constraint]] = {name: list(each) for name, each in (kept or {}).items()}

    def __bool__(self) -> bool:
        return any(self.kept.values())

    def add(self, name: str, constraint: Constraint) -> None:
        """Keep one more property of a weight, after those it has."""
        self.kept.setdefault(name, []).append(constraint)

    def of(self, name: str, kind: type[Constraint]) -> Constraint | None:
        """Return the constraint of this kind on a weight, if it has one."""
        return next((item for item in self.kept.get(name, []) if isinstance(item, kind)), None)

    def quantize(self, module: nn.Module, name: str, bits: int, axis: int | None = 0) -> int:
        """Quantize one weight, unless it keeps to a coarser grid already; return the bits that it has.

        It has one scale alone where clusters span its channels, so that they stay one value.
        """
        known = self.of(name, Levels)
        if isinstance(known, Levels) and known.bits <= bits:
            return known.bits
        clustered = self.of(name, Clustered)
        spans = isinstance(clustered, Clustered) and _spans(clustered, axis)
        self.add(name, FakeQuant(module.get_parameter(name), bits, None if spans else axis))
        return bits

    @torch.no_grad()
    def hold(self, module: nn.Module) -> None:
        """Bring the weights back to where they may be; called before the first step and after each."""
        for _, parameter, constraints in self._each(module):
            weight = parameter.data
            for constraint in constraints:
                weight = constraint.hold(weight)
            parameter.data.copy_(weight)

    @contextmanager
    def seen(self, module: nn.Module) -> Iterator[None]:
        """Let the module compute with the weights as they will be; what is trained is back afterwards."""
        latent = {}
        with torch.no_grad():
            for name, parameter, constraints in self._each(module):
                latent[name] = parameter.data
                for constraint in constraints:
                    parameter.data = constraint.seen(parameter.data)
        try:
            yield
        finally:
            for name, parameter, _ in self._each(module):
                parameter.data = latent[name]

    @torch.no_grad()
    def gradients(self, module: nn.Module) -> None:
        """Turn the gradients of what was seen into those of what is trained."""
        for _, parameter, constraints in self._each(module):
            if parameter.grad is None:
                continue
            gradient = parameter.grad
            for constraint in reversed(constraints):
                gradient = constraint.gradient(gradient, parameter.data)
            parameter.grad = gradient

    @torch.no_grad()
    def bake(self, module: nn.Module) -> None:
        """Leave the weights as the forward pass saw them."""
        self.hold(module)
        for _, parameter, constraints in self._each(module):
            weight = parameter.data
            for constraint in constraints:
                weight = constraint.seen(weight)
            parameter.data.copy_(weight)

    def state(self) -> dict[str, Tensor]:
        """Return all tensors of all constraints: ``name.0.mask``."""
        return {
            f"{name}.{at}.{key}": value
            for name, constraints in self.kept.items()
            for at, constraint in enumerate(constraints)
            for key, value in constraint.state().items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up the tensors that ``state`` gave."""
        for name, constraints in self.kept.items():
            for at, constraint in enumerate(constraints):
                start = f"{name}.{at}."
                constraint.load({key.removeprefix(start): value for key, value in state.items()
                                 if key.startswith(start)})  # fmt: skip

    def _each(self, module: nn.Module) -> Iterator[tuple[str, nn.Parameter, list[Constraint]]]:
        for name, constraints in self.kept.items():
            yield name, module.get_parameter(name), constraints


def constraints_of(module: nn.Module, traits: Iterable[Trait]) -> Constraints:
    """Re-derive from the arrays what a module's traits promise: zeros stay zero, k values stay k.

    Of prunable weights, the zeros become a mask where the model is SPARSE; where it is CLUSTERED, a weight on a
    4-bit grid keeps to its k integers, a tensor, channel or group of at most k distinct values becomes codes and
    centroids, and one of more (a layer that was left alone) stays free. Embedding tables may be clustered too;
    they are never pruned.
    """
    amounts = {trait.kind: trait.amount for trait in traits}
    found = Constraints()
    prunable = [weight for layer in counting.layers(module, None) for weight in layer.weights]
    for name in dict.fromkeys([*prunable, *_tables(module)]):
        weight, k = module.get_parameter(name).detach(), int(amounts.get(TraitKind.CLUSTERED, 0))
        few = Levels.of(weight, k) if k else None
        clustered = Clustered.of(weight, k) if k and few is None else None
        sparse = TraitKind.SPARSE in amounts and name in prunable and bool((weight == 0).any())
        for each in (clustered, Sparse.of(weight) if sparse else None, few):
            if each is not None:
                found.add(name, each)
    return found


def _tables(module: nn.Module) -> list[str]:
    """Return the names of the embedding tables."""
    ids = {id(each.weight) for each in module.modules() if isinstance(each, nn.Embedding | nn.EmbeddingBag)}
    return [name for name, parameter in module.named_parameters() if id(parameter) in ids]


def _spans(clustered: Clustered, axis: int | None) -> bool:
    """Tell whether a cluster has weights in more than one channel."""
    if axis is None:
        return True
    rows = clustered.codes.movedim(axis, 0).reshape(clustered.codes.shape[axis], -1)
    apart = rows + clustered.clusters * torch.arange(len(rows), device=rows.device).unsqueeze(1)
    return len(torch.unique(apart)) > clustered.clusters
