"""Run a function in a child process of its own, with limits, so that its crash costs nobody else anything.

The call and its answer travel through a private pipe by cloudpickle, so that a model or a metric defined in
a notebook cell may be part of it; nothing of it ever lies on a disk. The child dies with its parent.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from whet import errors
from whet.errors import ChildCrashed, MemoryLimit, TimeLimit, WhetError
from whet.pickling import dumps as _pickle
from whet.progress import Event, OnEvent, silent

_CHILD = "import sys; from whet.isolate import serve; serve(int(sys.argv[1]))"
_POLL_SECONDS = 0.1
_MEMORY_POLL_SECONDS = 0.5  # walking the process table takes milliseconds: not more often than needed


@dataclass(frozen=True, slots=True)
class Limits:
    """What a child may use: seconds of wall time and bytes of resident memory; None is no limit."""

    seconds: float | None = None
    memory_bytes: int | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class _Failure:
    """An exception of the child, in a form that always travels."""

    kind: str
    message: str
    traceback: str


def call(
    function: Callable[..., Any],
    *args: Any,
    limits: Limits = NO_LIMITS,
    threads: int = 1,
    log: Path | None = None,
    on_event: OnEvent = silent,
) -> Any:
    """Run ``function(*args, on_event=...)`` in a child and return its answer.

    Args:
        function: Importable by the child, or picklable by cloudpickle; takes a keyword ``on_event``.
        args: Its arguments.
        limits: What it may use.
        threads: Threads that numeric libraries may start (OMP and BLAS), set before they are loaded.
        log: A file that receives what the child prints; thrown away if None.
        on_event: Called with each Event of the child.

    Raises:
        WhetError: The same one that the child raised.
        TimeLimit, MemoryLimit: It used more than its limits and was killed.
        ChildCrashed: It died without an answer, or of an error that is not whet's own.
    """
    request = _pickle((function, args))
    ours, theirs = Pipe(duplex=True)
    with open(log or os.devnull, "ab") as output:  # noqa: PTH123 - os.devnull
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(threads),
            start_new_session=True,
        )
    theirs.close()
    try:
        sender = threading.Thread(target=_send, args=(ours, request), daemon=True)
        sender.start()
        return _await(process, ours, limits, log, on_event)
    finally:
        _kill(process)
        ours.close()


def _await(
    process: subprocess.Popen[bytes], pipe: Connection, limits: Limits, log: Path | None, on_event: OnEvent
) -> Any:
    """Wait for the child's answer, passing its events on and holding it to its limits."""
    deadline = None if limits.seconds is None else time.monotonic() + limits.seconds
    look_at_memory = time.monotonic()
    while True:
        gone = process.poll() is not None  # asked first: what a child said before it went is still heard
        try:
            if pipe.poll(_POLL_SECONDS):
                kind, content = pipe.recv()
                if kind == "event":
                    on_event(content)
                elif kind == "answer":
                    return content
                else:
                    raise _revive(content, log)
            elif gone:  # and what it forked still holds the pipe open
                raise EOFError
        except (EOFError, ConnectionResetError):
            raise ChildCrashed(_obituary(process, log)) from None
        if deadline is not None and time.monotonic() > deadline:
            raise TimeLimit(f"took longer than its limit of {limits.seconds:.3g} s")
        if limits.memory_bytes is not None and time.monotonic() > look_at_memory:
            look_at_memory = time.monotonic() + _MEMORY_POLL_SECONDS
            used = _resident(process.pid)
            if used > limits.memory_bytes:
                raise MemoryLimit(
                    f"used {used / 2**20:.0f} MiB of memory, its limit is {limits.memory_bytes / 2**20:.0f} MiB"
                )


def serve(fd: int) -> None:
    """Answer the one call that comes through file descriptor ``fd``. The child's main function."""
    os.set_inheritable(fd, False)
    pipe = Connection(fd)
    sys.path[:] = _unpickle(pipe.recv_bytes())  # before what is imported from it
    request = pipe.recv_bytes()
    _die_with_parent(pipe)
    guard = threading.Lock()

    def on_event(event: Event) -> None:
        with guard:
            pipe.send(("event", event))

    try:
        function, args = _unpickle(request)
        del request
        content = _pickle(("answer", function(*args, on_event=on_event)))
    except BaseException as error:  # noqa: BLE001 - the boundary of the trial: recorded and sent on
        content = _pickle(("failure", _record(error)))
    with guard:
        pipe.send_bytes(content)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _die_with_parent(pipe: Connection) -> None:
    """Leave as soon as the parent's end of the pipe is closed: the parent has died."""

    def watch() -> None:
        try:
            while True:
                pipe.recv_bytes()
        except (EOFError, OSError):
            os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _environment(threads: int) -> dict[str, str]:
    """Return the child's environment: numeric libraries read their thread counts when they are loaded."""
    names = (
        "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
    )  # fmt: skip
    source = str(Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([source, *([inherited] if inherited else [])])
    return {**os.environ, **dict.fromkeys(names, str(threads)), "PYTHONPATH": path}


def _unpickle(content: bytes) -> Any:
    import pickle

    return pickle.loads(content)  # noqa: S301 - our own parent wrote it, through a private pipe


def _send(pipe: Connection, request: bytes) -> None:
    try:
        pipe.send_bytes(_pickle(sys.path))
        pipe.send_bytes(request)
    except OSError:
        return  # the child is gone; the reader finds out and says why


def _record(error: BaseException) -> _Failure:
    import traceback

    kind = type(error).__name__
    message = str(error) or kind
    if isinstance(error, MemoryError):
        kind, message = "MemoryLimit", "ran out of memory"
    elif hasattr(errors, kind) and not isinstance(error, WhetError):
        kind = f"{type(error).__module__}.{kind}"  # pandas has a DataError too
    return _Failure(kind, message, "".join(traceback.format_exception(error)))


def _revive(failure: _Failure, log: Path | None) -> WhetError:
    """Return the child's own error if it is one of whet's, else a ChildCrashed that names it."""
    if log is not None:
        with log.open("a") as file:
            file.write(failure.traceback)
    kind = getattr(errors, failure.kind, None)
    if isinstance(kind, type) and issubclass(kind, WhetError):
        return kind(failure.message)
    where = f" (traceback in {log})" if log else ""
    crash = ChildCrashed(f"{failure.kind}: {failure.message}{where}")
    crash.add_note(failure.traceback)
    return crash


def _obituary(process: subprocess.Popen[bytes], log: Path | None) -> str:
    """Say how a child died that did not answer."""
    try:
        code = process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return "closed its pipe without an answer"
    where = f"; its last words are in {log}" if log else ""
    if code < 0:
        cause = signal.Signals(-code).name
        hint = " (out of memory, perhaps)" if cause == "SIGKILL" else ""
        return f"died of {cause}{hint}{where}"
    return f"left with exit code {code} without an answer{where}"


def _resident(pid: int) -> int:
    """Return the resident bytes of a process and of all that descend from it."""
    import psutil

    total = 0
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in family:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Make sure that the child and whatever it started are gone."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
