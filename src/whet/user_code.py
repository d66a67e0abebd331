"""Which of the user's functions is running, noted so that the parent can name it when the process ends.

A child notes it in an open file without a name, which the parent can still read when the child has crashed: the
functions that are running in its first bytes; from ``_STACK`` on the stack of a crash, as faulthandler writes it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STACK = 16384  # bytes that are kept for the note
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$', re.MULTILINE)
_LIBRARIES = {"site-packages", "dist-packages"}
_state: dict[str, Any] = {"fd": None, "identity": None, "pid": 0, "files": [], "running": []}


@dataclass(frozen=True)
class Note:
    """What a process noted before it ended.

    Attributes:
        running: The user's function that had not returned, as ``what`` (for a message), and the name of the error
            class that its failure is; both empty if there is none.
        frame: The user's innermost frame when the process crashed, for a message; or empty.
        stack: The whole stack of the crash; or empty.
    """

    what: str = ""
    error: str = ""
    frame: str = ""
    stack: str = ""


def new_note() -> int:
    """Return the descriptor of an empty note, which is gone when it is closed everywhere."""
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def write_to(fd: int) -> None:
    """Note from now on in ``fd`` what this process runs, and the stack if it crashes or is left by os._exit."""
    _state.update(fd=fd, identity=identity(fd), pid=os.getpid())
    os.lseek(fd, _STACK, os.SEEK_SET)
    with suppress(OSError, ValueError):
        faulthandler.enable(fd, all_threads=False)
    leave = os._exit

    def noted_exit(status: int) -> None:
        if os.getpid() == _state["pid"] and identity(fd) == _state["identity"]:  # and not a fork of the user's
            with suppress(OSError, ValueError):
                faulthandler.dump_traceback(fd, all_threads=False)
        leave(status)

    os._exit = noted_exit  # type: ignore[assignment]
    _state["exit"] = leave


def identity(fd: int) -> tuple[int, int] | None:
    """Return what tells an open file from another that takes its descriptor over; None if it is closed."""
    try:
        facts = os.fstat(fd)
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def leave(status: int) -> None:
    """End this process at once, without the noting."""
    _state.get("exit", os._exit)(status)


def in_child() -> bool:
    """Tell whether this process is one that whet started for a single call."""
    return _state["fd"] is not None


@contextmanager
def running(file: Path, what: str, error: str) -> Iterator[None]:
    """Note that a function of the user's ``file`` is running; ``what`` names it in messages.

    A copy of the process that the function forked, and that returns from it as well, ends here.
    """
    pid = os.getpid()
    if str(file) not in _state["files"]:
        _state["files"].append(str(file))
    _state["running"].append((what, error))
    _write()
    try:
        yield
    finally:
        if in_child() and os.getpid() != pid:
            leave(0)
        _state["running"].pop()
        _write()


def frame_of(error: BaseException) -> str:
    """Return the user's innermost frame in the traceback of an exception, for a message; or an empty text."""
    frames = [(item.filename, item.lineno or 0, item.name) for item in traceback.extract_tb(error.__traceback__)]
    return _first(reversed(frames), _state["files"])


def read(fd: int) -> Note:
    """Return what was noted. Called by the parent when the child has ended."""
    try:
        noted = json.loads(os.pread(fd, _STACK, 0).rstrip(b"\0 ") or b"{}")
        stack = os.pread(fd, 1 << 20, _STACK).decode(errors="replace")
        what, error = (noted.get("running") or [("", "")])[-1]
        frames = [(name, int(line), function) for name, line, function in _FRAME.findall(stack)]
        return Note(what, error, _first(frames, noted.get("files", ())), stack)
    except (OSError, ValueError, AttributeError):  # the user's code wrote into it
        return Note()


def _first(frames: Any, files: Any) -> str:
    """Return the first frame that is in one of the files or beside it, as ``function in file.py, line 3``."""
    folders = {Path(file).parent for file in files}
    for name, line, function in frames:
        path = Path(name)
        if not _LIBRARIES & set(path.parts) and folders & set(path.parents):
            return f"`{function}` in {path.name}, line {line}"
    return ""


def _write() -> None:
    """Write the note, if this is a child and the user's code has not closed the descriptor.

    A closed descriptor may be that of another file by now, into which nothing must be written.
    """
    if _state["fd"] is None or os.getpid() != _state["pid"]:
        return
    if identity(_state["fd"]) != _state["identity"]:
        faulthandler.disable()
        return
    content = json.dumps({"files": _state["files"], "running": _state["running"]}).encode()
    with suppress(OSError):
        os.pwrite(_state["fd"], content[:_STACK].ljust(_STACK), 0)
