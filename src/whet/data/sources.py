"""DATA as a user names it: built-in, files, folders, the hub, ``file.py:factory``, or objects in memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from whet import userfile
from whet.bounds import printable, shown
from whet.data import builtin, folders, hub, limits
from whet.data.data import Data, Splits, split
from whet.data.preprocess import Preprocess
from whet.data.tables import SUFFIXES, Reading, TableSamples, frames_read, read_tables
from whet.data.tokens import TOKEN_FIELDS, Tokens
from whet.data.windows import Windows, WindowSamples, series_of
from whet.errors import DataError, did_you_mean, in_one_line
from whet.storage import sha256

# The one object that travels to child processes: data in memory is part of it, data on disk is only named.


@dataclass(frozen=True)
class DataSource:
    """Where data comes from: enough to open it again in another process.

    Attributes:
        name: As given: a built-in name, a path, or ``file.py:factory``; ``memory`` for objects.
        memory: What a user's program holds, if it is that.
        preprocess: As given by ``--preprocess``; takes the place of the factory's own.
        task: As given by ``--task``, a name or a callable.
        seed: Of the splits.
        label: As given by ``--label``: the column of a table that holds the labels.
        windows: How a time series is cut into samples, if it is one.
        tokens: The model's own tokenizer, for texts where ``preprocess`` names none.
        skip_unreadable: Leave out pictures that cannot be read, and say which.
    """

    name: str
    memory: Any = None
    preprocess: Preprocess | None = None
    task: Any = None
    seed: int = 0
    label: str | None = None
    windows: Windows | None = None
    tokens: Tokens | None = None
    skip_unreadable: bool = False

    def open(self) -> Splits:
        """Open the data and split it.

        Raises:
            DataError: It cannot be found, read or split.
        """
        reading = Reading(self.label, self.preprocess or Preprocess(), self.task, self.tokens)
        if self.windows is not None:
            data = self.windows.cut(series_of(self.memory, self.name), reading)
        elif self.memory is not None:
            data = _read(as_data(self.memory), reading)
        else:
            data = _named(self.name, reading)
        if self.label is not None and not isinstance(data.test, TableSamples | hub.HubSamples | WindowSamples):
            raise DataError("label names a column of a table; this data is none, and its labels come with it")
        if self.skip_unreadable:
            data = folders.readable(data)
        changes: dict[str, Any] = {} if self.task is None else {"task": self.task}
        if self.preprocess is not None and not (data.preprocess and data.preprocess.columns):
            changes["preprocess"] = self.preprocess  # a reader of columns has taken it into account
        return split(replace(data, **changes), self.seed)


def data_source(
    data: Any,
    *,
    preprocess: Preprocess | None = None,
    task: Any = None,
    seed: int = 0,
    label: str | None = None,
    windows: Windows | None = None,
) -> DataSource:
    """Name data; nothing is opened yet.

    Args:
        data: A DataSource, Data, a tuple of parts, a data set of the hub, or a name or path.
        preprocess: Takes the place of the data's own.
        task: Likewise.
        seed: Of the splits.
        label: The column of labels, of a table.
        windows: How a time series is cut into samples.
    """
    given: dict[str, Any] = {"preprocess": preprocess, "task": task, "label": label, "windows": windows}
    if isinstance(data, DataSource):
        return replace(data, **{key: value for key, value in given.items() if value is not None})
    if isinstance(data, str | Path):
        name = str(data)
        parts = userfile.split(name)
        if parts is not None:
            name = f"{parts[0].resolve()}:{parts[1]}"
        elif name not in builtin.NAMES and not name.startswith("hf:"):
            if not name or not Path(name).exists():
                raise DataError(
                    f"the data {shown(name)} is neither a file, a folder nor a built-in name"
                    f"{did_you_mean(name, builtin.NAMES)}"
                )
            name = str(Path(name).resolve())
        return DataSource(name, seed=seed, **given)
    if windows is None:
        as_data(data)
    return DataSource("memory", data, seed=seed, **given)


def as_data(value: Any) -> Data:
    """Turn what a factory returns, or a program holds, into Data.

    Raises:
        DataError: It is neither Data, nor its fields in a dict, nor ``(train, test)``, ``(train, select, test)``.
    """
    if isinstance(value, Data):
        return value
    if hub.is_dataset(value):
        return hub.parted(value)
    if isinstance(value, Mapping):
        known = [item.name for item in fields(Data)]
        for name in value:
            if name not in known:
                raise DataError(f"data has no part {name!r}{did_you_mean(str(name), known)}")
        return Data(**value)
    if isinstance(value, tuple | list) and len(value) == 2:
        _not_one_part(*value)
        return Data(train=value[0], test=value[1])
    if isinstance(value, tuple | list) and len(value) == 3:
        return Data(train=value[0], select=value[1], test=value[2])
    raise DataError(
        f"data is (train, test), (train, select, test) or whet.Data(...), this is a {type(value).__name__}"
    )


def _read(data: Data, reading: Reading) -> Data:
    """Read parts that are data sets of the hub, or frames."""
    return frames_read(hub.read(data, reading), reading)


def _not_one_part(first: Any, second: Any) -> None:
    """Refuse inputs and their labels in the place of two parts."""
    shapes = [getattr(value, "shape", None) for value in (first, second)]
    if shapes[0] and shapes[1] and len(shapes[0]) > len(shapes[1]) == 1 and shapes[0][0] == shapes[1][0]:
        raise DataError(
            f"data is (train, test), this seems to be the inputs {list(shapes[0])} and labels {list(shapes[1])} of "
            f"one part; give ((inputs, labels), (inputs, labels)): what is trained on, and what decides"
        )


def _named(name: str, reading: Reading) -> Data:
    if name in builtin.NAMES:
        return builtin.load(name)
    parts = userfile.split(name)
    if parts is not None:
        return _read(as_data(userfile.call(*parts, DataError)), reading)
    if name.startswith("hf:"):
        return _read(hub.load(name.removeprefix("hf:")), reading)
    path = Path(name)
    if hub.is_saved(path):
        return _read(hub.load_saved(path), reading)
    if path.is_dir():
        return folders.read_folder(path, reading)
    limits.check_regular(path)
    if path.suffix == ".npz":
        return folders.read_npz([path])
    if path.suffix in SUFFIXES:
        return read_tables([path], reading)
    raise DataError(
        f"cannot read {printable(path.name)} as data; data is a .npz, .csv, .tsv or .parquet file, a folder, "
        f"hf:name, file.py:factory, or one of {', '.join(builtin.NAMES)}"
    )


_STATISTICS = {
    "imagenet": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
}


@dataclass(frozen=True)
class _Reader:
    read: Callable[[str], Any]
    form: str = field(default="")


def parse_preprocess(text: str) -> Preprocess:
    """Read ``--preprocess``: a TOML file, or ``key=value; key=value``.

    ``resize=256; crop=224; scale=1/255; mean=imagenet; std=imagenet; layout=CHW``, for example, or
    ``tokenizer=tokenizer.json; max_length=64; ids=input_ids; mask=attention_mask``, where the last two name the
    model's inputs. Lists are comma-separated.

    Raises:
        DataError: An unknown key, or a value that cannot be read.
    """
    if text.endswith(".toml"):
        import tomllib

        try:
            raw = tomllib.loads(_small_file(Path(text)).decode())
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"cannot read the preprocessing in {text}: {in_one_line(error)}") from error
        pairs = {key: value if isinstance(value, str) else _text(value) for key, value in raw.items()}
    else:
        given = [_pair(part) for part in text.split(";") if part.strip()]
        pairs = dict(given)
        for key in pairs:
            if sum(key == other for other, _ in given) > 1:
                raise DataError(f"--preprocess has {shown(key)} twice; give it once")
    inputs = tuple((key, value) for key, value in pairs.items() if value in TOKEN_FIELDS)
    values = {key: _value(key, value) for key, value in pairs.items() if value not in TOKEN_FIELDS}
    of_text = {key: values.pop(key) for key in _OF_TEXT if key in values}
    if "tokenizer" in of_text:
        values["tokens"] = _tokens(of_text, inputs)
    elif of_text or inputs:
        name = next(iter(of_text), "") or inputs[0][0]
        raise DataError(f"{name!r} is about text, which needs a tokenizer: tokenizer=path/tokenizer.json")
    return Preprocess(**values)


def _small_file(path: Path) -> bytes:
    """Return the content of a file of settings.

    Raises:
        DataError: It is a pipe or a folder, is not there, or is far too large for settings.
    """
    size = path.stat().st_size
    limits.check_regular(path)
    if size > _MAX_SETTINGS:
        raise DataError(f"{path} has {size:,} bytes; a file of preprocessing has {_MAX_SETTINGS:,} at most")
    return path.read_bytes()


def _value(key: str, value: str) -> Any:
    reader = _READERS.get(key)
    if reader is None:
        raise DataError(f"unknown preprocessing {shown(key)}{did_you_mean(key, _READERS)}")
    try:
        return _STATISTICS[value][key] if value in _STATISTICS else reader.read(value)
    except (ValueError, KeyError, ZeroDivisionError, OverflowError) as error:
        raise DataError(f"cannot read {key}={shown(value)}; {key} is {reader.form}") from error


def _tokens(text: dict[str, Any], inputs: tuple[tuple[str, str], ...]) -> Tokens:
    """Find the ``tokenizer.json``, in a folder if one is named."""
    path = Path(text["tokenizer"])
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise DataError(f"{path} does not exist; name a tokenizer.json, or a folder that holds one")
    given = {_OF_TEXT[key]: value for key, value in text.items() if key != "tokenizer"}
    return Tokens(str(path.resolve()), **given, inputs=inputs, digest=sha256(path))


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _pair(part: str) -> tuple[str, str]:
    key, equals, value = part.partition("=")
    if not equals:
        raise DataError(f"cannot read {shown(part.strip())} in --preprocess; write key=value; key=value")
    return key.strip(), value.strip()


def _number(text: str) -> float:
    over, slash, under = text.partition("/")
    number = float(over) / float(under) if slash else float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _factor(text: str) -> float:
    if (number := _number(text)) == 0:
        raise ValueError(text)
    return number


def _numbers(text: str) -> tuple[float, ...]:
    words = text.split(",")
    if len(words) > _MAX_CHANNELS:
        raise ValueError(text)
    return tuple(_number(word) for word in words)


def _divisors(text: str) -> tuple[float, ...]:
    numbers = _numbers(text)
    if 0 in numbers:
        raise ValueError(text)
    return numbers


def _size(text: str) -> int | tuple[int, int]:
    sizes = [int(word) for word in text.split(",")]
    if any(not 1 <= size <= _MAX_SIDE for size in sizes):
        raise ValueError(text)
    if len(sizes) == 1:
        return sizes[0]
    high, wide = sizes
    return high, wide


def _one_of(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return read


def _names(text: str) -> tuple[str, ...]:
    names = tuple(word.strip() for word in text.split(","))
    if not all(names):
        raise ValueError(text)
    return names


def _length(text: str) -> int:
    if not 2 <= int(text) <= _MAX_TOKENS:  # the tokenizer's own two special tokens at least
        raise ValueError(text)
    return int(text)


_MAX_SIDE, _MAX_TOKENS = 16_384, 2**20  # pixels; tokens
_MAX_CHANNELS, _MAX_SETTINGS = 16_384, 2**18  # numbers of a mean; bytes of a file of settings
_OF_TEXT = {"tokenizer": "file", "max_length": "max_length", "padding": "padding", "text": "columns"}
_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box")
_READERS: Mapping[str, _Reader] = {
    "color": _Reader(_one_of("RGB", "L"), "RGB or L"),
    "resize": _Reader(_size, f"the short side in pixels, or height,width, each from 1 to {_MAX_SIDE:,}"),
    "crop": _Reader(_size, f"a side in pixels, or height,width, each from 1 to {_MAX_SIDE:,}"),
    "interpolation": _Reader(_one_of(*_FILTERS), f"one of {', '.join(_FILTERS)}"),
    "scale": _Reader(_factor, "a number, such as 1/255, and not 0"),
    "mean": _Reader(_numbers, f"one number a channel, or imagenet; {_MAX_CHANNELS:,} at most"),
    "std": _Reader(_divisors, "one number a channel, none of them 0, or imagenet"),
    "layout": _Reader(_one_of("CHW", "HWC"), "CHW or HWC"),
    "tokenizer": _Reader(str, "a tokenizer.json, or a folder that holds one"),
    "max_length": _Reader(_length, f"a number of tokens, 2 at least and {_MAX_TOKENS:,} at most"),
    "padding": _Reader(_one_of("max", "batch"), "max (to max_length) or batch (to the longest of a batch)"),
    "text": _Reader(_names, "one column of text, or two"),
    "fill": _Reader(_one_of("median"), "median"),
    "drop": _Reader(_names, "columns of a table"),
    "dtype": _Reader(_one_of("float32", "float16", "int64", "int32", "uint8"), "float32 or another NumPy type"),
}
