"""The RUN folder: one command's work, locked while it goes on, resumed by the same command.

Nothing is removed or replaced in a folder that whet did not make. A folder is whet's own if it has the marker file
that is written when it is made; one of the version before the marker has a ``run.json`` of whet's form beside an
empty ``.lock``.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whet import plain
from whet.errors import RunFolderError
from whet.storage import (
    MARKER,
    is_half_written,
    is_marked,
    links_below,
    lock,
    make_folder,
    mark,
    storage_errors,
    write_text,
)

_COMMAND, _LOCK = "run.json", ".lock"
_KINDS = ("optimize", "run", "lab")
_FORM = {"kind", "model contents", "data", "seed", "threads", "trust_pickle"}  # keys that every run.json has
_SCRATCH = (".cache", ".trials", "logs")  # what is there before a command knows that its model and data can be used
_RESULTS = ("original.json", "results.json", "laboratory.json", "baseline", "candidates", "bundle", "run")


def resolved(out: str | Path) -> Path:
    """Return the absolute path of a RUN folder as a user named it.

    Raises:
        RunFolderError: It names nothing, or goes through a link that is broken or loops.
        StorageError: The system does not take such a path.
    """
    if not str(out).strip():
        raise RunFolderError("--out is empty; name a folder, for example --out my-run")
    path = Path(out)
    try:
        with storage_errors(path):
            for place in (path, *path.parents):
                if place.is_symlink() and not place.exists():
                    raise RunFolderError(f"{place} is a link to a place that does not exist; choose another --out")
            return path.resolve()
    except RuntimeError as error:  # what pathlib raises for links that loop
        raise RunFolderError(f"{path} is a link that leads back to itself; choose another --out") from error
    except ValueError as error:
        raise RunFolderError(f"{str(path)!r} is no path ({error}); choose another --out") from error
    except FileNotFoundError as error:
        raise RunFolderError(
            "the working directory no longer exists; change to another one, or give --out an absolute path"
        ) from error


def check_apart(folder: Path, inputs: Mapping[str, str]) -> None:
    """Refuse a RUN folder inside the folder of the model or of the data: it would become part of them.

    Args:
        folder: RUN, absolute.
        inputs: Paths by what they are, for the message; what is no folder is passed over.

    Raises:
        RunFolderError: It lies in one of them.
    """
    for what, name in inputs.items():
        with storage_errors(folder):
            try:
                is_inside = bool(name) and Path(name).is_dir() and folder.is_relative_to(Path(name).resolve())
            except (OSError, ValueError) as error:
                if getattr(error, "errno", None) not in (None, errno.ENAMETOOLONG):
                    raise
                is_inside = False  # a name of data that is no path
        if is_inside:
            raise RunFolderError(f"{folder} is in the folder of the {what}, {name}; choose another --out")


def check(folder: Path) -> None:
    """Refuse a folder that whet did not make, unless it is empty or does not exist; nothing is changed.

    Raises:
        RunFolderError: It is a file or a user's own folder, it has links in it, or it lost its ``run.json``.
        StorageError: The system does not let it be read.
    """
    with storage_errors(folder):
        if not folder.exists():
            return
        if not folder.is_dir():
            raise RunFolderError(f"{folder} is a file; choose another --out")
        names = {entry.name for entry in folder.iterdir() if not is_half_written(entry.name)}
    if not names - {_LOCK} and _is_empty_file(folder / _LOCK, absent=True):
        return
    if not is_own(folder):
        raise RunFolderError(f"{folder} is not empty and not of whet's making; choose another --out")
    check_links(folder)
    if _COMMAND not in names and names & set(_RESULTS):
        raise RunFolderError(
            f"{folder / _COMMAND} is missing, so that it cannot be known which command this folder belongs to; "
            f"choose another --out, or remove the folder"
        )


def check_links(folder: Path) -> None:
    """Refuse a folder with symbolic links in it: whet writes nothing outside of the folder itself.

    Raises:
        RunFolderError: There is one; the message names it.
    """
    link = next(links_below(folder), None)
    if link is not None:
        raise RunFolderError(
            f"{link} is a link, and whet writes only inside the RUN folder itself; remove the link, or choose "
            f"another --out"
        )


def is_own(folder: Path) -> bool:
    """Return whether whet made a folder: by its marker, or by what the version before the marker left."""
    if is_marked(folder):
        return True
    if (folder / MARKER).exists() or not _is_empty_file(folder / _LOCK):
        return False
    try:
        found = read_command(folder)
    except RunFolderError:
        return False
    return found.get("kind") in _KINDS and found.keys() >= _FORM


def _is_empty_file(path: Path, *, absent: bool = False) -> bool:
    """Return whether a path is an empty regular file and no link; ``absent`` is returned where there is nothing."""
    if path.is_symlink():
        return False
    if not path.exists():
        return absent
    return path.is_file() and path.stat().st_size == 0


@contextmanager
def lock_run_folder(folder: Path, command: Mapping[str, Any]) -> Iterator[Path]:
    """Lock a RUN folder for a command; it is empty, or has the same command's earlier work.

    Args:
        folder: RUN.
        command: All that decides the results, as plain data.

    Raises:
        RunFolderError: It is in use, or has something else in it.
    """
    folder = folder.resolve()
    check(folder)
    make_folder(folder)
    with lock(folder):
        mark(folder, str(command.get("kind", "run")))
        known = folder / _COMMAND
        if known.exists():
            _compare(read_command(folder), plain.builtins(command), folder)
        else:
            write_text(known, plain.dumps(command))
        yield folder


def forget(folder: Path, results: tuple[str, ...] = _RESULTS) -> bool:
    """Empty a RUN folder whose command never came to know that its model and data can be used; return whether.

    Args:
        folder: RUN; one that whet did not mark is left as it is.
        results: What is only there once a command knows that: where one of these exists, nothing is removed.
    """
    if (
        not is_marked(folder)
        or not (folder / _COMMAND).exists()
        or any((folder / name).exists() for name in results)
    ):
        return False
    check_links(folder)
    with lock(folder):
        for name in _SCRATCH:
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / _COMMAND).unlink()
        if {entry.name for entry in folder.iterdir()} <= {MARKER, _LOCK}:  # else it stays known as whet's own
            (folder / MARKER).unlink(missing_ok=True)
            (folder / _LOCK).unlink()
    return True


def read_command(folder: Path) -> Mapping[str, Any]:
    """Return the command that a RUN folder belongs to, as its ``run.json`` describes it.

    Raises:
        RunFolderError: The file cannot be read.
    """
    path = folder / _COMMAND
    try:
        found: Mapping[str, Any] = plain.read_json(path, dict)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunFolderError(
            f"{path} cannot be read ({reason}), so that it cannot be known which command this folder belongs to; "
            f"choose another --out, or remove the folder"
        ) from error
    return found


def _compare(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    different = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if different:
        key = different[0]
        raise RunFolderError(
            f"{folder} holds the work of another command ({key}: {_short(before.get(key))} then, "
            f"{_short(now.get(key))} now); repeat that command to resume it, or choose another --out"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
