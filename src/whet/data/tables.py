"""Tables: CSV, TSV, lines of text, parquet and frames in memory, as columns of which inputs and labels are made."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.data import limits, raw
from whet.data.columns import Column, TableInput, numbers, words
from whet.data.data import PART_NAMES, Data, is_similarity
from whet.data.labels import Table, are_numbers, label_columns, targets
from whet.data.preprocess import Preprocess
from whet.data.samples import Rows
from whet.data.tokens import Tokens
from whet.errors import DataError, MissingDependency, did_you_mean, in_one_line

if TYPE_CHECKING:
    from whet.types import Array

SUFFIXES = (*raw.TABLES, ".parquet")
PARTS = ("train", "test", "select", "calibrate")
_GIVEN = "labels (given beside the frame)"
_LEAST_WORDS = 50  # up to so many different words are a vocabulary, however few rows there are


@dataclass(frozen=True)
class Reading:
    """How a table is read.

    Attributes:
        label: The column of labels; several, with commas between, for labels (N, columns); ``none`` for no labels.
        preprocess: As given: of it, a table looks at ``tokens``, ``fill`` and ``drop``.
        task: As given: ``similarity`` takes two columns as the sides of a pair.
        tokens: The model's own tokenizer, for columns of text where ``preprocess`` names none.
    """

    label: str | None = None
    preprocess: Preprocess = field(default_factory=Preprocess)
    task: Any = None
    tokens: Tokens | None = None


@dataclass(frozen=True)
class TableSamples:
    """Samples in the columns of a table, in memory.

    Attributes:
        cells: Columns by name, each with a cell a sample.
        targets: (N,), (N, ...) or None.
    """

    cells: Table
    targets: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.cells.values())))

    def rows(self, indices: Sequence[int]) -> Rows:
        """Return the cells of these rows."""
        return {
            name: column[np.asarray(indices)] if isinstance(column, np.ndarray) else [column[at] for at in indices]
            for name, column in self.cells.items()
        }

    def labels(self) -> Array | None:
        """Return the targets."""
        return self.targets

    def fingerprint(self) -> str:
        """Hash every cell."""
        digest = hashlib.sha256()
        arrays = {"labels:": self.targets} if self.targets is not None else {}
        for name, column in {**self.cells, **arrays}.items():
            digest.update(f"{name}{len(column)}".encode())
            is_array = isinstance(column, np.ndarray)
            digest.update(np.ascontiguousarray(column).tobytes() if is_array else repr(column).encode())
        return digest.hexdigest()[:24]


def read_tables(paths: Sequence[Path], reading: Reading) -> Data:
    """Read tables in files: one, which is all there is, or some whose names say ``train``, ``test`` and so on.

    CSV and parquet are read whole into memory: as much as the table takes there is needed.

    Raises:
        DataError: A file cannot be read, or its columns cannot be used.
    """
    parts: dict[str, list[Table]] = {}
    headers = []
    for path in sorted(paths):
        table, header = _read(path)
        parts.setdefault(_part(path) if len(paths) > 1 else "test", []).append(table)
        headers.append(header)
    found = {part: _joined(tables, part) for part, tables in parts.items()}
    if "test" not in found and "select" in found:
        found["test"] = found.pop("select")
    if "test" not in found:
        raise DataError(f"{paths[0].parent} has no test table (there are {', '.join(found)}); a verdict needs one")
    return from_tables(found, reading, header=all(headers))


def read_one(path: Path) -> Table:
    """Read a table in one file.

    Raises:
        DataError: It cannot be read.
    """
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path.name} is no table; give one file: {', '.join(SUFFIXES)}")
    return _read(path)[0]


def from_tables(tables: Mapping[str, Table], reading: Reading, *, header: bool = True) -> Data:
    """Make data of tables by part: ``train``, ``test``, ``select``, ``calibrate``.

    What is counted (vocabularies, medians, names of classes) is counted on ``train``, where there is one.

    Args:
        tables: By part.
        reading: How they are read.
        header: Whether the columns were named by whoever wrote them.

    Raises:
        DataError: Columns are missing, labels are not there, or a cell cannot be used; the message says which.
    """
    model = "train" if "train" in tables else "test"
    labels, told = label_columns(list(tables["test"]), reading.label, header=header)
    given = reading.preprocess
    names = [name for name in tables[model] if name not in labels and name not in given.drop]
    _check_columns(tables, names, labels, given.drop)
    if not names:
        raise DataError(f"the table has no columns but {', '.join([*labels, *given.drop])}; inputs need one")
    tokens = given.tokens or _own_tokens(reading, tables[model], names)
    if tokens is not None:
        given = replace(given, tokens=tokens)
        names, preprocess, notes = _text(tables[model], names, given, pairs=is_similarity(reading.task))
        if reading.preprocess.tokens is None:
            notes.append(f"Texts are cut by the model's own tokenizer, at {tokens.max_length} tokens.")
    else:
        columns, notes = columns_of(tables[model], names, given), []
        preprocess = replace(given, table=(TableInput("input", columns),) if columns else ())
    made = {part: _cells(tables[part], names, preprocess, part) for part in PARTS if part in tables}
    labelled, classes = targets(tables, labels, model)
    samples: dict[str, Any] = {part: TableSamples(cells, labelled.get(part)) for part, cells in made.items()}
    return Data(**samples, preprocess=preprocess, classes=classes, notes=(told, *notes))


def frames_read(data: Data, reading: Reading) -> Data:
    """Read those parts of data that are frames, or ``(frame, labels)``; other data is returned as it is.

    Raises:
        DataError: Some parts are frames and others are not, or their columns cannot be used.
    """
    parts = {name: part for name in PARTS if (part := getattr(data, name)) is not None}
    frames = {name: _frame_of(part) for name, part in parts.items()}
    if not any(frames.values()):
        return data
    whole = {name: frame for name, frame in frames.items() if frame is not None}
    if len(whole) < len(parts):
        other = next(name for name in parts if name not in whole)
        raise DataError(f"{other} is no frame, but {next(iter(whole))} is; give all parts in one form")
    given = isinstance(parts["test"], tuple | list)
    found = from_tables(whole, replace(reading, label=_GIVEN) if given else reading)
    return replace(found, task=data.task, classes=data.classes or found.classes, notes=(*data.notes, *found.notes))


def _frame_of(part: Any) -> Table | None:
    """Return the columns of a part; labels that come beside the frame become one of them."""
    if isinstance(part, tuple | list) and len(part) == 2:
        cells = cells_of(part[0])
        labels = part[1].to_numpy() if hasattr(part[1], "to_numpy") else part[1]
        return None if cells is None else {**cells, **({} if labels is None else {_GIVEN: np.asarray(labels)})}
    return cells_of(part)


def cells_of(frame: Any) -> Table | None:
    """Return the columns of a frame in memory (pandas, polars, pyarrow), or None if it is something else."""
    if hasattr(frame, "column_names") and hasattr(frame, "to_pylist"):
        return from_arrow(frame)
    if hasattr(frame, "columns") and hasattr(frame, "to_numpy") and getattr(frame, "ndim", 2) == 2:
        columns = {str(name): frame[name].to_numpy() for name in frame.columns}
        return {name: list(column) if column.dtype.kind in "OUSM" else column for name, column in columns.items()}
    return None


def from_arrow(table: Any) -> Table:
    """Return the columns of a ``pyarrow.Table``: arrays of numbers and of lists of one length, else texts."""
    return {name: _from_arrow(table.column(name), name) for name in table.column_names}


def _from_arrow(column: Any, name: str) -> Any:
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return column.to_numpy()  # NaN where a value is missing
    cells = column.to_pylist()
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return cells
    try:
        array = np.array(cells)
    except ValueError:
        array = np.empty(0, object)
    if array.dtype.kind not in "biuf":
        raise DataError(f"the lists in column {name!r} are not numbers of one length; pad them, or leave it out")
    return array


def _read(path: Path) -> tuple[Table, bool]:
    """Read one file; tell whether its columns have names of their own."""
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            limits.check_parquet(path)
            return from_arrow(pyarrow.parquet.read_table(path)), True
        limits.check_text(path)
        table, header = raw.read_table(path)
        limits.check_columns(path, len(table))
        return table, header
    except ModuleNotFoundError as error:
        raise MissingDependency.of("pyarrow", "table") from error
    except (OSError, ValueError, RecursionError, MemoryError) as error:  # pyarrow's own are ValueErrors
        raise DataError(f"{path} cannot be read as a table: {in_one_line(error)}") from error


def _part(path: Path) -> str:
    """Return the part that a file's name says: ``train-00000-of-00002.parquet``, ``stsb-en-dev.csv``."""
    for word in re.split(r"[-_.]", path.stem.lower()):
        if word in PART_NAMES:
            return PART_NAMES[word]
    raise DataError(
        f"{path} does not say which part it is; name the files train, select and test, or give one file"
    )


def _joined(tables: Sequence[Table], part: str) -> Table:
    """Return the shards of one part as one table."""
    if len(tables) == 1:
        return tables[0]
    for table in tables[1:]:
        if list(table) != list(tables[0]):
            raise DataError(f"the files of {part} have columns {', '.join(tables[0])} and {', '.join(table)}")
    return {
        name: np.concatenate([table[name] for table in tables])
        if isinstance(column, np.ndarray)
        else [cell for table in tables for cell in table[name]]
        for name, column in tables[0].items()
    }


def _check_columns(tables: Mapping[str, Table], names: list[str], labels: list[str], drop: Sequence[str]) -> None:
    """Refuse parts that lack a column or all rows; labels are needed where parts are judged by them."""
    for part, table in tables.items():
        wanted = [*names, *(labels if part in ("test", "select") else ())]
        missing = [name for name in wanted if name not in table]
        if missing:
            raise DataError(
                f"{part} has no column {missing[0]!r}; it has {', '.join(table)}; "
                f"all parts need the same columns, in any order"
            )
        if not len(next(iter(table.values()))):
            raise DataError(f"{part} is an empty table: it has columns, but no rows")
    for name in drop:
        if name not in tables["test"]:
            raise DataError(f"there is no column {name!r} to drop{did_you_mean(name, tables['test'])}")


def _text(
    table: Table, names: list[str], given: Preprocess, *, pairs: bool
) -> tuple[list[str], Preprocess, list[str]]:
    """Choose the columns that are cut into tokens: as named, else those of text."""
    assert given.tokens is not None
    chosen = list(given.tokens.columns)
    for name in chosen:
        if name not in names:
            raise DataError(f"there is no column {name!r} of text{did_you_mean(name, names)}")
    chosen = chosen or [name for name in names if not are_numbers(table[name])]
    if len(chosen) not in ((2,) if pairs else (1, 2)):
        raise DataError(
            f"{'two columns of text are needed' if pairs else 'one column of text, or two, is cut into tokens'}; "
            f"there are {', '.join(chosen) or 'none'}; name them with --preprocess 'tokenizer=...; text=NAME'"
        )
    left = [name for name in names if name not in chosen]
    notes = [f"Columns {', '.join(left)} are no text and were left out."] if left else []
    if len(chosen) == 2 and not pairs:
        notes.append(f"Columns {chosen[0]} and {chosen[1]} are read as a pair of texts.")
    tokens = replace(given.tokens, columns=tuple(chosen[:1] if pairs else chosen))
    return chosen, replace(given, tokens=tokens), notes


def _own_tokens(reading: Reading, table: Table, names: Sequence[str]) -> Tokens | None:
    """Return the model's own tokenizer if any column is text."""
    texts = any(isinstance(table[name], list) and not are_numbers(table[name]) for name in names)
    return reading.tokens if texts else None


def columns_of(table: Table, names: Sequence[str], given: Preprocess) -> tuple[Column, ...]:
    """Find what each column is, on the samples that may decide it; arrays (N, ...) are none of them.

    Raises:
        DataError: A column has no values, or words without end.
    """
    scalars = [name for name in names if getattr(table[name], "ndim", 1) == 1]
    try:
        return tuple(_column(name, table[name], given.fill) for name in scalars)
    except ValueError as error:
        raise DataError(str(error)) from error


def _column(name: str, cells: Any, fill: str) -> Column:
    if are_numbers(cells):
        values = numbers(cells, name)
        if np.isnan(values).all():
            raise DataError(f"column {name!r} has no values; leave it out with --preprocess 'drop={name}'")
        return Column(name, (), float(np.nanmedian(values)) if fill else None)
    found, counts = np.unique([word for word in words(cells) if word], return_counts=True)
    if len(found) > max(_LEAST_WORDS, len(cells) // 2):
        raise DataError(
            f"column {name!r} has {len(found)} different words in {len(cells)} rows: a text, a date or an "
            f"identifier is no category; leave it out with --preprocess 'drop={name}'; text takes 'tokenizer=...'"
        )
    return Column(name, tuple(found.tolist()), float(counts.argmax()) if fill else None)


def _cells(table: Table, names: Sequence[str], preprocess: Preprocess, part: str) -> Table:
    """Return the columns that are read, numbers as numbers; every cell is looked at."""
    made = {name: table[name] for name in names}
    try:
        for column in (column for one in preprocess.table for column in one.columns):
            column(table[column.name])
            if not column.vocabulary:
                made[column.name] = numbers(table[column.name], column.name)
    except ValueError as error:
        raise DataError(f"{part}: {error}") from error
    return {name: words(cells) if isinstance(cells, list) else cells for name, cells in made.items()}
