"""Which channels of a torch module belong together: found by marking them, whatever operations lie between.

A channel is marked by NaN, which no arithmetic loses: whatever is computed from it is NaN too. Layers that mix
channels (convolutions, Linear, recurrent ones) tell which of the channels that go in are marked, and pass on clean
numbers. So each run says where some channels are read, through reshapes, concatenations, slices, padding, attention
and all else a forward may do. Channels that come together anywhere (added, multiplied, normalised as one) form a
unit: all of it goes, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from whet.models.torch.adapter import flatten
from whet.models.torch.counting import in_the_open

Node = tuple[str, str, int]
"""One channel at one side of a layer: ``("conv1", "out", 3)``; of a recurrent layer ``("lstm", "hidden0", 3)``."""

OUTPUT: Node = ("", "output", 0)
MIXING = (nn.modules.conv._ConvNd, nn.Linear, nn.RNNBase)
CHANNELWISE = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.PReLU)
_FACTORS = (2, 3, 5, 7, 11, 13)
_REPEATS = (1, 2, 3)  # one projection, a gate beside a value, or query, key and value in one


def depthwise(layer: nn.Module) -> bool:
    """Tell whether a layer is a convolution of each channel by itself."""
    return isinstance(layer, nn.modules.conv._ConvNd) and layer.groups == layer.in_channels > 1


def mixes(layer: nn.Module) -> bool:
    """Tell whether a layer computes every channel that comes out from all that go in."""
    return isinstance(layer, MIXING) and not depthwise(layer)


def channel_axis(layer: nn.Module, side: str = "in") -> int:
    """Return the axis of a layer's input or output that holds its channels."""
    if isinstance(layer, nn.modules.conv._ConvNd):
        return -1 - len(layer.kernel_size)
    return 1 if isinstance(layer, CHANNELWISE) and not isinstance(layer, nn.LayerNorm) else -1


def sides(layer: nn.Module) -> dict[str, int]:
    """Return the sides at which a layer makes channels, and how many: ``out``, or ``hidden`` units."""
    if isinstance(layer, nn.RNNBase):
        ways = 2 if layer.bidirectional else 1
        return {f"hidden{at}": layer.hidden_size for at in range(layer.num_layers * ways)}
    if isinstance(layer, nn.Embedding):
        return {"out": layer.embedding_dim}
    if not isinstance(layer, MIXING) or depthwise(layer):
        return {}
    return {"out": int(getattr(layer, "out_channels", 0) or getattr(layer, "out_features", 0))}


class Marker:
    """Runs a module with some channels marked.

    Args:
        module: In evaluation mode; it is left as it was.
        sample: What goes in.

    Attributes:
        called: The layers that make channels and were called.
    """

    def __init__(self, module: nn.Module, sample: dict[str, Tensor]) -> None:
        self.module, self.sample = module, sample
        self._marked: tuple[str, str, Tensor] | None = None
        self._seen: set[Node] = set()
        self.called: set[str] = set()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Watch all layers meanwhile."""
        hooks = []
        for name, layer in self.module.named_modules():
            if isinstance(layer, (*MIXING, *CHANNELWISE)):
                hooks.append(layer.register_forward_pre_hook(self._entering(name), with_kwargs=True))
            if sides(layer):
                hooks.append(layer.register_forward_hook(self._leaving(name)))
        try:
            with in_the_open(), torch.no_grad():
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def reached(self, name: str, side: str, channels: Sequence[int]) -> frozenset[Node]:
        """Return where some channels of a layer are read; ``OUTPUT`` among it where they reach an output."""
        self._marked, self._seen = (name, side, torch.tensor(list(channels))), set()
        outputs = flatten(self.module(**self.sample))
        if any(bool(value.isnan().any()) for value in outputs.values() if value.is_floating_point()):
            self._seen.add(OUTPUT)
        return frozenset(self._seen)

    def _entering(self, name: str) -> Callable[..., Any]:
        def hook(layer: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
            values = [*args, *named.values()]
            if not values or not isinstance(values[0], Tensor | PackedSequence):
                return None
            x = values[0].data if isinstance(values[0], PackedSequence) else values[0]
            marked = x.isnan()
            if not bool(marked.any()):
                return None
            axis = channel_axis(layer) % x.ndim
            numbers = marked.movedim(axis, 0).reshape(x.shape[axis], -1).any(1).nonzero().flatten().tolist()
            self._seen |= {(name, "in", number) for number in numbers}
            if not mixes(layer):
                return None
            values[0] = _clean(values[0])
            return tuple(values[: len(args)]), dict(zip(named, values[len(args) :], strict=True))

        return hook

    def _leaving(self, name: str) -> Callable[..., Any]:
        def hook(layer: nn.Module, _: Any, out: Any) -> Any:
            self.called.add(name)
            if self._marked is None or self._marked[0] != name:
                return None
            _, side, channels = self._marked
            if isinstance(layer, nn.RNNBase):
                return _mark_hidden(layer, out, int(side.removeprefix("hidden")), channels)
            return out.index_fill(channel_axis(layer) % out.ndim, channels, torch.nan)

        return hook


def _clean(value: Any) -> Any:
    """Return numbers without marks, in the same form."""
    if isinstance(value, PackedSequence):
        return value._replace(data=value.data.nan_to_num(0.0))
    return value.nan_to_num(0.0)


def _mark_hidden(layer: nn.RNNBase, out: Any, at: int, units: Tensor) -> Any:
    """Mark hidden units of one layer and direction: in the last state, and of the last layer in all outputs."""
    sequence, state = out
    ways = 2 if layer.bidirectional else 1
    if at >= (layer.num_layers - 1) * ways:
        places = units + (at % ways) * layer.hidden_size
        if isinstance(sequence, PackedSequence):
            sequence = sequence._replace(data=sequence.data.index_fill(-1, places, torch.nan))
        else:
            sequence = sequence.index_fill(-1, places, torch.nan)

    def mark(value: Tensor) -> Tensor:
        value = value.clone()
        value[at] = value[at].index_fill(-1, units, torch.nan)
        return value

    return sequence, tuple(map(mark, state)) if isinstance(state, tuple) else mark(state)


def tied(marker: Marker, name: str, side: str, count: int) -> list[set[Node]]:
    """Return which channels that a layer makes are one with which that are read, as sets.

    By as many runs as the channels' numbers have bits, where each is read apart; by dividing them where several
    are read as one.
    """
    ones, zeros = [], []
    for bit in range((count - 1).bit_length()):
        ones.append(marker.reached(name, side, [at for at in range(count) if at >> bit & 1]))
        zeros.append(marker.reached(name, side, [at for at in range(count) if not at >> bit & 1]))
    everywhere = marker.reached(name, side, range(count))
    always = everywhere & {OUTPUT}
    found: dict[int, set[Node]] = {at: {(name, side, at), *always} for at in range(count)}
    unclear = set()
    for node in everywhere - always:
        if all((node in one) != (node in zero) for one, zero in zip(ones, zeros, strict=True)):
            found[sum(1 << bit for bit, one in enumerate(ones) if node in one)].add(node)
        else:
            unclear.add(node)
    if not unclear:
        return list(found.values())
    joined = []
    for block, nodes in _blocks(lambda part: marker.reached(name, side, part) & unclear, list(range(count))):
        joined.append(set(nodes).union(*(found[at] for at in block)))
    return joined


def _blocks(
    reached: Callable[[Sequence[int]], frozenset[Node]], channels: list[int]
) -> list[tuple[list[int], frozenset[Node]]]:
    """Divide channels into blocks that are read apart, as small as equal divisions find, with where each is."""
    whole = reached(channels)
    if not whole:
        return [([channel], frozenset()) for channel in channels]
    for factor in _FACTORS:
        for repeat in _REPEATS:
            if len(channels) % (factor * repeat) or len(channels) == repeat:
                continue
            parts = _division(channels, repeat, factor)
            groups = _overlapping([(part, reached(part)) for part in parts])
            if len(groups) > 1:
                return [block for group in groups for block in _blocks(reached, group)]
    return [(channels, whole)]


def _division(channels: list[int], repeat: int, factor: int) -> list[list[int]]:
    """Return ``factor`` parts of channels that are laid out ``repeat`` times."""
    length = len(channels) // repeat
    step = length // factor
    return [
        [channels[again * length + at * step + one] for again in range(repeat) for one in range(step)]
        for at in range(factor)
    ]


def _overlapping(parts: Sequence[tuple[list[int], frozenset[Node]]]) -> list[list[int]]:
    """Join the parts that are read in the same place."""
    groups: list[tuple[list[int], frozenset[Node]]] = []
    for part, where in parts:
        met = [group for group in groups if group[1] & where]
        groups = [group for group in groups if not group[1] & where]
        groups.append((sum((group[0] for group in met), part), where.union(*(group[1] for group in met))))
    return [sorted(channels) for channels, _ in groups]


def unions(sets: Sequence[set[Node]]) -> list[set[Node]]:
    """Join all sets that have a channel in common; ``OUTPUT`` is none."""
    parent: dict[Node, Node] = {}

    def root(node: Node) -> Node:
        while parent.setdefault(node, node) != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    ends = set()
    for each in sets:
        nodes = sorted(each - {OUTPUT})
        for node in nodes[1:]:
            parent[root(node)] = root(nodes[0])
        if OUTPUT in each:
            ends.add(nodes[0])
    joined: dict[Node, set[Node]] = {}
    for each in sets:
        for node in each - {OUTPUT}:
            joined.setdefault(root(node), set()).add(node)
    for node in ends:
        joined[root(node)].add(OUTPUT)
    return [joined[key] for key in sorted(joined)]


def passed_on(module: nn.Module, nodes: set[Node]) -> set[Node]:
    """Return the channels that come out of depthwise convolutions where these go in."""
    found = set()
    for name, side, number in nodes:
        layer = module.get_submodule(name) if name else module
        if side == "in" and depthwise(layer):
            assert isinstance(layer, nn.modules.conv._ConvNd)
            many = layer.out_channels // layer.in_channels
            found |= {(name, "out", number * many + one) for one in range(many)}
    return found
