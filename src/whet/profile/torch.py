"""Time by module, by hooks around every leaf."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from whet.models.model import Model
from whet.models.torch.adapter import tensors

if TYPE_CHECKING:
    from whet.types import Batch

_WARM_UP, _CALLS = 3, 15


def layer_times(model: Model, batch: Batch, threads: int) -> tuple[float, Mapping[str, tuple[str, float]]]:
    """Return the median milliseconds of a whole call, and of each leaf module by path, with its type.

    Arithmetic that stands in a forward itself, outside any leaf, is the rest: ``(outside modules)``.
    """
    torch.set_num_threads(threads)
    module: nn.Module = model.payload.module
    inputs = tensors(batch)
    spent: dict[str, float] = defaultdict(float)
    started: dict[str, float] = {}
    kinds = {name or "(root)": type(part).__name__ for name, part in module.named_modules()}

    def before(name: str) -> Any:
        return lambda *_: started.__setitem__(name, time.perf_counter())

    def after(name: str) -> Any:
        return lambda *_: spent.__setitem__(name, spent[name] + time.perf_counter() - started[name])

    totals, by_name = [], defaultdict(list)
    with torch.inference_mode():
        for _ in range(_WARM_UP):
            module(**inputs)
        for _ in range(_CALLS):  # without hooks: they take time themselves
            start = time.perf_counter()
            module(**inputs)
            totals.append(1000 * (time.perf_counter() - start))
        hooks = [
            hook
            for name, part in module.named_modules()
            if next(part.children(), None) is None
            for hook in (
                part.register_forward_pre_hook(before(name or "(root)")),
                part.register_forward_hook(after(name or "(root)")),
            )
        ]
        for _ in range(_CALLS):
            spent.clear()
            module(**inputs)
            for name, seconds in spent.items():
                by_name[name].append(1000 * seconds)
    for hook in hooks:
        hook.remove()
    total = float(np.median(totals))
    times = {name: (kinds[name], float(np.median(each))) for name, each in by_name.items()}
    rest = total - sum(spent_ms for _, spent_ms in times.values())
    if rest > 0:
        times["(outside modules)"] = ("", rest)
    return total, times
