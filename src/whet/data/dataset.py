"""Samples of a torch Dataset, or of whatever has a length and items by number; and arrays of what a user gives."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.bounds import shown
from whet.data.limits import MAX_SAMPLES
from whet.errors import DataError, in_one_line

if TYPE_CHECKING:
    from whet.data.samples import Rows
    from whet.types import Array

_MANY = 1_000_000  # items of a length that is tried at its end before it is believed
_PROBES = 64  # samples of a Dataset that stand for all in its fingerprint


@dataclass(frozen=True)
class DatasetSamples:
    """A torch Dataset with a length; its items are ``x``, ``(x,)`` or ``(x, y)``, where x may be ``{name: x}``.

    Attributes:
        dataset: With ``__len__`` and ``__getitem__``.
        count: Its length, asked for once: what changes later is found at the item that is not there.
        cache: The labels, once they are collected.
    """

    dataset: Any
    count: int = field(init=False)
    cache: dict[str, Array | None] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        """Refuse a Dataset that can only be iterated, or whose length cannot be true."""
        if not hasattr(self.dataset, "__len__") or not hasattr(self.dataset, "__getitem__"):
            raise DataError(
                f"{self._kind} has no length or no items by number; "
                f"splits need a map-style Dataset (with __len__ and __getitem__)"
            )
        object.__setattr__(self, "count", self._length())
        if self.count > _MANY:
            self._get(self.count - 1)

    @property
    def _kind(self) -> str:
        return type(self.dataset).__name__

    def _length(self) -> int:
        """Return the length as the Dataset tells it.

        Raises:
            DataError: It is no whole number from 0 up, or more than a part may have.
        """
        try:
            length = len(self.dataset)
        except Exception as error:
            raise DataError(
                f"the length of the {self._kind} cannot be used ({type(error).__name__}: {in_one_line(error)}); "
                f"__len__ must return a whole number from 0 up"
            ) from error
        if length > MAX_SAMPLES:
            raise DataError(
                f"the {self._kind} has {length:,} items by its length; a part has {MAX_SAMPLES:,} at most"
            )
        return length

    def __len__(self) -> int:
        return self.count

    def rows(self, indices: Sequence[int]) -> Rows:
        """Fetch items one by one and stack them.

        Raises:
            DataError: An item raises, is no numbers, or has other inputs than the first one.
        """
        items = [self._get(int(index))[0] for index in indices]
        for index, item in zip(indices, items, strict=True):
            if item.keys() != items[0].keys():
                raise DataError(
                    f"item {index} of the {self._kind} has the inputs {', '.join(item)}, item {indices[0]} has "
                    f"{', '.join(items[0])}; give all items the same"
                )
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
        targets: Any = getattr(self.dataset, "targets", None)
        changed = getattr(self.dataset, "target_transform", None) is not None
        if targets is not None and hasattr(targets, "__len__") and not changed and len(targets) == len(self):
            return array_of(targets)
        found = [self._get(index)[1] for index in range(len(self))]
        if all(label is None for label in found):
            return None
        for index, label in enumerate(found):
            if label is None or label.shape != found[0].shape:
                got = "no label" if label is None else f"a label of shape {list(label.shape)}"
                first = list(found[0].shape) if found[0] is not None else "none"
                raise DataError(
                    f"item {index} of the {self._kind} has {got}, item 0 has one of shape {first}; give all items "
                    f"a label of one shape, or none"
                )
        return array_of(found)

    def _get(self, index: int) -> tuple[dict[str, Array], Any]:
        where = f"item {index} of the {self._kind}"
        try:
            item = self.dataset[index]
        except (Exception, SystemExit) as error:
            past = (
                f"; its length says that it has {self.count:,}" if isinstance(error, IndexError | KeyError) else ""
            )
            raise DataError(f"{where} raised {type(error).__name__}: {in_one_line(error)}{past}") from error
        return _item(item, where)

    def fingerprint(self) -> str:
        """Hash the length and items spread evenly over the whole, with the same random numbers each time."""
        digest = hashlib.sha256(f"{self._kind}{len(self)}".encode())
        with _random_state_kept():
            for index in np.unique(np.linspace(0, len(self) - 1, min(_PROBES, len(self))).astype(int)):
                inputs, label = self._get(int(index))
                for name, value in sorted(inputs.items()):
                    digest.update(name.encode() + np.ascontiguousarray(value).tobytes())
                digest.update(str(label).encode())
        return digest.hexdigest()[:24]


def array_of(value: Any) -> Array:
    """Return an array of what a user gives for inputs or labels, (N, ...); memory maps stay as they are.

    Raises:
        DataError: It is a single value, or holds something other than numbers or texts of one size.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    try:
        array = value if isinstance(value, np.ndarray) else np.asarray(value)
    except Exception:  # noqa: BLE001 - rows of differing lengths, or an object's own __array__
        raise DataError(_differing(value)) from None
    if array.dtype == object:
        raise DataError(_differing(value))
    if array.ndim == 0:
        raise DataError("inputs or labels are a single value; give an array with one row a sample")
    return array


def _differing(value: Any) -> str:
    """Name the first row that keeps rows from being one array of numbers."""
    text = "an array holds objects of differing sizes, not numbers; pad them to one size"
    if not isinstance(value, list | tuple | np.ndarray) or len(value) == 0:
        return text
    first = np.shape(value[0]) if isinstance(value[0], np.ndarray) else None
    for row, item in enumerate(value):
        if item is None or isinstance(item, dict | set) or not _is_plain(item):
            return f"row {row} is {_kind_of(item)}, not numbers; give numbers of one size in every row"
        if first is not None and np.shape(item) != first:
            return f"{text} (row {row} is {list(np.shape(item))}, row 0 is {list(first)})"
    return text


def _is_plain(item: Any) -> bool:
    return isinstance(item, int | float | str | bytes | list | tuple) or hasattr(item, "__array__")


def _kind_of(item: Any) -> str:
    return "None" if item is None else f"of type {type(item).__name__}"


def _item(item: Any, where: str) -> tuple[dict[str, Array], Any]:
    """Split an item of a Dataset into named inputs and a label.

    Args:
        item: As the Dataset gives it.
        where: What it is called in a message.

    Raises:
        DataError: It has another form, or holds no numbers.
    """
    label = None
    if isinstance(item, tuple | list):
        if len(item) not in (1, 2):
            raise DataError(
                f"an item of a Dataset is x, (x, y) or {{name: x}}, this one has {len(item)} elements; "
                f"name several inputs in a dict ({where})"
            )
        label = item[1] if len(item) == 2 else None
        item = item[0]
    if label is not None:
        label = _value(label, f"the label of {where}")
    if isinstance(item, Mapping):
        if not item:
            raise DataError(f"{where} is an empty dict; an item is x, (x, y) or {{name: x}}")
        return {str(name): _value(value, f"{name!r} of {where}") for name, value in item.items()}, label
    return {"input": _value(item, where)}, label


def _value(value: Any, where: str) -> Array:
    """Return an input or a label of one item as an array of numbers or texts."""
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except Exception:  # noqa: BLE001 - lists of differing lengths, or an object's own __array__
        array = np.empty(1, object)
    if array.dtype.kind not in "biufUS":
        text = "None" if value is None else f"{shown(value)} (of type {type(value).__name__})"
        raise DataError(f"{where} is {text}, not numbers; an item is x, (x, y) or {{name: x}}")
    return array


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Seed ``random``, NumPy and torch with 0, and restore their states afterwards."""
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
