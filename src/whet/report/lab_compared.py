"""How optimizations compare, in sentences: each is chosen by the numbers, and says them with their limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

from whet.report.lab_results import BASE, Shelf, Variant
from whet.trials.pairs import Pair

FAMILIES = ("quantization", "pruning", "clustering")


def quality(shelf: Shelf) -> Iterator[str]:
    """Compare the most accurate variants of the optimizations, and all files with the original."""
    best = _best(shelf, lambda item: (item.accuracy, speed(item)))
    if best:
        told = ", ".join(f"{item.family} `{item.name}` ({item.accuracy:.4f})" for item in best)
        yield f"The most accurate variant of each optimization: {told}."
    for one, two in combinations(best, 2):
        yield _more_accurate(shelf.pair(one.name, two.name))
    yield from _lost(shelf)


def _more_accurate(pair: Pair) -> str:
    """Say which of two is better, or that the pictures do not tell."""
    pair = pair if pair.better >= 0 else pair.turned()
    told = f"by {pair.better:.4f} of accuracy ({pair.better_low:+.4f} to {pair.better_high:+.4f})"
    counted = f"right alone on {pair.only_first} pictures, the other on {pair.only_second}"
    if pair.better_low > 0:
        return f"`{pair.first}` is better than `{pair.second}` {told}: {counted}."
    return f"`{pair.first}` and `{pair.second}` are not told apart: the former is better {told}; {counted}."


def _lost(shelf: Shelf) -> Iterator[str]:
    """Say which files answer worse than the model as given beyond doubt, which better, and of which it is open."""
    limits = {
        item.name: (item.interval.low, item.interval.high) for item in shelf.files if item.interval is not None
    }
    worse = [item for item in shelf.files if (limits.get(item.name, (None, None))[0] or 0.0) > 0]
    better = [item for item in shelf.files if (limits.get(item.name, (None, 0.0))[1] or 0.0) < 0]
    rest = [item for item in shelf.files if item not in worse and item not in better]
    if worse:
        yield f"Worse than the original beyond doubt: {_drops(worse)}."
    if better:
        yield f"Better than the original beyond doubt: {_drops(better)}."
    if rest:
        yield f"Not told apart from the original in accuracy: {_drops(rest)}."


def _drops(items: Sequence[Variant]) -> str:
    found = []
    for item in sorted(items, key=lambda one: one.drop or 0.0):
        assert item.interval is not None
        low, high = item.interval.low, item.interval.high
        limits = f"{'-inf' if low is None else f'{low:+.4f}'} to {'inf' if high is None else f'{high:+.4f}'}"
        found.append(f"`{item.name}` (worse by {item.drop:+.4f}, {limits})")
    return ", ".join(found)


def speeds(shelf: Shelf) -> Iterator[str]:
    """Compare the fastest variants of the optimizations with the FP32 file, and two and two."""
    if shelf.base is None:
        return
    if shelf.against_keras is not None and shelf.against_keras.interval is not None:
        keras, limits = shelf.against_keras, shelf.against_keras.interval
        yield (
            f"The conversion alone made the Keras model {keras.value:.2f} times as fast as called from Python "
            f"({_times(limits.low)} to {_times(limits.high)}): `{BASE}` against `original`."
        )
    best = _best(shelf, lambda item: (speed(item), item.accuracy))
    for item in best:
        yield f"The fastest of {item.family}: {_against(shelf.pair(item.name, BASE))}"
    for one, two in combinations(best, 2):
        pair = shelf.pair(one.name, two.name)
        yield _against(pair if pair.faster >= 1 else pair.turned())


def _against(pair: Pair) -> str:
    """Say how fast one is against another, or that the race does not tell."""
    told = f"{pair.faster:.2f} times as fast ({_times(pair.faster_low)} to {_times(pair.faster_high)})"
    if pair.faster_low > 1:
        return f"`{pair.first}` is faster than `{pair.second}`, {told}."
    if pair.faster_high is not None and pair.faster_high < 1:
        return f"`{pair.first}` is slower than `{pair.second}`, {told}."
    return f"`{pair.first}` and `{pair.second}` are not told apart in speed: the former is {told}."


def _times(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.2f}"


def speed(item: Variant) -> float:
    """Return how many times as fast as the FP32 file a file is."""
    return item.faster.faster if item.faster is not None else 1.0


def _best(shelf: Shelf, worth: Callable[[Variant], tuple[float, float]]) -> list[Variant]:
    """Return the best variant of each optimization that has any."""
    return [max(found, key=worth) for family in FAMILIES if (found := shelf.of(family))]


def dominance(shelf: Shelf) -> Iterator[str]:
    """Say whether one file is better, faster and smaller than all others beyond noise, and else what hinders."""
    if shelf.pairs is None or len(shelf.files) < 2:
        yield "Fewer than two files were measured: none dominates another."
        return
    for item in shelf.files:
        others = [other for other in shelf.files if other is not item]
        if all(_beats(shelf, item, other) for other in others):
            yield f"`{item.name}` dominates: better, faster and smaller than each of the {len(others)} others."
            yield from (f"Against `{other.name}`: {_margins(shelf, item, other)}." for other in others)
            return
    yield from _hindered(shelf)


def _beats(shelf: Shelf, item: Variant, other: Variant) -> bool:
    pair = shelf.pair(item.name, other.name)
    return pair.better_low > 0 and pair.faster_low > 1 and item.size_bytes < other.size_bytes


def _margins(shelf: Shelf, item: Variant, other: Variant) -> str:
    pair = shelf.pair(item.name, other.name)
    return (
        f"accuracy better by {pair.better:.4f} (at least {pair.better_low:.4f}), {pair.faster:.2f} times as fast "
        f"(at least {pair.faster_low:.2f}), {item.size_bytes:,.0f} bytes to {other.size_bytes:,.0f}"
    )


def _hindered(shelf: Shelf) -> Iterator[str]:
    """Say who leads in what, and from how many others that is not told apart."""
    accurate = max(shelf.files, key=lambda item: item.accuracy)
    fast = max(shelf.files, key=speed)
    small = min(shelf.files, key=lambda item: item.size_bytes)
    if accurate is fast is small:
        yield f"`{small.name}` leads in accuracy, speed and size, but does not dominate beyond noise."
    else:
        yield (
            f"No variant dominates: highest in accuracy is `{accurate.name}` ({accurate.accuracy:.4f}), in speed "
            f"`{fast.name}` ({speed(fast):.2f} times `{BASE}`), and the smallest file is `{small.name}` "
            f"({small.size_bytes:,.0f} bytes)."
        )
    yield _told_apart(shelf, accurate, "accuracy", lambda pair: pair.better_low > 0)
    yield _told_apart(shelf, fast, "speed", lambda pair: pair.faster_low > 1)


def _told_apart(shelf: Shelf, leader: Variant, what: str, ahead: Callable[[Pair], bool]) -> str:
    """Say from which others a leader is told apart."""
    others = [item.name for item in shelf.files if item is not leader]
    near = [name for name in others if not ahead(shelf.pair(leader.name, name))]
    if not near:
        return f"In {what} `{leader.name}` is ahead of all {len(others)} others beyond noise."
    told = ", ".join(f"`{name}`" for name in near)
    return f"In {what} `{leader.name}` is not told apart from {len(near)} of {len(others)} others: {told}."
