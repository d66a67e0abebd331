"""Steps on disk, found by what went into them.

A step's key is the hash of its parent's key, the pass and its settings, the data it read, the seed, and the
versions that matter. Candidates that share a prefix share the work, and a run that was killed goes on where it
stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from whet import plain
from whet.errors import ModelError
from whet.machine import this_machine
from whet.models.adapter import adapter_for
from whet.models.model import Facts, Model, Stored
from whet.models.source import Source
from whet.passes.base import Pass
from whet.recipe.recipe import asked
from whet.storage import files_below, make_folder, new_folder, sha256, write_text
from whet.train.spec import CHECKPOINTS
from whet.types import Step

_FACTS, _MODEL, _WORK = "step.json", "model", "working"


@dataclass(frozen=True, slots=True)
class Entry:
    """A model as it is after a step.

    Attributes:
        key: Of the step.
        facts: The model but for its payload.
        file: The model's path below the entry's folder.
        step: What was done; None for the original.
        files: SHA-256 of every file of the model by its path below the entry's folder; empty in entries of earlier
            versions.
        seconds: What it took.
        measures: What was measured of it there and then: quality, bytes, latency.
    """

    key: str
    facts: Facts
    file: str
    step: Step | None = None
    seconds: float = 0.0
    measures: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)


class Cache:
    """A folder of entries. Each is written whole or not at all."""

    def __init__(self, folder: Path, source: Source) -> None:
        self.folder = folder
        self.source = source
        self._whole: set[str] = set()  # keys of entries whose files were found to be as they were written

    def get(self, key: str) -> Entry | None:
        """Return an entry; None if there is none, or it is damaged, so that it has to be computed again."""
        try:
            entry = plain.read_json(self.folder / key / _FACTS, Entry)
        except (OSError, ValueError):
            return None
        return entry if self._is_whole(key, entry) else None

    def _is_whole(self, key: str, entry: Entry) -> bool:
        """Return whether an entry's files are as they were written."""
        if key in self._whole:
            return True
        folder, file = self.folder / key, PurePosixPath(entry.file)
        if entry.key != key or file.is_absolute() or ".." in file.parts or not (folder / file).exists():
            return False
        try:
            whole = all(sha256(folder / name) == digest for name, digest in entry.files.items())
        except OSError:
            return False
        if whole:
            self._whole.add(key)
        return whole

    def put(self, key: str, model: Model, step: Step | None, seconds: float) -> Entry:
        """Store a model."""
        with new_folder(self.folder / key) as folder:
            path = adapter_for(model.format).save(model, folder / _MODEL)
            files = {found.relative_to(folder).as_posix(): sha256(found) for found in files_below(folder)}
            entry = Entry(key, Facts.of(model), path.relative_to(folder).as_posix(), step, seconds, files=files)
            write_text(folder / _FACTS, plain.dumps(entry))
        return entry

    @contextmanager
    def workplace(self, key: str) -> Iterator[Path]:
        """Yield a folder for a step to work in: empty, but for the checkpoints that a killed attempt left there."""
        folder = self.folder / _WORK / key
        for path in folder.glob("*"):
            if path.name != CHECKPOINTS:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        make_folder(folder)
        try:
            yield folder
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)

    def annotate(self, entry: Entry, measures: Mapping[str, Any]) -> Entry:
        """Add measures to an entry."""
        entry = replace(entry, measures=measures)
        write_text(self.folder / entry.key / _FACTS, plain.dumps(entry))
        return entry

    def stored(self, entry: Entry) -> Stored:
        """Return the files of an entry."""
        return Stored(entry.facts.format, self.folder / entry.key / entry.file, self.source)

    def load(self, entry: Entry) -> Model:
        """Open an entry's model afresh."""
        stored = self.stored(entry)
        if not stored.path.exists():
            raise ModelError(f"{stored.path} has vanished from the cache; remove {self.folder / entry.key}")
        payload = adapter_for(stored.format).load(stored.path, self.source)
        return entry.facts.model(payload, self.source)


def step_key(parent: str, step: Pass, seed: int, data: str) -> str:
    """Return the key of a step; ``data`` is the fingerprint of the samples, of which it depends if it reads any."""
    machine = this_machine()
    return plain.fingerprint(
        parent, *asked(step), seed, data if step.reads else "", machine.flags, machine.versions
    )


def root_key(source: str, sample: str) -> str:
    """Return the key of an original."""
    return plain.fingerprint("original", source, sample, this_machine().versions)
