"""Plain data to JSON and back: dataclasses, enums, tuples and mappings, validated by type on the way in."""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")
_SURROGATE = re.compile("[\ud800-\udfff]")  # Python's stand-in for a byte of a name that is no UTF-8


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
