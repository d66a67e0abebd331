"""Text of unknown origin made safe for where it is shown: a terminal, Markdown, HTML tables for notebooks.

Names and messages come from models, data and results of strangers. Each is escaped once, where it enters a page.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from html import escape

_COLORS = {"PASS": "#1b7f3b", "FAIL": "#b00020", "INCONCLUSIVE": "#9a6700"}

_HIDDEN = {"Cc", "Cs", "Zl", "Zp"}  # categories of Unicode: controls, halves of characters, separators of lines
_BIDI = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)  # reorder what is read
_SPECIAL = re.compile(r"[\\`*\[\]]|&(?=[#\w]+;)")


class Markdown(str):
    """Text that is Markdown already: it is not escaped again."""

    __slots__ = ()


def plain_text(text: str) -> str:
    """Return a text in one line, without characters that steer a terminal or reorder what is read."""
    if not (text.isascii() and text.isprintable()):
        text = "".join(" " if char.isspace() else "\ufffd" if _is_hidden(char) else char for char in text)
    return " ".join(text.split())


def _is_hidden(char: str) -> bool:
    return char in _BIDI or unicodedata.category(char) in _HIDDEN


def escape_markdown(text: str) -> str:
    """Return a text in one line that Markdown shows as it is: no HTML, links, pictures, code or emphasis in it.

    A text that is ``Markdown`` already is returned in one line, otherwise as it is.
    """
    if isinstance(text, Markdown):
        return " ".join(text.split())
    escaped = _SPECIAL.sub(lambda found: "&amp;" if found[0] == "&" else f"\\{found[0]}", plain_text(text))
    return escaped.replace("<", "&lt;")


def code(text: str) -> Markdown:
    """Return a text as code in Markdown; backticks in it, which would end the code, become quotes."""
    return Markdown(f"`{plain_text(text).replace('`', chr(39))}`")


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], title: str = "") -> str:
    """Return a table; words that are verdicts have their colour, columns without any value are left out.

    Args:
        heads: Of the columns.
        rows: As many cells each; None is an empty one.
        title: Above the table.
    """
    filled = [["" if value is None else plain_text(str(value)) for value in row] for row in rows]
    kept = [at for at in range(len(heads)) if not filled or any(row[at] for row in filled)]
    head = "".join(f"<th style='text-align:left'>{escape(plain_text(heads[at]))}</th>" for at in kept)
    body = "".join(f"<tr>{''.join(_cell(row[at]) for at in kept)}</tr>" for row in filled)
    caption = f"<caption style='text-align:left'>{escape(plain_text(title))}</caption>" if title else ""
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
    label = escape(plain_text(text))
    color = _COLORS.get(text)
    return f"<b style='color:{color}'>{label}</b>" if color else label


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or (text[:1] in "+-" and text[1:2].isdigit())
