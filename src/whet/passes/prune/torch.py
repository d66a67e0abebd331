"""Channels taken out of torch modules, as a structural edit that a fresh process can replay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule

from whet.data.data import Part
from whet.errors import PassError
from whet.models.model import Model
from whet.models.torch import counting, edits
from whet.models.torch.adapter import TorchAdapter, TorchPayload, tensors
from whet.passes.base import Outcome, PassContext, excluded
from whet.passes.prune.choose import Choice, ladder, least_that_reach, on_line, order
from whet.passes.prune.spec import PruneChannels
from whet.passes.prune.torch_groups import depthwise
from whet.passes.prune.torch_importance import SHARES, Batches, batches, scores, sensitivities
from whet.passes.prune.torch_units import difference, edit_of, find
from whet.progress import Event
from whet.train.spec import CHECKPOINTS, Recovery, Trained
from whet.train.torch import recover
from whet.types import Skipped

_SAMPLES, _LOT = 128, 8  # that importance is found on
_CLOSE = 1e-3


def prune_channels(request: PruneChannels, model: Model, context: PassContext) -> Outcome:
    """Thin a model out in steps, each recovered from the original."""
    if isinstance(model.payload.module, GraphModule):
        raise PassError(
            "an exported program (.pt2) is a graph of operators whose layers cannot be thinned; give the module "
            "that it was exported from"
        )
    if model.signature is None:
        raise PassError("the model's inputs are not known; give data, or --input 'name=dtype[axes]'")
    cost = _cost(request, context)
    whole = cost(model)
    state, notes = model, dict[str, Any]()
    for step in range(request.steps):
        context.on_event(Event("prune channels", step, request.steps))
        goal = whole * request.keep ** ((step + 1) / request.steps)
        thinning = _Thinning(request, state, context, cost)
        choice = thinning.choose(goal)
        state = thinning.applied(choice)
        if state is not thinning.model:
            trained = _recovered(request, state, context, step)
            notes.setdefault("recovery", []).append(told(trained))
    notes |= {"target": request.target, "before": whole, "wanted": request.keep * whole, "now": choice.cost}
    notes["widths"] = _widths(model.payload.module, state.payload.module)
    skipped = _skipped(state, thinning.reasons, set(notes["widths"]))
    if not choice.reached:
        notes["problem"] = thinning.stood_in_the_way(choice, request.keep * whole)
    return Outcome(state, tuple(notes["widths"]), skipped, notes)


class _Thinning:
    """One step: which channels go."""

    def __init__(
        self, request: PruneChannels, model: Model, context: PassContext, cost: Callable[[Model], float]
    ) -> None:
        """Find the families of channels, and how much each channel matters."""
        self.request, self.model, self.cost = request, model, cost
        assert model.signature is not None
        self.module: nn.Module = model.payload.module
        self.sample = tensors(model.signature.synthetic(2, context.seed))
        self.families, self.reasons = find(self.module, self.sample, _unfit(request, self.module))
        batches = _batches(request, model, context)
        self.scores = scores(self.module, self.families, request.importance, batches, context.seed)
        self.losses: list[tuple[float, ...]] = []
        if request.ratios == "sensitivity":
            self.losses = sensitivities(self.module, self.families, self.scores, batches[0])
        self.gains = self._gains()

    def choose(self, goal: float) -> Choice:
        """Return how many units of each family are kept, for the goal."""
        ladders = [
            ladder(len(family), family.width, self.request.multiple, self.request.most) for family in self.families
        ]
        price = {"global": self._least, "layer": self._share, "sensitivity": self._loss}[self.request.ratios]
        return least_that_reach(ladders, order(ladders, price), lambda kept: self.cost(self._thin(kept)), goal)

    def applied(self, choice: Choice) -> Model:
        """Return the thinner model, compared with the whole one in which nothing reads what is gone.

        Raises:
            PassError: They differ.
        """
        if all(kept == len(family) for kept, family in zip(choice.kept, self.families, strict=True)):
            return self.model
        apart = difference(self.module, self.sample, self._gone(choice.kept))
        if apart > _CLOSE:
            raise PassError(
                f"the thinned model is off by {apart:.2g} of the greatest output, beyond what its channels add, "
                f"though each family of channels alone is not; exclude some layers"
            )
        return self._thin(choice.kept)

    def stood_in_the_way(self, choice: Choice, goal: float) -> str:
        """Say how far it got, and what could not go further."""
        ends = [
            f"{', '.join(family.makers[:3])} at {kept * family.width}"
            for family, kept in zip(self.families, choice.kept, strict=True)
        ]
        fixed = [f"{name}: {reason}" for name, reason in self.reasons.items()]
        return (
            f"{self.request.target} of {goal:,.4g} cannot be reached; the best is {choice.cost:,.4g}, with "
            f"{'; '.join(ends) or 'nothing that can go'} (widths in steps of {self.request.multiple}); "
            f"left alone: {'; '.join(fixed) or 'none'}"
        )

    def _gone(self, kept: Sequence[int]) -> list[Any]:
        return [
            unit for family, score, count in zip(self.families, self.scores, kept, strict=True)
            for unit in family.least(score, len(family) - count)
        ]  # fmt: skip

    def _thin(self, kept: Sequence[int]) -> Model:
        edit = edit_of(self.module, self._gone(kept))
        copy = TorchAdapter().clone(self.model)
        module = edits.replay(copy.payload.module, [edit])
        return copy.with_payload(TorchPayload(module, (*self.model.payload.edits, edit)))

    def _gains(self) -> list[float]:
        """Return the MACs that a unit of each family takes, of the layers that make and read it."""
        macs = {layer.name: layer.macs or 0 for layer in TorchAdapter().layers(self.model)}
        return [sum(macs.get(name, 0) for name in family.layers) / len(family) or 1.0 for family in self.families]

    def _least(self, at: int, have: int, keep: int) -> float:
        """Price: the mean importance of what goes."""
        ranked = [score.sort().values for score in self.scores[at]]
        gone = [each[len(each) - have : len(each) - keep].mean() for each in ranked]
        return float(sum(gone)) / len(gone)

    def _share(self, at: int, have: int, keep: int) -> float:
        """Price: the share that is gone then."""
        return 1 - keep / len(self.families[at])

    def _loss(self, at: int, have: int, keep: int) -> float:
        """Price: what the outputs lose, for the MACs saved; between the shares that were measured, a line."""
        total = len(self.families[at])
        points = [(0.0, 0.0), *zip(SHARES, self.losses[at], strict=True)]
        now, then = (on_line(points, 1 - count / total) for count in (have, keep))
        return max(then - now, 0.0) / (self.gains[at] * (have - keep))


def _cost(request: PruneChannels, context: PassContext) -> Callable[[Model], float]:
    """Return what measures the target."""
    if request.target == "latency":
        if context.cost is None:
            raise PassError(
                "a latency is measured where a recipe runs, and this pass runs alone; use target = 'macs'"
            )
        return context.cost
    return {"macs": _macs, "parameters": _parameters, "bytes": _bytes}[request.target]


def _macs(model: Model) -> float:
    return float(sum(layer.macs or 0 for layer in TorchAdapter().layers(model)))


def _parameters(model: Model) -> float:
    return float(sum(value.numel() for value in model.payload.module.parameters()))


def _bytes(model: Model) -> float:
    return float(sum(
        value.numel() * value.element_size() for value in model.payload.module.state_dict().values()
        if isinstance(value, Tensor)
    ))  # fmt: skip


def _unfit(request: PruneChannels, module: nn.Module) -> Callable[[str, nn.Module], str | None]:
    """Return what tells why a layer must keep its channels."""
    owners = Counter(id(value) for part in module.modules() for value in part.parameters(recurse=False))

    def reason(name: str, layer: nn.Module) -> str | None:
        if not any(True for _ in layer.parameters(recurse=False)):
            return None
        told = excluded(name or "(root)", type(layer).__name__, request.exclude, request.exclude_types)
        if told is not None:
            return told
        if hasattr(layer, "parametrizations") or layer._forward_pre_hooks or layer._forward_hooks:
            return "its weight is derived from others, or hooks watch it; make that permanent first"
        if any(owners[id(value)] > 1 for value in layer.parameters(recurse=False)):
            return "another layer has the same weight"
        if isinstance(layer, nn.modules.conv._ConvNd) and layer.groups > 1 and not depthwise(layer):
            return "a grouped convolution: the same number would have to go of every group"
        if isinstance(layer, nn.RNNBase) and layer.proj_size:
            return "its hidden state is projected, and goes with the projection"
        return None

    return reason


def _batches(request: PruneChannels, model: Model, context: PassContext) -> Batches:
    """Return samples that importance and sensitivity are found on.

    Sensitivity looks at the first lot alone, importance at each.
    """
    assert model.signature is not None
    size = model.signature.batch or (_SAMPLES if request.ratios == "sensitivity" else _LOT)
    return batches(model, context, size, _SAMPLES // size if request.importance == "taylor" else 1)


def _recovered(request: PruneChannels, model: Model, context: PassContext, step: int) -> Trained | str:
    """Train a thinned model in place, for its share of the epochs; or say why not."""
    whole = request.recovery
    share = replace(
        whole, epochs=whole.epochs / request.steps,
        minutes=None if whole.minutes is None else whole.minutes / request.steps,
    )  # fmt: skip
    return recovered(share, model, replace(context, folder=context.folder / CHECKPOINTS / f"step-{step + 1}"))


def recovered(settings: Recovery, model: Model, context: PassContext) -> Trained | str:
    """Train a model in place towards the original's outputs; or say why not."""
    if context.original is None:
        return "not trained: there is no original to learn from; run it in a recipe"
    if context.data is None or not (context.data.size(Part.TRAIN) or context.data.size(Part.CALIBRATE)):
        return "not trained: there is no data"
    return recover(model, context.teacher(), settings, context)


def told(trained: Trained | str) -> Mapping[str, Any]:
    """Return what became of a training, for the report."""
    return {"training": trained} if isinstance(trained, str) else trained.told()


def _widths(before: nn.Module, after: nn.Module) -> dict[str, list[list[int]]]:
    """Return the layers whose weights have another shape, with the shape of the largest then and now."""
    found = {}
    parts = dict(after.named_modules())
    for name, layer in before.named_modules():
        shapes = [
            [list(value.shape), list(getattr(parts[name], key).shape)]
            for key, value in layer.named_parameters(recurse=False)
        ]
        if any(then != now for then, now in shapes):
            found[name or "(root)"] = max(shapes, key=lambda pair: len(pair[0]))
    return found


def _skipped(model: Model, reasons: Mapping[str, str], changed: set[str]) -> tuple[Skipped, ...]:
    """Return the layers with weights that are as wide as they were, and why."""
    usual = "its channels matter more than those that went, or are as few as may be kept"
    return tuple(
        Skipped(layer.name, reasons.get(layer.name, usual))
        for layer in counting.layers(model.payload.module, None)
        if layer.weights and layer.name not in changed
    )
