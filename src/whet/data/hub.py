"""Data sets of Hugging Face ``datasets``: of the hub, saved to disk, or in memory."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.data import limits
from whet.data.data import PART_NAMES, Data
from whet.data.labels import label_columns
from whet.data.modes import Look, look
from whet.data.raw import in_bytes
from whet.data.samples import Rows
from whet.data.tables import PARTS, Reading
from whet.errors import DataError, MissingDependency, in_one_line

if TYPE_CHECKING:
    from whet.types import Array

_AT_ONCE = 1000  # rows of pictures whose headers are looked at
_HEAD = 1 << 16  # bytes of a picture that are read for it, unless its format wants all


@dataclass(frozen=True)
class HubSamples:
    """Samples of a ``datasets.Dataset`` with pictures or arrays, read as they are needed.

    Attributes:
        dataset: With a column a raw input.
        targets: (N,) or (N, ...), or None.
    """

    dataset: Any
    targets: Array | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def rows(self, indices: Sequence[int]) -> Rows:
        """Return the raw inputs of these numbers; pictures as bytes (H, W, C)."""
        found = self.dataset[[int(index) for index in indices]]
        return {
            name: _stacked([self._value(item, row) for item, row in zip(items, indices, strict=True)])
            for name, items in found.items()
        }

    def _value(self, item: Any, row: int) -> Any:
        """Return one raw input: a picture as bytes in RGB or grey, other things as an array; text stays text."""
        if isinstance(item, str):
            return item
        try:
            return np.asarray(in_bytes(item) if hasattr(item, "convert") else item)
        except ValueError as error:
            raise DataError(f"the picture of {self._row(row)} cannot be used: {error}") from error

    def _row(self, row: int) -> str:
        return f"{self.dataset.split or ''} row {row}".strip()

    def looks(self) -> Iterator[Look | None]:
        """Look at the headers of pictures, which are not decoded for it."""
        for name in self._pictures():
            stored = self.dataset.select_columns([name]).with_format("arrow")
            for start in range(0, len(stored), _AT_ONCE):
                for row, value in enumerate(stored[start : start + _AT_ONCE][name], start):
                    yield _look(self._row(row), value)

    def _pictures(self) -> list[str]:
        """Return the columns of pictures that come as they are stored; others ``datasets`` converts as declared."""
        kinds = self.dataset.features.items()
        return [name for name, kind in kinds if type(kind).__name__ == "Image" and kind.mode is None]

    def labels(self) -> Array | None:
        """Return the targets."""
        return self.targets

    def fingerprint(self) -> str:
        """Return what ``datasets`` knows the samples by, with the labels."""
        digest = hashlib.sha256(str(self.dataset._fingerprint).encode())
        if self.targets is not None:
            digest.update(np.ascontiguousarray(self.targets).tobytes())
        return digest.hexdigest()[:24]


def is_dataset(value: Any) -> bool:
    """Tell whether an object is a Dataset or DatasetDict of ``datasets``."""
    return type(value).__module__.partition(".")[0] == "datasets"


def load(name: str) -> Data:
    """Load a data set of the hub, or one that ``datasets`` builds from a local folder: ``NAME`` or ``NAME:CONFIG``.

    Raises:
        DataError: There is none of that name, or the hub cannot be reached.
    """
    path, _, config = name.partition(":")
    loader = _library()
    try:
        with _quiet():
            found = loader.load_dataset(path, config or None)
        return parted(found)
    except DataError:
        raise
    except Exception as error:  # the hub, the network and the reader of each format raise their own
        raise DataError(
            f"the data set {name!r} cannot be loaded ({type(error).__name__}: {in_one_line(error)}); check its "
            f"name; without a network, save it elsewhere with save_to_disk and give that folder"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the hub's lines on each retry from between ours; what comes of them is told in one."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def is_saved(path: Path) -> bool:
    """Tell whether a folder was written by ``save_to_disk``."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def load_saved(path: Path) -> Data:
    """Load a folder written by ``save_to_disk``.

    Raises:
        DataError: A file of it is missing or damaged.
    """
    loader = _library()
    try:
        _check_saved(path)
    except DataError as error:
        raise DataError(f"{path} is no whole saved data set: {error}; save it again") from error
    try:
        return parted(loader.load_from_disk(str(path)))
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"{path} is no whole saved data set ({type(error).__name__}: {in_one_line(error)}); save it again"
        ) from error


def _check_saved(path: Path) -> None:
    """Refuse a folder of ``save_to_disk`` of which a file is missing or damaged: the file is named.

    Raises:
        DataError: It is one, or it names a file outside of the folder.
    """
    folders = [path]
    if (path / "dataset_dict.json").is_file():
        splits = _json(path / "dataset_dict.json").get("splits")
        if not isinstance(splits, list) or not all(isinstance(name, str) for name in splits):
            raise DataError(f"{path / 'dataset_dict.json'} has no list of splits")
        folders = [path / name for name in splits]
    for folder in folders:
        _json(folder / "dataset_info.json")
        files = _json(folder / "state.json").get("_data_files")
        for entry in files if isinstance(files, list) else [None]:
            name = entry.get("filename") if isinstance(entry, dict) else None
            if not isinstance(name, str) or Path(name).name != name:
                raise DataError(f"{folder / 'state.json'} names no plain file of data")
            _check_arrow(folder / name)


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a saved data set."""
    limits.check_regular(path)
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({in_one_line(error)})") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds no JSON object")
    return found


def _check_arrow(path: Path) -> None:
    """Read the schema of a file of Arrow."""
    import pyarrow as pa

    limits.check_regular(path)
    try:
        with pa.memory_map(str(path)) as file:
            pa.ipc.open_stream(file).close()
    except (ValueError, OSError) as error:  # pyarrow's own errors are ValueErrors
        raise DataError(f"{path} is no file of Arrow ({in_one_line(error)})") from error


def parted(value: Any) -> Data:
    """Share the splits of a DatasetDict out among the parts; a single Dataset is all there is, for ``test``.

    Raises:
        DataError: There is no split to test on, or it cannot be read by number.
    """
    if not isinstance(value, Mapping):
        return Data(test=_readable(value))
    parts: dict[str, Any] = {}
    for name, split in value.items():
        if name in PART_NAMES and parts.setdefault(PART_NAMES[name], split) is not split:
            raise DataError(
                f"the data set has two splits that are the {PART_NAMES[name]} part, one is {name!r}; keep one"
            )
    left = [name for name in value if name not in PART_NAMES]
    notes = [f"Splits {', '.join(left)} were left out."] if left else []
    if "select" in parts and ("test" not in parts or _unlabelled(parts["test"])):
        if "test" in parts:
            notes.append("The labels of the split test are withheld (-1): it was left out.")
        parts["test"] = parts.pop("select")
    if "test" not in parts:
        raise DataError(f"the data set has no split to test on (it has {', '.join(value)}); a verdict needs one")
    return Data(**{name: _readable(part) for name, part in parts.items()}, notes=tuple(notes))


def read(data: Data, reading: Reading) -> Data:
    """Turn parts that are Datasets into tables, or into samples where they hold pictures or arrays."""
    given = {name: part for name in PARTS if (part := getattr(data, name)) is not None}
    sets = {name: part for name, part in given.items() if is_dataset(part)}
    if not sets:
        return data
    features = sets.get("test", next(iter(sets.values()))).features
    labels, told = label_columns(list(features), reading.label)
    names = getattr(features[labels[0]], "names", None) if len(labels) == 1 else None
    made = replace(data, classes=data.classes or tuple(names or ()))
    if all(_is_cell(feature) for feature in features.values()):
        return replace(made, **{name: part.with_format("arrow")[:] for name, part in sets.items()})
    drop = reading.preprocess.drop
    samples: dict[str, Any] = {name: _samples(part, labels, drop) for name, part in sets.items()}
    return replace(made, **samples, notes=(*data.notes, told))


def _samples(part: Any, labels: Sequence[str], drop: Sequence[str]) -> HubSamples:
    """Return the raw inputs of a Dataset; its labels are read at once."""
    targets = None
    if labels and all(name in part.column_names for name in labels):
        columns = [np.asarray(part.with_format("numpy")[name][:]) for name in labels]
        targets = columns[0] if len(columns) == 1 else np.stack(columns, axis=1)
        if targets.dtype.kind not in "biuf":
            raise DataError(f"the labels in {', '.join(labels)} are not numbers; make them a ClassLabel")
    names = [name for name in part.column_names if name not in labels and name not in drop]
    return HubSamples(part.select_columns(names), targets)


def _library() -> Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise MissingDependency.of("datasets", "hub") from error
    return datasets


def _readable(part: Any) -> Any:
    if not hasattr(part, "__len__"):
        raise DataError("the data set is streamed and has no samples by number; load it without streaming")
    return part


def _unlabelled(part: Any) -> bool:
    """Tell whether a part's labels are all -1, as competitions withhold them."""
    label = part.features.get("label")
    return hasattr(label, "names") and len(part) > 0 and set(part["label"]) == {-1}


def _is_cell(feature: Any) -> bool:
    return type(feature).__name__ in ("Value", "ClassLabel")


def _look(name: str, value: Any) -> Look | None:
    """Look at a picture as Arrow holds it: bytes, or the path of a file."""
    if not value.is_valid:
        return None
    if not value["bytes"].is_valid:
        return look(name, Path(str(value["path"])))
    content = value["bytes"].as_buffer()
    return look(name, BytesIO(content[:_HEAD])) or (look(name, BytesIO(content)) if len(content) > _HEAD else None)


def _stacked(items: list[Any]) -> Any:
    same = len({getattr(item, "shape", None) for item in items}) == 1 and not isinstance(items[0], str)
    return np.stack(items) if same else items
