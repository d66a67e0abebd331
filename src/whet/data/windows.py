"""Time series cut into samples: some steps in a row as the input, what comes next as the label."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.bounds import shown
from whet.data import raw
from whet.data.columns import TableInput
from whet.data.data import Data
from whet.data.labels import Table, are_numbers
from whet.data.preprocess import Postprocess
from whet.data.samples import Rows
from whet.data.tables import Reading, cells_of, columns_of, read_one
from whet.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from whet.types import Array

_SHARES = {"train": 0.6, "select": 0.2, "test": 0.2}  # in this order of time


@dataclass(frozen=True)
class Windows:
    """How a time series becomes samples: ``length`` rows are the input, the next ``horizon`` rows the label.

    The rows are parted by time, the first 60 % to train, 20 % to select, the last 20 % to test, and each window
    lies in one part whole. Inputs are standardised, (x - mean) / std, by each column's mean and standard deviation
    on the rows of train; labels likewise, so that the model's outputs are standardised too, and a bundle's answers
    are in the units of the data again. Labels that overlap are no independent samples, and intervals on them too
    narrow: the windows of select and test start ``horizon`` rows apart unless told otherwise, those of train one.

    Attributes:
        length: Rows that go in.
        horizon: Rows that are foretold.
        stride: Rows from one window of select or test to the next; 0 for ``horizon``.
        standardise: Whether inputs and labels are; False for a model that does so itself.
    """

    length: int
    horizon: int
    stride: int = 0
    standardise: bool = True

    def __post_init__(self) -> None:
        """Refuse lengths that are no whole numbers from 1 up."""
        for name, value, least in (
            ("length", self.length, 1),
            ("horizon", self.horizon, 1),
            ("stride", self.stride, 0),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise DataError(f"the {name} of windows is a whole number from {least} up, not {value!r}")

    def cut(self, series: Table, reading: Reading) -> Data:
        """Cut a series into windows.

        Args:
            series: A row a step, in the order of time; columns that are no numbers are left out.
            reading: ``label`` names the columns that are foretold; all by default.

        Raises:
            DataError: A column is not there, a value is missing, or the series is too short for one window a part.
        """
        names, notes = _numeric(series, reading.preprocess.drop)
        targets = _targets(names, reading.label)
        bounds = self._bounds(len(series[names[0]]))
        end = bounds["train"][1]
        table = columns_of({name: series[name][:end] for name in names}, names, reading.preprocess)
        try:
            values = TableInput("input", table, "float64")(series)
        except ValueError as error:
            raise DataError(str(error)) from error
        seen = values[:end]
        mean, std = seen.mean(axis=0), seen.std(axis=0)
        std[std == 0] = 1.0  # a column that stands still is told from its mean alone
        parts: dict[str, Any] = {
            part: self._part(part, values[slice(*rows)], targets, (mean, std)) for part, rows in bounds.items()
        }
        own: dict[str, Any] = {"mean": tuple(mean.tolist()), "std": tuple(std.tolist())} if self.standardise else {}
        back: dict[str, Any] = {key: tuple(np.array(value)[targets].tolist()) for key, value in own.items()}
        preprocess = replace(
            reading.preprocess,
            table=(TableInput("input", table),),
            window=self.length,
            **own,
        )
        notes.append(self._told(bounds, [names[at] for at in targets]))
        return Data(
            **parts, task="regression", preprocess=preprocess, postprocess=Postprocess(**back), notes=tuple(notes)
        )

    def _bounds(self, rows: int) -> dict[str, tuple[int, int]]:
        """Part the rows by time; every part must hold a window."""
        ends = np.round(np.cumsum(list(_SHARES.values())) * rows).astype(int).tolist()
        bounds = dict(zip(_SHARES, zip([0, *ends], ends, strict=False), strict=True))
        least = min(end - start for start, end in bounds.values())
        if least < self.length + self.horizon:
            raise DataError(
                f"the series has {rows} rows, a fifth of them ({least}) for the test; a window takes "
                f"{self.length} + {self.horizon}: give a longer series, or shorter windows"
            )
        return bounds

    def _part(self, part: str, values: Array, targets: list[int], scale: tuple[Array, Array]) -> WindowSamples:
        step = 1 if part == "train" else self.stride or self.horizon
        labels = (values - scale[0]) / scale[1] if self.standardise else values
        wanted = labels[:, targets].astype(np.float32)
        return WindowSamples(values.astype(np.float32), wanted, self.length, self.horizon, step)

    def _told(self, bounds: Mapping[str, tuple[int, int]], targets: list[str]) -> str:
        rows = ", ".join(f"{part} rows {start + 1} to {end}" for part, (start, end) in bounds.items())
        scaled = "standardised by train" if self.standardise else "as they are"
        return (
            f"Windows of {self.length} rows foretell {self.horizon} rows of {', '.join(targets)}, {scaled}; "
            f"parted by time ({rows}); windows of select and test start {self.stride or self.horizon} rows apart."
        )


@dataclass(frozen=True)
class WindowSamples:
    """Windows of one part of a series.

    Attributes:
        values: (T, F), what goes in.
        targets: (T, targets), what is foretold.
        length, horizon, step: Rows that go in, rows that are foretold, rows from a window to the next.
    """

    values: Array
    targets: Array
    length: int
    horizon: int
    step: int

    def __len__(self) -> int:
        return (len(self.values) - self.length - self.horizon) // self.step + 1

    def rows(self, indices: Sequence[int]) -> Rows:
        """Return the inputs (n, length, F) of these windows."""
        starts = np.asarray(indices)[:, None] * self.step
        return {"input": self.values[starts + np.arange(self.length)]}

    def labels(self) -> Array:
        """Return what comes after each window, (N, horizon, targets)."""
        starts = np.arange(len(self))[:, None] * self.step + self.length
        return np.asarray(self.targets[starts + np.arange(self.horizon)])

    def fingerprint(self) -> str:
        """Hash the values and how they are cut."""
        digest = hashlib.sha256(f"{self.values.shape}{self.length},{self.horizon},{self.step}".encode())
        for array in (self.values, self.targets):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:24]


def parse_windows(text: str) -> Windows:
    """Read ``--windows``: ``LENGTH,HORIZON``, or ``LENGTH,HORIZON,STRIDE``.

    Raises:
        DataError: It has another form.
    """
    words = [word.strip() for word in text.split(",")]
    if len(words) not in (2, 3) or not all(re.fullmatch("[0-9]{1,9}", word) for word in words):
        raise DataError(f"cannot read the windows {shown(text)}; write LENGTH,HORIZON, for example 96,24")
    length, horizon, *stride = map(int, words)
    return Windows(length, horizon, stride[0] if stride else 0)


def series_of(memory: Any, name: str) -> Table:
    """Return the columns of a series: of a frame, a dict of arrays or an array (T, F) in memory, else of a file.

    Raises:
        DataError: It is something else, or parted already.
    """
    if memory is None:
        series = read_one(Path(name))
        _check_no_empty_rows(Path(name))
        return series
    if isinstance(memory, Mapping):
        return {str(key): np.asarray(value) for key, value in memory.items()}
    if (cells := cells_of(memory)) is not None:
        return cells
    array = np.asarray(memory) if hasattr(memory, "__array__") else None
    if array is None or array.ndim not in (1, 2) or array.dtype.kind not in "biuf":
        raise DataError(
            "windows are cut out of one series: a table in a file, a frame, an array (T, F), a dict of arrays (T,)"
        )
    array = array.reshape(len(array), -1)
    return {f"column_{at}": array[:, at - 1] for at in range(1, array.shape[1] + 1)}


def _check_no_empty_rows(path: Path) -> None:
    """Refuse rows without any value between others: each row is a step of time, and a reader of tables drops them.

    Raises:
        DataError: There are some.
    """
    if path.suffix not in raw.TABLES:
        return
    empty: list[int] = []
    found: list[int] = []
    with path.open(encoding="utf-8-sig") as file:
        for row, line in enumerate(file, 1):
            if line.strip(' \t\r\n,;"'):
                found += empty
                empty = []
            else:
                empty.append(row)  # at the end of the file they are no steps
    if found:
        more = f", and {len(found) - 1:,} others" if len(found) > 1 else ""
        raise DataError(
            f"line {found[0]} of {path} has no values{more}: a row of a series is a step of time and cannot be "
            f"left out; give it values, or remove the line if there was no such step"
        )


def _numeric(series: Table, drop: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the columns of numbers, and a note on those that are none."""
    for name in drop:
        if name not in series:
            raise DataError(f"there is no column {name!r} to drop{did_you_mean(name, series)}")
    kept = [name for name in series if name not in drop]
    names = [name for name in kept if are_numbers(series[name])]
    if not names:
        raise DataError(f"the series has no column of numbers (columns: {', '.join(series) or 'none'})")
    left = [name for name in kept if name not in names]
    return names, ([f"Column {', '.join(left)} is no number and was left out."] if left else [])


def _targets(names: list[str], label: str | None) -> list[int]:
    if label is None:
        return list(range(len(names)))
    asked = [label] if label in names else [word.strip() for word in label.split(",")]
    for name in asked:
        if name not in names:
            raise DataError(f"the series has no column {name!r} of numbers to foretell{did_you_mean(name, names)}")
    return [names.index(name) for name in asked]
