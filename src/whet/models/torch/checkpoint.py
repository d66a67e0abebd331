"""Weights from files, without running any code that lies in them."""

from __future__ import annotations

import pickle
import zipfile
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from whet.errors import ModelError, UnsafePickle, WeightsMismatch

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights", "params", "ema")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_SHOWN = 5


def read(path: Path, *, trust_pickle: bool = False) -> dict[str, Tensor]:
    """Read a state dict, on the CPU.

    ``.safetensors`` as such; anything else as a torch checkpoint with ``weights_only=True``. A checkpoint
    that nests its tensors (``{"state_dict": ...}``) is unwrapped.

    Raises:
        ModelError: The file is no such thing, or truncated.
        UnsafePickle: The file holds objects that only unpickling would bring back.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if not trust_pickle:
            raise _unsafe(path, error) from error
        content = torch.load(path, map_location="cpu", weights_only=False)  # the user's explicit word
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"{path} is not a readable torch checkpoint ({_first_line(error)}); it may be truncated"
        ) from error
    if isinstance(content, nn.Module):
        content = content.state_dict()
    return _unwrap(content, path)


def fill(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load a state dict into a module; wrappers' prefixes are stripped where that makes the names fit.

    Raises:
        WeightsMismatch: Names or shapes do not fit; the message lists them with the closest ones.
    """
    wanted = {name: tensor for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    weights = _strip(weights, set(wanted))
    optional = {name for name in wanted if name.endswith("num_batches_tracked")}
    missing = [name for name in wanted if name not in weights and name not in optional]
    unexpected = [name for name in weights if name not in wanted]
    if missing or unexpected:
        raise WeightsMismatch(_mismatch(path, missing, unexpected))
    shapes = [
        f"{name} is {list(weights[name].shape)} in the file, {list(tensor.shape)} in the model"
        for name, tensor in wanted.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if shapes:
        raise WeightsMismatch(f"the shapes in {path.name} do not fit the model: {_some(shapes)}")
    module.load_state_dict(weights, strict=False)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(str(path), device="cpu"))
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is not a readable safetensors file ({_first_line(error)}); it may be truncated"
        ) from error


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """Find the state dict in what a checkpoint holds."""
    for _ in range(3):
        if not isinstance(content, dict):
            break
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    what = f"a {type(content).__name__}"
    if isinstance(content, dict):
        what = f"a dict of {', '.join(map(str, list(content)[:_SHOWN]))}"
    raise ModelError(f"{path} holds no weights by name but {what}; save model.state_dict() and give that file")


def _strip(weights: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Remove the prefix that DataParallel, torch.compile or a wrapper put before every name."""
    for _ in range(len(_PREFIXES)):
        if wanted & set(weights):
            return weights
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in weights)), None)
        if prefix is None:
            return weights
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _mismatch(path: Path, missing: list[str], unexpected: list[str]) -> str:
    parts = []
    if missing:
        near = [_near(name, unexpected) for name in missing]
        parts.append(f"{len(missing)} missing: {_some(near)}")
    if unexpected:
        near = [_near(name, missing) for name in unexpected]
        parts.append(f"{len(unexpected)} unexpected: {_some(near)}")
    return (
        f"the names in {path.name} do not fit the model; {'; '.join(parts)}; "
        f"check that the function builds the very architecture these weights were trained in"
    )


def _near(name: str, others: list[str]) -> str:
    close = get_close_matches(name, others, n=1, cutoff=0.6)
    return f"{name} (closest: {close[0]})" if close else name


def _some(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


def _unsafe(path: Path, error: Exception) -> UnsafePickle:
    """Say what a checkpoint holds that would have to be unpickled."""
    try:
        held = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:  # noqa: BLE001 - the file is hostile or broken: its first error is what we report
        held = []
    if not held and "magic" in str(error).lower():
        return UnsafePickle(f"{path} is not a torch checkpoint ({_first_line(error)})")
    what = ", ".join(held[:_SHOWN]) or _first_line(error)
    return UnsafePickle(
        f"{path} can only be read by unpickling, which runs code from the file; it holds: {what}; "
        f"save model.state_dict() instead, or pass --trust-pickle if you trust whoever made it"
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__
