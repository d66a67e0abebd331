"""Checkpoints of Keras models: where a training stands, as one safetensors file. No pickle, and no torch."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from whet import plain
from whet.storage import write_bytes
from whet.train.course import Progress, State

if TYPE_CHECKING:
    from whet.types import Array


class Checkpoint:
    """The file of one training, named by what went into it: another training does not find it."""

    def __init__(self, folder: Path, *parts: Any) -> None:
        self.path = folder / f"{plain.fingerprint(*parts)}.safetensors"

    def save(self, progress: Progress, groups: State) -> None:
        """Write where a training stands: ``{"model": {name: array}, "best": ...}``."""
        flat = {
            f"{group}/{name}": np.array(value, order="C")
            for group, arrays in groups.items()
            for name, value in arrays.items()
        }
        write_bytes(self.path, save(flat, {"progress": json.dumps(plain.builtins(progress))}))

    def load(self) -> tuple[Progress, State] | None:
        """Return what was saved; None where nothing was, or it cannot be read."""
        if not self.path.exists():
            return None
        groups: State = {}
        try:
            with safe_open(str(self.path), framework="np") as file:
                progress = plain.loads(file.metadata()["progress"], Progress)
                for key in file.keys():  # noqa: SIM118 - the file is no dict
                    group, _, name = key.partition("/")
                    groups.setdefault(group, {})[name] = file.get_tensor(key)
        except (SafetensorError, KeyError, ValueError):
            return None
        return progress, groups


def digest(value: Array) -> str:
    """Return a hash of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
