"""What a search keeps in its RUN folder, read again by the same command: what is damaged is computed again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from whet import plain
from whet.progress import Event, OnEvent

if TYPE_CHECKING:
    from whet.types import Array

T = TypeVar("T")

RECORDS = ("proof", "look", "pairs")  # of whet's own in RUN/.trials; candidates have a folder of their own there


def read(path: Path, kind: type[T], on_event: OnEvent) -> T | None:
    """Return what a file of JSON in RUN holds.

    Args:
        path: The file.
        kind: What it has to hold.
        on_event: Receives a line if the file is there and cannot be used.

    Returns:
        None if there is no such file, or it cannot be used: then the caller computes it again.
    """
    try:
        return plain.read_json(path, kind)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        report_damage(path, str(error), on_event)
        return None


def report_damage(path: Path, reason: str, on_event: OnEvent) -> None:
    """Report in one line that something kept cannot be used and is computed again."""
    on_event(Event("candidates", 0, 0, f"computed again: {path} cannot be used ({' '.join(reason.split())})"))


def read_array(path: Path, samples: int) -> Array | None:
    """Return an array (samples, ...) that was kept; None if there is none, or one that is damaged."""
    try:
        found = np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError):
        return None
    return found if found.ndim and len(found) == samples else None


def adopt_journals(trials: Path) -> None:
    """Move the journals of candidates that an earlier version of whet kept beside whet's own records."""
    for path in sorted(trials.glob("*.json")):
        target = trials / "candidates" / path.name
        if path.stem not in RECORDS and path.is_file() and not target.exists():
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
