"""Data in files: ``.npz``, ``.npy``, idx ``.gz``, tables and pictures."""

from __future__ import annotations

import gzip
import math
import os
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.bounds import listed, printable, shown
from whet.data import limits, tables
from whet.data.data import PART_NAMES, Data
from whet.data.samples import FileSamples, Samples, samples_of
from whet.data.tables import Reading
from whet.errors import DataError, in_one_line

if TYPE_CHECKING:
    from io import BufferedIOBase

    from whet.types import Array

_NO_ARCHIVE = (
    TypeError, ValueError, OSError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_LABELS = {"y", "label", "labels", "target", "targets"}
_PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".npy"}
_LITTER = {"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", "lost+found"}  # written by systems, not by users
_TABLES = {".csv", ".tsv", ".parquet"}
_PLAINLY = Reading()
_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_folder(path: Path, reading: Reading = _PLAINLY) -> Data:
    """Read a folder: idx ``.gz`` files, ``.npz`` or ``.npy`` files, tables, or pictures (in one folder a class).

    Raises:
        DataError: It holds none of these.
    """
    try:
        names = sorted(entry.name for entry in path.iterdir() if _is_visible(entry.name))
    except OSError as error:
        raise DataError(f"the folder {path} cannot be read ({in_one_line(error)})") from error
    if any(re.search(r"idx\d-ubyte(\.gz)?$", name) for name in names):
        return _read_idx(path)
    if any(name.endswith(".npz") for name in names):
        return read_npz([path / name for name in names if name.endswith(".npz")])
    if any(name.endswith(".npy") for name in names):
        return _read_npy([path / name for name in names if name.endswith(".npy")])
    found, pictures = [path / name for name in names if Path(name).suffix in _TABLES], _files(path)
    if found and not pictures:
        return tables.read_tables(found, reading)
    if folders := _folders(path):
        return _read_pictures(path, folders)
    if pictures:
        return Data(
            test=FileSamples(tuple(pictures)), notes=("The pictures lie in no folders: there are no labels.",)
        )
    raise DataError(
        f"{path} holds no data that is known: idx .gz files, .npz or .npy files, tables (.csv, .tsv, .parquet), "
        f"or pictures, in one folder a class"
    )


def read_npz(paths: list[Path]) -> Data:
    """Read archives whose arrays are ``x`` and ``y`` (a file a part) or ``x_train``, ``y_train``, ``x_test``...

    ``y``, ``label`` or ``target`` is the label; every other array is an input of that name.
    """
    arrays: dict[str, Array] = {}
    for path in paths:
        part = PART_NAMES.get(path.stem.lower())
        for key, array in _load_npz(path).items():
            name = f"{key}_{part}" if part and not _part_of(key) else key
            if name in arrays:
                raise DataError(
                    f"{path.parent} has {key!r} in several files, {path.name} among them; "
                    f"name the files train.npz, select.npz and test.npz"
                )
            arrays[name] = array
    return _by_part(arrays, paths[0].parent if len(paths) > 1 else paths[0])


def _load_npz(path: Path) -> dict[str, Array]:
    try:
        limits.check_npz(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except _NO_ARCHIVE as error:
        raise DataError(
            f"{path} cannot be read as an .npz of plain arrays ({error}); write it with numpy.savez, numbers only"
        ) from error


def _read_npy(paths: list[Path]) -> Data:
    """Read ``x_train.npy``, ``y_train.npy``, ... as memory maps: they may be larger than memory."""
    arrays: dict[str, Array] = {}
    for path in paths:
        limits.check_regular(path)
        try:
            arrays[path.stem] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError, OverflowError, MemoryError) as error:
            raise DataError(
                f"{path} cannot be read as a plain array ({error}); write it with numpy.save, numbers only"
            ) from error
    return _by_part(arrays, paths[0].parent)


def _part_of(key: str) -> str:
    """Return the part that an array's name ends in, or nothing."""
    stem, _, ending = key.rpartition("_")
    return PART_NAMES.get(ending.lower(), "") if stem else ""


def _by_part(arrays: dict[str, Array], where: Path) -> Data:
    """Group arrays by the part their name ends in; arrays without one are the test part."""
    inputs: dict[str, dict[str, Array]] = defaultdict(dict)
    labels: dict[str, Array] = {}
    for key, array in arrays.items():
        part = _part_of(key)
        name = key.rpartition("_")[0] if part else key
        part = part or "test"
        if name.lower() in _LABELS:
            labels[part] = array
        else:
            inputs[part][name] = array
    if "test" not in inputs:
        raise DataError(
            f"{where} has no test part (arrays: {', '.join(sorted(arrays))}); "
            f"name them x_train, y_train, x_test, y_test"
        )
    return _data({part: samples_of((columns, labels.get(part))) for part, columns in inputs.items()})


def _read_idx(path: Path) -> Data:
    """Read the MNIST family: ``train-images-idx3-ubyte.gz`` and its like."""
    arrays: dict[str, Array] = {}
    for file in sorted(path.iterdir()):
        match = re.match(r"(?P<part>[a-z0-9]+)[-_](?P<kind>images|labels)[-.]idx\d-ubyte(?:\.gz)?$", file.name)
        if match is None or match["part"] not in PART_NAMES:
            continue
        name = "y" if match["kind"] == "labels" else "x"
        arrays[f"{name}_{PART_NAMES[match['part']]}"] = read_idx(file)
    return _by_part(arrays, path)


def read_idx(path: Path) -> Array:
    """Read one idx file: two zero bytes, a type, a number of axes, big-endian lengths, the elements.

    Source: http://yann.lecun.com/exdb/mnist/
    """
    limits.check_regular(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _idx_array(path, file)
    except (OSError, EOFError, zlib.error, ValueError, KeyError, IndexError) as error:
        raise DataError(f"{path} is not a whole idx file ({in_one_line(error)}); download it again") from error


def _idx_array(path: Path, file: BufferedIOBase) -> Array:
    """Read as many elements as the header counts, and refuse a file that has fewer or more.

    Raises:
        DataError: They would take more memory than there is for them.
        ValueError, KeyError, IndexError: The header is no header, or counts otherwise.
    """
    start = file.read(4)
    dtype, axes = np.dtype(_IDX_TYPES[start[2]]), start[3]
    shape = tuple(int(size) for size in np.frombuffer(file.read(4 * axes), ">u4", axes))
    wanted = math.prod(shape) * dtype.itemsize
    limits.check_memory(f"the idx file {path}", wanted)
    content = file.read(wanted + 1)
    if len(content) != wanted:
        more = "more" if len(content) > wanted else f"{len(content):,}"
        raise ValueError(f"its header counts {wanted:,} bytes of elements, there are {more}")
    array = np.frombuffer(content, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def _read_pictures(path: Path, folders: list[Path]) -> Data:
    """Read ``class/picture`` or ``part/class/picture``."""
    parts = _part_folders(folders)
    if not parts:
        classes = [folder.name for folder in folders]
        notes = (*_empty({"": folders}, classes), *_others(folders))
        return Data(test=_pictures(folders, classes), classes=tuple(classes), notes=notes)
    if "test" not in parts:
        raise DataError(f"{path} has no test folder (it has {', '.join(parts)}); a verdict needs one")
    per_part = {part: _folders(folder) for part, folder in parts.items()}
    classes = sorted({folder.name for members in per_part.values() for folder in members})
    found = _data({part: _pictures(members, classes) for part, members in per_part.items()}, classes)
    left = [folder.name for folder in folders if folder not in parts.values()]
    notes = (f"The folders {listed(left)} are no parts and were left out.",) if left else ()
    return replace(found, notes=(*notes, *_empty(per_part, classes), *_others(parts.values())))


def _part_folders(folders: Sequence[Path]) -> dict[str, Path]:
    """Return the folders of parts by part.

    Raises:
        DataError: Two are the same part: ``val`` and ``dev``.
    """
    parts: dict[str, Path] = {}
    for folder in folders:
        part = PART_NAMES.get(folder.name.lower())
        if part is not None and parts.setdefault(part, folder) != folder:
            raise DataError(f"the folders {parts[part].name} and {folder.name} are both the {part} part; keep one")
    return parts


def _empty(parts: Mapping[str, list[Path]], classes: list[str]) -> tuple[str, ...]:
    """Tell which classes have no pictures in which part: nothing is said of the model there."""
    told = []
    for part, folders in parts.items():
        there = {folder.name for folder in folders if _files(folder)}
        missing = [name for name in classes if name not in there]
        if missing and there:
            place = f" in {part}" if part else ""
            told.append(f"There are no pictures{place} of {', '.join(missing)}.")
    return tuple(told)


def readable(data: Data) -> Data:
    """Return data without the pictures that cannot be read, and with a note that names them.

    Raises:
        DataError: The data is no folder of pictures.
    """
    return without(data, unreadable(data))


def unreadable(data: Data) -> tuple[Path, ...]:
    """Read every picture, and return those that cannot be read.

    Raises:
        DataError: The data is no folder of pictures.
    """
    parts = _in_files(data)
    if not parts:
        raise DataError("pictures that cannot be read are skipped in a folder of pictures; this data is none")
    return tuple(samples.paths[at] for samples in parts.values() for at in samples.unreadable())


def without(data: Data, lost: Sequence[Path]) -> Data:
    """Return data without pictures that cannot be read, and with a note that names them."""
    if not lost:
        return data
    known, kept = set(lost), {}
    for part, samples in _in_files(data).items():
        kept[part] = samples.without([at for at, path in enumerate(samples.paths) if path in known])
    some = ", ".join(map(str, lost[:20])) + (f" and {len(lost) - 20} others" if len(lost) > 20 else "")
    are = "picture that cannot be read was" if len(lost) == 1 else "pictures that cannot be read were"
    found: Any = kept
    return replace(data, **found, notes=(*data.notes, f"{len(lost)} {are} left out: {some}."))


def _in_files(data: Data) -> dict[str, FileSamples]:
    parts = {part: getattr(data, part) for part in tables.PARTS}
    return {part: samples for part, samples in parts.items() if isinstance(samples, FileSamples)}


def _folders(path: Path) -> list[Path]:
    """Return the folders in a folder, but for hidden ones such as ``.ipynb_checkpoints``.

    Raises:
        DataError: Two differ by case alone, a name is no UTF-8, or one is a link to a folder above.
    """
    found = sorted(entry for entry in path.iterdir() if entry.is_dir() and _is_visible(entry.name))
    seen: dict[str, str] = {}
    for folder in found:
        name = folder.name
        if not name.isprintable():
            raise DataError(f"the folder {shown(name)} in {path} has a name that cannot be printed; rename it")
        if (twin := seen.setdefault(name.casefold(), name)) != name:
            raise DataError(f"the folders {twin} and {name} in {path} differ by case alone; merge or rename them")
        if path.resolve().is_relative_to(folder.resolve()):
            raise DataError(f"the folder {folder} is a link to a folder around it; remove the link")
    return found


def _data(parts: Mapping[str, Samples], classes: Iterable[str] = ()) -> Data:
    return Data(
        train=parts.get("train"),
        test=parts.get("test"),
        select=parts.get("select"),
        calibrate=parts.get("calibrate"),
        classes=tuple(classes),
    )


def _files(folder: Path) -> list[Path]:
    """Return the pictures in a folder, however deep; hidden ones and links to folders are left out.

    Raises:
        DataError: Folders lie too deep in each other, or what is called like a picture is a pipe or a device.
    """
    found = []
    for root, inner, names in os.walk(folder):
        limits.check_depth(folder, root)
        inner[:] = [name for name in inner if _is_visible(name)]
        found += [
            Path(root, name) for name in names if Path(name).suffix.lower() in _PICTURES and _is_visible(name)
        ]
    for path in found:
        limits.check_regular(path)
    return sorted(found)


def _is_visible(name: str) -> bool:
    """Tell whether a name is the user's own, not hidden and not made by an archiver or a file manager."""
    return not name.startswith(".") and name not in _LITTER


def _others(folders: Iterable[Path]) -> tuple[str, ...]:
    """Name what lies among pictures and is none, for the report."""
    found = [
        str(Path(root, name).relative_to(folder.parent))
        for folder in folders
        for root, _, names in os.walk(folder)
        for name in names
        if Path(name).suffix.lower() not in _PICTURES and _is_visible(name)
    ]
    if not found:
        return ()
    files = "file that is no picture was" if len(found) == 1 else "files that are no pictures were"
    return (f"{len(found)} {files} left out: {printable(listed(sorted(found), 10))}.",)


def _pictures(folders: Iterable[Path], classes: list[str]) -> FileSamples:
    paths: list[Path] = []
    labels: list[int] = []
    for folder in folders:
        found = _files(folder)
        paths.extend(found)
        labels.extend([classes.index(folder.name)] * len(found))
    return FileSamples(tuple(paths), np.array(labels, dtype=np.int64))
