"""HTML for notebooks: plain tables, colours by verdict, no JavaScript; whatever stands in a cell is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_COLORS = {"PASS": "#1b7f3b", "FAIL": "#b00020", "INCONCLUSIVE": "#9a6700"}


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> str:
    """Return a table; words that are verdicts have their colour, columns without any value are left out.

    Args:
        heads: Of the columns.
        rows: As many cells each; None is an empty one.
        title: Above the table.
    """
    filled = [["" if value is None else str(value) for value in row] for row in rows]
    kept = [at for at in range(len(heads)) if not filled or any(row[at] for row in filled)]
    head = "".join(f"<th style='text-align:left'>{escape(heads[at])}</th>" for at in kept)
    body = "".join(f"<tr>{''.join(_cell(row[at]) for at in kept)}</tr>" for row in filled)
    caption = f"<caption style='text-align:left'>{escape(title)}</caption>" if title else ""
    return f"<table>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def line(*words: str) -> str:
    """Return a line of text, verdicts in their colour."""
    return f"<div>{' '.join(_colored(word) for word in words)}</div>"


def number(value: float | None, form: str = ",.4g") -> str:
    """Return a number in a form, or nothing."""
    return "" if value is None else format(value, form)


def _cell(text: str) -> str:
    side = "right" if _is_number(text) else "left"
    return f"<td style='text-align:{side}'>{_colored(text)}</td>"


def _colored(text: str) -> str:
    told = escape(text)
    color = _COLORS.get(text)
    return f"<b style='color:{color}'>{told}</b>" if color else told


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or (text[:1] in "+-" and text[1:2].isdigit())
