"""How much each unit of a family matters: by weights, by norms, or by what the outputs would lose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from whet.data.data import Part
from whet.models.model import Model
from whet.models.torch.adapter import flatten, tensors
from whet.models.torch.counting import in_the_open
from whet.passes.base import PassContext
from whet.passes.prune.torch_units import Family, Place, Unit, Unread, made_at, read_at

Batches = Sequence[Mapping[str, Tensor]]
Scores = list[Tensor]
"""For each part of a family, a number a unit: (units,) float64."""
SHARES = (0.25, 0.5, 0.75)


def batches(model: Model, context: PassContext, size: int, count: int) -> Batches:
    """Return so many batches of ``size`` rows: of ``calibrate``, or made up where there is no data for one."""
    assert model.signature is not None
    data, count = context.data, max(1, count)
    samples = size // (2 if data is not None and data.sides else 1)  # of pairs, a sample has two rows
    if data is None or not 0 < samples <= data.size(Part.CALIBRATE):
        return [tensors(model.signature.synthetic(size, context.seed + at)) for at in range(count)]
    found = [model.signature.bind(batch) for batch in data.batches(Part.CALIBRATE, samples, samples * count)]
    return [tensors(batch) for batch in found if model.signature.count(batch) == size]


def scores(module: nn.Module, families: Sequence[Family], kind: str, batches: Batches, seed: int) -> list[Scores]:
    """Return the importance of every unit, by one of the kinds of the spec; families compare with each other."""
    if kind == "random":
        draw = torch.Generator().manual_seed(seed)
        return [[torch.rand(len(part), generator=draw, dtype=torch.float64) for part in family.parts]
                for family in families]  # fmt: skip
    if kind == "taylor":
        return _taylor(module, families, batches, seed)
    weigh = {"l1": torch.abs}.get(kind, torch.square)
    found = []
    for family in families:
        each = None if kind != "batch-norm" else _norms(module, family)
        each = each or [_by_weights(module, part, weigh) for part in family.parts]
        found.append([_lamp(part) if kind == "lamp" else part / part.mean().clamp(min=1e-30) for part in each])
    return found


def _by_weights(module: nn.Module, part: Sequence[Unit], weigh: Callable[[Tensor], Tensor]) -> Tensor:
    """Add up what a unit has of each weight that makes or reads it, each weight in shares of its own mean."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    total = torch.zeros(len(part), dtype=torch.float64)
    for name, side in sorted({(name, side) for name, side, _ in part[0]}):
        layer = module.get_submodule(name)
        for place in (*made_at(layer, name, side), *read_at(layer, name, side)):
            own = _summed(parameters[place.weight], place, part, (name, side), weigh)
            total += own / own.mean().clamp(min=1e-30)
    return total


def _summed(
    value: Tensor, place: Place, part: Sequence[Unit], of: tuple[str, str], weigh: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return for each unit the sum of what it has of a tensor like a weight; (units,)."""
    rows = weigh(value.detach().double()).movedim(place.axis, 0)
    each = rows.reshape(len(rows), -1).sum(1)
    owned = [[number + offset for name, side, number in unit if (name, side) == of for offset in place.offsets]
             for unit in part]  # fmt: skip
    return torch.stack([each[torch.tensor(sorted(numbers))].sum() for numbers in owned])


def _lamp(squares: Tensor) -> Tensor:
    """Each square over the sum of those no smaller: the greatest of every family has 1."""
    ranked, places = squares.sort(stable=True)
    left = ranked.flip(0).cumsum(0).flip(0)
    return torch.zeros_like(squares).scatter(0, places, ranked / left.clamp(min=1e-30))


def _norms(module: nn.Module, family: Family) -> Scores | None:
    """Return the greatest scale of BatchNorm on each unit; None where a part meets none."""
    found = []
    for part in family.parts:
        total = torch.zeros(len(part), dtype=torch.float64)
        for at, unit in enumerate(part):
            scales = [
                abs(float(layer.weight.detach()[number])) for name, _, number in unit
                if isinstance(layer := module.get_submodule(name), nn.modules.batchnorm._NormBase)
                and layer.weight is not None
            ]  # fmt: skip
            if not scales:
                return None
            total[at] = max(scales)
        found.append(total)
    return found


def _taylor(module: nn.Module, families: Sequence[Family], batches: Batches, seed: int) -> list[Scores]:
    """Return how far the outputs move without a unit, to first order, squared: what an error squared loses.

    At the original's own outputs the gradient of any distance to them is zero, and its second order is the square
    of what the outputs lose. It is estimated by random signs on the outputs, whose products cancel (Hutchinson).
    """
    found = [[torch.zeros(len(part), dtype=torch.float64) for part in family.parts] for family in families]
    draw = torch.Generator().manual_seed(seed)
    weights = dict(module.named_parameters(remove_duplicate=False))
    learned = [each for each in module.parameters() if each.is_floating_point()]
    spread = _spread(module, batches)
    for batch in batches:
        with torch.enable_grad(), in_the_open():
            moved = torch.zeros(())
            for name, value in _floats(module, batch).items():
                signs = torch.randint(0, 2, value.shape, generator=draw) * 2.0 - 1
                moved = moved + (value * signs).sum() / spread[name]
            slopes = torch.autograd.grad(moved, learned, allow_unused=True)
        lost = {
            id(each): each.detach() * slope
            for each, slope in zip(learned, slopes, strict=True)
            if slope is not None
        }
        for family, scored in zip(families, found, strict=True):
            for at, part in enumerate(family.parts):
                scored[at] += _moved(module, part, {name: lost.get(id(each)) for name, each in weights.items()})
    return found


@torch.no_grad()
def _spread(module: nn.Module, batches: Batches) -> dict[str, float]:
    """Return how much each output varies over all samples, so that outputs of any scale weigh alike."""
    sums: dict[str, list[Tensor]] = {}
    with in_the_open():
        for batch in batches:
            for name, value in _floats(module, batch).items():
                sums.setdefault(name, []).append(value.double().flatten())
    return {name: max(float(torch.cat(values).std()), 1e-12) for name, values in sums.items()}


def _floats(module: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in flatten(module(**batch)).items() if value.is_floating_point()}


def _moved(module: nn.Module, part: Sequence[Unit], lost: Mapping[str, Tensor | None]) -> Tensor:
    """Return the square of what the weights that read each unit add to the outputs."""
    total = torch.zeros(len(part), dtype=torch.float64)
    for name, side in sorted({(name, side) for name, side, _ in part[0]}):
        for place in read_at(module.get_submodule(name), name, side):
            value = lost[place.weight]
            if value is not None:
                total += _summed(value, place, part, (name, side), torch.positive)
    return total.square()


@torch.no_grad()
def sensitivities(
    module: nn.Module, families: Sequence[Family], ranked: Sequence[Scores], batch: Mapping[str, Tensor]
) -> list[tuple[float, ...]]:
    """Return for each family the unexplained share of the outputs without 25, 50 and 75 % of its least units."""
    with in_the_open():
        wanted = _floats(module, batch)
        spread = sum(float((value - value.mean(0)).square().sum()) for value in wanted.values())
        found = []
        for family, score in zip(families, ranked, strict=True):
            losses = []
            for share in SHARES:
                with Unread(module, family.least(score, int(share * len(family)))):
                    outputs = flatten(module(**batch))
                losses.append(sum(float((outputs[name] - value).square().sum()) for name, value in wanted.items()))
            found.append(tuple(loss / max(spread, 1e-30) for loss in losses))
    return found
