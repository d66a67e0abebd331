"""The report as Markdown: the verdict first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from whet.markup import Markdown, code
from whet.markup import escape_markdown as escaped
from whet.measure.measurement import Interval, Measurement
from whet.measure.quality import Comparison
from whet.measure.verdict import Verdict
from whet.report.beyond import class_table, confusion_table, sections
from whet.report.learned import sentences
from whet.report.tables import line, number
from whet.search.choice import pareto
from whet.search.outcome import Outcome
from whet.search.rows import Row, batch_sizes, rows, runtime_gain
from whet.trials.problem import Failure, Result, StepReport


def report(outcome: Outcome, figures: Sequence[Path]) -> str:
    """Return ``report.md``; figures are named relative to it."""
    lines = [f"# whet report: {escaped(outcome.original.name)}", ""]
    lines += _verdict(outcome)
    if outcome.warnings:
        lines += ["", "## Read this first", "", *(f"- {escaped(each)}" for each in outcome.warnings)]
    lines += ["", "## Candidates", "", *_table(outcome)]
    names = pareto(outcome.results)
    lines += ["", f"Beaten by no other in speed, size and quality at once: {', '.join(names) or 'none'}."]
    lines += ["", *_ranking(outcome)]
    lines += ["", "## What the runtime gave and what the compression gave", "", *_gains(outcome)]
    lines += ["", "## What each step cost", "", *_steps(outcome)]
    if outcome.proof is not None:
        lines += ["", f"## {escaped(outcome.proof.chosen)} on test", "", *_proof(outcome)]
    lines += sections(outcome)
    lines += ["", "## Figures", ""]
    lines += [f"![{path.stem}](figures/{path.name})" for path in figures]
    lines += ["", "## What we learned", "", *(f"- {sentence}" for sentence in sentences(outcome))]
    lines += ["", "## How it was measured", "", *_conditions(outcome), ""]
    return "\n".join(lines)


def candidate_page(result: Result, outcome: Outcome) -> str:
    """Return ``<recipe>-metrics.md``: every number of one candidate."""
    lines = [f"# {escaped(result.name)}", "", escaped(result.description), ""]
    if result.failure is not None:
        return "\n".join([*lines, _failed(result.failure), ""])
    if result.verdicts:
        lines += ["## Verdict", "", *_claims(result.verdicts), ""]
    if result.quality is not None:
        lines += [
            f"## Quality on {result.part}, {result.quality.samples} samples",
            "",
            "| metric | value |",
            "|---|---|",
        ]
        lines += [line(name, number(value)) for name, value in result.quality.scores.items()]
    if result.comparison is not None:
        lines += ["", "## Against the original", "", *_against(result.comparison, outcome.original.classes)]
    lines += ["", "## Numbers", "", "| metric | value | interval | unit | conditions |", "|---|---|---|---|---|"]
    lines += [_measurement(item) for item in result.measurements]
    lines += ["", "## Steps", "", *_step_table(result, outcome), ""]
    return "\n".join(lines)


def _verdict(outcome: Outcome) -> Iterator[str]:
    if outcome.proof is not None:
        samples = outcome.proof.comparison.samples
        yield f"**{outcome.answer}**: {code(outcome.proof.chosen)}, on {samples} test samples"
        yield "that decided nothing else, measured on the shipped file in a fresh process."
        yield ""
        yield from _claims(outcome.proof.verdicts)
        return
    yield f"**{outcome.answer}** over {len(outcome.results) - 1} recipes, each judged on the same test samples; the"
    yield "intervals hold for all of them at once, and none is chosen."
    for result in outcome.results[1:]:
        yield ""
        yield f"### {escaped(result.name)}"
        yield ""
        if result.failure is not None:
            yield _failed(result.failure)
        else:
            yield from _claims(result.verdicts)


def _claims(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield "| answer | claim | evidence | would be settled by |"
    yield "|---|---|---|---|"
    for item in verdicts:
        yield line(Markdown(f"**{item.answer}**"), item.claim, item.evidence, item.settled_by)


def _table(outcome: Outcome) -> Iterator[str]:
    sizes = batch_sizes(outcome)
    part = outcome.results[0].part if outcome.results else "select"
    heads = ["candidate", f"{outcome.original.metric} ({part})", "drop", *(f"ms, batch {size}" for size in sizes)]
    heads += [
        *(f"speed-up, batch {size}" for size in sizes),
        "bytes",
        "smaller",
        "deflated",
        "deflation",
        "peak memory",
    ]
    yield line(*heads)
    yield f"|{'---|' * len(heads)}"
    for row in rows(outcome):
        if row.failure:
            yield line(row.name, f"failed: {row.failure}", *[""] * (len(heads) - 2))
            continue
        name = Markdown(f"{escaped(row.name)} **(chosen)**") if row.chosen else row.name
        cells = [name, number(row.value), _drop(row)]
        cells += [number((row.latency_ms or {}).get(size)) for size in sizes]
        cells += [_ratio((row.speedup or {}).get(size)) for size in sizes]
        cells += [_bytes(row.size_bytes), _smaller(row, outcome), _bytes(row.deflated_bytes)]
        cells += [f"{row.deflation_percent:.0f} %" if row.deflation_percent is not None else "-"]
        cells += [f"{row.memory_bytes / 2**20:.0f} MiB" if row.memory_bytes else "-"]
        yield line(*cells)
    yield ""
    yield "Speed-ups are against the model as given; sizes against its weights in float32."


def _ranking(outcome: Outcome) -> Iterator[str]:
    if not outcome.ranking:
        return
    yield "## Why this one"
    yield ""
    for place, item in enumerate(outcome.ranking, 1):
        yield f"{place}. {code(item.name)}: {'' if item.eligible else '**rejected**: '}{escaped(item.reason)}"
    if outcome.not_tried:
        yield ""
        yield f"Not tried, for want of time: {escaped(', '.join(outcome.not_tried))}."


def _gains(outcome: Outcome) -> Iterator[str]:
    runtime = runtime_gain(outcome)
    yield "| candidate | batch | runtime alone | compression on top | together |"
    yield "|---|---|---|---|---|"
    for row in rows(outcome):
        for size, item in (row.speedup or {}).items():
            on_top = (row.speedup_float or {}).get(size)
            alone = _ratio(runtime.get(size)) if outcome.original.format != "onnx" else "1.00x (given as ONNX)"
            compression = _ratio(on_top) if on_top else (_ratio(item) if outcome.original.format == "onnx" else "-")
            yield line(row.name, str(size), alone, compression, _ratio(item))


def _steps(outcome: Outcome) -> Iterator[str]:
    metric = outcome.original.metric
    heads = ("candidate", "step", "format", f"{metric} (select)", "bytes", "ms, one call", "layers changed")
    yield line(*heads, "left alone")
    yield "|---|---|---|---|---|---|---|---|"
    for result in outcome.results:
        for step in result.steps:
            yield line(result.name, *_step(step))
    yield ""
    yield "Latencies of steps are quick looks, in the usual runtime of each format; claims rest on the paired ones."


def _step_table(result: Result, outcome: Outcome) -> Iterator[str]:
    metric = f"{outcome.original.metric} (select)"
    yield line("step", "format", metric, "bytes", "ms, one call", "changed", "left alone", "notes")
    yield "|---|---|---|---|---|---|---|---|"
    for step in result.steps:
        notes = "; ".join(
            f"{key} {_short(value)}" for key, value in step.notes.items() if not isinstance(value, dict)
        )
        yield line(*_step(step), notes)


def _step(step: StepReport) -> list[str]:
    """Return the cells of a step that both tables share."""
    numbers = [number(step.value), _bytes(step.size_bytes), number(step.latency_ms)]
    return [step.name, step.format, *numbers, str(step.changed), str(len(step.skipped))]


def _proof(outcome: Outcome) -> Iterator[str]:
    proof = outcome.proof
    assert proof is not None
    yield "| metric | as given | shipped |"
    yield "|---|---|---|"
    for name, value in proof.quality.scores.items():
        yield line(name, number(proof.original.scores.get(name)), number(value))
    yield ""
    yield from _against(proof.comparison, outcome.original.classes)
    yield from confusion_table(proof.original, proof.quality, outcome.original.classes)


def _against(compared: Comparison, names: Sequence[str] = ()) -> Iterator[str]:
    yield (
        f"{escaped(compared.metric)} {number(compared.before)} before, {number(compared.after)} after: worse by "
        f"{compared.drop:.4f} ({_limits(compared.interval)})."
    )
    if compared.lost is not None:
        yield f"{compared.lost} samples became wrong, {compared.won} became right."
    told = ", ".join(f"{name} {number(value)}" for name, value in compared.fidelity.items())
    yield f"Against the original's outputs: {escaped(told)}."
    if len(compared.changes) > 1:
        yield ""
        yield "| metric | before | after | worse by | limits, each metric alone |"
        yield "|---|---|---|---|---|"
        for each in compared.changes:
            drop = f"{each.drop:+.4f}{'' if each.bounded else ' of itself'}"
            yield line(each.metric, number(each.before), number(each.after), drop, _limits(each.interval))
    yield from class_table(compared, names)


def _conditions(outcome: Outcome) -> Iterator[str]:
    machine = outcome.machine
    told = f"{machine.cpu}, {machine.cores} cores ({' '.join(machine.flags)}), {machine.system}"
    yield f"- {escaped(told)}"
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    yield f"- {escaped(f'Python {machine.python}, {versions}')}"
    samples = ", ".join(f"{part} {count}" for part, count in outcome.original.splits.items())
    yield f"- samples: {escaped(samples)}"
    macs = f"{outcome.original.macs:,}" if outcome.original.macs is not None else "unknown"
    yield f"- the model as given: {outcome.original.parameters:,} parameters, {macs} MACs a sample"
    yield "- latency: blocks of alternating rounds, everything opened anew for each; the mean of their ratios, with"
    yield "  Student's interval over blocks"
    yield "- quality: paired sample by sample; limits are one-sided"
    yield f"- the whole took {outcome.seconds:.0f} s"


def _failed(failure: Failure) -> str:
    return escaped(f"Failed ({failure.kind}): {failure.message}")


def _drop(row: Row) -> str:
    if row.drop is None:
        return "-"
    return f"{row.drop:+.4f}" if row.interval is None else f"{row.drop:+.4f} ({_range(row.interval)})"


def _smaller(row: Row, outcome: Outcome) -> str:
    return f"{outcome.original.float_bytes / row.size_bytes:.2f}x" if row.size_bytes else "-"


def _ratio(item: Measurement | None) -> str:
    if item is None or item.value is None:
        return "-"
    return f"{item.value:.2f}x ({_range(item.interval)})" if item.interval else f"{item.value:.2f}x"


def _range(interval: Interval) -> str:
    low = "-inf" if interval.low is None else f"{interval.low:.3g}"
    high = "inf" if interval.high is None else f"{interval.high:.3g}"
    return f"{low} to {high}"


def _limits(interval: Interval) -> str:
    side = "one-sided" if interval.one_sided else "two-sided"
    return f"{interval.confidence:.1%} {side} limits {_range(interval)}, {escaped(interval.method)}"


def _measurement(item: Measurement) -> str:
    interval = _range(item.interval) if item.interval else ""
    told = ", ".join(f"{key} {value}" for key, value in item.conditions.items())
    return line(item.metric, number(item.value), interval, item.unit, told)


def _bytes(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
