"""What a module is made of: layers, parameters, MACs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from whet.models.torch import program
from whet.models.torch.edits import Int8Linear, Int8Recurrent
from whet.types import Layer

# Tables and scales: pruning or clustering them is not what a user means by it.
_OPAQUE = (Int8Linear, Int8Recurrent)  # to torch's counter
_NOT_PRUNABLE = (nn.Embedding, nn.EmbeddingBag, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm)
_NAMES = {"Embedding", "EmbeddingBag", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "LayerNorm", "GroupNorm"}


def macs(module: nn.Module, sample: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the MACs of each submodule for ``sample`` (inner ones counted in outer ones too), by path.

    torch's own counter knows matrix products, convolutions and attention. The fused LSTM, attention and
    transformer layer of the CPU are opaque to it and are switched off while it counts.
    """
    if isinstance(module, GraphModule):
        with in_the_open():
            return program.macs(module, sample)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), in_the_open(), counter:
        module(**sample)
    root = type(module).__name__
    counts = {}
    for path, by_op in counter.get_flop_counts().items():
        if path == "Global":
            continue
        name = "" if path == root else path.removeprefix(f"{root}.")
        counts[name] = int(sum(by_op.values())) // 2
    return counts


def layers(module: nn.Module, counted: Mapping[str, int] | None) -> list[Layer]:
    """Return every submodule that owns parameters or buffers, or whose MACs are not its children's.

    A parameter that two modules share belongs to the first of them. ``counted`` are the MACs by path; None where
    they are not known.
    """
    found = []
    firsts = {name for name, _ in [*module.named_parameters(), *module.named_buffers()]}
    for name, part in module.named_modules():
        each = list(part.named_parameters(recurse=False)) + list(part.named_buffers(recurse=False))
        own = [(key, tensor) for key, tensor in each if _join(name, key) in firsts]
        if not own and not (counted and _own_macs(name, counted)):
            continue
        kind = getattr(part, "exported_as", type(part).__name__)
        prunable = not isinstance(part, _NOT_PRUNABLE) and kind not in _NAMES
        found.append(
            Layer(
                name or "(root)",
                kind,
                tuple(
                    _join(name, key)
                    for key, tensor in own
                    if prunable and isinstance(tensor, nn.Parameter) and tensor.ndim > 1
                ),
                sum(tensor.numel() for _, tensor in own if _learned(tensor)),
                sum(tensor.numel() * tensor.element_size() for _, tensor in own),
                None if counted is None or isinstance(part, _OPAQUE) else _own_macs(name, counted),
            )
        )
    return found


@contextmanager
def in_the_open() -> Iterator[None]:
    """Have fused kernels done as the products they are made of."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of TF32 on another vendor's GPU
            with torch.backends.mkldnn.flags(enabled=False), sdpa_kernel(SDPBackend.MATH):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _own_macs(name: str, counted: Mapping[str, int]) -> int:
    """MACs of a module that are not those of the nearest submodules that are called: a list of layers is not."""
    if name not in counted:
        return 0
    start = f"{name}." if name else ""
    below = [path for path in counted if path.startswith(start) and path != name]
    nearest = (path for path in below if not any(path.startswith(f"{other}.") for other in below))
    return counted[name] - sum(counted[path] for path in nearest)


def _learned(tensor: Tensor) -> bool:
    """Tell learned numbers from running statistics; weights held in INT8 are buffers, and learned."""
    return isinstance(tensor, nn.Parameter) or tensor.dtype == torch.int8


def _join(module: str, parameter: str) -> str:
    return f"{module}.{parameter}" if module else parameter
