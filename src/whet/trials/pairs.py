"""Every two artifacts against each other on ``test``: quality sample by sample, speed in one race of all.

``run`` holds each recipe against the original alone. What one recipe is against another follows from no two such
intervals; here both are paired, and the limits hold for all pairs at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whet.data.data import Part
from whet.data.tasks import Classification
from whet.errors import DataError
from whet.measure import latency, statistics
from whet.measure.measurement import Measurement
from whet.measure.quality import Quality, assess
from whet.models.adapter import adapter_for
from whet.models.model import Model, Stored
from whet.progress import Event, OnEvent
from whet.trials.opened import Contestant, Judge, Opened, raced
from whet.trials.problem import Original, Problem

if TYPE_CHECKING:
    from whet.types import Array

CONFIDENCE = 0.95
"""That all limits of quality hold, and that all limits of speed do, two-sided."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two artifacts.

    Attributes:
        first, second: Their names.
        better: Share of right samples of the first less that of the second, from ``better_low`` to ``better_high``.
        only_first, only_second: Samples that one of them alone answers rightly.
        faster: How many times as fast the first is as the second, from ``faster_low`` to ``faster_high``; None
            where it bounds nothing.
    """

    first: str
    second: str
    better: float
    better_low: float
    better_high: float
    only_first: int
    only_second: int
    faster: float
    faster_low: float
    faster_high: float | None

    def turned(self) -> Pair:
        """Return the same, seen from the second."""
        return Pair(
            self.second, self.first, -self.better, -self.better_high, -self.better_low, self.only_second,
            self.only_first, 1 / self.faster, 1 / self.faster_high if self.faster_high else 0.0,
            1 / self.faster_low if self.faster_low else None,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contents:
    """What lies in a file, as far as deflating sees it.

    Attributes:
        entropy_bits: Of a byte of the whole file, by how often each of the 256 occurs; 0 to 8.
        repeated: Share of the file's runs of four bytes, at multiples of four, that occurred in it before.
        zeros: Share of the stored weights that are 0; None where there are none.
        values: Different values in an array of weights, the most of any.
    """

    entropy_bits: float
    repeated: float
    zeros: float | None
    values: int | None


@dataclass(frozen=True)
class Pairs:
    """What a round of all against all found.

    Attributes:
        samples: Of ``test``.
        original: Quality of the model as given on them.
        pairs: Each two, once.
        latency: Of one sample, by artifact, all in one race.
        contents: Of each file.
        blocks: Openings of every artifact in the race.
        rounds: In all blocks together.
        confidence: Of each pair alone, two-sided.
    """

    samples: int
    original: Quality
    pairs: tuple[Pair, ...]
    latency: Mapping[str, tuple[Measurement, ...]]
    contents: Mapping[str, Contents]
    blocks: int
    rounds: int
    confidence: float

    def of(self, first: str, second: str) -> Pair | None:
        """Return a pair, whichever way round it was found."""
        for pair in self.pairs:
            if (pair.first, pair.second) == (first, second):
                return pair
            if (pair.second, pair.first) == (first, second):
                return pair.turned()
        return None


def all_against_all(problem: Problem, original: Original, bundles: Mapping[str, Path], on_event: OnEvent) -> Pairs:
    """Compare every two bundles. Runs in a child.

    Args:
        problem: What the recipes were compared on.
        original: Its baseline.
        bundles: By the name of each; measured on ``test`` before.
        on_event: Told of progress.

    Raises:
        DataError: The task is none of right and wrong samples.
    """
    opened = Opened(problem, on_event)
    judge = opened.judge(original, Part.TEST)
    if not isinstance(judge.task, Classification):
        raise DataError(
            f"artifacts are compared in pairs by right and wrong samples, the task is {judge.task.name}"
        )
    on_event(Event("compare every two"))
    right = {name: _right(opened, judge, bundle) for name, bundle in bundles.items()}
    contestants = {name: opened.shipped(bundle) for name, bundle in bundles.items()}
    timings, _ = raced(contestants, opened.batch(1), latency.CAREFUL, on_event)
    confidence = statistics.family_confidence(CONFIDENCE, len(right) * (len(right) - 1) // 2)
    return Pairs(
        samples=len(judge.truth),
        original=assess(judge.task, opened.reference(original, Part.TEST), judge.truth),
        pairs=tuple(_pair(one, two, right, timings, confidence) for one, two in combinations(right, 2)),
        latency={name: tuple(latency.measurements(timings, name, 1)) for name in contestants},
        contents={name: contents(runs) for name, runs in contestants.items()},
        blocks=len(np.unique(timings.blocks)),
        rounds=len(timings.blocks),
        confidence=confidence,
    )


def _right(opened: Opened, judge: Judge, bundle: Path) -> Array:
    """Tell which samples a bundle answers rightly."""
    assert isinstance(judge.task, Classification)
    return judge.task.right(opened.kept(bundle, judge.output), judge.truth)


def _pair(one: str, two: str, right: Mapping[str, Array], timings: latency.Timings, confidence: float) -> Pair:
    count = len(right[one])
    only_one, only_two = int((right[one] & ~right[two]).sum()), int((~right[one] & right[two]).sum())
    low, high = statistics.paired_difference(only_one, only_two, count, (1 + confidence) / 2)
    ratio, limits = timings.ratio(two, one, confidence)
    assert limits.low is not None
    assert limits.high is not None
    most = limits.high if np.isfinite(limits.high) else None
    better = (only_one - only_two) / count
    return Pair(one, two, better, low, high, only_one, only_two, ratio, limits.low, most)


def contents(runs: Contestant) -> Contents:
    """Look into an artifact's file."""
    content = np.frombuffer(b"".join(path.read_bytes() for path in runs.stored.files()), np.uint8)
    arrays = _weights(runs.stored)
    total = sum(array.size for array in arrays)
    zeros = sum(array.size - int(np.count_nonzero(array)) for array in arrays)
    most = max((len(np.unique(array)) for array in arrays), default=None)
    return Contents(entropy_bits(content), repeated(content), zeros / total if total else None, most)


def _weights(stored: Stored) -> list[Array]:
    adapter = adapter_for(stored.format)
    return list(adapter.matrices(Model(stored.format, adapter.load(stored.path, stored.source))).values())


def entropy_bits(content: Array) -> float:
    """Return Shannon's entropy of the bytes (N,) of a file, each by itself, in bits a byte; 0 to 8.

    Source: Shannon 1948, "A mathematical theory of communication".
    """
    shares = np.array(list(Counter(content.tobytes()).values()), dtype=np.float64) / max(len(content), 1)
    return float(-(shares * np.log2(shares)).sum()) + 0.0 if len(shares) else 0.0


def repeated(content: Array) -> float:
    """Return the share of the runs of four bytes, at multiples of four, that occur in a file (N,) before."""
    words = content[: len(content) // 4 * 4].view(np.uint32)
    return 1 - len(np.unique(words)) / len(words) if len(words) else 0.0
