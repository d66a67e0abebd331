"""What every table of the report shares: a line, a number."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Return a text without line breaks, as list items and table cells have to be."""
    return " ".join(text.split())


def line(*cells: str) -> str:
    """Return the line of one row of a table; whatever stands in a cell, the row stays one row of as many cells."""
    return f"| {' | '.join(one_line(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def number(value: float | None) -> str:
    """Return a number with four digits, whole ones whole; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.4g}"
