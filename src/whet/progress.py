"""What long work says of itself while it runs; who shows it is up to the caller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


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
