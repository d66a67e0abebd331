"""Bytes shared out among tensors, so that together they do the least damage."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Form:
    """One way to store a tensor: what it takes, and what it costs the model."""

    size_bytes: int
    damage: float


def allocate(forms: Mapping[str, Sequence[Form]], size_bytes: int) -> dict[str, int]:
    """Choose a form for each tensor: the least damage that fits.

    From the smallest forms on, the step that takes away most damage a byte is made, as long as one fits. That is
    the optimum wherever a choice on the lower hull of sizes and damages uses up the bytes, and near it elsewhere.

    Args:
        forms: By tensor, in any order.
        size_bytes: What all may take together.

    Returns:
        The number of the chosen form, by tensor; the smallest of each where not even these fit.

    Source: Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers".
    """
    chosen = {name: min(range(len(each)), key=lambda at: each[at].size_bytes) for name, each in forms.items()}
    left = size_bytes - sum(forms[name][at].size_bytes for name, at in chosen.items())
    heap = [step for name in forms if (step := _step(name, forms[name], chosen[name], left))]
    heapq.heapify(heap)
    while heap:
        _, name, to = heapq.heappop(heap)
        extra = forms[name][to].size_bytes - forms[name][chosen[name]].size_bytes
        if extra <= left:
            chosen[name], left = to, left - extra
        again = _step(name, forms[name], chosen[name], left)
        if again:
            heapq.heappush(heap, again)
    return chosen


def _step(name: str, forms: Sequence[Form], now: int, left: int) -> tuple[float, str, int] | None:
    """Return the best step up that fits: less its gain a byte, the tensor, the form it leads to."""
    steps = []
    for to, form in enumerate(forms):
        extra = form.size_bytes - forms[now].size_bytes
        won = forms[now].damage - form.damage
        if 0 < extra <= left and won > 0:
            steps.append((-won / extra, name, to))
    return min(steps, default=None)
