"""Figures beyond the mean: samples that flipped, and what corrupted inputs cost."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image

from whet.markup import plain_text
from whet.measure.robustness import Robustness, Shift
from whet.report.tables import number
from whet.storage import write_bytes
from whet.trials.flips import Answer, Flip, Flips

if TYPE_CHECKING:
    from whet.types import Array

_GIVEN, _SHIPPED = "#8a8f98", "#e4572e"
_PICTURES, _COLUMNS, _LINES = 24, 6, 24  # that are shown
_WORDS, _LABEL = 16, 48  # letters of a name beside a picture, and of one on an axis
_PICTURE_BYTES = 2**26  # of one file
_TONES = "red: became wrong, green: became right"


@contextmanager
def plain_figures() -> Iterator[None]:
    """Draw every text as it is: no formulas between dollar signs, and no warnings of letters that a font lacks."""
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def label(text: str) -> str:
    """Return a name as it is written into a figure: in one line, shortened."""
    text = plain_text(text)
    return text if len(text) <= _LABEL else f"{text[: _LABEL - 3]}..."


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG, whole or not at all."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_bytes(path, content.getvalue())
    return path


def flips(path: Path, found: Flips, folder: Path) -> Path:
    """Draw the samples that flipped: their pictures, or a line each from one answer to the other.

    Args:
        path: Of the PNG.
        found: The samples.
        folder: Where their pictures lie.
    """
    named = [item for item in found.kept if item.picture and (folder / item.picture).is_file()][:_PICTURES]
    shown = [(item, pixels) for item in named if (pixels := _read(folder / item.picture)) is not None]
    figure = _pictures(shown) if shown else _lines(found)
    return save(figure, path)


def _read(path: Path) -> Array | None:
    """Return the pixels of a picture; None if it is damaged, or larger than any that whet keeps."""
    try:
        return np.asarray(imread(path)) if path.stat().st_size <= _PICTURE_BYTES else None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _pictures(shown: Sequence[tuple[Flip, Array]]) -> Figure:
    columns = min(_COLUMNS, max(len(shown), 3))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(1.9 * columns, 2.5 * rows + 0.3), layout="constrained")
    grid = np.atleast_1d(figure.subplots(rows, columns)).reshape(-1)
    for axes, (item, pixels) in zip(grid, shown, strict=False):
        axes.imshow(pixels, cmap="gray", interpolation="nearest")
        title = f"label {_short(item.label)}" if item.label else f"sample {item.number}"
        axes.set_title(f"{title}\n{_answer(item.before)}\n→ {_answer(item.after)}", fontsize=7, color=_tone(item))
    for axes in grid:
        axes.set_axis_off()
    figure.suptitle(f"as given → shipped; {_TONES}", fontsize=9)
    return figure


def _lines(found: Flips) -> Figure:
    """Draw a line a sample: from the confidence in one answer, or its error, to the other's."""
    shown = found.kept[:_LINES]
    figure = Figure(figsize=(7.5, 1.4 + 0.27 * len(shown)), layout="constrained")
    axes = figure.subplots()
    for at, item in enumerate(shown):
        before, after = (_value(answer) for answer in (item.before, item.after))
        axes.plot([before, after], [at, at], color=_tone(item), lw=1.5, zorder=1)
        axes.scatter(before, at, color=_GIVEN, s=36, zorder=2, label="as given" if at == 0 else None)
        axes.scatter(after, at, color=_SHIPPED, s=36, zorder=2, label="shipped" if at == 0 else None)
    axes.set_yticks(range(len(shown)), [_told(item) for item in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.spines[["top", "right"]].set_visible(False)
    decisions = found.kind == "decisions"
    axes.set_xlabel("probability of the class that each model chose" if decisions else "error of the sample")
    if decisions:
        figure.suptitle(_TONES, fontsize=8, x=0.02, ha="left")
    figure.legend(loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    return figure


def _told(item: Flip) -> str:
    if item.before.choice:
        names = (_short(answer.choice) for answer in (item.before, item.after))
        return f"sample {item.number}: {' → '.join(names)}"
    return f"sample {item.number}"


def _answer(item: Answer) -> str:
    if item.choice:
        return f"{_short(item.choice)} {item.probability or 0:.2f}"
    return f"error {number(item.error)}"


def _short(name: str) -> str:
    return shorten(plain_text(name), _WORDS, placeholder="...")


def _value(item: Answer) -> float:
    return float((item.probability if item.choice else item.error) or 0.0)


def _tone(item: Flip) -> str:
    return {"lost": "#b00020", "won": "#1b7f3b"}.get(item.outcome, "#333333")


def robustness(path: Path, found: Robustness) -> Path:
    """Draw the metric against severity, a panel a corruption; stars mark what costs more beyond doubt."""
    names = list(dict.fromkeys(item.corruption for item in found.shifts))
    figure = Figure(figsize=(1.2 + 2.6 * len(names), 3.2), layout="constrained")
    grid = np.atleast_1d(figure.subplots(1, len(names), sharey=True))
    for axes, name in zip(grid, names, strict=True):
        _panel(axes, found, [item for item in found.shifts if item.corruption == name])
        axes.set_title(label(name), fontsize=10)
        axes.set_xlabel("severity (0 is clean)", fontsize=8)
    grid[0].set_ylabel(label(found.metric))
    handles, labels = grid[0].get_legend_handles_labels()
    if found.worse:
        handles.append(grid[0].scatter([], [], marker="*", s=110, color="black"))
        labels.append("loses more, beyond doubt")
    figure.legend(handles, labels, loc="outside upper right", ncols=3, fontsize=8, frameon=False)
    return save(figure, path)


def _panel(axes: Axes, found: Robustness, shifts: Sequence[Shift]) -> None:
    at = [0, *(item.severity for item in shifts)]
    before = [found.before, *(np.nan if item.before is None else item.before for item in shifts)]
    after = [found.after, *(np.nan if item.after is None else item.after for item in shifts)]
    axes.plot(at, before, color=_GIVEN, marker="o", label="as given")
    axes.plot(at, after, color=_SHIPPED, marker="o", ms=4, label="shipped")
    for item in shifts:
        if item in found.worse and item.after is not None:
            axes.scatter(item.severity, item.after, marker="*", s=110, color="black", zorder=4)
    axes.set_xticks(at)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
