"""Latency: contestants run in turns, so that whatever the machine does, it does to all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from whet.measure import statistics
from whet.measure.measurement import Interval, Measurement
from whet.progress import Event, OnEvent, silent

if TYPE_CHECKING:
    from whet.types import Array

_ROUND_MS = 8.0  # what one contestant's turn lasts at least, in as many calls as that takes
_MOST_CALLS = 64
_CHECK_EVERY = 5  # rounds
_LEAST_ROUNDS = 6  # fewer bound no ratio at 95 %


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure.

    Attributes:
        rounds: At least so many, unless they take too long.
        most_rounds: At most.
        seconds: Stop after so long once the least rounds are done; after four times as long with a third of them
            (but six, which an interval needs).
        precision: Stop when every ratio's interval is narrower than this share of it.
    """

    rounds: int = 15
    most_rounds: int = 60
    seconds: float = 2.5
    precision: float = 0.05


QUICK = Effort(rounds=5, most_rounds=15, seconds=0.5, precision=0.1)
"""For what is measured after every step."""
USUAL = Effort()
"""For candidates that are ranked."""
CAREFUL = Effort(rounds=20, most_rounds=120, seconds=6.0, precision=0.02)
"""For verdicts, and where measuring is all that was asked for."""


@dataclass(frozen=True, slots=True)
class Timings:
    """What a race yielded.

    Attributes:
        calls_ms: Every call of each contestant, in milliseconds.
        rounds_ms: (rounds,) the median call of each round, by contestant.
    """

    calls_ms: Mapping[str, Array]
    rounds_ms: Mapping[str, Array]

    def ratio(self, first: str, second: str, confidence: float = 0.95) -> tuple[float, Interval]:
        """Return how many times as long ``first`` takes as ``second``, with an interval over rounds."""
        point, low, high = statistics.paired_ratio(self.rounds_ms[first], self.rounds_ms[second], confidence)
        return point, Interval(low, high, confidence, "median of paired rounds, exact")


def race(
    contestants: Mapping[str, Callable[[], object]], effort: Effort = USUAL, on_event: OnEvent = silent
) -> Timings:
    """Time contestants in alternating rounds, after a warm-up.

    Each round gives every contestant a turn, in an order that rotates; a turn is as many calls as last some
    milliseconds. Rounds go on until the ratios to the first contestant are known to ``effort.precision``.

    Args:
        contestants: What to call, by name.
        effort: How long to measure.
        on_event: Told of each round.
    """
    calls = {name: _warm_up(call) for name, call in contestants.items()}
    times: dict[str, list[list[float]]] = {name: [] for name in contestants}
    names = list(contestants)
    started = time.perf_counter()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for done in range(1, effort.most_rounds + 1):
            for name in names[done % len(names) :] + names[: done % len(names)]:
                times[name].append(_turn(contestants[name], calls[name]))
            on_event(Event("measure latency", done, effort.most_rounds))
            if _enough(times, done, time.perf_counter() - started, effort):
                break
    finally:
        if collecting:
            gc.enable()
    return Timings(
        {name: np.concatenate([np.array(turn) for turn in turns]) for name, turns in times.items()},
        {name: np.array([np.median(turn) for turn in turns]) for name, turns in times.items()},
    )


def measurements(timings: Timings, name: str, batch_size: int, **conditions: object) -> list[Measurement]:
    """Return p50, p90, p99 and throughput of a contestant."""
    calls = timings.calls_ms[name]
    where = {"batch_size": batch_size, **conditions}
    found = [
        Measurement(f"latency_{label}_ms", float(np.percentile(calls, share)), "ms", "min", len(calls), None, where)
        for label, share in (("p50", 50), ("p90", 90), ("p99", 99))
    ]
    rate = 1000 * batch_size / float(np.median(calls))
    return [*found, Measurement("throughput_per_s", rate, "samples/s", "max", len(calls), None, where)]


def speedup(timings: Timings, name: str, against: str, batch_size: int, **conditions: object) -> Measurement:
    """Return how many times as fast a contestant is as another."""
    value, interval = timings.ratio(against, name)
    where = {"batch_size": batch_size, "against": against, **conditions}
    return Measurement("speedup", value, "x", "max", len(timings.rounds_ms[name]), interval, where)


def _warm_up(call: Callable[[], object]) -> int:
    """Call until times settle; return how many calls a turn takes."""
    spent, best, count = 0.0, float("inf"), 0
    while count < 2 or (spent < 3 * _ROUND_MS and count < _MOST_CALLS):
        (took,) = _turn(call, 1)
        spent, best, count = spent + took, min(best, took), count + 1
    return max(1, min(_MOST_CALLS, round(_ROUND_MS / max(best, 1e-6))))


def _turn(call: Callable[[], object], times: int) -> list[float]:
    """Return the milliseconds of each of some calls."""
    taken = []
    for _ in range(times):
        start = time.perf_counter_ns()
        call()
        taken.append((time.perf_counter_ns() - start) / 1e6)
    return taken


def _enough(times: Mapping[str, list[list[float]]], done: int, spent: float, effort: Effort) -> bool:
    if done < effort.rounds:
        return spent > 4 * effort.seconds and done >= max(_LEAST_ROUNDS, effort.rounds // 3)
    if spent > effort.seconds:
        return True
    if done % _CHECK_EVERY:
        return False
    rounds = {name: np.array([np.median(turn) for turn in turns]) for name, turns in times.items()}
    first, *others = rounds.values()
    for other in others:
        value, low, high = statistics.paired_ratio(first, other)
        if high - low > effort.precision * value:
            return False
    return True
