"""Whether a file can be what its name says: looked at before any library opens it."""

from __future__ import annotations

import errno
import os
import pickle
import stat
from pathlib import Path

from whet.errors import ModelError, in_one_line

_READ = 512  # bytes at the start of a file
_GIT_LFS = b"version https://git-lfs.github.com/spec/"
_PAGES = (b"<!doctype html", b"<html", b"<?xml")
_TORCH_PICKLE = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # how torch's files began to version 1.5
_ONNX_FIELDS = b"\x12\x1a\x22\x2a\x32\x3a\x42"  # one of ModelProto follows ir_version
# What a suffix stands for; of others nothing is known.
_KINDS = {
    ".onnx": {"ONNX"},
    ".tflite": {"TFLite"},
    ".keras": {"a zip archive"},
    ".h5": {"HDF5"},
    ".pt2": {"a zip archive"},
    ".safetensors": {"safetensors"},
}
_TORCH_SUFFIXES, _TORCH_KINDS = {".pt", ".pth", ".th", ".bin", ".ckpt"}, {"a zip archive", "a torch checkpoint"}
_SUFFIX_OF = {
    "ONNX": ".onnx", "TFLite": ".tflite", "HDF5": ".h5", "safetensors": ".safetensors",
    "a torch checkpoint": ".pt", "a zip archive": ".pt, .pt2 or .keras",
}  # fmt: skip


def check_file(path: Path, what: str) -> None:
    """Refuse what is no plain file, is empty, or is not what its suffix says.

    Args:
        path: As the user named it.
        what: What it is to be: ``model`` or ``weights``.

    Raises:
        ModelError: With what it is, and what to do.
    """
    _check_plain(path, what)
    try:
        with path.open("rb") as file:
            start = file.read(_READ)
    except OSError as error:
        raise ModelError(f"the {what} file {_short(path)} cannot be read ({_reason(error)})") from error
    if not start:
        raise ModelError(f"the {what} file {path} is empty (0 bytes); it was probably not copied whole")
    if start.startswith(_GIT_LFS):
        raise ModelError(
            f"the {what} file {path} is a Git LFS pointer, not the file itself; run in its repository: git lfs pull"
        )
    if start.lstrip().lower().startswith(_PAGES):
        raise ModelError(f"the {what} file {path} is a web page, not a model; download the file itself")
    kind, suffix = _kind(start), path.suffix.lower()
    wanted = _TORCH_KINDS if suffix in _TORCH_SUFFIXES else _KINDS.get(suffix)
    if kind and wanted and kind not in wanted:
        raise ModelError(
            f"the {what} file {path} holds {kind}, which its name does not say; give it the suffix "
            f"{_SUFFIX_OF.get(kind, 'of what it is')}, or give the file that was meant"
        )


def _check_plain(path: Path, what: str) -> None:
    """Refuse a path that leads to no plain file."""
    try:
        mode = path.stat().st_mode
    except ValueError as error:
        raise ModelError(f"the name of the {what} file has a character that no name can have") from error
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR) and not path.is_symlink():
            raise ModelError(f"the {what} file {_short(path)} does not exist; check the path") from error
        raise ModelError(f"the {what} file {_short(path)} cannot be read ({_reason(error)})") from error
    if not stat.S_ISREG(mode):
        raise ModelError(f"the {what} file {_short(path)} is {_called(mode)}, not a file; check the path")


def _called(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a FIFO", stat.S_ISSOCK: "a socket"}
    return next((name for test, name in kinds.items() if test(mode)), "a device")


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return "it is a link to a file that does not exist"
    return os.strerror(error.errno or 0).lower()


def _short(path: Path) -> str:
    return in_one_line(ValueError(str(path)))


def _kind(start: bytes) -> str:
    """Return what a file is by its first bytes, or nothing."""
    if start.startswith(b"PK\x03\x04"):
        return "a zip archive"
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return "HDF5"
    if start.startswith(_TORCH_PICKLE):
        return "a torch checkpoint"
    if start[4:8] == b"TFL3":
        return "TFLite"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**32:
        return "safetensors"
    if start[:1] == b"\x08" and start[1:2] < b"\x20" and start[2:3] and start[2:3] in _ONNX_FIELDS:
        return "ONNX"
    return "gzip-compressed data" if start.startswith(b"\x1f\x8b") else ""
