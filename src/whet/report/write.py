"""Write a run's report from its ``results.json``; nothing is measured anew."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from whet.report import markdown
from whet.search import outcome as outcomes
from whet.search.outcome import Outcome
from whet.storage import make_folder, write_text


def write(run: Path, outcome: Outcome | None = None) -> Path:
    """Write ``report.md``, ``figures/`` and ``metrics/`` into a RUN folder; return the path of the report.

    Without matplotlib the figures are left out, and the report says so.
    """
    outcome = outcome or outcomes.load(run)
    drawn: list[Path] = []
    pictures = importlib.util.find_spec("matplotlib") is not None
    if pictures:
        from whet.report import figures

        drawn = figures.draw(run / "figures", outcome)
    folder = make_folder(run / "metrics")
    for result in outcome.results:
        write_text(folder / f"{result.name}-metrics.md", markdown.candidate_page(result, outcome))
        if pictures and result.quality is not None and result.quality.confusion is not None:
            counts = np.array(result.quality.confusion)
            figures.confusion_matrix(
                folder / f"{result.name}-confusion-matrix.png", counts, outcome.original.classes, result.name
            )
    text = markdown.report(outcome, drawn)
    if not pictures:
        text += "\nFigures need matplotlib: pip install 'whet[report]'\n"
    write_text(run / "report.md", text)
    return run / "report.md"
