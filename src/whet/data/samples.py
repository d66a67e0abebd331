"""Samples: raw inputs and labels by number, from arrays, files or a torch Dataset; read as they are needed."""

from __future__ import annotations

import hashlib
import itertools
import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from whet.data.modes import Look, look
from whet.data.raw import read_raw
from whet.errors import DataError, MissingDependency, in_one_line
from whet.progress import Event, OnEvent, silent

if TYPE_CHECKING:
    from whet.types import Array

Rows = Mapping[str, Any]
"""Raw inputs by name: an array (n, ...), or a list of n arrays where their sizes differ."""

_PROBES = 64  # samples of a Dataset that stand for all in its fingerprint
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
                pictures.append(read_raw(path))
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
                read_raw(path)
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
            status = path.stat()
            digest.update(f"{path.parent.name}/{path.name}:{status.st_size}:{status.st_mtime_ns}".encode())
        if self.targets is not None:
            digest.update(np.ascontiguousarray(self.targets).tobytes())
        return digest.hexdigest()[:24]


def _unreadable(failures: Mapping[Path, Exception]) -> DataError:
    """Name pictures that cannot be read, and say of the first what is wrong with it."""
    (first, error), *others = failures.items()
    more = f"; nor can {', '.join(str(path) for path, _ in others[:10])}" if others else ""
    more += f" and {len(others) - 10} others" if len(others) > 10 else ""
    return DataError(
        f"{first} cannot be read as a picture ({type(error).__name__}: {in_one_line(error)}){more}; mend or remove "
        f"{'them' if others else 'it'}"
    )


@dataclass(frozen=True)
class DatasetSamples:
    """A torch Dataset with a length; its items are ``x``, ``(x,)`` or ``(x, y)``, where x may be ``{name: x}``."""

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
        items = [self._get(int(index))[0] for index in indices]
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
        changed = getattr(self.dataset, "target_transform", None) is not None
        if targets is not None and not changed and len(targets) == len(self):
            return _array(targets)
        found = [self._get(index)[1] for index in range(len(self))]
        if any(label is None for label in found):
            return None
        return _array(found)

    def _get(self, index: int) -> tuple[dict[str, Array], Any]:
        try:
            item = self.dataset[index]
        except Exception as error:
            raise DataError(
                f"item {index} of the {type(self.dataset).__name__} raised {type(error).__name__}: {error}"
            ) from error
        return _item(item)

    def fingerprint(self) -> str:
        """Hash the length and items spread evenly over the whole, random augmentation held still."""
        digest = hashlib.sha256(f"{type(self.dataset).__name__}{len(self)}".encode())
        with _dice_held():
            for index in np.unique(np.linspace(0, len(self) - 1, min(_PROBES, len(self))).astype(int)):
                inputs, label = self._get(int(index))
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
        inputs = {str(name): _array(value) for name, value in part.items()}
    elif hasattr(part, "__array__") or (isinstance(part, list | tuple) and labels is not None):
        inputs = {"input": _array(part)}
    elif not isinstance(part, str | bytes) and (hasattr(part, "__getitem__") or hasattr(part, "__iter__")):
        if labels is not None:
            raise DataError(f"a {type(part).__name__} gives its own labels with its items; give it alone")
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
    try:
        array = value if isinstance(value, np.ndarray) else np.asarray(value)
    except ValueError:  # rows of differing lengths
        array = np.empty(1, object)
    if array.dtype == object:
        raise DataError("an array holds objects of differing sizes, not numbers; pad them to one size")
    if array.ndim == 0:
        raise DataError("inputs or labels are a single value; give an array with one row a sample")
    return array


def _item(item: Any) -> tuple[dict[str, Array], Any]:
    """Split an item of a Dataset into named inputs and a label."""
    label = None
    if isinstance(item, tuple | list):
        if len(item) not in (1, 2):
            raise DataError(
                f"an item of a Dataset is x, (x, y) or {{name: x}}, this one has {len(item)} elements; "
                f"name several inputs in a dict"
            )
        label = item[1] if len(item) == 2 else None
        item = item[0]
    if label is not None:
        label = _value(label)
    if isinstance(item, Mapping):
        return {str(name): _value(value) for name, value in item.items()}, label
    return {"input": _value(item)}, label


def _value(value: Any) -> Array:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


@contextmanager
def _dice_held() -> Iterator[None]:
    """Let ``random``, NumPy and torch draw the same numbers every time, then go on as if nothing had been."""
    torch = sys.modules.get("torch")
    before, before_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    before_torch = None if torch is None else torch.default_generator.get_state()
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    if torch is not None:
        torch.default_generator.manual_seed(0)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)  # noqa: NPY002
        if torch is not None:
            torch.default_generator.set_state(before_torch)


def _as_slice(indices: Sequence[int]) -> Any:
    """Return a slice for consecutive numbers: a view instead of a copy."""
    first, count = int(indices[0]), len(indices)
    if int(indices[-1]) - first + 1 == count and all(int(i) == first + k for k, i in enumerate(indices)):
        return slice(first, first + count)
    return np.asarray(indices)
