"""The rows that tables and figures share: one a contestant, from saved results."""

from __future__ import annotations

from dataclasses import dataclass

from whet import markup
from whet.measure.measurement import Interval, Measurement, speedups, value_of
from whet.search.choice import speedup_of
from whet.search.outcome import Outcome
from whet.trials.problem import Result
from whet.trials.trial import FLOAT, ORIGINAL


@dataclass(frozen=True)
class Row:
    """One contestant in numbers; None where there is none.

    Attributes:
        name: ``original``, ``float`` or the candidate's.
        runtime: What ran it, and where.
        value: The task's metric; ``drop`` against the original, with ``interval``.
        latency_ms: p50 by batch size.
        speedup, speedup_float: By batch size, against the model as given, and against the same float model in the
            same runtime. ``overall`` is the geometric mean of the former, or of the latter where it
            was raced against that alone.
        size_bytes, deflated_bytes, deflation_percent, memory_bytes, load_ms, sparsity: As measured.
        failure: Instead of numbers.
        chosen: Whether it is what is shipped.
    """

    name: str
    runtime: str = ""
    value: float | None = None
    drop: float | None = None
    interval: Interval | None = None
    latency_ms: dict[int, float] | None = None
    speedup: dict[int, Measurement] | None = None
    speedup_float: dict[int, Measurement] | None = None
    overall: float | None = None
    size_bytes: float | None = None
    deflated_bytes: float | None = None
    deflation_percent: float | None = None
    memory_bytes: float | None = None
    load_ms: float | None = None
    sparsity: float | None = None
    failure: str | None = None
    chosen: bool = False


def rows(outcome: Outcome) -> list[Row]:
    """Return the original, the float model and every candidate, failed ones too."""
    found = [_original(outcome)]
    for result in outcome.results:
        found.append(_row(result, outcome))
    return found


def batch_sizes(outcome: Outcome) -> list[int]:
    """Return the batch sizes that were measured."""
    sizes = {
        int(item.conditions["batch_size"])
        for result in outcome.results
        for item in result.measurements
        if item.metric == "latency_p50_ms"
    }
    return sorted(sizes)


def in_html(outcome: Outcome) -> str:
    """Return the rows as a table for a notebook."""
    sizes, found = batch_sizes(outcome), []
    for row in rows(outcome):
        faster = [item and item.value for item in ((row.speedup or {}).get(size) for size in sizes)]
        found.append(
            [row.name, markup.number(row.value), markup.number(row.drop, "+.4f"),
             *(markup.number((row.latency_ms or {}).get(size)) for size in sizes),
             *(f"{value:.2f}x" if value else "" for value in faster),
             markup.number(row.size_bytes, ",.0f"), "chosen" if row.chosen else row.failure]
        )  # fmt: skip
    heads = ["candidate", outcome.original.metric, "drop", *(f"ms, batch {size}" for size in sizes)]
    heads += [*(f"faster, batch {size}" for size in sizes), "bytes", "remark"]
    return markup.table(heads, found, outcome.original.name)


def _original(outcome: Outcome) -> Row:
    """Return the model as given: its latencies are those of the float model's race."""
    source = outcome.results[0] if outcome.results else None
    numbers = source.measurements if source else ()
    quality = outcome.original.quality
    value = quality.scores.get(outcome.original.metric)
    if source is not None and source.part == "test" and source.comparison is not None:
        value = source.comparison.before
    return Row(
        ORIGINAL,
        runtime=str(outcome.original.format),
        value=value,
        drop=0.0,
        latency_ms=_by_size(numbers, "latency_p50_ms", contestant="original"),
        overall=1.0,
        size_bytes=float(outcome.original.float_bytes),
    )


def _row(result: Result, outcome: Outcome) -> Row:
    if result.failure is not None or result.comparison is None:
        failure = result.failure
        return Row(result.name, failure=f"{failure.kind}: {failure.message}" if failure else "no result")
    numbers = result.measurements
    return Row(
        result.name,
        runtime=str(result.steps[-1].format) if result.steps else "",
        value=result.comparison.after,
        drop=result.comparison.drop,
        interval=result.comparison.interval,
        latency_ms=_by_size(numbers, "latency_p50_ms", contestant="candidate"),
        speedup=_measured(numbers, "original"),
        speedup_float=_measured(numbers, "float"),
        overall=speedup_of(result) or speedup_of(result, "float"),
        size_bytes=value_of(numbers, "size_bytes"),
        deflated_bytes=value_of(numbers, "deflated_bytes"),
        deflation_percent=value_of(numbers, "deflation_percent"),
        memory_bytes=value_of(numbers, "peak_memory_bytes"),
        load_ms=value_of(numbers, "load_ms"),
        sparsity=value_of(numbers, "sparsity"),
        chosen=outcome.proof is not None and outcome.proof.chosen == result.name,
    )


def _by_size(numbers: tuple[Measurement, ...], metric: str, **conditions: object) -> dict[int, float]:
    return {
        int(item.conditions["batch_size"]): item.value
        for item in numbers
        if item.metric == metric
        and item.value is not None
        and all(item.conditions.get(key) == want for key, want in conditions.items())
    }


def _measured(numbers: tuple[Measurement, ...], against: str) -> dict[int, Measurement]:
    return {int(item.conditions["batch_size"]): item for item in speedups(numbers, against)}


def runtime_gain(outcome: Outcome) -> dict[int, Measurement]:
    """Return what the runtime alone gave, by batch size: the float model against the model as given."""
    baseline = outcome.result(FLOAT)
    if baseline is None or baseline.failure is not None:
        return {}
    return _measured(baseline.measurements, "original")
