"""Plain data to JSON and back: dataclasses, enums, tuples and mappings, validated by type on the way in."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_SURROGATE = re.compile("[\ud800-\udfff]")  # Python's stand-in for a byte of a name that is no UTF-8

_MAX_BYTES = 64 * 2**20  # of a file of JSON that comes from a disk
_MAX_DEPTH = 100  # of lists and objects within each other: what whet writes has less than 20


def builtins(value: Any) -> Any:
    """Return ``value`` as dicts, lists, strings and numbers; NumPy scalars become Python's, NaN becomes None."""
    return _finite(msgspec.to_builtins(value, enc_hook=_from_numpy, str_keys=True))


def dumps(value: Any) -> str:
    """Return ``value`` as indented JSON, keys in their own order; lone surrogates are escaped."""
    text = json.dumps(builtins(value), indent=2, ensure_ascii=False, allow_nan=False)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n"


def convert(value: Any, kind: type[T]) -> T:
    """Build a ``kind`` out of plain data.

    Raises:
        msgspec.ValidationError: A value has the wrong type; the message says where.
    """
    return msgspec.convert(value, kind, strict=False)


def loads(text: str | bytes, kind: type[T]) -> T:
    """Read JSON into a ``kind``."""
    return convert(json.loads(text), kind)


def read_json(path: Path, kind: type[T], max_bytes: int = _MAX_BYTES) -> T:
    """Read a file of JSON that somebody else may have written into a ``kind``.

    Args:
        path: A regular file; anything else (a folder, a pipe) is refused before it is opened for long.
        kind: What it has to hold: a dataclass, ``dict``, ``list[int]`` or any other type that msgspec knows.
        max_bytes: The largest size of the file in bytes that is read.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: The system refuses to read it.
        ValueError: It is not UTF-8, not JSON, too large, nested too deeply, or of another type. The message is one
            line that says which, without the name of the file.
    """
    content = read_regular(path, max_bytes)
    try:
        found = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_object)
        _check_plain(found)
        return convert(found, kind)
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text: byte {error.start} is 0x{content[error.start]:02x}") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}") from error
    except msgspec.ValidationError as error:
        raise ValueError(f"it does not hold what it should: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError(f"its lists and objects are nested more than {_MAX_DEPTH} deep") from error
    except (MemoryError, OverflowError) as error:
        raise ValueError(f"it does not fit in memory or in a number: {type(error).__name__}") from error


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file of limited size; a pipe or a device is refused without waiting for it.

    Raises:
        OSError: It cannot be opened or read.
        ValueError: It is no regular file, or larger than ``max_bytes``.
    """
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise ValueError("it is not a regular file")
    with os.fdopen(handle, "rb") as file:  # what is too large is not read for nothing
        if status.st_size > max_bytes:
            raise ValueError(f"it is larger than {max_bytes:,} bytes")
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes:,} bytes")
    return content


def _refuse_constant(word: str) -> None:
    raise ValueError(f"it is not JSON: {word} is no number of JSON")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object of JSON; of a key that stands twice, two readers would believe two things."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"it has the key {ascii(twice)[:60]} twice")
    return found


def _check_plain(value: Any) -> None:
    """Refuse what no writer of ours writes: deep nesting, infinite numbers, halves of characters.

    Raises:
        ValueError: The value has one of these.
    """
    level, depth = [value], 0
    while level:
        if depth > _MAX_DEPTH:
            raise ValueError(f"its lists and objects are nested more than {_MAX_DEPTH} deep")
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.keys()
                inner += item.values()
            elif isinstance(item, list):
                inner += item
            elif isinstance(item, float) and not math.isfinite(item):
                raise ValueError("it has a number that is too large for a float")
            elif isinstance(item, str) and not item.isascii():
                _check_text(item)
        level, depth = inner, depth + 1


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("it has half of a surrogate pair where a character should be") from error


def fingerprint(*parts: Any) -> str:
    """Return 24 hex digits that stand for plain data, whatever the order of its keys and sets."""
    ordered = msgspec.to_builtins(parts, enc_hook=_from_numpy, str_keys=True, order="deterministic")
    text = json.dumps(_finite(ordered), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _from_numpy(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "__fspath__"):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
