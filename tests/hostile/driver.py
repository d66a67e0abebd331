"""The driver of the hostile tables: run one command on one hostile input, and report everything that went wrong.

A table is a list of ``Case``; ``problems_of`` runs a case in a process of its own and returns its problems by kind.
Whatever the input, a command ends in time, with the documented exit code, one line on standard error when it is
refused, no traceback, no orphan process, no half-written file, nothing changed that was there before, and nothing
written to the home folder or left in the temporary folder.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

PATIENCE = float(os.environ.get("WHET_HOSTILE_PATIENCE", "1"))  # for a busy machine: a factor on every time limit
_HALF_WRITTEN = re.compile(r"\..+\.([a-z0-9_]{8}|old-\d+|whet-tmp-\d+-\w+)|\.probe-\d+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Case:
    """One hostile input and what a command has to do with it.

    Attributes:
        name: The id of the test; unique in its table.
        command: Arguments of ``whet``; ``{here}`` in them stands for the folder of the case.
        code: The exit code, or the exit codes, that are right.
        says: Texts that the output must contain (standard output and error together, case ignored).
        silent: Texts that the output must not contain.
        prepare: Called with the folder of the case before the command; writes the hostile input.
        needs: What is copied into the folder first: ``"bundle"`` (as ``bundle/``), ``"run"`` (as ``run/``).
        program: What the interpreter runs in place of ``-m whet``: ``("{here}/bundle/predict.py",)``.
        rewrites: Whether files that were there before may change (a RUN folder that is resumed).
        check: Called with the folder and the finished command afterwards; returns a problem, or None.
        environment: Variables that are set for the command.
        cwd: The working directory; the folder of the case by default.
        seconds: After so long the command counts as hanging.
        slow: Whether the case runs with the slow tests alone.
    """

    name: str
    command: Sequence[str]
    code: int | tuple[int, ...] = 2
    says: tuple[str, ...] = ()
    silent: tuple[str, ...] = ()
    prepare: Callable[[Path], None] | None = None
    needs: tuple[str, ...] = ()
    program: tuple[str, ...] = ("-m", "whet")
    rewrites: bool = False
    check: Callable[[Path, Ended], str | None] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    cwd: str = "{here}"
    seconds: float = 30.0
    slow: bool = False


@dataclass(frozen=True)
class Ended:
    """A command that has ended: exit code (None if it had to be killed), what it printed, how long it took."""

    code: int | None
    out: str
    err: str
    seconds: float


def table(cases: Sequence[Case], slow: Sequence[str] = ()) -> pytest.MarkDecorator:
    """Return the decorator that runs a test for each case, by its name.

    Args:
        cases: The table; no two of one name.
        slow: Names of cases that run with the slow tests alone, besides those that say so themselves.
    """
    names = [case.name for case in cases]
    odd = {name for name in names if names.count(name) > 1} | set(slow) - set(names)
    assert not odd, f"twice, or in no table: {sorted(odd)}"
    marks = {name: [pytest.mark.slow] for name in slow} | {
        case.name: [pytest.mark.slow] for case in cases if case.slow
    }
    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=case.name, marks=marks.get(case.name, ())) for case in cases]
    )


def problems_of(case: Case, here: Path, aside: Path, material: dict[str, Path]) -> dict[str, str]:
    """Run a case and return its problems: the kind, and what was seen.

    Args:
        case: What is run.
        here: An empty folder, the case's own.
        aside: Another one, for the home and the temporary folder.
        material: ``good.onnx``, ``good.npz``, and the folders ``bundle`` and ``run``.
    """
    for name in ("good.onnx", "good.npz"):
        shutil.copyfile(material[name], here / name)
    for name in case.needs:
        shutil.copytree(material[name], here / name)
    if case.prepare is not None:
        case.prepare(here)
    before = {} if case.rewrites else _contents(here)
    mark = uuid.uuid4().hex
    ended = _run(case, here, aside, mark)
    problems = _printed_problems(case, ended)
    orphans = _orphans(mark)
    if orphans:
        problems["orphan"] = ", ".join(orphans)
    problems |= _file_problems(here, aside, before)
    if case.check is not None and (found := case.check(here, ended)):
        problems["message"] = found
    return problems


def _run(case: Case, here: Path, aside: Path, mark: str) -> Ended:
    """Run the command of a case; kill it and all its children if it takes too long."""
    home, temporary = aside / "home", aside / "tmp"
    home.mkdir()
    temporary.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
    environment = {
        **kept, "HOME": str(home), "TMPDIR": str(temporary), "WHET_HOSTILE_CASE": mark,
        **{name: value.replace("{here}", str(here)) for name, value in case.environment.items()},
    }  # fmt: skip
    command = [sys.executable, *(word.replace("{here}", str(here)) for word in (*case.program, *case.command))]
    started = time.monotonic()
    process = subprocess.Popen(
        command, cwd=case.cwd.replace("{here}", str(here)), env=environment, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    code: int | None = None
    try:
        out, err = process.communicate(timeout=PATIENCE * case.seconds)
        code = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
    return Ended(code, out.decode(errors="replace"), err.decode(errors="replace"), time.monotonic() - started)


def _printed_problems(case: Case, ended: Ended) -> dict[str, str]:
    """Return what is wrong with the exit code and with what was printed."""
    problems, text = {}, ended.out + ended.err
    right = (case.code,) if isinstance(case.code, int) else case.code
    if ended.code is None:
        problems["hang"] = f"not ended after {PATIENCE * case.seconds:.0f} s; it printed {text[-500:]!r}"
    elif ended.code not in right:
        problems["exit code"] = f"{ended.code}, not {right}; it printed {text[-800:]!r}"
    if "Traceback (most recent call last)" in text:
        problems["traceback"] = text[-1500:]
    errors = [line for line in ended.err.splitlines() if line.strip()]
    if ended.code == 2 and (len([line for line in errors if line.startswith("error:")]) != 1):
        problems["message"] = f"not exactly one line `error: ...`: {ended.err[-800:]!r}"
    folded = " ".join(text.split()).lower()
    absent = [part for part in case.says if part.lower() not in folded]
    if absent:
        problems["message"] = f"does not say {absent}; it printed {text[-800:]!r}"
    present = [part for part in case.silent if part.lower() in folded]
    if present:
        problems["message"] = f"says {present}; it printed {text[-800:]!r}"
    if _CONTROL.search(text.replace("\r\n", "\n")):
        problems["control"] = f"control characters in {text[-800:]!r}"
    return problems


def _file_problems(here: Path, aside: Path, before: dict[str, str]) -> dict[str, str]:
    """Return what is wrong with the files that were there before, and with those that were written."""
    problems = {}
    after = _contents(here)
    lost = [name for name, digest in before.items() if after.get(name) != digest]
    if lost:
        problems["changed"] = ", ".join(lost[:5])
    half = [name for name in after if name not in before and _HALF_WRITTEN.fullmatch(Path(name).name)]
    if half:
        problems["half-written"] = ", ".join(half[:5])
    left = [name for folder in ("home", "tmp") for name in _contents(aside / folder)]
    if left:
        problems["written outside"] = ", ".join(left[:5])
    return problems


def _contents(folder: Path) -> dict[str, str]:
    """Return a digest of everything below a folder by its path; links are not followed."""
    found = {}
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root) / name
            place = path.relative_to(folder).as_posix()
            if path.is_symlink():
                found[place] = f"link {path.readlink()}"
            elif path.is_dir():
                found[place] = "folder"
            elif path.is_file():
                with path.open("rb") as file:
                    found[place] = hashlib.file_digest(file, "sha256").hexdigest()
            else:
                found[place] = "special"
    return found


def _orphans(mark: str) -> list[str]:
    """Return the processes that carry the mark of a case a second after its command has ended; they are killed."""
    deadline = time.monotonic() + 1.0
    while True:
        found = [process for process in psutil.process_iter() if _marked(process, mark)]
        if not found or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    names = []
    for process in found:
        try:
            names.append(f"{process.pid} {' '.join(process.cmdline())[:100]}")
            process.kill()
        except psutil.Error:
            continue
    return names


def _marked(process: psutil.Process, mark: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and process.environ().get("WHET_HOSTILE_CASE") == mark
    except (psutil.Error, OSError):
        return False
