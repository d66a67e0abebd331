"""Columns of a table, and the inputs made of them. NumPy alone: bundles carry this file and ``arrays.py``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import cast, short

Array = NDArray[Any]

_MISSING = {"", "na", "n/a", "nan", "null", "none"}


@dataclass(frozen=True)
class Column:
    """One column of a table: numbers, or words of a vocabulary.

    Attributes:
        name: As the header has it.
        vocabulary: Words by their codes, from 0; none for a column of numbers.
        fill: Takes the place of a missing value (a code, where there is a vocabulary); None refuses it.
    """

    name: str
    vocabulary: tuple[str, ...] = ()
    fill: float | None = None

    def __call__(self, cells: Array | Sequence[str | None]) -> Array:
        """Map cells (N,), text or numbers, to (N,) float64.

        Raises:
            ValueError: A cell is missing, no number, or not in the vocabulary; rows are counted from 1.
        """
        found = self._codes(cells) if self.vocabulary else numbers(cells, self.name)
        missing = np.isnan(found)
        if missing.any():
            if self.fill is None:
                raise ValueError(
                    f"column {self.name!r} has no value in row {int(missing.argmax()) + 1}; "
                    f"fill it in, or have it done with --preprocess 'fill=median'"
                )
            found[missing] = self.fill
        return found

    def _codes(self, cells: Array | Sequence[str | None]) -> Array:
        codes: dict[str, float] = {word: code for code, word in enumerate(self.vocabulary)}
        found = np.full(len(cells), np.nan)
        for row, word in enumerate(words(cells)):
            if word and word not in codes:
                known = ", ".join(self.vocabulary[:5]) + (", ..." if len(codes) > 5 else "")
                raise ValueError(
                    f"column {self.name!r} has {short(word)!r} in row {row + 1}, which is none of its "
                    f"{len(codes)} words ({known}); the model was given a code for those alone"
                )
            if word:
                found[row] = codes[word]
        return found


@dataclass(frozen=True)
class TableInput:
    """One input of the model, made of columns of a table.

    Attributes:
        name: Of the input.
        columns: In their order on axis 1.
        dtype: Of the input.
        flat: Whether a single column is given as (N,), without an axis of columns.
    """

    name: str
    columns: tuple[Column, ...]
    dtype: str = "float32"
    flat: bool = False

    def __call__(self, rows: Mapping[str, Any]) -> Array:
        """Map columns of cells to one (N, columns) input.

        Raises:
            ValueError: A column is missing, or a cell cannot be used.
        """
        for column in self.columns:
            if column.name not in rows:
                raise ValueError(f"there is no column {column.name!r}; there are {short(', '.join(rows), 200)}")
        values = np.stack([column(rows[column.name]) for column in self.columns], axis=1)
        return cast(values[:, 0] if self.flat else values, self.dtype, self.name)


def numbers(cells: Array | Sequence[str | None], name: str) -> Array:
    """Return a column's cells (N,) as float64, NaN where one is missing.

    Raises:
        ValueError: A cell is no number; rows are counted from 1.
    """
    if isinstance(cells, np.ndarray) and cells.dtype.kind in "biuf":
        return cells.astype(np.float64)
    try:
        return np.array(cells, dtype=np.float64)  # much the faster, where no cell is empty
    except (TypeError, ValueError):
        pass
    found = np.full(len(cells), np.nan)
    for row, word in enumerate(words(cells)):
        if word.lower() in _MISSING:
            continue
        try:
            found[row] = float(word)
        except ValueError as error:
            raise ValueError(
                f"column {name!r} holds numbers, but row {row + 1} has {short(word)!r}; mend it, or leave it empty"
            ) from error
    return found


def words(cells: Array | Sequence[Any]) -> list[str]:
    """Return cells as text without blanks around; a missing one is empty, a whole number has no ``.0``."""
    return [_word(cell) for cell in (cells.tolist() if isinstance(cells, np.ndarray) else cells)]


def _word(cell: Any) -> str:
    if isinstance(cell, float):
        return "" if math.isnan(cell) else str(int(cell)) if cell.is_integer() else str(cell)
    return "" if cell is None else str(cell).strip()


def shared_out(table: tuple[TableInput, ...], takes: Sequence[Any]) -> tuple[TableInput, ...]:
    """Share the columns of a table out among a model's inputs.

    Raises:
        ValueError: An input takes more columns, or fewer.
    """
    columns = [column for one in table for column in one.columns]
    if len(takes) == 1:
        _check_width(columns, takes[0])
        return (TableInput(takes[0].name, tuple(columns), takes[0].dtype or "float32"),)
    shares: dict[str, list[Column]] = {}
    for one in takes:
        alone = [column for column in columns if column.name == one.name]
        shares[one.name] = alone or [column for column in columns if column.name.startswith(f"{one.name}_")]
    rest = [column for column in columns if not any(column in share for share in shares.values())]
    empty = [name for name, share in shares.items() if not share]
    if len(empty) != 1 or len(empty) == len(takes):
        return table if len(empty) == len(takes) else _table_inputs(shares, takes)
    return _table_inputs({**shares, empty[0]: rest}, takes)


def _table_inputs(shares: Mapping[str, list[Column]], takes: Sequence[Any]) -> tuple[TableInput, ...]:
    made = []
    for one in takes:
        columns = tuple(shares[one.name])
        if not columns:
            continue
        _check_width(columns, one)
        coded = all(column.vocabulary for column in columns)
        dtype = one.dtype or ("int64" if coded else "float32")
        made.append(TableInput(one.name, columns, dtype, len(columns) == 1 and len(one.shape) == 1))
    return tuple(made)


def _check_width(columns: Sequence[Column], takes: Any) -> None:
    """Refuse columns that are not as many as an input (N, columns) takes, as far as its shape is known."""
    width = takes.shape[1] if len(takes.shape) == 2 else None
    if width in (None, len(columns)):
        return
    names = ", ".join(column.name for column in columns)
    cure = (
        "leave out what it was not trained on with --preprocess 'drop=NAME', or name the labels with --label"
        if len(columns) > width
        else "give all that it was trained on, in that order"
    )
    raise ValueError(
        f"the model's input {takes.name!r} takes {width} columns, the table has {len(columns)} ({names}); {cure}"
    )
