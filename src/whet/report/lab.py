"""A laboratory's pages: one a variant, and the summary. Written from saved results alone."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np

from whet.markup import Markdown, escape_markdown
from whet.measure.measurement import Interval
from whet.report import lab_compared, lab_sizes
from whet.report.lab_results import BASE, ORIGINAL, RUN, Laboratory, Shelf, Variant, load, shelf
from whet.report.tables import line, number
from whet.search.outcome import Outcome
from whet.storage import write_text
from whet.trials.pairs import CONFIDENCE, Pair

_METRICS = {
    "accuracy": "accuracy",
    "precision": "precision (macro)",
    "sensitivity": "sensitivity (macro)",
    "g_mean": "G-mean",
    "f1": "F1 (macro)",
}
_ALSO = {"balanced_accuracy": "sensitivity"}  # two names of one number


def write(folder: Path) -> Path:
    """Write the pages and pictures of every variant, and ``summary.md``; return its path.

    Raises:
        RunFolderError: The folder holds no results of a laboratory.
    """
    lab, outcome = load(folder)
    found = shelf(lab, outcome)
    for item in (found.original, *found.files, *found.failed):
        write_text(folder / f"{item.name}-metrics.md", page(item, found))
    drawn = importlib.util.find_spec("matplotlib") is not None
    if drawn:
        _draw(folder, found)
    text = summary(lab, outcome, found)
    if not drawn:
        text += "\nPictures of confusion matrices need matplotlib: pip install 'whet[report]'\n"
    write_text(folder / "summary.md", text)
    return folder / "summary.md"


def _draw(folder: Path, found: Shelf) -> None:
    """Draw a confusion matrix a variant."""
    from whet.report.figures import confusion_matrix

    for item in (found.original, *found.files):
        if item.quality is not None and item.quality.confusion is not None:
            counts = np.array(item.quality.confusion)
            title = f"{item.name}, accuracy {item.accuracy:.4f}"
            confusion_matrix(folder / f"{item.name}-confusion-matrix.png", counts, found.names, title)


def page(item: Variant, found: Shelf) -> str:
    """Return ``<name>-metrics.md``: the numbers of one variant, with their limits where they have any."""
    lines = [f"# {escape_markdown(item.name)}", ""]
    if item.failure:
        return "\n".join([*lines, f"It failed: {escape_markdown(item.failure)}", ""])
    if item.quality is None:
        return "\n".join([*lines, "It was not measured on the test pictures: no file was made of it.", ""])
    lines += [f"On {item.quality.samples:,} test pictures.", "", "| metric | value | against the original |"]
    lines += ["|---|---|---|"]
    changes = {_ALSO.get(change.metric, change.metric): change for change in item.changes}
    for key, label in _METRICS.items():
        change = changes.get(key)
        told = f"worse by {change.drop:+.4f} ({_limits(change.interval)})" if change else ""
        lines.append(line(label, _share(item.quality.scores.get(key)), told))
    lines += list(_speed_lines(item, found))
    lines += list(_size_lines(item, found))
    if item.name == ORIGINAL:
        lines += ["", "This is the Keras model as given, called in Keras; the others are TFLite files in LiteRT."]
    else:
        lines += ["", "Limits are one-sided, each metric alone; those of accuracy hold for all variants at once."]
    return "\n".join([*lines, ""])


def _speed_lines(item: Variant, found: Shelf) -> Iterator[str]:
    if item.latency_ms is not None:
        yield line("inference time, one picture", f"{number(item.latency_ms.value)} ms", _ratio(item, found))


def _ratio(item: Variant, found: Shelf) -> str:
    """Return how fast a variant is: a file against the FP32 file, that against the Keras model."""
    if item.faster is not None:
        return Markdown(f"{_speed(item.faster)} as fast as `{BASE}`")
    keras = found.against_keras
    if item.name == BASE and keras is not None and keras.interval is not None:
        limits = _range(keras.interval.low, keras.interval.high)
        return Markdown(f"{keras.value:.2f}x ({limits}) as fast as `{ORIGINAL}`")
    return ""


def _size_lines(item: Variant, found: Shelf) -> Iterator[str]:
    if not item.size_bytes:
        return
    base = found.base
    raw = f"{lab_sizes.smaller(item, base):.2f} times smaller than `{BASE}`" if base else ""
    packed = f"{lab_sizes.smaller_deflated(item, base):.2f} times smaller than `{BASE}` deflated" if base else ""
    yield line("size", f"{item.size_bytes:,.0f} bytes", Markdown(raw))
    yield line("deflated size", f"{item.deflated_bytes:,.0f} bytes", Markdown(packed))
    yield line("deflation", f"{item.deflation_percent:.0f} %", "")


def summary(lab: Laboratory, outcome: Outcome, found: Shelf) -> str:
    """Return ``summary.md``."""
    lines = [f"# Laboratory: {escape_markdown(outcome.original.name)}", "", *_what(lab, outcome)]
    if lab.notes:
        lines += ["", "## Read this first", "", *(f"- {escape_markdown(note)}" for note in lab.notes)]
    lines += ["", "## All variants", "", *_variants(found)]
    lines += ["", "## How quantization, pruning and clustering compare", "", "In quality:", ""]
    lines += _bullets(lab_compared.quality(found))
    lines += ["", "In speed:", "", *_bullets(lab_compared.speeds(found))]
    lines += ["", "## How many times smaller", "", *_bullets(lab_sizes.sizes(found))]
    lines += ["", "## What deflation rewards", "", *_bullets(lab_sizes.deflation(found)), "", *_contents(found)]
    lines += ["", "## What shrinks the file, and what only a zip", "", *_bullets(lab_sizes.shrinks(found))]
    lines += ["", "## Does one dominate?", "", *_bullets(lab_compared.dominance(found))]
    lines += ["", "## Every two files", "", *_pairs(found)]
    lines += ["", "## How it was measured", "", *_how(lab, outcome, found), ""]
    return "\n".join(lines)


def _bullets(sentences: Iterable[str]) -> list[str]:
    return [f"- {sentence}" for sentence in sentences] or ["- Nothing was measured that would tell."]


def _what(lab: Laboratory, outcome: Outcome) -> Iterator[str]:
    yield f"{outcome.original.parameters:,} parameters, {len(outcome.original.classes)} classes:"
    yield f"{escape_markdown(', '.join(outcome.original.classes))}."
    share = "all" if lab.pictures == lab.pictures_of else f"{lab.pictures:,} of {lab.pictures_of:,}"
    count = f"{lab.pictures:,} test pictures" if share == "all" else f"{share} test pictures"
    yield f"Measured on {count} (fraction {lab.fraction:g}), on each file as shipped, in LiteRT."
    yield f"Pruned and clustered variants were trained in Keras for {lab.epochs:g} epochs of"
    yield f"{lab.trained_on:,} pictures, {lab.batch} a step, towards the original's outputs."
    yield f"A picture goes in as {escape_markdown(lab.input)}."


def _variants(found: Shelf) -> Iterator[str]:
    heads = ["variant", *_METRICS.values(), "worse than the original by (limits, all at once)", "ms a picture"]
    heads += [f"times as fast as {BASE} (limits)", "bytes", "times smaller"]
    heads += ["deflated bytes", "times smaller, deflated", "deflation"]
    yield line(*heads)
    yield f"|{'---|' * len(heads)}"
    for item in (found.original, *found.files):
        scores = item.quality.scores if item.quality else {}
        cells: list[str] = [Markdown(f"[{escape_markdown(item.name)}]({item.name}-metrics.md)")]
        cells += [_share(scores.get(key)) for key in _METRICS]
        cells += [f"{item.drop:+.4f} ({_limits(item.interval)})" if item.drop is not None else "-"]
        cells += [number(item.latency_ms.value) if item.latency_ms else "-"]
        cells += [_speed(item.faster) if item.faster else _ratio(item, found) or "-", *_sized(item, found.base)]
        yield line(*cells)
    for item in found.failed:
        yield line(item.name, f"failed: {item.failure}", *[""] * (len(heads) - 2))


def _sized(item: Variant, base: Variant | None) -> list[str]:
    if not item.size_bytes or base is None:
        return ["-"] * 5
    return [
        f"{item.size_bytes:,.0f}", f"{lab_sizes.smaller(item, base):.2f}", f"{item.deflated_bytes:,.0f}",
        f"{lab_sizes.smaller_deflated(item, base):.2f}", f"{item.deflation_percent:.0f} %",
    ]  # fmt: skip


def _contents(found: Shelf) -> Iterator[str]:
    known = [item for item in found.files if item.contents is not None]
    if not known:
        return
    heads = ["file", "zeros among its weights", "different values in an array of weights, at most"]
    heads += ["four-byte words that occurred before", "entropy of a byte, bits", "deflation"]
    yield line(*heads)
    yield f"|{'---|' * len(heads)}"
    for item in known:
        holds = item.contents
        assert holds is not None
        zeros = "-" if holds.zeros is None else f"{holds.zeros:.1%}"
        cells = (zeros, number(holds.values), f"{holds.repeated:.1%}", f"{holds.entropy_bits:.2f}")
        yield line(item.name, *cells, f"{item.deflation_percent:.0f} %")


def _pairs(found: Shelf) -> Iterator[str]:
    if found.pairs is None:
        yield "Fewer than two files were measured."
        return
    count, each = len(found.pairs.pairs), found.pairs.confidence
    yield "Each two once, the one ahead first."
    yield f"Limits are two-sided, {each:.3%} each, so that all {count} of a column hold at {CONFIDENCE:.0%}."
    yield ""
    every = [found.pair(one.name, two.name) for one, two in combinations(found.files, 2)]
    yield line("answers better", "than", "accuracy better by (limits)", "right alone")
    yield "|---|---|---|---|"
    for pair in (each if each.better >= 0 else each.turned() for each in every):
        better = f"{pair.better:+.4f} ({pair.better_low:+.4f} to {pair.better_high:+.4f})"
        yield line(pair.first, pair.second, better, f"{pair.only_first} : {pair.only_second}")
    yield ""
    yield line("faster", "than", "times as fast (limits)")
    yield "|---|---|---|"
    for pair in (each if each.faster >= 1 else each.turned() for each in every):
        yield line(pair.first, pair.second, _speed(pair))


def _how(lab: Laboratory, outcome: Outcome, found: Shelf) -> Iterator[str]:
    machine = outcome.machine
    told = f"{machine.cpu}, {machine.cores} cores ({' '.join(machine.flags)}), {machine.system}"
    yield f"- {escape_markdown(told)}"
    splits = outcome.original.splits.items()
    yield f"- samples: {escape_markdown(', '.join(f'{part} {count:,}' for part, count in splits))}"
    if found.pairs is not None:
        rounds, blocks = found.pairs.rounds, found.pairs.blocks
        yield f"- times of files: one race of all, {rounds} rounds in {blocks} openings, a picture a call; a ratio"
        yield "  is the mean over openings, with Student's interval; the Keras model's is of another race"
    yield "- quality: paired picture by picture; macro means are over classes, unweighted"
    yield "- size: the file; deflated: raw deflate at level 9, as in a zip"
    yield f"- every number of the run of the recipes: [{RUN}/report.md]({RUN}/report.md)"
    yield f"- the model: {escape_markdown(lab.model)}; the data: {escape_markdown(lab.data)}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _speed(pair: Pair) -> str:
    return f"{pair.faster:.2f}x ({_range(pair.faster_low, pair.faster_high)})"


def _range(low: float | None, high: float | None) -> str:
    return f"{'0' if low is None else f'{low:.2f}'} to {'unbounded' if high is None else f'{high:.2f}'}"


def _limits(interval: Interval | None) -> str:
    if interval is None:
        return "no limits"
    low = "-inf" if interval.low is None else f"{interval.low:+.4f}"
    high = "inf" if interval.high is None else f"{interval.high:+.4f}"
    return f"{low} to {high}"
