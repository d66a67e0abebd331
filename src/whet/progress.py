"""What long work says of itself while it runs; who shows it is up to the caller."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_SECONDS = 0.2  # between two updates of a line


@dataclass(frozen=True, slots=True)
class Event:
    """One sign of life.

    Attributes:
        stage: What is being done: ``static-int8: calibrate``.
        done: Units finished of ``total``; a total of 0 means that their number is unknown.
        note: A line to keep on the screen, or empty.
    """

    stage: str
    done: int = 0
    total: int = 0
    note: str = ""


OnEvent = Callable[[Event], None]


def silent(event: Event) -> None:
    """Ignore an event."""


def usual() -> OnEvent:
    """Return what shows events where nothing else was asked for: a line in a notebook, else nothing."""
    return NotebookLine() if in_notebook() else silent


def in_notebook() -> bool:
    """Tell whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


class NotebookLine:
    """Shows events as one line of plain text below the cell, updated in place."""

    def __init__(self) -> None:
        self._display: Any = importlib.import_module("IPython.display").display
        self._handle: Any = None
        self._stage, self._told, self._at = "", "", 0.0

    def __call__(self, event: Event) -> None:
        """Show an event: each new stage at once, its progress a few times a second."""
        if event.note:
            place = f"[{event.done + 1}/{event.total}] " if event.total else ""
            self._told = f"{place}{event.note}"
        elif event.stage == self._stage and time.monotonic() < self._at + _SECONDS:
            return
        self._stage, self._at = event.stage, time.monotonic()
        self._show(self._told if event.note else " | ".join(filter(None, (self._told, in_words(event)))))

    def _show(self, text: str) -> None:
        content = {"text/plain": text}
        if self._handle is None:
            self._handle = self._display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)


def in_words(event: Event) -> str:
    """Return an event as words: ``static-int8: calibrate 64/512``."""
    return f"{event.stage} {event.done}/{event.total}" if event.total else event.stage
