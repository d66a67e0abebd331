"""What a file of a Keras model may hold: names, sizes and depth, looked at before Keras reads it."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import h5py

from whet.errors import ModelError, in_one_line

_MAX_BYTES, _MAX_RATIO = 2**28, 100  # what a file may unpack to: so much, or so many times its size
_MAX_DEPTH = 400  # of lists and objects in a structure; a model in a model in a model has about 30


def check_archive(path: Path, file: zipfile.ZipFile) -> None:
    """Look at the names and sizes of what a ``.keras`` file would unpack to.

    Raises:
        ModelError: A name leads out of the archive, or the whole is many times the file.
    """
    for item in file.infolist():
        name = item.filename.replace("\\", "/")
        if name.startswith("/") or ".." in PurePosixPath(name).parts:
            shown = in_one_line(ValueError(item.filename), 80)
            raise ModelError(f"{path} holds {shown!r}, which leads out of the archive; do not use this file")
    unpacked = sum(item.file_size for item in file.infolist())
    if unpacked > max(_MAX_BYTES, _MAX_RATIO * path.stat().st_size):
        raise ModelError(
            f"{path} would unpack to {unpacked:,} bytes, more than {_MAX_RATIO} times its size, which no "
            f"model does; do not open it"
        )


def check_arrays(path: Path, file: h5py.File) -> None:
    """Look at the links and the sizes of the arrays in a file of HDF5; none is read.

    Raises:
        ModelError: An array is kept in another file, or all are many times as large as the file.
    """
    total = 0

    def look(name: str, item: h5py.Group | h5py.Dataset) -> None:
        nonlocal total
        if isinstance(item, h5py.Dataset):
            total += math.prod(map(int, item.shape or (0,))) * int(item.dtype.itemsize)
            if item.external or item.is_virtual:
                raise ModelError(f"{path} keeps the array {_shown(name)} in another file; do not use this file")
        elif any(isinstance(item.get(key, getlink=True), h5py.ExternalLink) for key in item):
            raise ModelError(f"{path} has links to other files in {_shown(name)}; do not use this file")

    look("/", file)
    file.visititems(look)
    if total > max(_MAX_BYTES, _MAX_RATIO * path.stat().st_size):
        raise ModelError(
            f"{path} has {path.stat().st_size:,} bytes and holds arrays of {total:,}, which no model does; "
            f"do not open it"
        )


def parse_structure(path: Path, text: str | bytes) -> dict[str, Any]:
    """Read the structure of a model, which is one object of JSON.

    Raises:
        ModelError: It is not JSON, of another type, or nested too deeply.
    """
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        what = (
            "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON ({in_one_line(error)})"
        )
        raise ModelError(f"the structure of the model in {path} {what}; copy the file again") from error
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        raise ModelError(
            f"the structure of the model in {path} is no object with a class_name and a config; "
            f"save the whole model"
        )
    level, depth = [found], 0
    while level:
        if depth > _MAX_DEPTH:
            raise ModelError(f"the structure of the model in {path} is nested too deeply; copy the file again")
        inner: list[Any] = []
        for item in level:
            inner += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        level, depth = inner, depth + 1
    return found


def _shown(name: str) -> str:
    return repr(in_one_line(ValueError(name), 80))
