"""Latency: contestants run in turns, so that whatever the machine does, it does to all of them.

Two sessions of the very same file differ: by where their memory lies, and by which was opened first. Rounds of one
pair of sessions never show it. So a race is made of blocks, for each of which everything is opened anew, and the
block is the observation: the design of Kalibera and Jones 2013 ("Rigorous benchmarking in reasonable time", ISMM),
with the ratio taken inside the block.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.measure import statistics
from whet.measure.measurement import Interval, Measurement
from whet.progress import Event, OnEvent, silent

if TYPE_CHECKING:
    from whet.types import Array

_ROUND_MS = 8.0  # what one contestant's turn lasts at least, in as many calls as that takes
_MOST_CALLS = 64
_FEWEST_BLOCKS = 4  # fewer give an interval too wide to be of use
_LEAST_ROUNDS = 6  # of a block that stays alone: fewer bound no ratio at 95 %

Opener = Callable[[], AbstractContextManager[Callable[[], object]]]
"""Opens a contestant and gives what runs it once."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure.

    Attributes:
        blocks: Openings of every contestant: at least so many, unless they take twice the seconds.
        most_blocks: At most.
        rounds: In each block, unless they take more than the block's share of the seconds; one at least.
        seconds: Stop after so long once the least blocks are done.
        precision: Stop when every ratio's interval is narrower than this share of it.
    """

    blocks: int = 8
    most_blocks: int = 16
    rounds: int = 8
    seconds: float = 4.0
    precision: float = 0.05


QUICK = Effort(blocks=1, most_blocks=1, rounds=10, seconds=0.5)
"""For what is measured after every step."""
USUAL = Effort()
"""For candidates that are ranked."""
CAREFUL = Effort(blocks=12, most_blocks=40, rounds=8, seconds=10.0, precision=0.02)
"""For verdicts, and where measuring is all that was asked for."""


@dataclass(frozen=True, slots=True)
class Timings:
    """What a race yielded.

    Attributes:
        calls_ms: Every call of each contestant, in milliseconds.
        rounds_ms: (rounds,) the median call of each round, by contestant.
        blocks: (rounds,) the number of the block that each round belongs to.
        precision: What was asked: the width of a ratio's interval, as a share of it.
    """

    calls_ms: Mapping[str, Array]
    rounds_ms: Mapping[str, Array]
    blocks: Array
    precision: float = USUAL.precision

    def ratio(self, first: str, second: str, confidence: float = 0.95) -> tuple[float, Interval]:
        """Return how many times as long ``first`` takes as ``second``, with an interval over blocks.

        A block says the median of its rounds' ratios. One block alone has its rounds to go by: their interval
        leaves out how far one opening differs from the next.
        """
        ours, theirs = self.rounds_ms[first], self.rounds_ms[second]
        numbers = np.unique(self.blocks)
        if len(numbers) == 1:
            point, low, high = statistics.paired_ratio(ours, theirs, confidence)
            return point, Interval(low, high, confidence, "median of paired rounds of one opening, exact")
        ratios = np.array([np.median((ours / theirs)[self.blocks == number]) for number in numbers])
        point, low, high = statistics.mean_ratio(ratios, confidence)
        return point, Interval(low, high, confidence, "mean of paired blocks, Student's t")

    def noise(self, first: str, second: str) -> str | None:
        """Say how far a ratio is known where that is less than was asked; None where all is well."""
        point, interval = self.ratio(first, second)
        assert interval.low is not None
        assert interval.high is not None
        width = (interval.high - interval.low) / point
        return f"known to {width:.1%}, {self.precision:.1%} was asked" if width > self.precision else None


def race(contestants: Mapping[str, Opener], effort: Effort = USUAL, on_event: OnEvent = silent) -> Timings:
    """Time contestants in blocks of alternating rounds.

    For each block every contestant is opened anew, in a random order that the next block reverses, and warmed up.
    Each round gives every contestant a turn, in an order that rotates; a turn is as many calls as last some
    milliseconds. Blocks go on until the ratios to the first contestant are known to ``effort.precision``. What
    opens so slowly that the blocks would take too long is opened once.

    Args:
        contestants: What opens each, by name.
        effort: How long to measure.
        on_event: Told of each block.
    """
    found: list[_Block] = []
    order, drawn = list(contestants), np.random.default_rng(0)
    alone = effort.most_blocks == 1 or _opens_slowly(contestants, effort)
    started = time.perf_counter()
    while True:
        order = order[::-1] if len(found) % 2 else [list(contestants)[at] for at in drawn.permutation(len(order))]
        found.append(_block(contestants, order, effort, alone=alone))
        timings = _timings(found, effort)
        on_event(Event("measure latency", len(found), effort.most_blocks))
        if alone or _enough(timings, len(found), time.perf_counter() - started, effort):
            return timings


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
    """Return how many times as fast a contestant is as another.

    Its conditions count the blocks, and say in ``noise`` how far it is known where that is less than was asked.
    """
    value, interval = timings.ratio(against, name)
    where: dict[str, Any] = {"batch_size": batch_size, "against": against, **conditions}
    where["blocks"] = len(np.unique(timings.blocks))
    if noise := timings.noise(against, name):
        where["noise"] = noise
    return Measurement("speedup", value, "x", "max", len(timings.rounds_ms[name]), interval, where)


@dataclass(frozen=True, slots=True)
class _Block:
    """What was timed while all stayed open, as Timings has it."""

    calls_ms: Mapping[str, Array]
    rounds_ms: Mapping[str, Array]


def _opens_slowly(contestants: Mapping[str, Opener], effort: Effort) -> bool:
    """Tell whether opening all takes more than half of the seconds, even when whatever it imports is there."""
    for _ in range(2):
        started = time.perf_counter()
        with ExitStack() as stack:
            for opener in contestants.values():
                stack.enter_context(opener())
        if time.perf_counter() - started <= effort.seconds / 2:
            return False
    return True


def _block(contestants: Mapping[str, Opener], order: Sequence[str], effort: Effort, *, alone: bool) -> _Block:
    """Open contestants in an order, warm them up, and let them run in turns: ``alone``, in all the rounds."""
    turns: dict[str, list[list[float]]] = {name: [] for name in contestants}
    least, most, seconds = 1, effort.rounds, effort.seconds / effort.blocks
    if alone:
        least, most, seconds = _LEAST_ROUNDS, effort.blocks * effort.rounds, effort.seconds
    with ExitStack() as stack:
        calls = {name: stack.enter_context(contestants[name]()) for name in order}
        with _no_garbage_collection():
            lasting = {name: _warm_up(call) for name, call in calls.items()}
            started = time.perf_counter()
            for done in range(max(least, most)):
                if done >= least and time.perf_counter() - started > seconds:
                    break
                first = done % len(order)
                for name in (*order[first:], *order[:first]):
                    turns[name].append(_turn(calls[name], lasting[name]))
    return _Block(
        {name: np.concatenate([np.array(turn) for turn in each]) for name, each in turns.items()},
        {name: np.array([np.median(turn) for turn in each]) for name, each in turns.items()},
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Collect no garbage meanwhile; afterwards only where it was collected before."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def _timings(blocks: Sequence[_Block], effort: Effort) -> Timings:
    """Put the blocks of a race one after the other."""
    names = blocks[0].calls_ms
    lengths = [len(next(iter(block.rounds_ms.values()))) for block in blocks]
    return Timings(
        {name: np.concatenate([block.calls_ms[name] for block in blocks]) for name in names},
        {name: np.concatenate([block.rounds_ms[name] for block in blocks]) for name in names},
        np.repeat(np.arange(len(blocks)), lengths),
        effort.precision,
    )


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


def _enough(timings: Timings, done: int, spent: float, effort: Effort) -> bool:
    if done < effort.blocks:
        return done >= _FEWEST_BLOCKS and spent > 2 * effort.seconds
    if done >= effort.most_blocks or spent > effort.seconds:
        return True
    first, *others = timings.rounds_ms
    return all(timings.noise(first, other) is None for other in others)
