"""Try a candidate: build, weigh, measure, bundle, each in a fresh process with limits."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from whet import isolate, plain
from whet.bundle import manifest
from whet.bundle.verify import deployment_of, stored_in_run
from whet.bundle.write import amend
from whet.errors import RunFolderError, StorageError, WhetError
from whet.isolate import Limits
from whet.measure import memory
from whet.measure.measurement import Measurement
from whet.progress import Event, OnEvent
from whet.recipe.cache import Entry
from whet.recipe.presets import export
from whet.recipe.recipe import Recipe
from whet.storage import make_folder, write_text
from whet.trials import jobs
from whet.trials.problem import Candidate, Failure, Original, Problem, Result, Scope, StepReport

_MEMORY_SHARE = 0.8  # of the machine's, that one candidate may use
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_HALF_WRITTEN = re.compile(r"\..+\.([a-z0-9_]{8}|old-\d+)")  # as whet.storage names them
FLOAT = "float"


def default_limits(seconds: float | None = None) -> Limits:
    """Return what a child may use: most of the machine's memory, and the time given."""
    return Limits(seconds, int(psutil.virtual_memory().total * _MEMORY_SHARE))


def in_child(problem: Problem, job: Callable[..., Any], *args: Any, limits: Limits, on_event: OnEvent) -> Any:
    """Run a job in a child process; what it prints goes to RUN/logs, and nothing half-written of it stays.

    Raises:
        StorageError: A disk is full.
    """
    log = make_folder(problem.folder / "logs") / f"{job.__name__}.log"
    threads = problem.deployment.threads
    try:
        return isolate.call(
            _guarded, job, problem, *args, limits=limits, threads=threads, log=log, on_event=on_event
        )
    except BaseException as error:
        sweep(problem.folder)
        if _disk_full(error):
            raise _no_room(problem) from error
        raise


def _guarded(job: Callable[..., Any], problem: Problem, *args: Any, on_event: OnEvent) -> Any:
    """Run a job, in the child; a full disk is told as such, whichever library met it."""
    try:
        return job(problem, *args, on_event=on_event)
    except Exception as error:
        if _disk_full(error):
            raise _no_room(problem) from error
        raise


def _no_room(problem: Problem) -> StorageError:
    return StorageError(
        f"no room left on the disk of {problem.folder} or of {tempfile.gettempdir()}; "
        f"free some space and run the same command again: it resumes"
    )


def _disk_full(error: BaseException | None) -> bool:
    """Tell whether an error, or what it came of, is a full disk; libraries in Rust and C++ tell it in words."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            return True
        if any(os.strerror(number) in str(error) for number in _NO_ROOM):
            return True
        error = error.__cause__ or error.__context__
    return False


def sweep(folder: Path) -> None:
    """Remove what a process that was killed left half-written: ``.name.abcdefgh`` beside each ``name``."""
    for path in sorted(folder.rglob(".*")):
        if _HALF_WRITTEN.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def establish(problem: Problem, limits: Limits, on_event: OnEvent) -> Original:
    """Prepare the original and export it in float, or take both from the RUN folder.

    Raises:
        UserError: The model or the data cannot be used.
    """
    path = problem.folder / "original.json"
    sweep(problem.folder)
    if path.exists():
        known = plain.loads(path.read_bytes(), Original)
        found = in_child(problem, jobs.fingerprint_data, limits=limits, on_event=on_event)
        if found != known.data:
            raise RunFolderError(
                f"the data has changed since {problem.folder} was begun; choose another --out, or put it back"
            )
        return known
    original: Original = in_child(problem, jobs.prepare, limits=limits, on_event=on_event)
    if problem.stays:
        original = replace(original, float_key=original.root)
    else:
        try:
            exported = Candidate(float_recipe(problem), problem.deployment)
            entries = in_child(problem, jobs.build, original, exported, None, limits=limits, on_event=on_event)
            original = replace(original, float_key=entries[-1].key)
        except WhetError as error:
            original = replace(original, float_failure=str(error))
    write_text(path, plain.dumps(original))
    return original


def float_recipe(problem: Problem) -> Recipe:
    """Return what makes the float model of a source that is not shipped as it is: its export, and nothing more."""
    step = export(problem.source.format, problem.deployment.runtime)
    return Recipe.of(FLOAT, [step], description="The model as given, exported and nothing more.")


def attempt(
    problem: Problem, original: Original, candidate: Candidate, scope: Scope, limits: Limits, on_event: OnEvent
) -> Result:
    """Try a candidate, or take its result from the RUN folder. A failure is part of the result.

    Raises:
        StorageError: The disk is full, or the folder cannot be written: no candidate's fault.
    """
    journal = problem.folder / ".trials" / f"{candidate.name}.json"
    identity = plain.fingerprint(
        original.root, original.data, candidate.recipe.fingerprint(), candidate.deployment, scope, problem.budget
    )
    finished = load_result(journal)
    if finished is not None and finished.fingerprint == identity:
        return finished
    started = time.monotonic()
    result = Result(candidate.name, identity, candidate.recipe.description, part=scope.part)

    def tell(event: Event) -> None:
        on_event(replace(event, stage=f"{candidate.name}: {event.stage}"))

    def child(job: Callable[..., Any], *args: Any) -> Any:
        return in_child(problem, job, original, *args, limits=limits, on_event=tell)

    try:
        result = _run(problem, candidate, scope, result, child, limits)
    except StorageError:
        raise
    except WhetError as error:
        result = replace(result, failure=Failure(type(error).__name__, " ".join(str(error).split())))
    result = replace(result, seconds=time.monotonic() - started)
    write_text(journal, plain.dumps(result))
    return result


def bundle_folder(problem: Problem, name: str) -> Path:
    """Return where the bundle of a candidate (or of the float model) lies."""
    return problem.folder / "baseline" if name == FLOAT else problem.folder / "candidates" / name


def _run(
    problem: Problem, candidate: Candidate, scope: Scope, result: Result, child: Callable[..., Any], limits: Limits
) -> Result:
    """Build, bundle, and measure what is in the bundle."""
    folder = bundle_folder(problem, candidate.name)
    entries: list[Entry] = child(jobs.build, candidate, folder)
    measured: jobs.Measured = child(jobs.measure, folder, scope)
    numbers = (*measured.measurements, *footprint(problem, folder, limits))
    amend(folder, numbers, test_opened=int(scope.part == "test"))
    return replace(
        result,
        steps=tuple(_report(entry) for entry in entries),
        key=entries[-1].key,
        measurements=numbers,
        quality=measured.quality,
        comparison=measured.comparison,
    )


def footprint(problem: Problem, bundle: Path, limits: Limits) -> tuple[Measurement, ...]:
    """Return load time and memory of a bundle's model, in a process of its own."""
    made = manifest.read(bundle)
    deployment = replace(deployment_of(made), batch_sizes=problem.deployment.batch_sizes)
    stored = stored_in_run(bundle, made, problem.source)
    log = make_folder(problem.folder / "logs") / "memory.log"
    found = memory.measure(stored, made.signature, deployment, limits, log)
    where = {"batch_size": found.batch_size}
    return (
        Measurement("load_ms", found.load_ms, "ms", "min"),
        Measurement("peak_memory_bytes", found.peak_bytes, "bytes", "min", 0, None, where),
        Measurement("added_memory_bytes", found.added_bytes, "bytes", "min", 0, None, where),
    )


def load_result(path: Path) -> Result | None:
    """Return a candidate's result as the journal has it, or None."""
    return plain.loads(path.read_bytes(), Result) if path.exists() else None


def _report(entry: Entry) -> StepReport:
    step, measures = entry.step, entry.measures
    notes = dict(step.notes) if step else {}
    if "problem" in measures:
        notes["problem"] = measures["problem"]
    return StepReport(
        name=step.name if step else "original",
        format=entry.facts.format,
        key=entry.key,
        seconds=entry.seconds,
        value=measures.get("value"),
        size_bytes=int(measures.get("size_bytes", 0)),
        latency_ms=measures.get("latency_ms"),
        changed=len(step.changed) if step else 0,
        skipped=step.skipped if step else (),
        notes=notes,
    )
