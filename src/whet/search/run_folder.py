"""The RUN folder: one command's work, locked while it goes on, resumed by the same command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whet import plain
from whet.errors import RunFolderError
from whet.storage import lock, make_folder, write_text

_COMMAND = "run.json"


@contextmanager
def held(folder: Path, command: Mapping[str, Any]) -> Iterator[Path]:
    """Hold a RUN folder for a command; it is empty, or holds the same command's earlier work.

    Args:
        folder: RUN.
        command: All that decides the results, as plain data.

    Raises:
        RunFolderError: It is in use, or holds something else.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file; choose another --out")
    known = folder / _COMMAND
    before = _read(known) if known.exists() else None
    if folder.exists() and before is None and any(entry.name != ".lock" for entry in folder.iterdir()):
        raise RunFolderError(f"{folder} is not empty and not of whet's making; choose another --out")
    make_folder(folder)
    with lock(folder):
        if known.exists():
            _compare(_read(known) or {}, plain.builtins(command), folder)
        else:
            write_text(known, plain.dumps(command))
        yield folder


def _read(path: Path) -> Mapping[str, Any] | None:
    """Return the command that a file holds, or None if it holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


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
