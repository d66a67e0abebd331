"""Limits of data, checked by headers and sizes before anything is read into memory."""

from __future__ import annotations

import math
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil

from whet.bounds import printable, shown
from whet.errors import DataError, in_one_line

MEMORY_SHARE = 0.5
"""Of the memory that the machine has available: so much may one data set take."""
MAX_ARRAYS = 1_000
"""Arrays of one archive."""
MAX_COLUMNS = 16_384
"""Columns of one table, as many as spreadsheets have."""
MAX_LINE_BYTES = 16 * 2**20
"""Bytes of one line of a table of text."""
MAX_SAMPLES = 100_000_000
"""Samples of one part."""
MAX_DEPTH = 32
"""Folders within each other."""
_CELL_BYTES = 60  # of a Python string of a few characters, with its place in a list
_CHUNK = 2**20
_KINDS = (
    (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"), (stat.S_ISDIR, "a folder"),
)  # fmt: skip


def available_bytes() -> int:
    """Return the memory that the machine has available, in bytes."""
    return int(psutil.virtual_memory().available)


def check_memory(what: str, needed_bytes: float) -> None:
    """Refuse data that would take more than half of the memory that is available.

    Args:
        what: The data, as the message begins with it.
        needed_bytes: As its headers say.

    Raises:
        DataError: It would take more.
    """
    there = available_bytes()
    if needed_bytes > MEMORY_SHARE * there:
        raise DataError(
            f"{what} would take {_in_words(needed_bytes)} of memory, by its headers; this machine has "
            f"{_in_words(there)} available, of which data may take half; give a part of it, arrays as .npy files, "
            f"which are not read whole, or a Dataset from file.py:factory"
        )


def _in_words(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB" if size < 2**42 else f"{size / 2**40:,.1f} TiB"


def check_regular(path: Path) -> None:
    """Refuse what is no ordinary file: opening a pipe waits for whoever writes into it, a device may have no end.

    Raises:
        DataError: It is a pipe, a socket, a device or a folder, cannot be found, or may not be read.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise DataError(f"{printable(str(path))} cannot be opened ({reason}); mend or remove it") from error
    if not stat.S_ISREG(mode):
        kind = next((kind for tells, kind in _KINDS if tells(mode)), "no file")
        raise DataError(f"{printable(str(path))} is {kind}, not a file with data; remove it, or give a file")


def check_npz(path: Path) -> None:
    """Refuse an ``.npz`` whose headers claim what it cannot hold, or more memory than there is for it.

    Raises:
        DataError: It is a bomb, has a member that is no plain array, two of one name, or one that is encrypted.
        zipfile.BadZipFile: It is no archive.
        OSError: It cannot be read.
    """
    check_regular(path)
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MAX_ARRAYS:
            raise DataError(f"{path} has {len(members):,} arrays; give {MAX_ARRAYS:,} at most")
        names = [member.filename for member in members]
        for member in members:
            _check_member(path, archive, member, names)
    check_memory(f"the archive {path}", sum(member.file_size for member in members))


def _check_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, names: list[str]) -> None:
    """Refuse a member that is no plain array, or whose header and length differ."""
    name, cure = shown(member.filename), "write it with numpy.savez, numbers only"
    if names.count(member.filename) > 1:
        raise DataError(f"{path} has two arrays of the name {name}; {cure}")
    if member.flag_bits & 1:
        raise DataError(f"{path} is encrypted ({name}); {cure}, without a password")
    if not member.filename.endswith(".npy") or not _is_plain_name(member.filename):
        raise DataError(f"{path} has a member {name} that is no array of a plain name; {cure}")
    try:
        with archive.open(member) as file:
            claimed, start = npy_bytes(file)
    except (zipfile.BadZipFile, zlib.error):
        raise
    except Exception as error:  # NumPy parses the header as Python, and raises what its tokenizer does
        raise DataError(
            f"{path} cannot be read as an .npz of plain arrays ({in_one_line(error)}; it is {name}); {cure}"
        ) from error
    if claimed + start != member.file_size:
        raise DataError(
            f"{path}: the header of {name} claims {claimed:,} bytes of numbers, there are "
            f"{max(member.file_size - start, 0):,}; {cure}"
        )


def _is_plain_name(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return name.isprintable() and ".." not in parts and "" not in parts and bool(parts[-1].removesuffix(".npy"))


def npy_bytes(file: IO[bytes]) -> tuple[int, int]:
    """Read the header of an ``.npy`` file and return the bytes of its numbers as claimed, and where these start.

    Raises:
        ValueError: It is no ``.npy`` file, or one of objects.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version in ((2, 0), (3, 0)):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"it is of the unknown version {version} of .npy")
    if dtype.hasobject:
        raise ValueError("Object arrays are not opened")
    if any(size < 0 for size in shape):
        raise ValueError(f"its shape {shown(shape)} is negative")
    return math.prod(shape) * dtype.itemsize, file.tell()


def check_npy(path: Path) -> None:
    """Refuse an ``.npy`` file whose header claims more numbers than the file has.

    Raises:
        DataError: It is a pipe or the like.
        ValueError, OSError: It is no ``.npy`` file, one of objects, or its header lies.
    """
    check_regular(path)
    with path.open("rb") as file:
        claimed, start = npy_bytes(file)
    if claimed + start > (size := path.stat().st_size):
        raise ValueError(f"its header claims {claimed:,} bytes of numbers, there are {max(size - start, 0):,}")


def check_text(path: Path) -> None:
    """Refuse a table of text that is no text, has lines without end, or takes more memory than there is for it.

    Raises:
        DataError: It is one of these.
        OSError: It cannot be read.
    """
    check_regular(path)
    size, longest, cells = path.stat().st_size, 0, 0
    check_memory(f"the table {path}", size)
    for chunk, line in _lines(path):
        longest, cells = max(longest, line), cells + sum(map(chunk.count, (b",", b";", b"\t", b"\n")))
        if b"\0" in chunk:
            raise DataError(f"{path} is no text: it holds NUL bytes; save the table as UTF-8 text")
        if longest > MAX_LINE_BYTES:
            raise DataError(
                f"{path} has a line of over {MAX_LINE_BYTES // 2**20} MiB: it is no table; write one row a line"
            )
    check_memory(f"the table {path}", size + cells * _CELL_BYTES)


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """Yield chunks of a file, each with the length of the longest line that is known by then."""
    open_line = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            first, *others = chunk.split(b"\n")
            longest = max(open_line + len(first), *map(len, others), 0)
            open_line = len(others[-1]) if others else open_line + len(first)
            yield chunk, longest


def check_columns(path: Path | str, count: int) -> None:
    """Refuse a table of more columns than a table may have.

    Raises:
        DataError: There are more than ``MAX_COLUMNS``.
    """
    if count > MAX_COLUMNS:
        raise DataError(
            f"{path} has {count:,} columns; a table may have {MAX_COLUMNS:,}: give so wide inputs as one array, in "
            f"an .npz"
        )


def check_parquet(path: Path) -> None:
    """Refuse a parquet file that would take more memory than there is for it, or has columns of nested records.

    Raises:
        DataError: It is one of these.
        ValueError, OSError: It is no parquet file, as pyarrow says.
    """
    import pyarrow.parquet

    check_regular(path)
    with pyarrow.parquet.ParquetFile(path) as file:
        found, schema = file.metadata, file.schema_arrow
        check_columns(path, len(schema.names))
        for name, kind in zip(schema.names, schema.types, strict=True):
            _check_kind(path, name, kind)
        stored = sum(found.row_group(at).total_byte_size for at in range(found.num_row_groups))
        check_memory(f"the table {path}", max(stored, found.num_rows * found.num_columns * 8))


def _check_kind(path: Path, name: str, kind: Any) -> None:
    """Refuse a column of records, of maps, or of lists nested deeper than arrays are."""
    import pyarrow as pa

    depth, inner = 0, kind
    while pa.types.is_list(inner) or pa.types.is_large_list(inner) or pa.types.is_fixed_size_list(inner):
        depth, inner = depth + 1, inner.value_type
    if depth > 8 or pa.types.is_nested(inner):
        nesting = f"{depth} lists within each other" if depth > 8 else "nested records"
        raise DataError(
            f"{path}: column {shown(name)} holds {nesting}; flatten it to plain columns, or leave it out"
        )


def check_depth(root: Path, folder: str) -> None:
    """Refuse folders that lie too deep in each other.

    Raises:
        DataError: There are more than ``MAX_DEPTH`` between ``root`` and ``folder``.
    """
    if len(Path(folder).relative_to(root).parts) > MAX_DEPTH:
        raise DataError(f"{root} has folders more than {MAX_DEPTH} deep in each other; give one folder a class")
