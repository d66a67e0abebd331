"""Run a function in a child process of its own, with limits, so that its crash costs nobody else anything.

The call and its answer travel through a private pipe by cloudpickle, so that a model or a metric defined in
a notebook cell may be part of it; nothing of it ever lies on a disk. What the child writes into the temporary
folder is removed with the child. If the parent dies, even by SIGKILL, so does the child with all processes of its
process group, whatever holds the interpreter's lock in it: a guard, which is a process of its own, waits for the
parent's death and kills the group. Only a process that leaves the group (``setsid``) survives.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, cast

from whet import errors, temporary, user_code
from whet.environment import NO_REPORTS, moved_caches
from whet.errors import ChildCrashed, MemoryLimit, TimeLimit, UserError, WhetError
from whet.progress import Event, OnEvent, silent

_CHILD = "import sys; from whet.isolate import serve; serve(*map(int, sys.argv[1:]))"
# Signals by which the user or the system ends a process; by any other one, such as SIGSEGV, it ended itself.
_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT})
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
    with ExitStack() as stack:
        folder = stack.enter_context(temporary.temporary_folder("child-"))
        ours, theirs = Pipe(duplex=True)
        stack.callback(ours.close)
        note = user_code.new_note()
        stack.callback(os.close, note)
        process = _start(theirs, note, _environment(threads, folder), log, stack)
        threading.Thread(target=_send, args=(ours, request), daemon=True).start()
        return _await(process, ours, limits, Traces(log, note), on_event)


def _start(
    theirs: Connection, note: int, environment: dict[str, str], log: Path | None, stack: ExitStack
) -> subprocess.Popen[bytes]:
    """Start a child, which is killed with its process group when ``stack`` is left, or when this process dies."""
    alive, held_open = os.pipe()  # its reading end sees the end of the file when this process is gone
    stack.callback(os.close, held_open)
    passed = [theirs.fileno(), note, alive]
    with theirs, open(log or os.devnull, "ab") as output:  # noqa: PTH123 - os.devnull
        try:
            process = subprocess.Popen(
                [sys.executable, "-c", _CHILD, *map(str, passed)],
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        finally:
            os.close(alive)
    stack.callback(_kill, process)
    return process


def _await(
    process: subprocess.Popen[bytes], pipe: Connection, limits: Limits, traces: Traces, on_event: OnEvent
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
                    raise _revive(content, traces.log)
            elif gone:  # and what it forked still holds the pipe open
                raise EOFError
        except (EOFError, ConnectionResetError):
            raise _crash(process, traces) from None
        if deadline is not None and time.monotonic() > deadline:
            raise TimeLimit(f"took longer than its limit of {limits.seconds:.3g} s")
        if limits.memory_bytes is not None and time.monotonic() > look_at_memory:
            look_at_memory = time.monotonic() + _MEMORY_POLL_SECONDS
            used = _resident(process.pid)
            if used > limits.memory_bytes:
                raise MemoryLimit(
                    f"used {used / 2**20:.0f} MiB of memory, its limit is {limits.memory_bytes / 2**20:.0f} MiB"
                )


def serve(fd: int, note: int, alive: int) -> None:
    """Answer the one call that comes through a pipe. The child's main function.

    Args:
        fd: The pipe's file descriptor.
        note: Where it is noted which of the user's functions is running.
        alive: At its end when the parent has died.
    """
    _guard(alive, (fd, note))
    for each in (fd, note):
        os.set_inheritable(each, False)
    user_code.write_to(note)
    pipe, identity, pid = Connection(fd), user_code.identity(fd), os.getpid()
    sys.path[:] = _unpickle(pipe.recv_bytes())  # before what is imported from it
    request = pipe.recv_bytes()
    sending = threading.Lock()

    def send(content: bytes) -> None:
        """Send a message, unless the user's code closed the pipe (another file may have its number) or forked."""
        if os.getpid() != pid or user_code.identity(fd) != identity:
            user_code.leave(0)
        with sending:
            pipe.send_bytes(content)

    def on_event(event: Event) -> None:
        send(_pickle(("event", event)))

    try:
        function, args = _unpickle(request)
        del request
        content = _pickle(("answer", function(*args, on_event=on_event)))
    except BaseException as error:  # noqa: BLE001 - the boundary of the trial: recorded and sent on
        content = _pickle(("failure", _record(error)))
    send(content)
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the user's code may have put anything in its place
            stream.flush()
    user_code.leave(0)


def _guard(alive: int, others: tuple[int, ...]) -> None:
    """Start the guard: a process that kills this one's process group once the parent has died.

    A thread could not do it while other code holds the interpreter's lock. It is no child of this process (it is
    forked twice), so that code that waits for all of its children does not wait for it.
    """
    first = os.fork()
    if first:
        os.close(alive)
        os.waitpid(first, 0)
        return
    if os.fork():
        os._exit(0)
    for fd in (*others, 0, 1, 2):
        os.close(fd)
    with suppress(OSError):
        while os.read(alive, 1):
            pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _environment(threads: int, folder: Path) -> dict[str, str]:
    """Return the child's environment: numeric libraries read their thread counts when they are loaded.

    Args:
        threads: Threads inside one operator.
        folder: Becomes its temporary folder; caches that the command's children share are beside it.
    """
    names = (
        "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS",
        "TF_NUM_INTRAOP_THREADS",
    )  # fmt: skip
    source = str(Path(__file__).resolve().parent.parent)
    inherited = os.environ.get("PYTHONPATH")
    path = os.pathsep.join([source, *([inherited] if inherited else [])])
    return {
        **os.environ, **NO_REPORTS, **moved_caches(folder.parent / "caches"), **dict.fromkeys(names, str(threads)),
        "PYTHONPATH": path, "TMPDIR": str(folder),
    }  # fmt: skip


def _pickle(value: Any) -> bytes:
    """Pickle by cloudpickle: what is defined in ``__main__`` or inside a function travels by value."""
    import cloudpickle

    return bytes(cloudpickle.dumps(value))


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
    elif not isinstance(error, WhetError) and (frame := user_code.frame_of(error)):
        kind, message = UserError.__name__, f"your function {frame}, raised {kind}: {message}"
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


@dataclass(frozen=True, slots=True)
class Traces:
    """What a child that did not answer leaves: its log, and the descriptor of its note."""

    log: Path | None
    note: int


def _crash(process: subprocess.Popen[bytes], traces: Traces) -> WhetError:
    """Return the error for a child that ended without an answer."""
    error = _crash_error(process, traces)
    error.is_from_outside = -(process.returncode or 0) in _FROM_OUTSIDE
    return error


def _crash_error(process: subprocess.Popen[bytes], traces: Traces) -> WhetError:
    """Return the user's error if the user's code was running, else a ChildCrashed."""
    ending, note = _ending(process), user_code.read(traces.note)
    if traces.log is not None and note.stack:
        with traces.log.open("a") as file:
            file.write(note.stack)
    where = f"; its last output is in {traces.log}" if traces.log else ""
    if note.what:
        kind = getattr(errors, note.error, UserError)
        frame = f", at {note.frame}" if note.frame else ""
        hint = f"have it return without ending, or taking over, the process it runs in{where}"
        return cast("WhetError", kind(f"{note.what} did not return: the process {ending}{frame}; {hint}"))
    if note.frame:
        return UserError(f"your function {note.frame}, was running when the process {ending}{where}")
    return ChildCrashed(f"{ending}{where}")


def _ending(process: subprocess.Popen[bytes]) -> str:
    """Say how a child ended that did not answer."""
    try:
        code = process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return "closed its pipe without an answer"
    if code < 0:
        cause = signal.Signals(-code).name
        hint = " (out of memory, perhaps)" if cause == "SIGKILL" else ""
        return f"died of {cause}{hint}"
    return f"left with exit code {code} without an answer"


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
