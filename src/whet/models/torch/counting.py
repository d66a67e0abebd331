"""What a module is made of: layers, parameters, MACs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from whet.types import Layer

# Tables and scales: pruning or clustering them is not what a user means by it.
_NOT_PRUNABLE = (nn.Embedding, nn.EmbeddingBag, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)


def macs(module: nn.Module, sample: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the MACs of each submodule for ``sample`` (inner ones counted in outer ones too), by path.

    torch's own counter knows matrix products, convolutions and attention. oneDNN's fused LSTM is opaque to it
    and is switched off while it counts.
    """
    counter = FlopCounterMode(display=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of TF32 on another vendor's GPU
        with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False), counter:
            module(**sample)
    root = type(module).__name__
    counts = {}
    for path, by_op in counter.get_flop_counts().items():
        if path == "Global":
            continue
        name = "" if path == root else path.removeprefix(f"{root}.")
        counts[name] = int(sum(by_op.values())) // 2
    return counts


def layers(module: nn.Module, counted: Mapping[str, int]) -> list[Layer]:
    """Return every submodule that owns parameters or buffers, or whose MACs are not its children's."""
    found = []
    for name, part in module.named_modules():
        own = list(part.named_parameters(recurse=False)) + list(part.named_buffers(recurse=False))
        leaf = next(part.children(), None) is None
        if not own and not (leaf and counted.get(name)):
            continue
        prunable = not isinstance(part, _NOT_PRUNABLE)
        found.append(
            Layer(
                name or "(root)",
                type(part).__name__,
                tuple(
                    _join(name, key) for key, p in part.named_parameters(recurse=False) if prunable and p.ndim > 1
                ),
                sum(tensor.numel() for _, tensor in own if _learned(tensor)),
                sum(tensor.numel() * tensor.element_size() for _, tensor in own),
                counted.get(name, 0) if leaf or not counted else _own_macs(name, counted),
            )
        )
    return found


def _own_macs(name: str, counted: Mapping[str, int]) -> int:
    """MACs of a module that are not those of a submodule directly below it."""
    below = [path for path in counted if path.startswith(f"{name}." if name else "") and path != name]
    direct = [path for path in below if "." not in path.removeprefix(f"{name}." if name else "")]
    return counted.get(name, 0) - sum(counted[path] for path in direct)


def _learned(tensor: Tensor) -> bool:
    """Tell learned numbers from running statistics; weights held in INT8 are buffers, and learned."""
    return isinstance(tensor, nn.Parameter) or tensor.dtype == torch.int8


def _join(module: str, parameter: str) -> str:
    return f"{module}.{parameter}" if module else parameter
