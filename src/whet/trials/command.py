"""All that decides the results of a search, as plain data: a RUN folder is resumed by the same alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from whet import plain, userfile
from whet.data.sources import DataSource
from whet.data.tasks import task_name
from whet.storage import files_below, sha256
from whet.trials.fit import with_tokens
from whet.trials.problem import Candidate, Problem


def command(kind: str, problem: Problem, tried: Sequence[Candidate], within: float | None) -> dict[str, Any]:
    """Return what a command asks for; flat, so that what differs from another one can be named.

    Args:
        kind: ``optimize`` or ``run``.
        problem: The search.
        tried: Its candidates.
        within: Seconds after which no further one is begun.
    """
    source, deployment = problem.source, problem.deployment
    return _flat(
        {
            "kind": kind,
            "model": {"file": source.path, "name": source.factory, "weights": source.weights},
            "model contents": source.fingerprint(),
            "data": problem.data.name,
            "data contents": _contents(with_tokens(problem.data, source)),
            "preprocess": plain.builtins(problem.data.preprocess),
            "task": task_name(problem.data.task),
            "task contents": _metric(problem.data.task),
            "label": problem.data.label,
            "skip_unreadable": problem.data.skip_unreadable,
            "windows": plain.builtins(problem.data.windows),
            "budget": plain.builtins(problem.budget),
            "runtime": deployment.runtime,
            "runtime_options": dict(deployment.options),
            "threads": deployment.threads,
            "batch_sizes": list(deployment.batch_sizes),
            "seed": problem.seed,
            "trust_pickle": source.trust_pickle,
            "within": within,
            "robustness": problem.robustness,
            "recipes": {item.name: item.recipe.fingerprint() for item in tried},
        }
    )


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested mappings as one: ``{"budget.max_drop": 0.01}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return flat


def _contents(data: DataSource) -> str | None:
    """Return a hash of data in memory, in a file or a factory's files, or of a folder's files; None if built in."""
    if data.memory is not None:
        return data.open().fingerprint()
    parts = userfile.split(data.name)
    if parts is not None:
        return _sources(parts[0])
    place = Path(data.name)
    if place.is_dir():
        status = {str(path.relative_to(place)): path.stat() for path in files_below(place)}
        return plain.fingerprint({name: (item.st_size, item.st_mtime_ns) for name, item in status.items()})
    return sha256(place) if place.is_file() else None


def _sources(path: Path) -> str:
    """Return a hash of a user's file and of the files beside it that it imports."""
    return plain.fingerprint([sha256(file) for file in userfile.files(path)])


def _metric(task: Any) -> str | None:
    """Return a hash of the files of a metric ``file.py:function``."""
    parts = userfile.split(task) if isinstance(task, str) else None
    return None if parts is None else _sources(parts[0])
