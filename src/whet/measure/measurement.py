"""A number that was measured, and what it was measured under."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Interval:
    """Limits of a value.

    Attributes:
        low, high: The limits.
        confidence: That the truth lies between them; of each side alone where ``one_sided``.
        method: How they were found.
        one_sided: Whether the confidence is of each side alone.
    """

    low: float | None
    high: float | None
    confidence: float
    method: str
    one_sided: bool = False


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number.

    Attributes:
        metric: ``accuracy``, ``latency_ms``, ``size_bytes``.
        value: None where it could not be measured.
        unit: ``ms``, ``bytes``, ``share``, or empty.
        goal: Whether more or less is better, or neither.
        samples: Data samples, or calls, that it rests on.
        interval: Its limits, where it has any.
        conditions: ``{"batch_size": 1, "split": "select"}``.
    """

    metric: str
    value: float | None
    unit: str = ""
    goal: Literal["max", "min", ""] = ""
    samples: int = 0
    interval: Interval | None = None
    conditions: Mapping[str, Any] = field(default_factory=dict)


def find(measurements: Iterable[Measurement], metric: str, **conditions: Any) -> Measurement | None:
    """Return the first measurement of a metric under these conditions, or None."""
    for item in measurements:
        if item.metric == metric and all(item.conditions.get(key) == want for key, want in conditions.items()):
            return item
    return None


def speedups(measurements: Iterable[Measurement], against: str) -> list[Measurement]:
    """Return a candidate's own speed-ups against ``original`` or ``float``, one a batch size."""
    return [
        item
        for item in measurements
        if item.metric == "speedup"
        and item.conditions.get("against") == against
        and "contestant" not in item.conditions
    ]


def value_of(measurements: Iterable[Measurement], metric: str, **conditions: Any) -> float | None:
    """Return the value of the first such measurement, or None."""
    found = find(measurements, metric, **conditions)
    return None if found is None else found.value
