"""Optimize: try candidates, choose on ``select``, prove on ``test``, ship."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from whet import plain
from whet.bundle import manifest, write
from whet.errors import PassError, RunFolderError, StorageError, WhetError, in_one_line
from whet.machine import this_machine
from whet.measure import verdict
from whet.measure.measurement import Measurement, speedups, value_of
from whet.measure.quality import Comparison
from whet.measure.verdict import Budget, Verdict, overall
from whet.progress import Event, OnEvent
from whet.recipe.recipe import Recipe
from whet.search import outcome as outcomes
from whet.search.choice import Ranked, rank
from whet.search.outcome import Outcome, Proof
from whet.search.run_folder import lock_run_folder
from whet.storage import write_text
from whet.trials import closer, jobs, kept, trial
from whet.trials.closer import Look
from whet.trials.flips import Flips
from whet.trials.problem import Candidate, Original, Problem, Result, Scope

_MINUTES_EACH = 30  # that one candidate may take where no time was given and it does not train
_LOOK_SHARE = 0.05  # of the time spent, that corrupted inputs may take


@dataclass(frozen=True)
class Order:
    """What a command asks of a search: the problem, the candidates, the time."""

    problem: Problem
    candidates: Sequence[Candidate]
    command: Mapping[str, Any]
    within: float | None = None


def optimize(order: Order, on_event: OnEvent) -> Outcome:
    """Search, choose, prove and ship; or go on where the same command stopped.

    Raises:
        UserError: The model, the data or the folder cannot be used.
    """
    problem = order.problem
    with lock_run_folder(problem.folder, order.command):
        done = _finished(problem, on_event)
        if done is not None:
            return done
        started = time.monotonic()
        original, baseline = _original(order, on_event)
        results, not_tried = _try_all(order, original, Scope(), started, on_event)
        ranking = rank([baseline, *results], problem.budget)
        chosen = next((item.name for item in ranking if item.eligible), trial.FLOAT)
        proof = _prove(problem, original, baseline, chosen, on_event)
        look = _look_closer(problem, original, _spent((baseline, *results), started), on_event)
        found = Outcome(
            command=order.command,
            kind="optimize",
            original=original,
            results=(baseline, *results),
            ranking=tuple(ranking),
            not_tried=not_tried,
            proof=proof,
            budget=problem.budget,
            warnings=(
                *_warnings(original, ranking, proof, drifts=problem.data.windows is not None),
                *_retried(results),
                *look.notes,
            ),
            machine=this_machine(),
            seconds=time.monotonic() - started,
            original_on_part=proof.original,
            flips=look.flips,
            robustness=look.robustness,
        )
        write_text(problem.folder / outcomes.FILE, plain.dumps(found))
        return found


def run(order: Order, on_event: OnEvent) -> Outcome:
    """Compare fixed recipes side by side on ``test``, with intervals that hold for all at once; choose nothing.

    Raises:
        UserError: The model, the data or the folder cannot be used.
    """
    problem = order.problem
    with lock_run_folder(problem.folder, order.command):
        done = _finished(problem, on_event)
        if done is not None:
            return done
        started = time.monotonic()
        original, baseline = _original(order, on_event, Scope("test", len(order.candidates)))
        results, not_tried = _try_all(order, original, Scope("test", len(order.candidates)), started, on_event)
        judged = tuple(
            replace(result, verdicts=_judge(result, original, baseline, problem.budget)) for result in results
        )
        judged, notes = _with_flips(problem, original, judged, on_event)
        for result in judged:
            if result.failure is None:
                write.amend(trial.bundle_folder(problem, result.name), result.measurements, result.verdicts, 1)
        found = Outcome(
            command=order.command,
            kind="run",
            original=original,
            results=(baseline, *judged),
            ranking=(),
            not_tried=not_tried,
            proof=None,
            budget=problem.budget,
            warnings=(*_warnings(original, (), None), *_retried(judged), *notes),
            machine=this_machine(),
            seconds=time.monotonic() - started,
        )
        write_text(problem.folder / outcomes.FILE, plain.dumps(found))
        return found


def _finished(problem: Problem, on_event: OnEvent) -> Outcome | None:
    """Return what the same command left when it ended; None if it did not, or something is to be tried again."""
    if not (problem.folder / outcomes.FILE).exists():
        return None
    try:
        found = outcomes.load(problem.folder)
    except RunFolderError as error:
        kept.report_damage(problem.folder / outcomes.FILE, str(error.__cause__), on_event)
        return None
    failures = [result.failure for result in found.results if result.failure is not None]
    return None if any(map(trial.was_ended_from_outside, failures)) else found


def verdicts_on(
    numbers: Sequence[Measurement], compared: Comparison, original: Original, baseline: Result, budget: Budget
) -> tuple[Verdict, ...]:
    """Return one verdict a claim: quality, classes where asked, speed at each batch size, size."""
    found = [verdict.quality(compared, budget)]
    per_class = verdict.classes(compared, budget)
    if per_class is not None:
        found.append(per_class)
    found += [verdict.speed(item, budget) for item in speedups(numbers, "original")]
    sized, float_size = value_of(numbers, "size_bytes"), value_of(baseline.measurements, "size_bytes")
    assert sized is not None
    assert float_size is not None
    return (*found, verdict.size(int(sized), original.float_bytes, int(float_size), budget))


def _judge(result: Result, original: Original, baseline: Result, budget: Budget) -> tuple[Verdict, ...]:
    """Return the verdicts on a result that was measured on ``test``; none on one that failed."""
    if result.comparison is None:
        return ()
    return verdicts_on(result.measurements, result.comparison, original, baseline, budget)


def _original(order: Order, on_event: OnEvent, scope: Scope = Scope()) -> tuple[Original, Result]:  # noqa: B008
    """Establish the original, and measure and bundle its float form as RUN/baseline."""
    problem = order.problem
    limits = trial.default_limits()
    on_event(Event("candidates", 0, len(order.candidates) + 2, "the model as given"))
    original = trial.establish(problem, limits, on_event)
    exported = original.float_key not in (None, original.root)
    recipe = trial.float_recipe(problem) if exported else Recipe(trial.FLOAT, (), description="The model as given.")
    deployment = problem.deployment if original.float_key is not None else problem.original
    baseline = trial.attempt(problem, original, Candidate(recipe, deployment), scope, limits, on_event)
    if baseline.failure is not None:
        raise PassError(f"the model as given cannot be bundled and measured: {baseline.failure.message}")
    return original, baseline


def _try_all(
    order: Order, original: Original, scope: Scope, started: float, on_event: OnEvent
) -> tuple[list[Result], tuple[str, ...]]:
    """Try candidates in order, while there is time; at least the first."""
    results: list[Result] = []
    total = len(order.candidates) + 2
    for at, candidate in enumerate(order.candidates):
        left = None if order.within is None else order.within - (time.monotonic() - started)
        if left is not None and left <= 0 and results:
            return results, tuple(item.name for item in order.candidates[at:])
        on_event(Event("candidates", at + 1, total, candidate.name))
        trains = any(step.extra == "train" for step in candidate.recipe.steps)  # as long as its recovery says
        usual = None if trains else 60.0 * _MINUTES_EACH
        limits = trial.default_limits(usual if left is None else max(left, 60.0))
        results.append(trial.attempt(order.problem, original, candidate, scope, limits, on_event))
    return results, ()


def _prove(problem: Problem, original: Original, baseline: Result, chosen: str, on_event: OnEvent) -> Proof:
    """Open ``test``, once: measure the chosen bundle's copy that is shipped, and judge it.

    Only where a candidate that was ended from outside is tried again, and is better, ``test`` is opened once more.
    """
    path = problem.folder / ".trials" / "proof.json"
    before = kept.read(path, Proof, on_event)
    if before is not None and before.chosen == chosen and _is_bundle(problem.folder / "bundle"):
        return before
    on_event(Event("candidates", 0, 0, f"prove {chosen}"))
    shipped, limits = problem.folder / "bundle", trial.default_limits()
    opened = 1 if before is None else 1 + before.test_opened
    write.copy(trial.bundle_folder(problem, chosen), shipped)
    measured: jobs.Measured = trial.in_child(
        problem, jobs.measure, original, shipped, Scope("test"), limits=limits, on_event=on_event
    )
    numbers = (*measured.measurements, *trial.footprint(problem, shipped, limits))
    verdicts = verdicts_on(numbers, measured.comparison, original, baseline, problem.budget)
    write.amend(shipped, numbers, verdicts, opened)
    proof = Proof(
        chosen,
        verdicts,
        str(overall(verdicts)),
        measured.comparison,
        measured.quality,
        measured.original,
        numbers,
        opened,
    )
    (problem.folder / ".trials" / "look.json").unlink(missing_ok=True)  # of another choice
    write_text(path, plain.dumps(proof))
    return proof


def _is_bundle(folder: Path) -> bool:
    return (folder / manifest.FILE).is_file()


def _look_closer(problem: Problem, original: Original, spent: float, on_event: OnEvent) -> Look:
    """Keep flipped samples and try spoilt ones, in a twentieth of the time spent; its failure costs no proof."""
    path = problem.folder / ".trials" / "look.json"
    before = kept.read(path, Look, on_event)
    if before is not None:
        return before
    shipped, limits = problem.folder / "bundle", trial.default_limits(60.0 * _MINUTES_EACH)
    try:
        found: Look = trial.in_child(
            problem, closer.look, original, shipped, _LOOK_SHARE * spent, limits=limits, on_event=on_event
        )
    except StorageError:
        raise
    except WhetError as error:
        found = Look(notes=(f"The closer look at what is shipped failed: {in_one_line(error)}.",))
    write_text(path, plain.dumps(found))
    return found


def _with_flips(
    problem: Problem, original: Original, judged: tuple[Result, ...], on_event: OnEvent
) -> tuple[tuple[Result, ...], tuple[str, ...]]:
    """Return fixed recipes with the samples that each flipped, and why some are missing; no verdict hangs on it."""
    names = [result.name for result in judged if result.failure is None]
    if not names:
        return judged, ()
    try:
        found: dict[str, Flips] = trial.in_child(
            problem, closer.look_at_each, original, names, limits=trial.default_limits(), on_event=on_event
        )
    except StorageError:
        raise
    except WhetError as error:
        return judged, (f"The flipped samples could not be kept: {in_one_line(error)}.",)
    return tuple(replace(result, flips=found.get(result.name)) for result in judged), ()


def _spent(results: Sequence[Result], started: float) -> float:
    """Return the seconds a search took, those before it was resumed included."""
    return max(sum(result.seconds for result in results), time.monotonic() - started)


def _warnings(
    original: Original, ranking: Sequence[Ranked], proof: Proof | None, *, drifts: bool = False
) -> tuple[str, ...]:
    """Say what a reader should know before any number."""
    found = list(original.notes)
    if original.float_failure:
        found.append(f"The model could not be exported to ONNX: {original.float_failure}.")
    if ranking and not any(item.eligible and item.name != trial.FLOAT for item in ranking):
        found.append("No candidate met the budget: what is shipped is the float model.")
    if proof is not None:
        found += _contamination(original, proof, drifts=drifts)
    return tuple(found)


def _retried(results: Sequence[Result]) -> Iterator[str]:
    """Name the candidates that the user or the system ended: no failures of theirs."""
    for result in results:
        if result.failure is not None and result.failure.retry:
            yield (
                f"The process of {result.name} was ended from outside ({result.failure.message}); the same command "
                f"tries it again."
            )


def _contamination(original: Original, proof: Proof, *, drifts: bool) -> list[str]:
    """Warn where the original does much better on ``select`` than on ``test``: it may have been trained on it.

    Of a time series, whose parts follow each other (``drifts``), that is no sign of it.
    """
    mine, other = original.quality, proof.original
    before, after = mine.scores.get(original.metric), other.scores.get(original.metric)
    if before is None or after is None or mine.error is None or other.error is None:
        return []
    sign = -1 if original.goal == "min" else 1
    lead, error = sign * (before - after), (mine.error**2 + other.error**2) ** 0.5
    if lead <= 3 * error or original.task == "fidelity":
        return []
    why = "the series has probably drifted in between" if drifts else "it has probably seen the select samples"
    return [
        f"The model as given scores {before:.4g} on select and {after:.4g} on test, more than three standard "
        f"errors better: {why}, so the ranking may mislead; the verdict does not."
    ]
