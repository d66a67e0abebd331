"""A fresh module from where it came: a factory of a user's file, or a class in memory."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

from torch import nn

from whet import userfile
from whet.errors import ModelError
from whet.models.source import Origin, Source
from whet.models.torch import checkpoint


def build(source: Source) -> nn.Module:
    """Return a new module in evaluation mode, with the weights its origin gives it (not ``source.weights``).

    Raises:
        ModelError: The factory cannot be called or returns something else.
    """
    if source.origin is Origin.MEMORY:
        return _from_memory(source).eval()
    module = userfile.call(Path(source.path), source.factory, ModelError)
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"{Path(source.path).name}:{source.factory} returned a {type(module).__name__}, "
            f"not a torch.nn.Module; return the model itself"
        )
    return module.eval()


def build_trained(source: Source) -> nn.Module:
    """Return the user's model as given: built, and filled from ``source.weights`` if there are any."""
    module = build(source)
    if source.weights:
        path = Path(source.weights)
        checkpoint.fill(module, checkpoint.read(path, trust_pickle=source.trust_pickle), path)
    return module


def _from_memory(source: Source) -> nn.Module:
    if not source.memory:
        raise ModelError(
            f"this model's class ({source.factory}) lived in the memory of another program; "
            f"run that program again, or give file.py:function"
        )
    module = pickle.loads(source.memory)  # noqa: S301 - our own process pickled it, and it never lay on disk
    assert isinstance(module, nn.Module)
    return copy.deepcopy(module)
