"""Samples: raw inputs and labels by number, from arrays, files or a torch Dataset; read as they are needed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from whet.data.preprocess import read_raw
from whet.errors import DataError

if TYPE_CHECKING:
    from whet.types import Array

Rows = Mapping[str, Any]
"""Raw inputs by name: an array (n, ...), or a list of n arrays where their sizes differ."""

_PROBES = 64  # samples of a Dataset that stand for all in its fingerprint


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
        """Refuse arrays of unequal length."""
        lengths = {name: len(array) for name, array in self.inputs.items()}
        if self.targets is not None:
            lengths["labels"] = len(self.targets)
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise DataError(f"inputs and labels differ in length: {told}; every array needs one row a sample")

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
        arrays = {**self.inputs, **({} if self.targets is None else {"labels": self.targets})}
        for name, array in sorted(arrays.items()):
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
        """Read the files of these numbers."""
        pictures = []
        for index in indices:
            path = self.paths[index]
            try:
                pictures.append(read_raw(path))
            except ModuleNotFoundError:
                raise
            except Exception as error:
                raise DataError(
                    f"{path} cannot be read as a picture ({type(error).__name__}: {error}); mend or remove it"
                ) from error
        same = len({picture.shape for picture in pictures}) == 1
        return {"input": np.stack(pictures) if same else pictures}

    def labels(self) -> Array | None:
        """Return the class numbers."""
        return self.targets

    def fingerprint(self) -> str:
        """Hash each file's name, length and time of change."""
        digest = hashlib.sha256()
        for path in self.paths:
            status = path.stat()
            digest.update(f"{path.parent.name}/{path.name}:{status.st_size}:{status.st_mtime_ns}".encode())
        if self.targets is not None:
            digest.update(np.ascontiguousarray(self.targets).tobytes())
        return digest.hexdigest()[:24]


@dataclass(frozen=True)
class DatasetSamples:
    """A torch Dataset with a length; its items are ``x``, ``(x, y)`` or ``{name: x}`` with or without ``y``."""

    dataset: Any
    cache: dict[str, Array | None] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Refuse a Dataset that can only be iterated."""
        if not hasattr(self.dataset, "__len__") or not hasattr(self.dataset, "__getitem__"):
            raise DataError(
                f"{type(self.dataset).__name__} has no length or no items by number; "
                f"splits need a map-style Dataset (with __len__ and __getitem__)"
            )

    def __len__(self) -> int:
        return len(self.dataset)

    def rows(self, indices: Sequence[int]) -> Rows:
        """Fetch items one by one and stack them."""
        items = [_item(self.dataset[int(index)])[0] for index in indices]
        rows: dict[str, Any] = {}
        for name in items[0]:
            column = [item[name] for item in items]
            rows[name] = np.stack(column) if len({value.shape for value in column}) == 1 else column
        return rows

    def labels(self) -> Array | None:
        """Return the labels: the Dataset's ``targets`` if it has them, else collected item by item, once."""
        if "labels" not in self.cache:
            self.cache["labels"] = self._collect()
        return self.cache["labels"]

    def _collect(self) -> Array | None:
        targets = getattr(self.dataset, "targets", None)
        if targets is not None and len(targets) == len(self):
            return np.asarray(targets)
        found = [_item(self.dataset[index])[1] for index in range(len(self))]
        if any(label is None for label in found):
            return None
        return np.asarray(found)

    def fingerprint(self) -> str:
        """Hash the length and items spread evenly over the whole."""
        digest = hashlib.sha256(f"{type(self.dataset).__name__}{len(self)}".encode())
        for index in np.unique(np.linspace(0, len(self) - 1, min(_PROBES, len(self))).astype(int)):
            inputs, label = _item(self.dataset[int(index)])
            for name, value in sorted(inputs.items()):
                digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
            digest.update(str(label).encode())
        return digest.hexdigest()[:24]


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


def samples_of(part: Any) -> Samples:
    """Turn what a user gives for one part into samples.

    Args:
        part: ``(inputs, labels)`` with inputs an array or a dict of arrays and labels possibly None, such inputs
            alone, a torch Dataset, or Samples.

    Raises:
        DataError: It is something else, or its arrays differ in length.
    """
    if isinstance(part, ArraySamples | FileSamples | DatasetSamples | Subset):
        return part
    labels = None
    if isinstance(part, tuple | list) and len(part) == 2:
        part, labels = part
    if isinstance(part, Mapping):
        inputs = {str(name): _array(value) for name, value in part.items()}
    elif hasattr(part, "__array__") or type(part).__module__ == "torch":
        inputs = {"input": _array(part)}
    elif hasattr(part, "__getitem__") or hasattr(part, "__iter__"):
        return DatasetSamples(part)
    else:
        raise DataError(
            f"a part of the data is (inputs, labels) or a torch Dataset, this is a {type(part).__name__}; "
            f"inputs are an array or a dict of arrays"
        )
    return ArraySamples(inputs, None if labels is None else _array(labels))


def _array(value: Any) -> Array:
    """Return an array, keeping memory maps as they are."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    if array.dtype == object:
        raise DataError("an array holds objects of differing sizes, not numbers; pad them to one size")
    if array.ndim == 0:
        raise DataError("an input is a single number, not an array with one row a sample")
    return array


def _item(item: Any) -> tuple[dict[str, Array], Any]:
    """Split an item of a Dataset into named inputs and a label."""
    label = None
    if isinstance(item, tuple | list) and len(item) == 2:
        item, label = item
        label = np.asarray(label.detach().cpu() if hasattr(label, "detach") else label)
    if isinstance(item, Mapping):
        return {str(name): _value(value) for name, value in item.items()}, label
    return {"input": _value(item)}, label


def _value(value: Any) -> Array:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _as_slice(indices: Sequence[int]) -> Any:
    """Return a slice for consecutive numbers: a view instead of a copy."""
    first, count = int(indices[0]), len(indices)
    if int(indices[-1]) - first + 1 == count and all(int(i) == first + k for k, i in enumerate(indices)):
        return slice(first, first + count)
    return np.asarray(indices)
