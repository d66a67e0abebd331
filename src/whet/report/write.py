"""Write a run's report from its ``results.json``; nothing is measured anew."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from whet.errors import RunFolderError, in_one_line
from whet.report import markdown
from whet.search import outcome as outcomes
from whet.search import run_folder
from whet.search.outcome import Outcome
from whet.storage import make_folder, write_text


def write(run: Path, outcome: Outcome | None = None) -> Path:
    """Write ``report.md``, ``figures/`` and ``metrics/`` into a RUN folder; return the path of the report.

    Without matplotlib the figures are left out, and the report says so.

    Raises:
        RunFolderError: There are links in the folder, or its results cannot be used.
    """
    if outcome is None:
        found = outcomes.load(run)
        with damaged_results(run):
            return write(run, found)
    run_folder.check_links(run.resolve())
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


@contextmanager
def damaged_results(run: Path) -> Iterator[None]:
    """Turn what is raised while results of unknown origin are shown into one line that names them.

    Raises:
        RunFolderError: In place of any error that comes of values which whet does not write.
    """
    try:
        yield
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        MemoryError,
        TypeError,
        ValueError,
    ) as error:
        what = f"{type(error).__name__}: {in_one_line(error)}"
        raise RunFolderError(
            f"{run / outcomes.FILE} has values that no report can be written from ({what}); run the command of "
            f"this folder again, or copy the folder anew"
        ) from error
