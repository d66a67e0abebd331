"""Raw samples out of files: pictures, arrays, and tables of text.

This file needs NumPy alone (and Pillow where pictures are read), so that a bundle can carry it: measuring and
``predict.py`` read files by this one implementation.
"""

from __future__ import annotations

import csv
import itertools
import struct
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TABLES = (".csv", ".tsv", ".txt")
"""Suffixes of files of text that hold a table."""

_ORIENTATION = 0x0112  # the tag of EXIF: 1 is upright, 2 to 8 are rotated or mirrored
_GREY = ("1", "L", "LA", "La")  # modes of Pillow's without colour, of 8 bits at most


def read_raw(path: Path) -> NDArray[Any]:
    """Read one raw sample, or a stack of them: ``.npy``, or a picture as (H, W, C) bytes."""
    if path.suffix == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(in_bytes(image))


def in_bytes(image: Any) -> Any:
    """Return a Pillow picture as it is read: grey (``L``) where it is stored so, else ``RGB``.

    Transparency is dropped: what lies under it shows. CMYK becomes RGB by its inks alone, not by a colour profile.

    Raises:
        ValueError: It is grey of more than 8 bits: where such a picture's white lies, its file does not say.
    """
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"it has more than 8 bits a channel (mode {image.mode}); save it as 8-bit, or as .npy")
    read = read_as(image.mode)
    if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        image = image.convert("RGBA")  # Pillow warns of the direct way, which gives the same colours
    return image if image.mode == read else image.convert(read)


def read_as(mode: str) -> str:
    """Return the mode in which ``in_bytes`` gives a picture of a mode of Pillow's."""
    return "L" if mode in _GREY else "RGB"


def stored_as(image: Any) -> str:
    """Return Pillow's mode of a picture of which no more than its header is read.

    ``1-bit`` is its mode ``1``, ``PA`` a palette with transparency too; ``;16`` stands after a mode where Pillow
    drops the lower 8 of 16 bits.
    """
    if image.mode == "1":
        return "1-bit"
    if image.mode == "P" and "transparency" in image.info:
        return "PA"
    return str(image.mode) + (";16" if ";16" in str(image.tile) and ";16" not in image.mode else "")


def exif_rotated(path: Path) -> bool:
    """Tell whether a picture file carries an EXIF orientation other than upright; only its header is read.

    Pixels are read as they are stored: such a picture is neither rotated nor mirrored, as in the usual training
    pipelines of torchvision and Keras. A viewer shows it upright.

    Raises:
        OSError: It cannot be opened, or is no picture.
    """
    from PIL import Image

    with Image.open(path) as image:
        return has_rotation(image)


def has_rotation(image: Any) -> bool:
    """Tell whether an opened Pillow picture carries an EXIF orientation other than upright; damaged EXIF has none.

    Of PNG, EXIF that stands behind the pixels is not looked for: it would mean to decode them all.
    """
    if image.format == "PNG" and not {"exif", "Raw profile type exif"} & set(image.info):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged EXIF, which has none
            return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except (OSError, ValueError, SyntaxError, struct.error, KeyError, IndexError, TypeError, OverflowError):
        return False  # what Pillow raises of damaged EXIF; the pixels are none the worse


def read_table(path: Path, names: Sequence[str] = ()) -> tuple[dict[str, list[str]], bool]:
    """Read a table of text, whole, into memory.

    ``.csv`` is parted by the first of comma, semicolon and tab that its first line has, with quotes; ``.tsv`` by
    tabs, where quotes mean nothing; each line of ``.txt`` is one cell. Blank lines are left out.

    Args:
        path: The file, in UTF-8.
        names: Columns that are looked for. The first line is a header if it has one of them; where none are known,
            if its cells are distinct words, none of them empty or a number. Columns without a header are called
            ``column_1``, ``column_2``; they are the ``names``, in order, if they are as many.

    Returns:
        Cells by column, all of one length, and whether the file has a header.

    Raises:
        ValueError: It is empty, not UTF-8, or its rows differ in length.
        OSError: It cannot be opened.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = _rows(file, path.suffix)
            first = next(rows, None)
            if first is None:
                raise ValueError("it is empty; a table has a row a sample")
            header = path.suffix != ".txt" and _is_header(first, names)
            columns = _columns(rows if header else itertools.chain([first], rows), len(first))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"it is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    except csv.Error as error:
        raise ValueError(f"it is no table ({error}); write one row a line") from error
    if header:
        return dict(zip(_stripped(first), columns, strict=True)), True
    called = [f"column_{at}" for at in range(1, len(first) + 1)]
    if names and len(names) == len(first) and not set(names) <= set(called):
        called = list(names)
    return dict(zip(called, columns, strict=True)), False


def _rows(file: Iterable[str], suffix: str) -> Iterator[list[str]]:
    """Yield the rows that are not blank."""
    lines = iter(file)
    if suffix == ".txt":
        return ([text] for line in lines if (text := line.rstrip("\r\n")).strip())
    if suffix == ".tsv":
        return (row for row in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if any(row))
    first = next(lines, "")
    delimiter = next((mark for mark in ",;\t" if mark in first), ",")
    return (row for row in csv.reader(itertools.chain([first], lines), delimiter=delimiter) if any(row))


def _columns(rows: Iterable[list[str]], width: int) -> list[list[str]]:
    """Turn rows into columns; every row must have as many cells as the first line."""
    columns: list[list[str]] = [[] for _ in range(width)]
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise ValueError(
                f"row {number} has {len(row)} cells, the first line {width}; give each row all of them"
            )
        for column, cell in zip(columns, row, strict=True):
            column.append(cell)
    return columns


def _is_header(cells: list[str], names: Sequence[str]) -> bool:
    words = _stripped(cells)
    if names:
        return bool(set(words) & set(names))
    return all(words) and len(set(words)) == len(words) and not any(is_number(word) for word in words)


def _stripped(cells: list[str]) -> list[str]:
    return [cell.strip() for cell in cells]


def is_number(word: str) -> bool:
    """Tell whether a cell is a number."""
    try:
        float(word)
    except ValueError:
        return False
    return True
