"""Try a candidate: build, weigh, measure, bundle, each in a fresh process with limits."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from whet import isolate, plain
from whet.bundle import manifest
from whet.bundle.verify import deployment_of
from whet.bundle.write import amend
from whet.errors import RunFolderError, StorageError, WhetError
from whet.isolate import Limits
from whet.measure import memory
from whet.measure.measurement import Measurement
from whet.models.model import Stored
from whet.progress import Event, OnEvent
from whet.recipe.cache import Cache, Entry
from whet.recipe.presets import export
from whet.recipe.recipe import Recipe
from whet.storage import check_marked, make_folder, sweep, write_text
from whet.trials import jobs, kept
from whet.trials.fit import crashes_explained
from whet.trials.problem import Candidate, Failure, Original, Problem, Result, Scope, StepReport

_MEMORY_SHARE = 0.8  # of the machine's, that one candidate may use
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FLOAT, ORIGINAL = "float", "original"  # the names of the model as given, exported and not, in every table


def default_limits(seconds: float | None = None) -> Limits:
    """Return what a child may use: most of the machine's memory, and the time given."""
    return Limits(seconds, int(psutil.virtual_memory().total * _MEMORY_SHARE))


def in_child(problem: Problem, job: Callable[..., Any], *args: Any, limits: Limits, on_event: OnEvent) -> Any:
    """Run a job in a child process; what it prints goes to RUN/logs, and nothing half-written of it stays.

    Raises:
        StorageError: A disk is full, or the RUN folder was removed.
    """
    check_marked(problem.folder)
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
        check_marked(problem.folder)
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


def establish(problem: Problem, limits: Limits, on_event: OnEvent) -> Original:
    """Prepare the original and export it in float, or take both from the RUN folder.

    Raises:
        UserError: The model or the data cannot be used.
    """
    path = problem.folder / "original.json"
    sweep(problem.folder)
    kept.adopt_journals(problem.folder / ".trials")
    known = kept.read(path, Original, on_event)
    if known is not None and _is_cached(problem, known, on_event):
        found = in_child(problem, jobs.fingerprint_data, limits=limits, on_event=on_event)
        if found != known.data:
            raise RunFolderError(
                f"the data has changed since {problem.folder} was begun; choose another --out, or put it back"
            )
        return known
    with crashes_explained([problem.source]):
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


def _is_cached(problem: Problem, original: Original, on_event: OnEvent) -> bool:
    """Return whether the model as given, and its float form, are whole in the cache."""
    cache = Cache(problem.cache, problem.source)
    for key in (original.root, original.float_key):
        if key is not None and cache.get(key) is None:
            kept.report_damage(cache.folder / key, "a file of it is missing or was changed", on_event)
            return False
    return True


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
    identity = plain.fingerprint(
        original.root, original.data, candidate.recipe.fingerprint(), candidate.deployment, scope, problem.budget
    )
    journal = problem.folder / ".trials" / "candidates" / f"{candidate.name}.json"
    finished = _finished(problem, journal, identity, on_event)
    if finished is not None:
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
        retry = error.is_from_outside
        result = replace(result, failure=Failure(type(error).__name__, " ".join(str(error).split()), retry))
    result = replace(result, seconds=time.monotonic() - started)
    check_marked(problem.folder)
    if result.failure is None or not result.failure.retry:
        write_text(journal, plain.dumps(result))
    return result


def _finished(problem: Problem, journal: Path, identity: str, on_event: OnEvent) -> Result | None:
    """Return the result that an earlier command journaled, if it is whole and of the same work; else None."""
    found = kept.read(journal, Result, on_event)
    if found is None or found.fingerprint != identity or found.name != journal.stem:
        return None
    if found.failure is not None:
        return None if was_ended_from_outside(found.failure) else found
    if found.comparison is None:
        kept.report_damage(journal, "it has neither a comparison nor a failure", on_event)
        return None
    if not (bundle_folder(problem, found.name) / manifest.FILE).is_file():
        kept.report_damage(bundle_folder(problem, found.name), f"{manifest.FILE} is missing", on_event)
        return None
    return found


def was_ended_from_outside(failure: Failure) -> bool:
    """Return whether a candidate failed only because the user or the system ended its process."""
    before = failure.kind == "ChildCrashed" and failure.message.startswith(("died of SIGKILL", "died of SIGTERM"))
    return failure.retry or before  # the version before journaled the message alone


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
    stored = Stored(made.format, bundle / made.file, problem.source)
    log = make_folder(problem.folder / "logs") / "memory.log"
    found = memory.measure(stored, made.signature, deployment, limits, log)
    where = {"batch_size": found.batch_size}
    return (
        Measurement("load_ms", found.load_ms, "ms", "min"),
        Measurement("peak_memory_bytes", found.peak_bytes, "bytes", "min", 0, None, where),
        Measurement("added_memory_bytes", found.added_bytes, "bytes", "min", 0, None, where),
    )


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
