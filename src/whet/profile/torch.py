"""Time by module, by hooks around every leaf."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from whet.models.model import Model
from whet.models.torch import program
from whet.models.torch.adapter import tensors

if TYPE_CHECKING:
    from whet.types import Batch

_WARM_UP, _CALLS = 3, 15


def layer_times(model: Model, batch: Batch, threads: int) -> tuple[float, Mapping[str, tuple[str, float]]]:
    """Return the median milliseconds of a whole call, and of each leaf module by path, with its type.

    Arithmetic that stands in a forward itself, outside any leaf, is the rest: ``(outside modules)``. Hooks take
    time themselves: the call is timed without them, and the modules have their shares of that.
    """
    torch.set_num_threads(threads)
    module: nn.Module = model.payload.module
    inputs = tensors(batch)
    parts = module.named_modules()
    kinds = {name or "(root)": getattr(part, "exported_as", type(part).__name__) for name, part in parts}
    with torch.inference_mode():
        for _ in range(_WARM_UP):
            module(**inputs)
        total = 1000 * float(np.median([_seconds(module, inputs) for _ in range(_CALLS)]))
        shares = _of_program(module, inputs) if isinstance(module, GraphModule) else _shares(module, inputs)
    times = {name: (kinds[name], total * share) for name, share in shares.items()}
    rest = total - sum(spent for _, spent in times.values())
    if rest > 0:
        times["(outside modules)"] = ("", rest)
    return total, times


def _seconds(module: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    start = time.perf_counter()
    module(**inputs)
    return time.perf_counter() - start


def _of_program(module: GraphModule, inputs: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the median share of each module that a program remembers, its operators run one by one."""
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(_CALLS):
        spent: dict[str, float] = defaultdict(float)

        def clock(name: str, call: Callable[[], Any], spent: dict[str, float] = spent) -> Any:
            start = time.perf_counter()
            result = call()
            spent[name or "(root)"] += time.perf_counter() - start
            return result

        start = time.perf_counter()
        program.walk(module, inputs.values(), clock)
        whole = time.perf_counter() - start
        for name, seconds in spent.items():
            found[name].append(seconds / whole)
    return {name: float(np.median(each)) for name, each in found.items()}


def _shares(module: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the median share of each leaf module, by path, in the time of a call with hooks."""
    spent: dict[str, float] = defaultdict(float)
    started: dict[str, float] = {}

    def before(name: str) -> Any:
        return lambda *_: started.__setitem__(name, time.perf_counter())

    def after(name: str) -> Any:
        return lambda *_: spent.__setitem__(name, spent[name] + time.perf_counter() - started[name])

    leaves = [
        (name or "(root)", part) for name, part in module.named_modules() if next(part.children(), None) is None
    ]
    hooks = [part.register_forward_pre_hook(before(name)) for name, part in leaves]
    hooks += [part.register_forward_hook(after(name)) for name, part in leaves]
    found: dict[str, list[float]] = defaultdict(list)
    try:
        for _ in range(_CALLS):
            spent.clear()
            whole = _seconds(module, inputs)
            for name, seconds in spent.items():
                found[name].append(seconds / whole)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: float(np.median(each)) for name, each in found.items()}
