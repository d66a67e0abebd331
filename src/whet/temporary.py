"""Temporary folders: removed when their process ends, and by the next command if the process was killed.

A process has one folder, ``whet-<process id>-<random>`` in the temporary folder, made when it is first needed; what
it needs and what its children write is below it. The folder is locked as long as its process lives, so that another
process can tell that nobody uses it any more.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from whet.errors import StorageError, in_one_line

_NAME = re.compile(r"whet-(\d+)-[a-z0-9_]{8}")
_NEW_SECONDS = 10.0  # so old a folder has surely been locked by the process that made it
_made: dict[int, tuple[Path, int]] = {}  # by process id, as a fork shares the memory but not the folder


@contextmanager
def temporary_folder(prefix: str = "work-") -> Iterator[Path]:
    """Yield an empty folder, which is removed afterwards with all that is in it."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=process_folder()))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def process_folder() -> Path:
    """Return the temporary folder of this process, which is made on the first call and removed at the exit.

    Raises:
        StorageError: There is no temporary folder that can be written.
    """
    own = os.getpid()
    if own not in _made or not _made[own][0].is_dir():
        try:
            root = Path(tempfile.gettempdir())
            remove_abandoned(root)
            path = Path(tempfile.mkdtemp(prefix=f"whet-{own}-", dir=root))
            _made[own] = (path, _lock(path))
        except OSError as error:
            raise StorageError(
                f"no temporary folder can be written ({in_one_line(error)}); set TMPDIR to one that can"
            ) from error
        atexit.register(_remove_own, own)
    return _made[own][0]


def remove_abandoned(root: Path) -> None:
    """Remove the folders of processes that were killed; only those of this user, which no process has locked."""
    for path in root.glob("whet-*"):
        with suppress(OSError):  # gone by now, or not ours to read
            facts = path.lstat()
            match = _NAME.fullmatch(path.name)
            old = time.time() - facts.st_mtime > _NEW_SECONDS
            if match is None or path.is_symlink() or not path.is_dir() or facts.st_uid != os.getuid():
                continue
            if _alive(int(match[1])) and not old:
                continue
            handle = _lock(path)
            shutil.rmtree(path, ignore_errors=True)
            os.close(handle)


def _lock(path: Path) -> int:
    """Lock a folder for as long as the descriptor that is returned stays open in this process.

    Raises:
        OSError: Another process has locked it.
    """
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def _alive(pid: int) -> bool:
    """Tell whether there is a process of this number here; one of another container is not seen."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove_own(pid: int) -> None:
    if os.getpid() == pid and pid in _made:  # a fork leaves its parent's folder alone
        path, handle = _made.pop(pid)
        shutil.rmtree(path, ignore_errors=True)
        os.close(handle)
