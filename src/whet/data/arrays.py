"""Arrays out of files, checked by their headers before memory is taken; numbers brought to a dtype.

NumPy alone: bundles carry this file.
"""

from __future__ import annotations

import math
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MAX_BYTES = 2 << 30
"""One input file may unpack to so many bytes (2 GiB), unless another limit is given."""
MAX_TABLE_BYTES = 256 << 20
"""A table of text that ``predict.py`` answers for may be so large (256 MiB): its cells take ten times that."""

_SPECIAL = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)
_KINDS = {
    "c": "complex numbers", "M": "dates", "m": "time differences", "U": "text", "S": "bytes", "T": "text",
    "V": "records or raw bytes", "O": "Python objects",
}  # fmt: skip
# What numpy, zipfile and zlib raise of a damaged file; MemoryError and RecursionError come from deep headers.
_DAMAGED = (
    ValueError, TypeError, SyntaxError, OverflowError, EOFError, KeyError, IndexError, RuntimeError, MemoryError,
    NotImplementedError, OSError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def check_file(path: Path, max_bytes: int = MAX_BYTES) -> int:
    """Return the size of a file in bytes; it is not opened, since that alone can block.

    Raises:
        ValueError: It is a folder, a pipe, a device or a socket, or is empty or larger than ``max_bytes``.
        OSError: There is none, or it cannot be reached.
    """
    found = path.stat()
    for is_kind, kind in _SPECIAL:
        if is_kind(found.st_mode):
            raise ValueError(f"it is {kind}; name a regular file")
    if not found.st_size:
        raise ValueError("it is empty (0 bytes); write it again")
    _check_size(found.st_size, max_bytes, "it is a file of")
    return found.st_size


def read_npy(path: Path, max_bytes: int = MAX_BYTES) -> Array:
    """Read the array of a ``.npy`` file.

    Raises:
        ValueError: It is damaged, holds Python objects, is not as large as its header claims, or too large.
        OSError: It cannot be opened.
    """
    with path.open("rb") as file:
        return _read(file, os.fstat(file.fileno()).st_size, max_bytes)


def read_npz(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Array]:
    """Read all arrays of a ``.npz`` archive; together they may unpack to ``max_bytes``.

    Raises:
        ValueError: It is damaged, encrypted, empty, too large once unpacked, or holds other files.
        OSError: It cannot be opened.
    """
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
            members = archive.infolist()
        except _DAMAGED as error:
            raise ValueError(f"it is no .npz archive, or damaged ({error}); write it with numpy.savez") from error
        _check_members(members, max_bytes)
        return {one.filename.removesuffix(".npy"): _member(archive, one, max_bytes) for one in members}


def _check_members(members: list[zipfile.ZipInfo], max_bytes: int) -> None:
    """Refuse what cannot be arrays, by the archive's directory alone."""
    if not members:
        raise ValueError("it holds no arrays; write them with numpy.savez")
    for one in members:
        if not one.filename.endswith(".npy"):
            raise ValueError(f"its member {short(one.filename)} is no array; write it with numpy.savez")
        if one.flag_bits & 1:
            raise ValueError(f"its member {short(one.filename)} is encrypted; write it with numpy.savez")
        if one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(
                f"its member {short(one.filename)} is compressed by method {one.compress_type}; "
                f"write it with numpy.savez or numpy.savez_compressed"
            )
    name, times = Counter(one.filename for one in members).most_common(1)[0]
    if times > 1:
        raise ValueError(f"it has {times} members called {short(name)}; give each array a name of its own")
    _check_size(sum(one.file_size for one in members), max_bytes, "it unpacks to")


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, max_bytes: int) -> Array:
    """Read one array; at the end of it zipfile compares the checksum."""
    try:
        with archive.open(member) as file:
            array = _read(file, member.file_size, max_bytes)
            file.read(1)
            return array
    except _DAMAGED as error:
        raise ValueError(f"its array {short(member.filename)} cannot be read: {error}") from error


def _read(file: IO[bytes], size: int, max_bytes: int) -> Array:
    """Read an array from a file of ``size`` bytes, once its header has been compared with that size."""
    try:
        shape, dtype = _header(file)
        claimed, present = math.prod(shape) * max(dtype.itemsize, 1), size - file.tell()
    except _DAMAGED as error:
        raise ValueError(f"it is no .npy array, or damaged ({error}); write it with numpy.save") from error
    if dtype.hasobject:
        raise ValueError(f"it holds Python objects ({short(dtype)}), which are not opened; save numbers or text")
    if claimed != present:
        raise ValueError(
            f"its header claims shape {short(shape)} of {short(dtype)}, {claimed:,} bytes, but {present:,} follow; "
            f"it is truncated or damaged: write it with numpy.save"
        )
    _check_size(claimed, max_bytes, "it unpacks to")
    file.seek(0)
    try:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
    except _DAMAGED as error:
        raise ValueError(f"it is damaged ({error}); write it with numpy.save") from error


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return shape and dtype from the header of a ``.npy`` file."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"its format is version {version[0]}.{version[1]}, 1.0 and 2.0 are read")
    if any(size < 0 for size in shape) or len(shape) > 32:
        raise ValueError(f"its header claims shape {short(shape)}")
    return shape, dtype


def _check_size(size: int, max_bytes: int, what: str) -> None:
    if size > max_bytes:
        raise ValueError(f"{what} {size:,} bytes, the limit is {max_bytes:,}; split it, or raise the limit")


def check_numbers(array: Array, name: str, wanted: str = "numbers") -> None:
    """Refuse an array of something else than integers, floats or booleans.

    Raises:
        ValueError: It holds complex numbers, dates, text or the like.
    """
    if array.dtype.kind not in "biuf":
        kind = _KINDS.get(array.dtype.kind, "values")
        raise ValueError(
            f"input {name!r} has {kind} ({short(array.dtype)}), {wanted} are needed; "
            f"convert it to integers or floats"
        )


def cast(array: Array, dtype: str, name: str) -> Array:
    """Return numbers as another dtype, if that changes none of them by more than rounding of floats.

    Raises:
        ValueError: They are no numbers, or one of them does not exist in ``dtype``: out of range, a fraction or NaN
            for an integer.
    """
    want = np.dtype(dtype)
    if array.dtype == want:
        return array
    check_numbers(array, name, dtype)
    if not array.size or want.kind not in "biuf":
        return array.astype(want)
    if want.kind == "f":
        with np.errstate(over="ignore"):
            made = array.astype(want)
        lost = np.isinf(made) & np.isfinite(array)
    else:
        made, lost = _as_integers(array, want)
    if lost.any():
        value = array[np.unravel_index(int(lost.argmax()), lost.shape)]
        raise ValueError(f"input {name!r} takes {dtype} ({_range(want)}), one of its values is {value}; convert it")
    return np.asarray(made)


def _as_integers(array: Array, want: np.dtype[Any]) -> tuple[Array, Array]:
    """Return numbers as integers or booleans, and where that is another number."""
    low, high = (0, 1) if want.kind == "b" else (int(np.iinfo(want).min), int(np.iinfo(want).max))
    if array.dtype.kind != "f":
        return array.astype(want), (array < low) | (array > high)  # a bound that the dtype lacks compares rightly
    with np.errstate(invalid="ignore"):
        # The upper bound itself may round up in floats: one more than it is certainly too many.
        lost = ~((array >= low) & (array < float(high) + 1) & (np.floor(array) == array))
        return np.where(lost, 0, array).astype(want), lost


def _range(want: np.dtype[Any]) -> str:
    if want.kind == "f":
        return f"up to {np.finfo(want).max:.4g}"
    return "0 or 1" if want.kind == "b" else f"whole numbers from {np.iinfo(want).min} to {np.iinfo(want).max}"


def short(value: Any, length: int = 60) -> str:
    """Return a value as text for a message: printable, on one line, cut off if long."""
    text = str(value)
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= length else f"{text[:length]}..."
