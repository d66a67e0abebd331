"""The files of a folder of transformers, looked through before transformers opens them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from whet import plain
from whet.errors import ModelError, in_one_line

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
_MAX_CONFIG_BYTES, _MAX_INDEX_BYTES = 2**24, 2**26
_LAYERS = re.compile(r"(^|_)n?_?(layers?|blocks?|depths?)$")  # settings that say how many layers are built
_MIN_LAYERS = 1000  # so many are built whatever the file of weights holds
_MAX_TIMES, _MAX_MORE = 4, 2**24  # parameters to numbers in the weights: tied ones, and a head that is not stored


def read_object(path: Path, max_bytes: int = _MAX_CONFIG_BYTES) -> dict[str, Any]:
    """Read a file that holds one object of JSON.

    Raises:
        ModelError: It is not JSON, too large or too deep, or holds a list, a number or a text.
    """
    try:
        return plain.read_json(path, dict, max_bytes)
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {in_one_line(error)}; check the file") from error


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.

    Raises:
        ModelError: It cannot be read.
    """
    return read_object(folder / CONFIG)


def check_index(folder: Path) -> None:
    """Have the index of weights in several files name files of its own folder alone.

    Raises:
        ModelError: It cannot be read, or names a file elsewhere or one that is not there.
    """
    path = folder / INDEX
    if not path.exists():
        return
    files = read_object(path, _MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
        raise ModelError(f"{path} has no weight_map from names of weights to files; copy it again")
    for name in dict.fromkeys(files.values()):
        _check_shard(path, name)


def _check_shard(path: Path, name: str) -> None:
    """Refuse a name that is not of a file beside an index, or of a link to outside of the folder and its cache."""
    shown, file = in_one_line(ValueError(name), 80), path.parent / name.replace("\0", "?")
    if Path(name).name != name or "\\" in name or "\0" in name:
        raise ModelError(f"{path} names {shown!r}, which is not a file beside it; do not use this folder")
    if not file.is_file():
        raise ModelError(f"{path} names {shown!r}, which is not there; copy the whole folder again")
    cache = path.parent.resolve().parent.parent / "blobs"  # where the hub's cache keeps what its folders link to
    if not any(file.resolve().is_relative_to(place) for place in (path.parent.resolve(), cache)):
        raise ModelError(f"{path} names {shown!r}, a link to outside of its folder; put the file itself there")


def check_layers(folder: Path, config: Mapping[str, Any], tensors: int) -> None:
    """Refuse a config that says of more layers than its weights could be of: building them would take all memory.

    Args:
        folder: Of the model.
        config: As read; settings of inner models are looked at too.
        tensors: In the files of weights.

    Raises:
        ModelError: It does.
    """
    for name, value in _numbers(config):
        if _LAYERS.search(name) and value > max(_MIN_LAYERS, tensors):
            raise ModelError(
                f"{folder / CONFIG} asks for {value:,} layers ({name}), and the weights beside it are {tensors:,} "
                f"arrays; copy the folder again"
            )


def check_parameters(folder: Path, parameters: int, numbers: int) -> None:
    """Refuse a config whose model has many times the numbers that its weights are.

    Raises:
        ModelError: It has.
    """
    if parameters > _MAX_TIMES * numbers + _MAX_MORE:
        raise ModelError(
            f"{folder / CONFIG} makes a model of {parameters:,} parameters, and the weights beside it are "
            f"{numbers:,} numbers; copy the folder again"
        )


def count(files: Sequence[Path]) -> tuple[int, int]:
    """Return how many arrays and how many numbers files of weights hold, as their headers say (safetensors).

    Of pickled ones, the bytes of the file bound both.
    """
    from safetensors import safe_open

    arrays = numbers = 0
    for path in files:
        if path.suffix != ".safetensors":
            arrays, numbers = arrays + path.stat().st_size // 8, numbers + path.stat().st_size
            continue
        with safe_open(str(path), "numpy") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - not a dict
        arrays, numbers = arrays + len(shapes), numbers + sum(map(math.prod, shapes))
    return arrays, numbers


def _numbers(config: Any) -> Iterator[tuple[str, int]]:
    """Yield every whole number of a config with its name, of inner configs too."""
    for name, value in config.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, int) and not isinstance(item, bool):
                yield name, item
