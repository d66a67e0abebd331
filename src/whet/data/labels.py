"""Labels among the columns of a table: which columns they are, and what their cells mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.data import raw
from whet.data.columns import Column, words
from whet.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from whet.types import Array

Table = Mapping[str, Any]
"""Cells by column: an array (N,) or (N, ...), or a list of N texts."""

_LABELS = ("label", "labels", "y", "target", "targets", "score", "class")


def label_columns(names: list[str], label: str | None, *, header: bool = True) -> tuple[list[str], str]:
    """Return the columns of labels, and what the report says of the choice.

    Args:
        names: Of all columns.
        label: As asked for: a column, several with commas between, ``none``, or None to find it by its name.
        header: Whether the columns were named by whoever wrote them; else the last one holds the labels.

    Raises:
        DataError: The column asked for is not there.
    """
    if label == "none":
        return [], "The labels of the table, if it has any, were left out, as asked."
    if label is not None:
        asked = [label] if label in names else [word.strip() for word in label.split(",")]
        for name in asked:
            if name not in names:
                raise DataError(f"the table has no column {name!r} for the labels{did_you_mean(name, names)}")
        return asked, f"Labels are {', '.join(asked)} of the columns {', '.join(names)}."
    if not header:
        if len(names) == 1:
            return [], "The table has one column and no header: there are no labels."
        return names[-1:], (
            f"The table has no header: its last column ({names[-1]}) was taken as the labels; "
            f"another one is named with --label, and none with --label none."
        )
    known = {name.lower(): name for name in names}
    for word in _LABELS:
        if word in known:
            return [known[word]], f"Column {known[word]!r} was taken as the labels; another is named with --label."
    return [], f"There are no labels: none of the columns {', '.join(names)} is called so; name one with --label."


def targets(tables: Mapping[str, Table], labels: list[str], model: str) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Return labels by part, (N,) or (N, columns), and the names of the classes if they are words.

    Args:
        tables: By part; those that lack a column of labels have none.
        labels: The columns.
        model: The part on which the classes are counted.

    Raises:
        DataError: A cell is missing, no number, or no class of that part.
    """
    labelled = {part: table for part, table in tables.items() if labels and all(name in table for name in labels)}
    if not labelled:
        return {}, ()
    counted = labelled.get(model, labelled["test"])
    classes: tuple[str, ...] = ()
    if len(labels) == 1 and not are_numbers(counted[labels[0]]):
        classes = tuple(sorted({word for word in words(counted[labels[0]]) if word}))
    found = {}
    for part, table in labelled.items():
        try:
            columns = [Column(name, classes)(table[name]) for name in labels]
        except ValueError as error:
            raise DataError(f"{part}: the labels cannot be used: {error}".partition("; fill it in")[0]) from error
        whole = classes or all(_are_whole(table[name]) for name in labels)
        values = np.stack(columns, axis=1).astype(np.int64 if whole else np.float64)
        found[part] = values[:, 0] if len(labels) == 1 else values
    return found, classes


def _are_whole(cells: Any) -> bool:
    """Tell whether numbers are written as whole ones: ``1``, not ``1.0``."""
    if isinstance(cells, np.ndarray):
        return cells.dtype.kind in "biu"
    return all(re.fullmatch(r"[+-]?\d+", word) for word in words(cells))


def are_numbers(cells: Any) -> bool:
    """Tell whether a column holds numbers: at least half of the cells that are not empty are."""
    if isinstance(cells, np.ndarray):
        return cells.dtype.kind in "biuf"
    found = [word for word in words(cells) if word]
    return sum(raw.is_number(word) for word in found) * 2 >= len(found)
