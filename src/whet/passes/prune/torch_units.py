"""What can be taken out of a torch module: units of channels, alike in families, each family proven to go."""

from __future__ import annotations

import copy
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from whet import userfile
from whet.errors import PassError, in_one_line
from whet.models.torch import edits
from whet.models.torch.adapter import flatten
from whet.models.torch.counting import in_the_open
from whet.passes.prune.torch_groups import OUTPUT, Marker, Node, mixes, passed_on, sides, tied, unions

Unit = frozenset[Node]
"""Channels that go together: of the layers that make them, of those between, and of those that read them."""
Kind = tuple[tuple[str, str], ...]
_CLOSE = 1e-4  # of the greatest output: sums in another order


@dataclass(frozen=True)
class Family:
    """Units of the same layers at the same sides.

    Attributes:
        parts: The units; several lists where the same number must go of each (layers of one recurrent module).
    """

    parts: tuple[tuple[Unit, ...], ...]

    def __len__(self) -> int:
        return len(self.parts[0])

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """The layers and sides of each part."""
        return tuple(_kind(part[0]) for part in self.parts)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The layers that lose channels."""
        return tuple(dict.fromkeys(name for kind in self.kinds for name, _ in kind))

    @cached_property
    def makers(self) -> tuple[str, ...]:
        """The layers that make the channels."""
        return tuple(dict.fromkeys(name for kind in self.kinds for name, side in kind if side != "in"))

    @property
    def width(self) -> int:
        """The channels that a unit takes of the layer where it takes fewest."""
        return min(Counter((name, side) for name, side, _ in self.parts[0][0]).values())

    def least(self, scores: Sequence[Tensor], count: int) -> list[Unit]:
        """Return the units of each part that matter least, so many of each."""
        return [
            part[at] for part, score in zip(self.parts, scores, strict=True)
            for at in score.sort(stable=True).indices[:count].tolist()
        ]  # fmt: skip


def find(
    module: nn.Module, sample: dict[str, Tensor], unfit: Callable[[str, nn.Module], str | None]
) -> tuple[list[Family], dict[str, str]]:
    """Return the families that can be thinned out, and why the other layers cannot.

    Args:
        module: In evaluation mode.
        sample: What goes in.
        unfit: Tells why a layer must keep its channels, or None.

    Raises:
        PassError: The module cannot be run.
    """
    reasons = {name: reason for name, layer in module.named_modules() if (reason := unfit(name, layer))}
    made = {name: each for name, layer in module.named_modules() if (each := sides(layer))}
    sets: list[set[Node]] = []
    marker = Marker(module, sample)
    with _told("it cannot be run to see which channels belong together"), marker.listening():
        for name, each in made.items():
            for side, count in each.items():
                sets += tied(marker, name, side, count)
    sets += [{node, *passed_on(module, {node})} for each in sets for node in each if node[1] == "in"]
    idle = {name: "it is not called itself when the model runs" for name in made if name not in marker.called}
    families, reasons = _families(module, unions(sets), {**idle, **reasons})
    proven = []
    for family in families:
        problem = _problem(module, sample, family)
        if problem is None:
            proven.append(family)
        for name in family.makers if problem is not None else ():
            reasons.setdefault(name, str(problem))
    return proven, reasons


def _families(
    module: nn.Module, units: Iterable[set[Node]], fixed: Mapping[str, str]
) -> tuple[list[Family], dict[str, str]]:
    """Put units alike together; say of the layers of the others why they must stay."""
    reasons = dict(fixed)
    alike: dict[Kind, list[Unit]] = {}
    for unit in units:
        alike.setdefault(_kind(unit - {OUTPUT}), []).append(frozenset(unit))
    families = []
    for parts in _in_step(module, alike):
        kinds = [_kind(part[0] - {OUTPUT}) for part in parts]
        makers = dict.fromkeys(name for kind in kinds for name, side in kind if side != "in")
        reason = _stays(module, parts, kinds, fixed)
        if reason is None:
            families.append(Family(tuple(tuple(sorted(part, key=min)) for part in parts)))
            continue
        for name in makers:
            reasons.setdefault(name, reason)
    return families, reasons


def _stays(
    module: nn.Module, parts: Sequence[Sequence[Unit]], kinds: Sequence[Kind], fixed: Mapping[str, str]
) -> str | None:
    """Return why units must stay, or None."""
    first = next((name for kind in kinds for name, _ in kind if name in fixed), None)
    if first is not None:
        return f"tied to {first} ({fixed[first]})"
    if any(OUTPUT in unit for part in parts for unit in part):
        return "its channels are outputs of the model"
    if len({len(part) for part in parts}) > 1:
        return "its layers or directions are read differently, and must stay as wide as each other"
    if len(parts[0]) < 2:
        return "its channels are computed from each other: none can go without the rest"
    if not any((side == "in" and mixes(module.get_submodule(name))) or side.startswith("hidden")
               for kind in kinds for name, side in kind):  # fmt: skip
        return "no layer reads its channels"
    return None


def _in_step(module: nn.Module, alike: Mapping[Kind, list[Unit]]) -> list[list[list[Unit]]]:
    """Put together the units of one recurrent module, all of whose layers and directions have the same width."""
    groups: list[tuple[set[str], list[list[Unit]]]] = []
    for kind, units in alike.items():
        shared = {name for name, side in kind if side.startswith("hidden")}
        parts = [units]
        for group in [each for each in groups if each[0] & shared]:
            groups.remove(group)
            shared, parts = shared | group[0], group[1] + parts
        groups.append((shared, parts))
    return [parts for _, parts in groups]


def _kind(unit: Iterable[Node]) -> Kind:
    return tuple(sorted({(name, side) for name, side, _ in unit}))


def _problem(module: nn.Module, sample: dict[str, Tensor], family: Family) -> str | None:
    """Take half of a family out, and compare with the whole module in which nothing reads it."""
    gone = [unit for part in family.parts for unit in part[1::2]]
    try:
        different = difference(module, sample, gone)
    except Exception as error:  # noqa: BLE001 - from the user's own forward
        return f"the model does not run with fewer of its channels: {in_one_line(error)}{_place(error)}"
    if different <= _CLOSE:
        return None
    return (
        f"its channels cannot be told apart: without some of them the outputs are off by {different:.2g} of the "
        f"greatest, beyond what these channels add"
    )


@torch.no_grad()
def difference(module: nn.Module, sample: dict[str, Tensor], gone: Sequence[Unit]) -> float:
    """Return how far a thinned module is from the whole one in which nothing reads what is gone."""
    with in_the_open():
        thin = edits.replay(copy.deepcopy(module), [edit_of(module, gone)])
        found = flatten(thin(**sample))
        with Unread(module, gone):
            wanted = flatten(module(**sample))
    if any(value.shape != wanted[name].shape for name, value in found.items()):
        return float("inf")
    apart = [
        float((value - wanted[name]).abs().max()) / max(float(wanted[name].abs().max()), 1e-12)
        for name, value in found.items() if value.is_floating_point() and value.numel()
    ]  # fmt: skip
    return max(apart, default=0.0)


def edit_of(module: nn.Module, gone: Iterable[Unit]) -> edits.Edit:
    """Return the edit that takes units out of a module."""
    lost: dict[str, dict[str, set[int]]] = {}
    for unit in gone:
        for name, side, number in unit:
            lost.setdefault(name, {}).setdefault(side, set()).add(number)
    kept: dict[str, dict[str, Any]] = {}
    for name, by_side in sorted(lost.items()):
        layer = module.get_submodule(name)
        kept[name] = {}
        if "in" in by_side:
            kept[name]["in"] = [at for at in range(_inputs(layer)) if at not in by_side["in"]]
        if isinstance(layer, nn.RNNBase) and set(by_side) - {"in"}:
            kept[name]["hidden"] = [
                [at for at in range(count) if at not in by_side.get(side, ())]
                for side, count in sides(layer).items()
            ]
        elif "out" in by_side:
            count = sides(layer)["out"] if sides(layer) else int(getattr(layer, "out_channels", 0))
            kept[name]["out"] = [at for at in range(count) if at not in by_side["out"]]
    return edits.channels_edit(kept)


def _inputs(layer: Any) -> int:
    """Return how many channels go into a layer."""
    if isinstance(layer, nn.LayerNorm):
        return int(layer.normalized_shape[-1])
    names = ("in_channels", "in_features", "num_features", "num_channels", "num_parameters", "input_size")
    return next(int(getattr(layer, name)) for name in names if isinstance(getattr(layer, name, None), int))


@dataclass(frozen=True)
class Place:
    """Where a channel lies in a weight: along an axis, at its number plus each of some offsets."""

    weight: str
    axis: int
    offsets: tuple[int, ...] = (0,)


def read_at(layer: nn.Module, name: str, side: str) -> list[Place]:
    """Return where the weights lie that read a channel of one side of a layer."""
    if isinstance(layer, nn.RNNBase):
        ways = 2 if layer.bidirectional else 1
        if side == "in":
            return [Place(_join(name, names[0]), 1) for names in layer._all_weights[:ways]]
        at = int(side.removeprefix("hidden"))
        above = layer._all_weights[(at // ways + 1) * ways :][:ways]
        offset = (at % ways) * layer.hidden_size
        return [
            Place(_join(name, layer._all_weights[at][1]), 1),
            *(Place(_join(name, names[0]), 1, (offset,)) for names in above),
        ]
    if side != "in" or not mixes(layer):
        return []
    return [Place(_join(name, "weight"), 0 if isinstance(layer, nn.modules.conv._ConvTransposeNd) else 1)]


def made_at(layer: nn.Module, name: str, side: str) -> list[Place]:
    """Return where the weights lie that make a channel of one side of a layer."""
    if isinstance(layer, nn.RNNBase):
        if side == "in":
            return []
        gates = {"LSTM": 4, "GRU": 3}.get(layer.mode, 1)
        offsets = tuple(layer.hidden_size * gate for gate in range(gates))
        names = layer._all_weights[int(side.removeprefix("hidden"))]
        return [Place(_join(name, each), 0, offsets) for each in names[:2]]
    if side != "out":
        return []
    turned = isinstance(layer, nn.modules.conv._ConvTransposeNd | nn.Embedding)
    return [Place(_join(name, "weight"), 1 if turned else 0)]


class Unread:
    """Meanwhile nothing in a module reads some units: the weights that would are zero."""

    def __init__(self, module: nn.Module, gone: Iterable[Unit]) -> None:
        self.module, self.gone = module, gone
        self.whole: dict[str, Tensor] = {}

    def __enter__(self) -> None:
        """Zero the weights."""
        parameters = dict(self.module.named_parameters(remove_duplicate=False))
        for unit in self.gone:
            for name, side, number in unit:
                for place in read_at(self.module.get_submodule(name), name, side):
                    weight = parameters[place.weight]
                    self.whole.setdefault(place.weight, weight.data.clone())
                    for offset in place.offsets:
                        weight.data.select(place.axis, number + offset).zero_()

    def __exit__(self, *_: object) -> None:
        """Set them back."""
        for name, value in self.whole.items():
            self.module.get_parameter(name).data.copy_(value)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what a user's forward raises into a PassError that says where."""
    try:
        yield
    except Exception as error:
        raise PassError(
            f"prune-channels runs the model with marked channels, and {what}: {in_one_line(error)}{_place(error)}; "
            f"mend that line, or leave the step out"
        ) from error


def _place(error: BaseException) -> str:
    """Return the line of the user's own code that raised an error: `` (at file.py, line 7: x = ...)``."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if userfile.is_users(frame.filename)]
    return f" (at {own[-1].filename}, line {own[-1].lineno}: {own[-1].line})" if own else ""


def _join(module: str, parameter: str) -> str:
    return f"{module}.{parameter}" if module else parameter
