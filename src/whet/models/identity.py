"""What an object in memory is, as a hash that is the same in every process that builds the same object.

A pickle does not do: it names classes at random, storages by their address, and code by file and line.
"""

from __future__ import annotations

import hashlib
import io
import re
from types import CodeType
from typing import Any

_RANDOM = re.compile(r"[0-9a-f]{32}")  # by which cloudpickle tells classes apart


def identity(value: Any) -> str:
    """Return 24 hex digits that stand for an object: its class's code, its attributes, its tensors.

    Raises:
        Exception: Whatever pickling raises for what cannot be pickled.
    """
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def persistent_id(self, part: Any) -> Any:
            return _stable(part)

    stream = io.BytesIO()
    Pickler(stream, protocol=5).dump(value)
    return hashlib.sha256(stream.getvalue()).hexdigest()[:24]


def _stable(part: Any) -> Any:
    """Return what stands for a part whose pickle differs from process to process; None for every other."""
    if isinstance(part, CodeType):
        return ("code", part.co_code, part.co_consts, part.co_names, part.co_varnames, part.co_freevars)
    if isinstance(part, str) and _RANDOM.fullmatch(part):
        return ("class",)
    if isinstance(part, set | frozenset):
        return ("set", sorted(part, key=repr))
    if hasattr(part, "detach") and hasattr(part, "untyped_storage"):
        return _tensor(part)
    return None


def _tensor(part: Any) -> Any:
    import torch

    try:
        numbers = part.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy()
    except RuntimeError:  # a sparse or quantized one is pickled as it is
        return None
    return ("tensor", str(part.dtype), tuple(part.shape), hashlib.sha256(numbers).digest())
