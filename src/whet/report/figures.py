"""Figures: bars, the Pareto front, confusion matrices. Drawn without a display."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, ScalarFormatter

from whet.report.pictures import flips, label, plain_figures, robustness, save
from whet.search.outcome import Outcome
from whet.search.rows import Row, batch_sizes, rows
from whet.storage import make_folder
from whet.trials.trial import FLOAT, ORIGINAL

if TYPE_CHECKING:
    from whet.types import Array

_BASE, _OTHER, _CHOSEN, _BAD = "#8a8f98", "#4c78a8", "#e4572e", "#d9d9d9"
_NAMED_CLASSES = 25  # beyond these, ticks and counts cannot be read


def draw(folder: Path, outcome: Outcome) -> list[Path]:
    """Draw the figures of a run and return their paths."""
    make_folder(folder)
    with plain_figures():
        return _draw(folder, outcome)


def _draw(folder: Path, outcome: Outcome) -> list[Path]:
    drawn = [_bars(folder / "bars.png", outcome)]
    if batch_sizes(outcome):
        drawn.append(_front(folder / "quality-latency.png", outcome))
    proof = outcome.proof
    if proof is not None and proof.quality.confusion and proof.original.confusion:
        before, after = np.array(proof.original.confusion), np.array(proof.quality.confusion)
        drawn.append(_difference(folder / "confusion.png", before, after, outcome, proof.chosen))
    if outcome.flips is not None and outcome.flips.kept:
        drawn.append(flips(folder / "flips.png", outcome.flips, folder.parent / "flips"))
    if outcome.robustness is not None:
        drawn.append(robustness(folder / "robustness.png", outcome.robustness))
    return drawn


def confusion_matrix(path: Path, counts: Array, classes: Sequence[str], title: str) -> Path:
    """Draw one confusion matrix."""
    with plain_figures():
        return _confusion_matrix(path, counts, classes, title)


def _confusion_matrix(path: Path, counts: Array, classes: Sequence[str], title: str) -> Path:
    side = 4.0 + (0.28 * len(counts) if len(counts) <= _NAMED_CLASSES else 3.0)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(_shares(counts), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="share of the class's samples", shrink=0.8)
    _annotate(axes, counts, _shares(counts) > 0.6)
    _ticks(axes, classes, len(counts))
    axes.set_title(title)
    return save(figure, path)


def _bars(path: Path, outcome: Outcome) -> Path:
    """Draw latency, size and quality of every contestant side by side; failed ones are named."""
    table, sizes = rows(outcome), batch_sizes(outcome)
    panels = [*(f"latency, batch {size} (ms)" for size in sizes), "file (KB)", label(outcome.original.metric)]
    height = 1.6 + 0.42 * len(table)
    figure = Figure(figsize=(1.8 + 3.1 * len(panels), height), layout="constrained")
    grid = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for axes, size in zip(grid, sizes, strict=False):
        _panel(axes, table, [(row.latency_ms or {}).get(size) for row in table], "{:.3g}")
    _panel(grid[-2], table, [row.size_bytes / 1000 if row.size_bytes else None for row in table], "{:,.0f}")
    _panel(grid[-1], table, [row.value for row in table], "{:.4g}")
    _zoom(grid[-1], [row.value for row in table if row.value is not None])
    for axes, title in zip(grid, panels, strict=True):
        axes.set_title(title, fontsize=10)
    grid[0].set_yticks(range(len(table)), [row.name for row in table])
    grid[0].set_ylim(len(table) - 0.4, -0.6)
    return save(figure, path)


def _panel(axes: Axes, table: list[Row], values: list[float | None], form: str) -> None:
    for at, (row, value) in enumerate(zip(table, values, strict=True)):
        if value is None:
            label = "failed" if row.failure else "-"
            axes.text(
                0.01, at, label, va="center", fontsize=8, color="#b00020", transform=axes.get_yaxis_transform()
            )
            continue
        axes.barh(at, value, color=_color(row), height=0.68)
        axes.annotate(form.format(value), (value, at), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.margins(x=0.22)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _zoom(axes: Axes, values: list[float]) -> None:
    """Start the axis of a bounded metric near its values, and say so: differences of a point would not be seen."""
    if values and min(values) > 0.5 * max(values) > 0:
        low = min(values) - max(0.15 * (max(values) - min(values)), 0.01 * max(values))
        axes.set_xlim(low, max(values) + 0.35 * (max(values) - low))
        axes.set_xlabel("axis does not start at 0", fontsize=7)


def _front(path: Path, outcome: Outcome) -> Path:
    """Draw quality against latency; the candidates that no other beats in both are joined by a line."""
    table = [row for row in rows(outcome) if row.value is not None and row.latency_ms]
    sizes = batch_sizes(outcome)
    sign = -1 if outcome.original.goal == "min" else 1
    figure = Figure(figsize=(3.8 + 4.2 * len(sizes), 4.6), layout="constrained")
    grid = np.atleast_1d(figure.subplots(1, len(sizes), sharey=True))
    low, high = _window([sign * row.value for row in table if row.value is not None])
    room = 0.08 * (high - low)
    grid[0].set_ylim(*sorted((sign * (low - room), sign * (high + room))))
    grid[0].set_ylabel(label(outcome.original.metric))
    for axes, size in zip(grid, sizes, strict=True):
        _scatter(axes, table, size, sign, (low, high))
        axes.set_xlabel(f"latency at batch {size} (ms)")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
    legend = figure.legend(
        *grid[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False
    )
    listed = (row for row in table if sizes[0] in (row.latency_ms or {}))
    for text, row in zip(legend.get_texts(), listed, strict=True):
        text.set_fontweight("bold" if row.chosen else "normal")
    return save(figure, path)


def _scatter(axes: Axes, table: list[Row], size: int, sign: int, window: tuple[float, float]) -> None:
    """Draw the numbered points of one batch size, and the line that joins the best of those inside the window."""
    axes.set_xscale("log")
    shown: list[tuple[float, float]] = []
    for number, row in enumerate(table, 1):
        x, y = (row.latency_ms or {}).get(size), row.value
        if x is None or y is None:
            continue
        inside = window[0] <= sign * y <= window[1]
        if inside:
            shown.append((x, y))
            _point(axes, (x, y), "o", row, f"{number} {row.name}")
        else:  # a triangle at the edge points to where it lies
            told = f"{number} {row.name} ({y:.4g}, off the scale)"
            _point(axes, (x, sign * window[0]), "v" if sign > 0 else "^", row, told)
    best = sorted(point for point in shown if not any(_beats(other, point, sign) for other in shown))
    if best:
        axes.plot(*zip(*best, strict=True), color="#999999", lw=1, ls="--", zorder=1)
    axes.margins(x=0.12)
    _number(axes)


def _point(axes: Axes, place: tuple[float, float], marker: str, row: Row, told: str) -> None:
    axes.scatter(*place, color=_color(row), s=70, marker=marker, zorder=3, label=told, alpha=0.9)


def _number(axes: Axes) -> None:
    """Write the number of each point above it; points that lie together share a line."""
    places = {points: np.asarray(points.get_offsets())[0] for points in axes.collections}
    over_axes = axes.transScale + axes.transLimits  # from values to 0..1 over the axes
    at = {points: over_axes.transform(place) for points, place in places.items()}
    groups: list[list[Any]] = []
    for points in sorted(places, key=lambda each: float(places[each][0])):
        near = [group for group in groups if np.abs(at[group[0]] - at[points]).max() < 0.05]
        if near:
            near[0].append(points)
        else:
            groups.append([points])
    for group in groups:
        told = ", ".join(sorted((str(points.get_label()).split()[0] for points in group), key=int))
        x, y = np.array([places[points] for points in group]).T
        place = (float(np.exp(np.log(x).mean())), float(y.max()))
        axes.annotate(told, place, (0, 6), textcoords="offset points", ha="center", fontsize=8)


def _window(values: list[float]) -> tuple[float, float]:
    """Return the range that shows the good candidates apart: up to four times the middle spread below the best."""
    best = max(values)
    near = sorted(best - value for value in values)
    reach = max(4 * near[len(near) // 2], 0.02 * abs(best), 1e-9)
    return best - min(reach, near[-1] or reach), best


def _beats(a: tuple[float, float], b: tuple[float, float], sign: int) -> bool:
    return a != b and a[0] <= b[0] and sign * a[1] >= sign * b[1]


def _difference(path: Path, before: Array, after: Array, outcome: Outcome, name: str) -> Path:
    """Draw the original's confusion matrix, the candidate's, and their difference.

    Of more classes than can be named those are shown whose counts changed most.
    """
    classes, few = _changed_most(before, after, outcome.original.classes)
    before, after = before[np.ix_(few, few)], after[np.ix_(few, few)]
    side = 3.2 + (0.24 * len(before) if len(before) <= _NAMED_CLASSES else 2.4)
    figure = Figure(figsize=(3 * side + 1.5, side + 0.5), layout="constrained")
    grid = figure.subplots(1, 3)
    for axes, counts, title in ((grid[0], before, "as given"), (grid[1], after, name)):
        axes.imshow(_shares(counts), cmap="Blues", vmin=0, vmax=1)
        _annotate(axes, counts, _shares(counts) > 0.6)
        axes.set_title(title)
    change = after - before
    reach = max(int(np.abs(change).max()), 1)
    image = grid[2].imshow(change, cmap="RdBu_r", norm=TwoSlopeNorm(0, -reach, reach))
    whole = MaxNLocator(integer=True)
    figure.colorbar(image, ax=grid[2], shrink=0.75, label="samples more (red) or fewer (blue)", ticks=whole)
    _annotate(grid[2], change, np.abs(change) > 0.6 * reach, signed=True)
    grid[2].set_title("difference")
    for axes in grid:
        _ticks(axes, classes, len(before))
    if len(few) < len(outcome.original.classes):
        figure.suptitle(f"the {len(few)} of {len(outcome.original.classes)} classes that changed most")
    return save(figure, path)


def _changed_most(before: Array, after: Array, classes: Sequence[str]) -> tuple[list[str], Array]:
    """Return the names and numbers of the classes; where there are too many, of those that changed, the most."""
    change = np.abs(after - before)
    each = change.sum(axis=0) + change.sum(axis=1)
    count = len(each) if len(each) <= _NAMED_CLASSES else min(max(int((each > 0).sum()), 2), _NAMED_CLASSES)
    few = np.sort(np.argsort(-each, kind="stable")[:count])
    return [label(classes[at]) if at < len(classes) else str(at) for at in few], few


def _annotate(axes: Axes, counts: Array, dark: Array, *, signed: bool = False) -> None:
    if len(counts) > _NAMED_CLASSES:
        return
    size = 8 if len(counts) <= 12 else 5
    for (row, column), count in np.ndenumerate(counts):
        if count:
            text = f"{count:+d}" if signed else f"{count:d}"
            color = "white" if dark[row, column] else "#333333"
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=color)


def _ticks(axes: Axes, classes: Sequence[str], count: int) -> None:
    axes.set_xlabel("chosen")
    axes.set_ylabel("label")
    if count <= _NAMED_CLASSES:
        names = list(map(label, classes)) if len(classes) == count else [str(at) for at in range(count)]
        axes.set_xticks(range(count), names, rotation=90, fontsize=7)
        axes.set_yticks(range(count), names, fontsize=7)


def _shares(counts: Array) -> Array:
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))


def _color(row: Row) -> str:
    if row.failure:
        return _BAD
    if row.chosen:
        return _CHOSEN
    return _BASE if row.name in (ORIGINAL, FLOAT) else _OTHER
