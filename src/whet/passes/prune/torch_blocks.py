"""Blocks taken out of torch modules, as a structural edit that a fresh process can replay."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from whet.errors import PassError, in_one_line
from whet.models.model import Model
from whet.models.torch import edits
from whet.models.torch.adapter import TorchAdapter, TorchPayload, flatten
from whet.passes.base import Outcome, PassContext, excluded
from whet.passes.prune.blocks import DropBlocks
from whet.passes.prune.torch import recovered, told
from whet.passes.prune.torch_importance import Batches, batches
from whet.progress import Event
from whet.types import Skipped

_LOT, _LOTS = 8, 4  # samples that importance is found on


def drop_blocks(request: DropBlocks, model: Model, context: PassContext) -> Outcome:
    """Take the blocks out that matter least, or those that are named, and train the rest."""
    if isinstance(model.payload.module, GraphModule):
        raise PassError(
            "an exported program (.pt2) is a graph of operators, which has no blocks; give the module that it was "
            "exported from"
        )
    if model.signature is None:
        raise PassError("the model's inputs are not known; give data, or --input 'name=dtype[axes]'")
    size = model.signature.batch or _LOT
    dropping = _Dropping(request, model.payload.module, batches(model, context, size, _LOTS), context)
    dropping.choose()
    notes: dict[str, Any] = {"blocks": dropping.total, "gone": dropping.gone}
    skipped = tuple(Skipped(name, reason) for name, reason in dropping.reasons.items())
    if not dropping.gone:
        return Outcome(model, (), skipped, notes)
    clone = TorchAdapter().clone(model)
    edit = dropping.edit(list(dropping.gone))
    module = edits.replay(clone.payload.module, [edit])
    shallow = clone.with_payload(TorchPayload(module, (*model.payload.edits, edit)))
    notes["recovery"] = told(recovered(request.recovery, shallow, context))
    return Outcome(shallow, tuple(dropping.gone), skipped, notes)


class _Dropping:
    """The choice of blocks.

    Attributes:
        total: How many blocks can go.
        gone: Those that go, in that order, each with the unexplained share of the outputs after it.
        reasons: Why the others stay.
    """

    def __init__(self, request: DropBlocks, module: nn.Module, samples: Batches, context: PassContext) -> None:
        """Find the blocks, and the outputs as they are."""
        self.request, self.module, self.samples, self.context = request, module, samples, context
        with _Watch(module) as watch:
            self.wanted = _outputs(module, samples)
        self.forms, self.reasons = watch.forms(len(samples))
        for name in list(self.forms):
            reason = excluded(name, type(module.get_submodule(name)).__name__, request.exclude, ())
            if reason is not None:
                self.reasons[name] = reason
                del self.forms[name]
        self.total, self.gone = len(self.forms), dict[str, float]()

    def choose(self) -> None:
        """Decide what goes.

        Raises:
            PassError: A block that is named cannot go.
        """
        for name in self.request.blocks:
            lost = self._lost(name) if name in self.forms else None
            if lost is None:
                reason = self.reasons.get(name, "there is no such block")
                known = ", ".join(self.forms) or "none"
                raise PassError(f"drop-blocks cannot take out {name!r}: {reason}; those that can go: {known}")
            self.gone[name] = lost
        left = int(self.request.keep * self.total)
        while not self.request.blocks and len(self.forms) - len(self.gone) > left:
            self.context.on_event(Event("drop blocks", len(self.gone), self.total - left))
            losses = {name: lost for name in list(self.forms) if name not in self.gone
                      and (lost := self._lost(name)) is not None}  # fmt: skip
            if not losses:
                break
            least = min(losses, key=losses.__getitem__)
            self.gone[least] = losses[least]
        usual = "it is not named" if self.request.blocks else "the outputs change more without it"
        self.reasons |= {name: usual for name in self.forms if name not in self.gone and name not in self.reasons}

    def edit(self, gone: Sequence[str]) -> edits.Edit:
        """Return the edit that takes these out."""
        return edits.blocks_edit({name: self.forms[name] for name in gone})

    def _lost(self, name: str) -> float | None:
        """Return the unexplained share of the outputs without a block too; None if it cannot go, for a reason."""
        shallow = edits.replay(copy.deepcopy(self.module), [self.edit([*self.gone, name])])
        try:
            found = _outputs(shallow, self.samples)
        except Exception as error:  # noqa: BLE001 - from the user's own forward
            self.reasons[name] = f"the model does not run without it: {in_one_line(error)}"
        else:
            if all(found[key].shape == value.shape for key, value in self.wanted.items()):
                return _unexplained(found, self.wanted)
            self.reasons[name] = "the outputs have another shape without it"
        self.forms.pop(name)
        return None


@dataclass
class _Seen:
    """What a block was given and gave: how often, and its form (0 a tensor, else a tuple so long) or the reason."""

    calls: int = 0
    form: int = 0
    reason: str = ""


@dataclass
class _Watch:
    """Listens to the parts of lists of modules while a model runs."""

    module: nn.Module
    seen: dict[str, _Seen] = field(default_factory=dict)

    def __enter__(self) -> _Watch:
        """Begin."""
        self.hooks = []
        for name, part in _parts(self.module):
            self.seen[name] = seen = _Seen()
            self.hooks.append(part.register_forward_hook(_listener(seen), with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        for hook in self.hooks:
            hook.remove()

    def forms(self, runs: int) -> tuple[dict[str, int], dict[str, str]]:
        """Return the outermost blocks that give what they take, each with its form, and why the others do not fit.

        A list of blocks is no block itself: its parts are.
        """
        reasons = {name: seen.reason for name, seen in self.seen.items() if seen.reason}
        for name, seen in self.seen.items():
            if seen.calls != runs:
                reasons[name] = f"it is called {seen.calls / runs:g} times when the model runs"
        fit = {name: seen.form for name, seen in self.seen.items() if name not in reasons}
        lists = {
            name for name in fit
            if isinstance(self.module.get_submodule(name), nn.Sequential | nn.ModuleList)
            and any(other.rpartition(".")[0] == name for other in fit)
        }  # fmt: skip
        blocks = {name: form for name, form in fit.items() if name not in lists}
        outermost = {
            name: form for name, form in blocks.items() if not any(name.startswith(f"{other}.") for other in blocks)
        }
        outside = {
            name: why for name, why in reasons.items() if not any(name.startswith(f"{o}.") for o in outermost)
        }
        return outermost, outside


def _parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts of lists of modules that have layers of their own, with weights."""
    for name, rows in module.named_modules():
        if isinstance(rows, nn.Sequential | nn.ModuleList):
            for key, part in rows.named_children():
                if next(part.children(), None) is not None and next(part.parameters(), None) is not None:
                    yield f"{name}.{key}" if name else key, part


def _listener(seen: _Seen) -> Any:
    def listen(part: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Any) -> None:
        seen.calls += 1
        given = args[0] if args else next(iter(named.values()), None)
        parts = out if isinstance(out, tuple) else (out,)
        seen.form = len(out) if isinstance(out, tuple) else 0
        if not isinstance(given, Tensor) or not parts or not isinstance(parts[0], Tensor):
            seen.reason = "it does not map a tensor to a tensor"
        elif any(other is not None for other in parts[1:]):
            seen.reason = "it gives more than one tensor"
        elif given.shape != parts[0].shape or given.dtype != parts[0].dtype:
            seen.reason = f"it takes {list(given.shape[1:])} a sample and gives {list(parts[0].shape[1:])}"

    return listen


@torch.no_grad()
def _outputs(module: nn.Module, samples: Batches) -> dict[str, Tensor]:
    """Return all floating outputs, flat."""
    parts: dict[str, list[Tensor]] = {}
    for batch in samples:
        for name, value in flatten(module(**batch)).items():
            if value.is_floating_point():
                parts.setdefault(name, []).append(value.double().flatten())
    return {name: torch.cat(values) for name, values in parts.items()}


def _unexplained(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """Return the squared error over the variance, the mean over the outputs."""
    shares = [
        float((found[name] - value).square().mean() / value.var(correction=0).clamp(min=1e-30))
        for name, value in wanted.items()
    ]
    return sum(shares) / max(len(shares), 1)
