"""Worlds whose losses are known, in which limits are tried: ``python tests/simulation/worlds.py`` prints the table.

A world draws what two models do on the same samples and tells, for each metric, whether the true drop lies above
the upper limit (a verdict at that very limit would be a false PASS) or below the lower one.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from whet.data.tasks import Custom, Similarity
from whet.measure import statistics
from whet.measure.changes import changes

Misses = dict[str, tuple[bool, bool]]  # by metric: the truth above the upper limit, below the lower one
_LIMITS = (0.95, 0.975)  # each side; two of the second make an interval at 95 %


@dataclass(frozen=True)
class World:
    """A name, and a function of (random numbers, samples, the confidences) that gives misses at each confidence."""

    name: str
    draw: Callable[[np.random.Generator, int], list[Misses]]


@dataclass(frozen=True)
class Row:
    """How often limits missed: above is a false PASS at the limit, both are of the interval at 95 % two-sided."""

    metric: str
    world: str
    n: int
    above: float
    below: float
    both: float
    tries: int

    @property
    def error(self) -> float:
        """Standard error of a rate of 5 %."""
        return math.sqrt(0.05 * 0.95 / self.tries)


def tried(world: World, n: int, tries: int, seed: int = 0) -> list[Row]:
    """Return a row for each metric of a world."""
    rng = np.random.default_rng([seed, n, *world.name.encode()])
    drawn = [world.draw(rng, n) for _ in range(tries)]
    rows = []
    for metric in drawn[0][0]:
        one, two = (np.array([found[at][metric] for found in drawn]) for at in (0, 1))
        above, below = one.mean(axis=0)
        rows.append(Row(metric, world.name, n, float(above), float(below), float(two.any(axis=1).mean()), tries))
    return rows


def missed(limits: tuple[float, float], truth: float) -> tuple[bool, bool]:
    """Tell on which side the truth lies outside; a drop that equals the upper limit passes."""
    return limits[1] <= truth - 1e-12, limits[0] >= truth + 1e-12


# Classifiers: each class's pairs are both right, lost, won or neither right with known probabilities.


def classes(name: str, shares: list[float], right: float, lost: list[float], won: list[float]) -> World:
    """Return a world of classes, each a share of the samples, with the chances that a pair is lost or won."""
    weights = np.array(shares) / sum(shares)
    a, b = np.array(lost), np.array(won)
    cells = np.stack([right - a, a, b, 1 - right - b], axis=1)

    def draw(rng: np.random.Generator, n: int) -> list[Misses]:
        sizes = np.maximum(rng.multinomial(n, weights), 1)
        tables = np.array([rng.multinomial(size, each) for size, each in zip(sizes, cells, strict=True)])
        return [_of_tables(tables, cells, weights, confidence, rng) for confidence in _LIMITS]

    return World(name, draw)


def _of_tables(tables, cells, weights, confidence, rng) -> Misses:
    _, lost, won, _ = tables.sum(axis=0)
    before, after = cells[:, 0] + cells[:, 1], cells[:, 0] + cells[:, 2]
    by_size = statistics.paired_difference(lost, won, tables.sum(), confidence)
    drawn = statistics.g_mean_difference(tables, confidence, int(rng.integers(2**31)))
    fall = float(np.exp(np.log(before).mean()) - np.exp(np.log(after).mean()))
    return {
        "accuracy": missed(by_size, float(weights @ (before - after))),
        "balanced_accuracy": missed(
            statistics.balanced_difference(tables, confidence), float((before - after).mean())
        ),
        "g_mean": missed(drawn, fall),
    }


# Regressors: the original's errors, and more on top of all or of some of them.


def _sign(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.choice([-1.0, 1.0], n)


NOISES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "Laplace": lambda rng, n: rng.laplace(size=n) / math.sqrt(2),
    "t, 5 d.f.": lambda rng, n: rng.standard_t(5, n) * math.sqrt(3 / 5),
    "lognormal": lambda rng, n: _sign(rng, n) * rng.lognormal(0, 0.6, n) / math.exp(0.6**2),
    "Pareto": lambda rng, n: _sign(rng, n) * (rng.pareto(3, n) + 1) / math.sqrt(3),
    "two-point": _sign,
}
"""Of variance 1. The squares of Pareto's, whose index is 3, have no variance."""


def errors(noise: str, growth: float, share: float = 1.0) -> World:
    """Return a world in which the RMSE grows by ``growth``, through a share of the samples."""
    extra = math.sqrt(((1 + growth) ** 2 - 1) / share)
    some = "all" if share == 1 else f"{share:.0%} of the"

    def spoilt(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        before = NOISES[noise](rng, n)
        return before, before + extra * NOISES[noise](rng, n) * (rng.random(n) < share)

    @cache
    def size() -> float:
        pairs = [spoilt(np.random.default_rng(seed), 10**6) for seed in range(4)]
        return float(np.mean([np.abs(b).mean() for _, b in pairs]) / np.mean([np.abs(a).mean() for a, _ in pairs]))

    def draw(rng: np.random.Generator, n: int) -> list[Misses]:
        """Ask whether the true ratio is within the limits: a sum that may be 0, as ``ratio_of_means`` asks."""
        before, after = spoilt(rng, n)
        found = []
        for confidence in _LIMITS:
            misses = {}
            for metric, power, ratio in (("rmse", 2, (1 + growth) ** 2), ("mae", 1, size())):
                sums = statistics.sum_limits(np.abs(after) ** power - ratio * np.abs(before) ** power, confidence)
                misses[metric] = missed(sums, 0.0)
            found.append(misses)
        return found

    return World(f"{noise} errors, {some} samples, +{growth:.0%}", draw)


# Pairs: latent scores, of which the original knows something and the candidate a little less.


def pairs(name: str, noise: str, less: float, share: float = 1.0, grid: float | None = None) -> World:
    """Return a world in which noise is added to the likeness of a share of the pairs; scores may lie on a grid."""

    def likeness(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        scores = rng.normal(size=n)
        before = 0.87 * scores + math.sqrt(1 - 0.87**2) * NOISES[noise](rng, n)
        after = before + less * NOISES[noise](rng, n) * (rng.random(n) < share)
        scores = scores if grid is None else np.clip(np.round((1.2 * scores + 2.5) / grid) * grid, 0, 5)
        return scores, np.tanh(before / 2), np.tanh(after / 2)

    @cache
    def truth() -> dict[str, float]:
        task, falls = Similarity(), []
        for seed in range(8):
            scores, before, after = likeness(np.random.default_rng(seed), 100_000)
            was, now = task.scores(sides(before), scores), task.scores(sides(after), scores)
            falls.append([was[name] - now[name] for name in was])
        return dict(zip(was, np.mean(falls, axis=0).tolist(), strict=True))

    def draw(rng: np.random.Generator, n: int) -> list[Misses]:
        scores, before, after = likeness(rng, n)
        return [
            {
                each.metric: missed((each.interval.low, each.interval.high), truth()[each.metric])
                for each in changes(Similarity(), sides(before), sides(after), scores, confidence)
            }
            for confidence in _LIMITS
        ]

    return World(name, draw)


def sides(cosines: np.ndarray) -> np.ndarray:
    """Return two unit vectors a pair, (N, 2, 2), with these cosines."""
    turned = np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1)
    return np.stack([np.tile([1.0, 0.0], (len(cosines), 1)), turned], axis=1)


# Metrics of a user's own: a share of hits, and a mean error.


def own(name: str, noise: str | None) -> World:
    """Return a world of a user's metric: hits, of which 2 % are lost and 1 % won, or a mean error that grows."""
    return World(name, partial(_own_hits) if noise is None else partial(_own_error, noise))


def _hit_share(outputs: np.ndarray, labels: np.ndarray) -> float:
    return float((outputs == labels).mean())


def _own_hits(rng: np.random.Generator, n: int) -> list[Misses]:
    fate = rng.choice(4, n, p=[0.87, 0.02, 0.01, 0.10])
    labels = rng.integers(0, 2, n)
    before, after = (np.where(np.isin(fate, hit), labels, 1 - labels) for hit in ((0, 1), (0, 2)))
    return _own_misses(Custom(_hit_share), (before, after, labels), 0.01)


def _mean_error(outputs: np.ndarray, labels: np.ndarray) -> float:
    return float(np.abs(outputs - labels).mean())


_mean_error.goal, _mean_error.bounded = "min", True  # type: ignore[attr-defined]


def _own_error(noise: str, rng: np.random.Generator, n: int) -> list[Misses]:
    labels = np.zeros(n)
    before = NOISES[noise](rng, n)
    after = before + 0.3 * NOISES[noise](rng, n)
    return _own_misses(Custom(_mean_error), (before, after, labels), _mean_growth(noise))


@cache
def _mean_growth(noise: str) -> float:
    rng = np.random.default_rng(0)
    grown = []
    for _ in range(10):
        before, more = NOISES[noise](rng, 10**6), NOISES[noise](rng, 10**6)
        grown.append(float((np.abs(before + 0.3 * more) - np.abs(before)).mean()))
    return float(np.mean(grown))


def _own_misses(task: Custom, arrays: tuple[np.ndarray, np.ndarray, np.ndarray], truth: float) -> list[Misses]:
    found = []
    for confidence in _LIMITS:
        (change,) = changes(task, *arrays, confidence)
        found.append({"a user's own": missed((change.interval.low, change.interval.high), truth)})
    return found


CLASSES = [
    classes("two classes, few lost, none won", [1, 1], 0.9, [0.01, 0.01], [0, 0]),
    classes("two classes, 3 % lost, 2 % won", [1, 1], 0.9, [0.03, 0.03], [0.02, 0.02]),
    classes("nine to one, the rare one loses 10 %", [9, 1], 0.8, [0.005, 0.10], [0.005, 0.02]),
    classes("ten classes, 3 % lost, 2 % won", [1] * 10, 0.9, [0.03] * 10, [0.02] * 10),
    classes("ten classes, one loses 10 %", [1] * 10, 0.9, [0.10] + [0.005] * 9, [0.02] + [0.005] * 9),
    classes("six uneven classes, 4 % lost, 2 % won", [1, 2, 4, 8, 16, 32], 0.85, [0.04] * 6, [0.02] * 6),
]
ERRORS = [
    *(errors(noise, growth) for noise in NOISES for growth in (0.02, 0.2)),
    errors("normal", 0.05, 0.2), errors("normal", 0.05, 0.05), errors("Laplace", 0.05, 0.05),
]  # fmt: skip
SPOILT = [
    *(errors(noise, 0.05, share) for noise in ("lognormal", "Pareto") for share in (0.05, 0.1, 0.2)),
    *(errors("two-point", 0.05, share) for share in (0.1, 0.2)),
]
FEW = [  # of a hundred samples fewer than three would hold the loss; of two-point errors, half of the spoilt win
    *(errors(noise, 0.05, 0.02) for noise in ("normal", "Laplace", "lognormal", "Pareto", "two-point")),
    errors("two-point", 0.05, 0.05),
]
PAIRS = [
    pairs("normal, a little noise", "normal", 0.1),
    pairs("normal, much noise", "normal", 0.3),
    pairs("t, 5 d.f., a little noise", "t, 5 d.f.", 0.1),
    pairs("scores 0 to 5 in steps of 0.2, Laplace", "Laplace", 0.1, grid=0.2),
    pairs("six scores alone, normal", "normal", 0.1, grid=1.0),
    pairs("a tenth of the pairs, much noise", "normal", 0.5, share=0.1),
]
OWN = [own("hits, 2 % lost, 1 % won", None), own("mean error, normal", "normal"), own("mean error, t", "t, 5 d.f.")]


PLANS: dict[str, tuple[list[World], dict[int, int]]] = {
    "classes": (CLASSES, {100: 2000, 300: 2000, 1000: 2000, 10_000: 2000}),
    "errors": (ERRORS, {100: 5000, 300: 4000, 1000: 3000, 10_000: 1500}),
    "spoilt": (SPOILT, {100: 5000, 300: 4000, 1000: 3000, 10_000: 1500}),
    "few": (FEW, {300: 4000, 1000: 3000, 10_000: 1500}),
    "pairs": (PAIRS, {100: 1500, 300: 1500, 1000: 1500, 10_000: 500}),
    "own": (OWN, {100: 750, 1000: 300}),
}
"""Worlds by kind, and how often each is tried at each size."""


def main(effort: float, kinds: list[str]) -> None:
    """Print tables of false PASS / false FAIL / interval holds, in %; with fewer draws than a verdict, for time.

    Args:
        effort: Share of the tries of PLANS.
        kinds: Of worlds; none means all.
    """
    statistics._DRAWN, statistics.bootstrap.__kwdefaults__["resamples"] = 40_000, 500
    for kind in kinds or PLANS:
        worlds, plan = PLANS[kind]
        tries = {n: round(effort * count) for n, count in plan.items()}
        print(f"\n| metric | world | {' | '.join(f'n = {n:,}, {count:,} tries' for n, count in tries.items())} |")
        print("|" + "---|" * (2 + len(tries)))
        for world in worlds:
            cells: dict[str, list[str]] = {}
            for n, count in tries.items():
                for row in tried(world, n, count):
                    told = (row.above, row.below, 1 - row.both)
                    cells.setdefault(row.metric, []).append(" / ".join(f"{100 * rate:.1f}" for rate in told))
            for metric, found in cells.items():
                print(f"| {metric} | {world.name} | {' | '.join(found)} |", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0, sys.argv[2:])
