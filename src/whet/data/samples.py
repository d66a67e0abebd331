"""Samples: raw inputs and labels by number, from arrays, files or a torch Dataset; read as they are needed."""

from __future__ import annotations

import hashlib
import itertools
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from whet.bounds import printable
from whet.data import limits
from whet.data.dataset import DatasetSamples, array_of
from whet.data.modes import Look, look
from whet.data.raw import read_raw
from whet.errors import DataError, MissingDependency, in_one_line
from whet.progress import Event, OnEvent, silent

if TYPE_CHECKING:
    from whet.types import Array

Rows = Mapping[str, Any]
"""Raw inputs by name: an array (n, ...), or a list of n arrays where their sizes differ."""

_A_LOOK = 1000  # headers between two events


@runtime_checkable
class Samples(Protocol):
    """A numbered collection of raw inputs, with labels or without."""

    def __len__(self) -> int:
        """Return how many there are."""

    def rows(self, indices: Sequence[int]) -> Rows:
        """Return the raw inputs of these numbers."""

    def labels(self) -> Array | None:
        """Return all labels, (N,) or (N, ...), or None."""

    def fingerprint(self) -> str:
        """Return a hash that changes when the samples do."""


@dataclass(frozen=True)
class ArraySamples:
    """Samples in arrays, which may be memory maps.

    Attributes:
        inputs: Arrays (N, ...) by name.
        targets: (N, ...) or None.
    """

    inputs: Mapping[str, Array]
    targets: Array | None = None

    def __post_init__(self) -> None:
        """Refuse no inputs at all, and arrays of unequal length."""
        if not self.inputs:
            raise DataError("a part of the data has no inputs; give an array, or a dict of named arrays")
        for name, array in self.inputs.items():
            if array.dtype.kind not in "biufUS":
                raise DataError(f"the input {name!r} holds {array.dtype}, not numbers; convert it")
        lengths = {name: len(array) for name, array in self.inputs.items()}
        if self.targets is not None:
            lengths["labels"] = len(self.targets)
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise DataError(f"inputs and labels differ in length: {shown}; every array needs one row a sample")

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def rows(self, indices: Sequence[int]) -> Rows:
        """Return slices of the arrays."""
        return {name: np.asarray(array[_as_slice(indices)]) for name, array in self.inputs.items()}

    def labels(self) -> Array | None:
        """Return the targets."""
        return self.targets

    def fingerprint(self) -> str:
        """Hash every byte."""
        digest = hashlib.sha256()
        arrays = sorted(self.inputs.items())
        for name, array in [*arrays, *([] if self.targets is None else [("labels:", self.targets)])]:
            digest.update(f"{name}{array.dtype}{array.shape}".encode())
            for start in range(0, len(array), 4096):
                digest.update(np.ascontiguousarray(array[start : start + 4096]).tobytes())
        return digest.hexdigest()[:24]


@dataclass(frozen=True)
class FileSamples:
    """Pictures in files, read when they are asked for.

    Attributes:
        paths: One a sample.
        targets: (N,) int64 class numbers, or None.
    """

    paths: tuple[Path, ...]
    targets: Array | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def rows(self, indices: Sequence[int]) -> Rows:
        """Read the files of these numbers; those that cannot be read are named, all of them."""
        pictures, failures = [], {}
        for index in indices:
            path = self.paths[index]
            try:
                pictures.append(_read(path))
            except ModuleNotFoundError as error:
                raise MissingDependency.of("Pillow", "report") from error
            except Exception as error:  # noqa: BLE001 - Pillow raises whatever its readers do
                failures[path] = error
        if failures:
            raise _unreadable(failures) from next(iter(failures.values()))
        same = len({picture.shape for picture in pictures}) == 1
        return {"input": np.stack(pictures) if same else pictures}

    def unreadable(self) -> list[int]:
        """Read every file, and return the numbers of those that cannot be read."""
        lost = []
        for index, path in enumerate(self.paths):
            try:
                _read(path)
            except ModuleNotFoundError as error:
                raise MissingDependency.of("Pillow", "report") from error
            except Exception:  # noqa: BLE001 - Pillow raises whatever its readers do
                lost.append(index)
        return lost

    def looks(self) -> Iterator[Look | None]:
        """Look at each file's header; None of those that have none that can be read."""
        return (look("/".join(path.parts[-3:]), path) for path in self.paths)

    def without(self, indices: Sequence[int]) -> FileSamples:
        """Return all samples but those of these numbers."""
        kept = np.setdiff1d(np.arange(len(self.paths)), np.asarray(indices, int))
        targets = None if self.targets is None else self.targets[kept]
        return FileSamples(tuple(self.paths[at] for at in kept), targets)

    def labels(self) -> Array | None:
        """Return the class numbers."""
        return self.targets

    def fingerprint(self) -> str:
        """Hash each file's name, length and time of change."""
        digest = hashlib.sha256()
        for path in self.paths:
            try:
                status = path.stat()
            except OSError as error:
                raise DataError(f"{path} is not there any more ({in_one_line(error)}); mend the data") from error
            digest.update(os.fsencode(f"{path.parent.name}/{path.name}:{status.st_size}:{status.st_mtime_ns}"))
        if self.targets is not None:
            digest.update(np.ascontiguousarray(self.targets).tobytes())
        return digest.hexdigest()[:24]


def _read(path: Path) -> Array:
    """Read one picture or array; what Pillow calls a bomb, and what has no pixels, cannot be read."""
    if path.suffix == ".npy":
        limits.check_npy(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of damaged EXIF, which is not needed
        picture = read_raw(path)
    if picture.size == 0 or picture.dtype.kind not in "biuf":
        raise ValueError(f"it is {picture.dtype} of shape {list(picture.shape)}, and not a picture in numbers")
    return picture


def _unreadable(failures: Mapping[Path, Exception]) -> DataError:
    """Name pictures that cannot be read, and say of the first what is wrong with it."""
    (first, error), *others = failures.items()
    more = f"; nor can {', '.join(printable(str(path)) for path, _ in others[:10])}" if others else ""
    more += f" and {len(others) - 10} others" if len(others) > 10 else ""
    reason = f"{type(error).__name__}: {in_one_line(error)}"
    return DataError(
        f"{printable(str(first))} cannot be read as a picture ({reason}){more}; "
        f"mend or remove {'them' if others else 'it'}"
    )


@dataclass(frozen=True)
class Subset:
    """Some samples of a collection, by number."""

    base: Samples
    indices: Array

    def __len__(self) -> int:
        return len(self.indices)

    def rows(self, indices: Sequence[int]) -> Rows:
        """Return rows of the base."""
        return self.base.rows([int(self.indices[index]) for index in indices])

    def labels(self) -> Array | None:
        """Return the labels of these samples."""
        labels = self.base.labels()
        return None if labels is None else labels[self.indices]

    def fingerprint(self) -> str:
        """Hash the base and the numbers."""
        digest = hashlib.sha256(self.base.fingerprint().encode())
        digest.update(np.ascontiguousarray(self.indices, dtype=np.int64).tobytes())
        return digest.hexdigest()[:24]


@runtime_checkable
class Pictures(Protocol):
    """Samples that are stored as pictures, each in its own way."""

    def __len__(self) -> int:
        """Return how many there are."""

    def looks(self) -> Iterator[Look | None]:
        """Look at the headers of all."""


def base_of(samples: Samples) -> Samples:
    """Return the collection that samples were taken from."""
    while isinstance(samples, Subset):
        samples = samples.base
    return samples


def looks(parts: Iterable[Samples], on_event: OnEvent = silent) -> list[Look]:
    """Look at the headers of all pictures that parts were taken from, each once; other samples have none."""
    bases = {id(base): base for base in map(base_of, parts) if isinstance(base, Pictures)}
    total, found = sum(map(len, bases.values())), []
    for at, each in enumerate(itertools.chain.from_iterable(base.looks() for base in bases.values())):
        if at % _A_LOOK == 0:
            on_event(Event("look at the headers of pictures", at, total))
        found += [] if each is None else [each]
    return found


def samples_of(part: Any) -> Samples:
    """Turn what a user gives for one part into samples.

    Args:
        part: ``(inputs, labels)`` with inputs an array, a list of rows or a dict of arrays and labels possibly
            None, an array or such a dict alone, a torch Dataset, or Samples.

    Raises:
        DataError: It is something else, or its arrays differ in length.
    """
    if isinstance(part, Samples):
        return part
    labels = None
    if isinstance(part, tuple | list) and len(part) == 2:
        part, labels = part
    if isinstance(part, Mapping):
        inputs = {str(name): array_of(value) for name, value in part.items()}
    elif hasattr(part, "__array__") or (isinstance(part, list | tuple) and labels is not None):
        inputs = {"input": array_of(part)}
    elif not isinstance(part, str | bytes) and (hasattr(part, "__getitem__") or hasattr(part, "__iter__")):
        if labels is not None:
            raise DataError(f"a {type(part).__name__} gives its own labels with its items; give it alone")
        return DatasetSamples(part)
    else:
        raise DataError(
            f"a part of the data is (inputs, labels) or a torch Dataset, this is a {type(part).__name__}; "
            f"inputs are an array or a dict of arrays"
        )
    return ArraySamples(inputs, None if labels is None else array_of(labels))


def _as_slice(indices: Sequence[int]) -> Any:
    """Return a slice for consecutive numbers: a view instead of a copy."""
    first, count = int(indices[0]), len(indices)
    if int(indices[-1]) - first + 1 == count and all(int(i) == first + k for k, i in enumerate(indices)):
        return slice(first, first + count)
    return np.asarray(indices)
