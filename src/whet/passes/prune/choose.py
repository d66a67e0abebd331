"""How many units of each family go: one rung of a ladder after the other, by price, until the goal is reached."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd

Price = Callable[[int, int, int], float]
"""What it costs to go on from so many units kept of a family to fewer: ``price(family, 32, 16)``."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How many units each family keeps, and whether the goal is reached."""

    kept: tuple[int, ...]
    cost: float
    reached: bool


def ladder(units: int, width: int, multiple: int, most: float = 1.0) -> list[int]:
    """Return how many units may be kept, falling: all, then those that make a multiple of channels.

    Args:
        units: Of the family.
        width: Channels of a layer in one unit.
        multiple: Of channels.
        most: Share of the units that may go.
    """
    step = multiple // gcd(width, multiple)
    floor = max(step, units - int(most * units + 1e-9))
    return [units, *(kept for kept in range((units - 1) // step * step, 0, -step) if kept >= floor)]


def order(ladders: Sequence[Sequence[int]], price: Price) -> list[int]:
    """Return whose next rung is taken, one after the other, the cheapest first."""
    queue = [(price(at, steps[0], steps[1]), at, 1) for at, steps in enumerate(ladders) if len(steps) > 1]
    heapq.heapify(queue)
    taken = []
    while queue:
        paid, at, rung = heapq.heappop(queue)
        taken.append(at)
        steps = ladders[at]
        if rung + 1 < len(steps):
            # A later rung is never cheaper: what comes first must go first.
            heapq.heappush(queue, (max(paid, price(at, steps[rung], steps[rung + 1])), at, rung + 1))
    return taken


def least_that_reach(
    ladders: Sequence[Sequence[int]], taken: Sequence[int], cost: Callable[[tuple[int, ...]], float], goal: float
) -> Choice:
    """Return the fewest rungs, in their order, with which the cost is at most the goal; else all of them.

    They are found by bisection; then those that turn out not to be needed are given back, the dearest first.
    """

    def state(rungs: int) -> tuple[int, ...]:
        down = Counter(taken[:rungs])
        return tuple(steps[down[at]] for at, steps in enumerate(ladders))

    low, high = 0, len(taken)
    best, paid = state(high), cost(state(high))
    if paid > goal:
        return Choice(best, paid, reached=False)
    while high - low > 1:
        middle = (low + high) // 2
        found = cost(state(middle))
        if found <= goal:
            high, best, paid = middle, state(middle), found
        else:
            low = middle
    for at in dict.fromkeys(reversed(taken[:high])):
        rung = ladders[at].index(best[at])
        fuller = (*best[:at], ladders[at][rung - 1], *best[at + 1 :])
        found = cost(fuller)
        if found <= goal:
            best, paid = fuller, found
    return Choice(best, paid, reached=True)


def on_line(points: Sequence[tuple[float, float]], at: float) -> float:
    """Read a line through points; beyond the last it goes on as between the last two."""
    ends = next((pair for pair in pairwise(points) if at <= pair[1][0]), (points[-2], points[-1]))
    (x0, y0), (x1, y1) = ends
    return y0 + (y1 - y0) * (at - x0) / (x1 - x0)
