"""What we learned: sentences, each backed by a number of this run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from whet.markup import code
from whet.markup import escape_markdown as escaped
from whet.measure.measurement import Measurement
from whet.measure.quality import Comparison
from whet.report import beyond
from whet.search.outcome import Outcome
from whet.search.rows import Row, rows, runtime_gain
from whet.trials.problem import Result, StepReport
from whet.trials.trial import FLOAT

_NOTABLE = 0.005  # of a drop


def sentences(outcome: Outcome) -> list[str]:
    """Return what the numbers of a run say, the most useful first."""
    table = [row for row in rows(outcome) if row.failure is None]
    candidates = [row for row in table if row.name not in ("original", FLOAT)]
    return [
        *_runtime(outcome),
        *_best(candidates),
        *_slower(candidates),
        *_noise(outcome),
        *_classes(outcome),
        *_look(outcome),
        *_steps(outcome),
        *_sparsity(outcome),
        *_layer_types(outcome),
        *_skipped(outcome),
        *_export(outcome),
        *_failures(outcome),
    ]


def _runtime(outcome: Outcome) -> Iterator[str]:
    gains = runtime_gain(outcome)
    if gains and outcome.original.format != "onnx":
        told = " and ".join(f"{item.value:.2f}x at batch {size}" for size, item in gains.items())
        yield f"The runtime alone, without any compression, gave {told} over the model as given."


def _best(candidates: list[Row]) -> Iterator[str]:
    timed = [row for row in candidates if row.speedup_float]
    if timed:
        fastest = max(timed, key=lambda row: row.overall or 0.0)
        told = " and ".join(
            f"{item.value:.2f}x at batch {size}" for size, item in (fastest.speedup_float or {}).items()
        )
        yield (
            f"The fastest candidate, {code(fastest.name)}, gave {told} over the float model in the same runtime, "
            f"at a drop of {fastest.drop:.4f}."
        )
    sized = [row for row in candidates if row.size_bytes]
    if sized:
        smallest = min(sized, key=lambda row: row.size_bytes or 0.0)
        yield (
            f"The smallest file, of {code(smallest.name)}, takes {smallest.size_bytes:,.0f} bytes "
            f"({smallest.deflated_bytes:,.0f} deflated), at a drop of {smallest.drop:.4f}."
        )


def _slower(candidates: list[Row]) -> Iterator[str]:
    """Name what made the model slower than the float model in the same runtime, beyond the measurement's doubt."""
    for row in candidates:
        for size, item in (row.speedup_float or {}).items():
            if item.interval is not None and item.interval.high is not None and item.interval.high < 1:
                yield (
                    f"{code(row.name)} is slower than the float model at batch {size}: {item.value:.2f}x "
                    f"({item.interval.low:.2f} to {item.interval.high:.2f})."
                )


def _classes(outcome: Outcome) -> Iterator[str]:
    """Name the classes that changed beyond doubt, of what is shipped, or of every recipe judged on test."""
    judged: list[tuple[str, Comparison]] = []
    if outcome.proof is not None:
        judged = [(outcome.proof.chosen, outcome.proof.comparison)]
    elif outcome.kind == "run":
        judged = [
            (item.name, item.comparison) for item in outcome.results if item.comparison and item.name != FLOAT
        ]
    for name, compared in judged:
        for item in beyond.largest(compared.classes):
            if beyond.beyond_doubt(item):
                label = escaped(beyond.class_name(item.label, outcome.original.classes))
                yield (
                    f"With {code(name)} the class {label} is {beyond.beyond_doubt(item)} beyond doubt: its "
                    f"sensitivity went from {item.before:.4f} to {item.after:.4f} on {item.samples} samples "
                    f"(worse by {item.interval.low:+.4f} to {item.interval.high:+.4f}, all classes at once)."
                )


def _look(outcome: Outcome) -> Iterator[str]:
    """Say what flipped, and what corrupted inputs cost."""
    if outcome.flips is not None and outcome.flips.differing:
        yield beyond.flips_in_words(outcome.flips)
    if outcome.robustness is not None:
        yield from map(escaped, beyond.robustness_in_words(outcome.robustness))


def _noise(outcome: Outcome) -> Iterator[str]:
    """Say how many speed-ups are known less exactly than was asked, or rest on a single opening."""
    timed = [(result.name, item) for result in outcome.results for item in result.measurements]
    if outcome.proof is not None:
        timed += [(outcome.proof.chosen, item) for item in outcome.proof.measurements]
    timed = [(name, item) for name, item in timed if item.metric == "speedup"]
    noisy = [(name, item) for name, item in timed if "noise" in item.conditions]
    if noisy:
        name, worst = max(noisy, key=lambda pair: _width(pair[1]))
        noise = escaped(str(worst.conditions["noise"]))
        yield (
            f"The machine was noisy: {len(noisy)} of {len(timed)} speed-ups are known less exactly than was asked, "
            f"the least that of {code(name)} at batch {worst.conditions['batch_size']} ({noise})."
        )
    once = sum(item.conditions.get("blocks") == 1 for _, item in timed)
    if once:
        yield (
            f"{once} of {len(timed)} speed-ups rest on a single opening of what they compare, which takes long: "
            f"how far one opening differs from the next is not in their intervals."
        )


def _width(item: Measurement) -> float:
    """Return the width of a ratio's interval, as a share of it."""
    limits = item.interval
    if limits is None or limits.low is None or limits.high is None or not item.value:
        return math.inf
    return (limits.high - limits.low) / item.value


def _steps(outcome: Outcome) -> Iterator[str]:
    """Name the steps that cost quality."""
    told = set()
    for result in outcome.results:
        for before, after in _pairs(result):
            if before.value is None or after.value is None or after.key in told:
                continue
            lost = (before.value - after.value) * (-1 if outcome.original.goal == "min" else 1)
            if outcome.original.goal == "min" and before.value:
                lost /= before.value
            if lost > _NOTABLE:
                told.add(after.key)
                metric = escaped(outcome.original.metric)
                yield (
                    f"In {code(result.name)}, the step {code(after.name)} cost {lost:.4f} of {metric} "
                    f"({before.value:.4f} to {after.value:.4f} on the samples candidates are ranked by)."
                )


def _sparsity(outcome: Outcome) -> Iterator[str]:
    """Say what zeros saved: time hardly, deflated bytes yes."""
    for result in outcome.results:
        for before, after in _pairs(result):
            share = after.notes.get("sparsity")
            if share is None or not before.latency_ms or not after.latency_ms:
                continue
            saved = after.size_bytes < 0.99 * before.size_bytes or after.latency_ms < 0.95 * before.latency_ms
            lesson = "" if saved else ": unstructured zeros save neither; they save deflated bytes"
            yield (
                f"In {code(result.name)}, {share:.0%} zeros left the file at {after.size_bytes:,} bytes "
                f"({before.size_bytes:,} before) and one call at {after.latency_ms:.3f} ms "
                f"({before.latency_ms:.3f} before){lesson}."
            )


def _layer_types(outcome: Outcome) -> Iterator[str]:
    """Say which layer types lost most of their weights' signal to quantization or pruning."""
    told = set()
    for result in outcome.results:
        for step in result.steps:
            by_type = step.notes.get("weight_sqnr_db_by_type")
            if not by_type or step.key in told:
                continue
            told.add(step.key)
            listed = ", ".join(
                f"{kind} {value:.1f} dB" for kind, value in sorted(by_type.items(), key=lambda kv: kv[1])
            )
            where = f"{code(step.name)} in {code(result.name)}"
            yield f"{where} left the weights a signal-to-noise ratio of: {escaped(listed)}."


def _skipped(outcome: Outcome) -> Iterator[str]:
    """Say what was left alone and why, but for what the recipe itself excluded or what has no such part."""
    told = set()
    for result in outcome.results:
        for step in result.steps:
            reasons = Counter(item.reason for item in step.skipped if not _wanted(item.reason))
            for reason, count in reasons.items():
                if (step.name, reason) not in told:
                    told.add((step.name, reason))
                    layers = "layer" if count == 1 else "layers"
                    where = f"{code(step.name)} in {code(result.name)}"
                    yield f"{where} left {count} {layers} alone: {escaped(reason)}."


def _wanted(reason: str) -> bool:
    return any(words in reason for words in ("matrix or kernel", "excluded by", "float_edges", "has no Softmax"))


def _export(outcome: Outcome) -> Iterator[str]:
    if outcome.original.float_failure:
        reason = escaped(outcome.original.float_failure).rstrip(".")
        yield f"The model of {outcome.original.parameters:,} parameters could not be exported to ONNX: {reason}."
    for result in outcome.results:
        for step in result.steps:
            if step.name == "export-onnx":
                off = step.notes.get("max_rel_difference", 0.0)
                flushed = step.notes.get("subnormals_flushed", 0)
                yield (
                    f"The export to ONNX reproduces the model to {off:.1e} of its greatest output; "
                    f"{flushed} subnormal weights were set to zero."
                )
                return


def _failures(outcome: Outcome) -> Iterator[str]:
    for result in outcome.results:
        if result.failure is not None:
            reason = escaped(result.failure.message).rstrip(".")
            kind = escaped(result.failure.kind)
            yield f"{code(result.name)} failed after {result.seconds:.0f} s ({kind}): {reason}."


def _pairs(result: Result) -> Iterator[tuple[StepReport, StepReport]]:
    yield from zip(result.steps, result.steps[1:], strict=False)
