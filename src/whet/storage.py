"""Files: written whole or not at all, hashed, locked."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whet.errors import RunFolderError, StorageError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ENTRY = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
    errno.ENOLCK, errno.ENOTSUP,
}  # fmt: skip


@contextmanager
def storage_errors(place: Path) -> Iterator[None]:
    """Turn the operating system's refusals about ``place`` into a StorageError a user can act on."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageError(
                f"no room left to write {place}; free some space and run the same command again: it resumes"
            ) from error
        if error.errno in _NO_ENTRY:
            raise StorageError(
                f"cannot write {place} ({os.strerror(error.errno or 0).lower()}); choose another folder"
            ) from error
        raise


def make_folder(path: Path) -> Path:
    """Create ``path`` and its parents; a place that cannot be written is a StorageError."""
    with storage_errors(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError as error:  # in /proc and its like
            raise StorageError(
                f"cannot write {path} (no folder can be made there); choose another folder"
            ) from error
        probe = path / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: it has its old content or all of the new."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            Path(name).chmod(0o666 & ~umask)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_bytes(path, text.encode())


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of ``path`` when the block succeeds, and vanishes if not."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            yield work
            work.chmod(0o755)
            _take_place(work, path)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise


def _take_place(work: Path, path: Path) -> None:
    """Rename ``work`` to ``path``; what was there is put back if that fails, else removed."""
    if not path.exists():
        work.replace(path)
        return
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    path.replace(old)
    try:
        work.replace(path)
    except BaseException:
        old.replace(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path) -> list[Path]:
    """Return every file below ``folder``, sorted by its path."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process alone, as long as it lives (the lock dies with it).

    Raises:
        RunFolderError: Another process holds it.
    """
    import fcntl

    make_folder(folder)
    with (folder / ".lock").open("a+") as file:
        try:
            with storage_errors(folder):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(
                f"another whet is at work in {folder}; wait for it, or choose another --out"
            ) from error
        yield
