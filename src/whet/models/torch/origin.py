"""A fresh module from where it came: a user's factory, a config of the hub, a program, a class in memory."""

from __future__ import annotations

import copy
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from whet import plain, userfile
from whet.errors import ModelError
from whet.models.source import DESCRIPTION, PROGRAM, BundleSource, MemorySource, Origin, Source
from whet.models.torch import checkpoint, hub, program
from whet.models.torch.keras.module import module as keras_module
from whet.types import TensorSpec


def build(source: Source) -> nn.Module:
    """Return a new module in evaluation mode, with the weights its origin gives it (not ``source.weights``).

    Raises:
        ModelError: The factory cannot be called or returns something else.
    """
    if source.origin is Origin.MEMORY:
        return _from_memory(source).eval()
    if source.origin is Origin.HUB:
        return hub.build(source)
    if source.origin is Origin.FILE:
        return program.build(Path(source.path)).eval()
    if source.origin is Origin.KERAS:
        return keras_module(_description(Path(source.path)))
    if isinstance(source, BundleSource) and source.is_foreign_code:
        _prepare_import(Path(source.path))
    module = userfile.call(Path(source.path), source.factory, ModelError)
    if not isinstance(module, nn.Module):
        raise ModelError(
            f"{Path(source.path).name}:{source.factory} returned a {type(module).__name__}, "
            f"not a torch.nn.Module; return the model itself"
        )
    return module.eval()


def build_trained(source: Source) -> nn.Module:
    """Return the user's model as given: built, and filled from ``source.weights`` if there are any."""
    if source.origin is Origin.HUB:
        return hub.build_trained(source)
    module = build(source)
    if source.weights:
        path = Path(source.weights)
        checkpoint.fill(module, checkpoint.read(path, trust_pickle=source.trust_pickle), path)
    return module


def keep(source: Source, folder: Path) -> None:
    """Write beside a stored model what its origin is built from, where that is neither code nor in memory."""
    if source.origin is Origin.HUB:
        shutil.copyfile(Path(source.path) / hub.CONFIG, folder / hub.CONFIG)
    elif source.origin is Origin.FILE:
        program.keep(Path(source.path), folder / PROGRAM)
    elif source.origin is Origin.KERAS:
        shutil.copyfile(source.path, folder / DESCRIPTION)


def kept(source: Source, folder: Path) -> Source:
    """Return the source with its path led to what was kept beside a stored model, if anything was."""
    for name in (PROGRAM, DESCRIPTION):
        if (folder / name).is_file():
            return replace(source, path=str(folder / name))
    return replace(source, path=str(folder)) if (folder / hub.CONFIG).is_file() else source


def kept_files(folder: Path) -> list[Path]:
    """Return what ``keep`` wrote."""
    return [path for path in (folder / hub.CONFIG, folder / PROGRAM, folder / DESCRIPTION) if path.is_file()]


def inputs(source: Source, module: nn.Module) -> tuple[TensorSpec, ...]:
    """Return what goes in: as the user declared it, else as the origin tells; nothing where only data can."""
    if source.inputs or source.origin not in (Origin.HUB, Origin.FILE):
        return source.inputs
    return hub.inputs(source, module) if source.origin is Origin.HUB else program.inputs(module)


def _from_memory(source: Source) -> nn.Module:
    if not isinstance(source, MemorySource) or not source.memory:
        raise ModelError(
            f"this model's class ({source.factory}) lived in the memory of another program; "
            f"run that program again, or give file.py:function"
        )
    module = pickle.loads(source.memory)  # noqa: S301 - this program's own object: no other source carries bytes
    assert isinstance(module, nn.Module)
    return copy.deepcopy(module)


def _description(path: Path) -> dict[str, Any]:
    try:
        return plain.read_json(path, dict)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.name} cannot be read ({error}); restore it, or make it anew") from error


def _prepare_import(path: Path) -> None:
    """Have Python find what a bundle's code imports of its own, and neither read nor write bytecode for it."""
    sys.dont_write_bytecode, sys.pycache_prefix = True, None
    others = str(path.with_suffix(""))
    if others not in sys.path:
        sys.path.insert(0, others)
