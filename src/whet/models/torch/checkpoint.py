"""Weights from files, without running any code that lies in them."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from whet.errors import ModelError, UnsafePickle, WeightsMismatch, in_one_line

# How torch's files begin: a zip archive, or (to version 1.5) a pickled number.
_ZIP, _LEGACY = b"PK\x03\x04", pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights", "params", "ema")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_COUNTERS = ("n_averaged",)  # of torch.optim.swa_utils.AveragedModel
_SHOWN = 5
_MAX_COMPRESSED, _MAX_RATIO = 2**28, 20  # bytes that compressed records may unpack to, or so many times the file's


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
    _recognise(path)
    try:
        content = _load(path, weights_only=True)
    except pickle.UnpicklingError as error:
        if not trust_pickle:
            raise _unsafe(path, error) from error
        content = _unpickle(path)
    except Exception as error:  # a broken pickle raises whatever its bytes happen to say
        if "TorchScript" in str(error):
            raise ModelError(
                f"{path} holds a TorchScript program, which this version does not read; "
                f"save model.state_dict() and give that file"
            ) from error
        raise ModelError(
            f"{path} is not a readable torch checkpoint ({in_one_line(error)}); it may be truncated"
        ) from error
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
            f"{path} is not a readable safetensors file ({in_one_line(error)}); it may be truncated"
        ) from error


def _recognise(path: Path) -> None:
    """Refuse a file that torch did not write."""
    with path.open("rb") as file:
        start = file.read(len(_LEGACY))
    if not start.startswith((_ZIP, _LEGACY)):
        raise ModelError(
            f"{path} is not a torch checkpoint: it begins with {start[:12]!r}; it may be another library's, "
            f"or a page that was downloaded in place of the file"
        )
    if start.startswith(_ZIP):
        _check_sizes(path)


def _check_sizes(path: Path) -> None:
    """Look at the sizes of an archive's records before any is unpacked; torch itself compresses none.

    Raises:
        ModelError: Compressed records unpack to much more than the file, or the whole does not fit into memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # torch says what is wrong with it
    size, unpacked = path.stat().st_size, sum(record.file_size for record in records)
    dense = sum(record.file_size for record in records if record.compress_type != zipfile.ZIP_STORED)
    if dense > max(_MAX_COMPRESSED, _MAX_RATIO * size):
        raise ModelError(
            f"{path} has {size:,} bytes and unpacks to {unpacked:,}; torch.save compresses nothing, so that this "
            f"file may be made to fill the memory; if you trust it, unzip it and zip it again with zip -0"
        )
    if unpacked - dense > size:
        raise ModelError(f"{path} has records that lie over each other; copy the file again")
    available = psutil.virtual_memory().available
    if unpacked > available:
        raise ModelError(
            f"{path} takes {unpacked:,} bytes of memory, and {available:,} are free; close other programs, or take "
            f"a larger machine"
        )


def _load(path: Path, *, weights_only: bool) -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # only its failure would matter
        return torch.load(path, map_location="cpu", weights_only=weights_only)


def _unpickle(path: Path) -> Any:
    """Run what the file says: the user's explicit word."""
    try:
        return _load(path, weights_only=False)
    except Exception as error:  # code from the file may raise anything
        raise ModelError(
            f"{path} cannot be unpickled ({type(error).__name__}: {in_one_line(error)}); unpickling needs the very "
            f"code that wrote the file; save model.state_dict() instead"
        ) from error


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """Find the state dict in what a checkpoint holds."""
    for _ in range(3):
        if isinstance(content, nn.Module):
            content = content.state_dict()
        if not isinstance(content, dict):
            break
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict | nn.Module)), None)
        if inner is None:
            tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
            if tensors:
                return tensors
            break
        content = inner
    what = f"a {type(content).__name__}"
    if isinstance(content, dict):
        what = f"a dict of {', '.join(map(str, list(content)[:_SHOWN]))}" if content else "an empty dict"
    raise ModelError(f"{path} holds no weights by name but {what}; save model.state_dict() and give that file")


def _strip(weights: dict[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """Remove the prefix that DataParallel, torch.compile or a wrapper put before every name."""
    weights = {name: tensor for name, tensor in weights.items() if name in wanted or name not in _COUNTERS}
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
    except Exception:  # noqa: BLE001 - an old or a broken file: torch's own message names the first
        held = re.findall(r"GLOBAL (\S+)", str(error))[:1]
    cause = re.search(r"Unpickler error: (.*)", str(error))
    what = ", ".join(held[:_SHOWN]) or (cause[1][:160] if cause else in_one_line(error))
    return UnsafePickle(
        f"{path} can only be read by unpickling, which runs code from the file; it holds: {what}; "
        f"save model.state_dict() instead, or pass --trust-pickle if you trust whoever made it"
    )
