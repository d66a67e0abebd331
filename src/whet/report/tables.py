"""What every table of the report shares: a line, a number."""

from __future__ import annotations

from whet.markup import escape_markdown


def line(*cells: str) -> str:
    """Return one row of a table: each cell is escaped, unless it is ``Markdown``, and none breaks the row."""
    return f"| {' | '.join(escape_markdown(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def number(value: float | None) -> str:
    """Return a number with four digits, whole ones whole; a dash where there is none."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.4g}"
