"""Which chain is taken for a layer, if any: the numbers, and in the end the clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.errors import PassError
from whet.passes.factorize import math
from whet.passes.factorize.math import Chain, Wish
from whet.passes.factorize.spec import Factorize

if TYPE_CHECKING:
    from whet.types import Array

Race = Callable[[Sequence[Chain]], Sequence[float]]
"""Returns the milliseconds of a layer, and of each chain in place of it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to become of a layer.

    Attributes:
        chain: In place of it; None to leave it alone.
        facts: Numbers for the report.
        reason: Why it is left alone.
        lost, whole: Squared weights that the chain loses, and all of them.
    """

    chain: Chain | None
    facts: dict[str, Any]
    reason: str = ""
    lost: float = 0.0
    whole: float = 0.0


def choose(request: Factorize, name: str, weight: Array, stride: Sequence[int], race: Race | None) -> Choice:
    """Return the fastest chain that is smaller and faster than a layer, or why there is none.

    Args:
        request: What is asked for.
        name: Of the layer.
        weight: (out, in, *window).
        stride: Along each axis of the window.
        race: The clock; None where products are counted.

    Raises:
        PassError: A weight is not a number.
    """
    if not np.isfinite(weight).all():
        raise PassError(f"{name} has a NaN or infinite weight; repair the model, or exclude the layer")
    chains = [math.decompose(weight, method, _wish(request), stride) for method in _methods(request, weight)]
    most = weight.size / request.least_speedup
    thin = [chain for chain in chains if chain.parameters < weight.size and chain.macs(stride) <= most]
    if not thin:
        told = "; ".join(
            f"{_told(chain)} has {chain.parameters:,}, and {chain.macs(stride) / weight.size:.2f} of its MACs"
            for chain in chains
        )
        return Choice(None, {}, f"it would not get smaller: it has {weight.size:,} weights, {told}")
    times = race(thin) if race else [prod(weight.shape), *(chain.macs(stride) for chain in thin)]
    at = int(np.argmin(times[1:]))
    best = thin[at]
    facts: dict[str, Any] = {
        "method": best.method,
        "ranks": best.ranks,
        "energy": best.energy,
        "parameters": [int(weight.size), best.parameters],
        "macs_share": best.macs(stride) / weight.size,
    }
    if race:
        facts |= {"layer_ms": times[0], "chain_ms": times[1 + at]}
    if times[0] < request.least_speedup * times[1 + at]:
        return Choice(None, facts, f"it would not get faster: it takes {times[0]:.4f} ms, {_told(best)} takes "
                                   f"{times[1 + at]:.4f} ms")  # fmt: skip
    whole = float((weight.astype(np.float64) ** 2).sum())
    return Choice(best, facts, lost=(1 - best.energy) * whole, whole=whole)


def kept(choices: Sequence[Choice]) -> float:
    """Return the share of squared weights that all chains together keep."""
    whole = sum(choice.whole for choice in choices)
    return 1 - sum(choice.lost for choice in choices) / whole if whole else 1.0


def _wish(request: Factorize) -> Wish:
    if request.rank:
        return Wish(rank=request.rank)
    if request.macs:
        return Wish(macs=request.macs, multiple=request.multiple)
    return Wish(energy=request.kept, multiple=request.multiple)


def _methods(request: Factorize, weight: Array) -> tuple[str, ...]:
    """Return how a weight may be factorized: by its window."""
    if weight.ndim != 4 or prod(weight.shape[2:]) == 1:
        return ("svd",)
    if request.convolutions == "best":
        return ("tucker", "spatial")
    return (request.convolutions,)


def _told(chain: Chain) -> str:
    ranks = " and ".join(map(str, chain.ranks))
    return f"{chain.method} at rank {ranks} ({chain.energy:.1%} of the energy)"
