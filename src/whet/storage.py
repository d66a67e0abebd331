"""Files: written whole or not at all, hashed, locked, and never outside of folders that are whet's own.

Whatever is half-written is named ``.<name>.whet-tmp-<pid>-<random>``, which no user calls a file by chance.
A folder that whet made for itself has a marker file, ``.whet``: nothing is removed or replaced in one without it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whet.errors import RunFolderError, StorageError

MARKER = ".whet"
_MARKER_FORM = re.compile(rb"whet folder, schema 1: [a-z]+ [0-9a-f]{32}\n")
_HALF_WRITTEN = re.compile(r"\..+\.whet-tmp-\d+-[0-9a-z_]{8,16}")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ENTRY = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
    errno.ENOLCK, errno.ENOTSUP, errno.ELOOP,
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
        probe = path / f"{_prefix(path / 'probe')}{secrets.token_hex(4)}"
        probe.touch()
        probe.unlink()
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: it has its old content or all of the new."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path))
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
        work = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path)))
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
    old = path.with_name(f"{_prefix(path)}old_{secrets.token_hex(4)}")
    path.replace(old)
    try:
        work.replace(path)
    except BaseException:
        old.replace(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _prefix(path: Path) -> str:
    """Return how the name of a half-written file or folder begins; random characters follow."""
    return f".{path.name}.whet-tmp-{os.getpid()}-"


def is_half_written(name: str) -> bool:
    """Return whether a name is one that whet gives to what is not yet written whole."""
    return _HALF_WRITTEN.fullmatch(name) is not None


def sweep(folder: Path) -> None:
    """Remove what a process that was killed left half-written in a folder that is whet's own, and locked.

    Names alone decide, and they cannot be confused with a user's; links are removed, never followed.
    """
    if not is_marked(folder):
        return
    for place, folders, files in os.walk(folder):
        for name in filter(is_half_written, (*folders, *files)):
            path = Path(place) / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def mark(folder: Path, kind: str) -> None:
    """Write the marker that says that a folder is whet's own: a line of schema, kind of folder and a random id."""
    if not is_marked(folder):
        write_text(folder / MARKER, f"whet folder, schema 1: {kind} {secrets.token_hex(16)}\n")


def is_marked(folder: Path) -> bool:
    """Return whether a folder has whet's marker: a regular file, and no link, of the right form."""
    path = folder / MARKER
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return False
        with path.open("rb") as file:
            return _MARKER_FORM.fullmatch(file.read(1000)) is not None
    except OSError:
        return False


def check_marked(folder: Path) -> None:
    """Refuse to go on in a folder that lost its marker, since somebody removed or replaced it meanwhile.

    Raises:
        StorageError: The marker is gone.
    """
    if not is_marked(folder):
        raise removed_meanwhile(folder)


def removed_meanwhile(folder: Path) -> StorageError:
    """Return the error of a folder that somebody removed while whet was working in it."""
    return StorageError(f"{folder} was removed while whet was working in it; run the same command again")


def links_below(folder: Path) -> Iterator[Path]:
    """Yield every symbolic link below a folder, or the folder itself if it is one; none is followed."""
    if folder.is_symlink():
        yield folder
        return
    for place, folders, files in os.walk(folder):
        yield from (path for name in (*folders, *files) if (path := Path(place) / name).is_symlink())


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path) -> list[Path]:
    """Return every file below ``folder``, sorted by its path."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Lock ``folder`` for this process alone, as long as it lives (the lock dies with it).

    Raises:
        RunFolderError: Another process has locked it.
    """
    import fcntl

    make_folder(folder)
    with storage_errors(folder / ".lock"):
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    with os.fdopen(handle, "rb") as file:
        try:
            with storage_errors(folder):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunFolderError(
                f"another whet is at work in {folder}; wait for it, or choose another --out"
            ) from error
        yield
