"""A closer look at what was chosen, after its verdict: flipped samples, spoilt inputs. Nothing is decided by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whet.data.data import Part, Splits
from whet.errors import StorageError, WhetError, in_one_line
from whet.measure.robustness import Robustness
from whet.progress import Event, OnEvent
from whet.runtimes.base import open_session, predict
from whet.trials import flips
from whet.trials.flips import Flips
from whet.trials.opened import Contestant, Judge, Opened, one
from whet.trials.problem import Original, Problem
from whet.trials.spoil import Asked, Run, spoil

if TYPE_CHECKING:
    from whet.types import Array, Batch

FLIPS = "flips"  # the folder below RUN


@dataclass(frozen=True)
class Look:
    """What a closer look found.

    Attributes:
        flips: Samples on which the shipped model answers differently.
        robustness: What it loses on spoilt inputs; None where it was not asked for, or could not be found.
        notes: Why something is missing.
    """

    flips: Flips | None = None
    robustness: Robustness | None = None
    notes: tuple[str, ...] = ()


def look(problem: Problem, original: Original, shipped: Path, seconds: float, on_event: OnEvent) -> Look:
    """Keep the samples that flipped, and try the shipped model on spoilt ones; ``test`` is open already.

    Args:
        problem: The search.
        original: Its baseline.
        shipped: The bundle.
        seconds: That the spoilt inputs may take, about.
        on_event: Told of progress.
    """
    opened = Opened(problem, on_event)
    judge = opened.judge(original, Part.TEST)
    notes: list[str] = []
    found = robust = None
    try:
        found = _flipped(opened, original, judge, shipped, problem.folder / FLIPS)
    except StorageError:
        raise
    except WhetError as error:
        notes.append(f"The flipped samples could not be kept: {in_one_line(error)}.")
    if problem.robustness:
        try:
            robust = _spoilt(opened, original, shipped, judge, seconds)
        except WhetError as error:
            notes.append(f"Corrupted inputs could not be tried: {in_one_line(error)}.")
        else:
            notes += [] if robust else [f"{unknown(opened.splits)}."]
    return Look(found, robust, tuple(notes))


def look_at_each(problem: Problem, original: Original, names: Sequence[str], on_event: OnEvent) -> dict[str, Flips]:
    """Keep the samples that each recipe's bundle flipped, in a folder of its own below ``RUN/flips``.

    Args:
        problem: What the recipes were compared on.
        original: Its baseline.
        names: Of the recipes.
        on_event: Told of progress.
    """
    opened = Opened(problem, on_event)
    judge, folder = opened.judge(original, Part.TEST), problem.folder
    return {
        name: _flipped(opened, original, judge, folder / "candidates" / name, folder / FLIPS / name)
        for name in names
    }


def _flipped(opened: Opened, original: Original, judge: Judge, bundle: Path, folder: Path) -> Flips:
    """Keep the samples that a bundle answers differently, by its outputs on ``test``."""
    opened.on_event(Event("keep flipped samples"))
    outputs, reference = opened.kept(bundle, original.output), opened.reference(original, Part.TEST)
    told = flips.tell(judge.task, reference, outputs, judge.truth, original.classes)
    return flips.save(folder, opened.splits, told, original.classes)


def _spoilt(opened: Opened, original: Original, shipped: Path, judge: Judge, seconds: float) -> Robustness | None:
    """Try the original on spoilt inputs, as its float export where there is one: the same answers in less time."""
    problem = opened.problem
    if original.float_key is None:
        given = opened.contestant(opened.entry(original.root), problem.original)
    else:
        given = opened.contestant(opened.entry(original.float_key), problem.deployment)
    contestants = {"original": given, "shipped": opened.shipped(shipped)}
    truth = None if judge.task.name == "fidelity" else judge.truth
    asked = Asked(judge.task, truth, problem.seed, problem.budget.confidence, seconds)
    with ExitStack() as stack:
        runs = running(contestants, dict.fromkeys(contestants, original.output), stack)
        return spoil(runs, opened.splits, asked, opened.on_event).get("shipped")


def running(contestants: Mapping[str, Contestant], outputs: Mapping[str, str], stack: ExitStack) -> dict[str, Run]:
    """Open contestants until a stack is left; each becomes a function from one batch to the named output."""

    def opened(runs: Contestant, output: str) -> Run:
        session = stack.enter_context(open_session(runs.stored, runs.deployment))

        def run(batch: Batch) -> Array:
            return np.asarray(one(predict(session, runs.signature, [batch]), output))

        return run

    return {name: opened(runs, outputs[name]) for name, runs in contestants.items()}


def unknown(splits: Splits) -> str:
    """Say that no corruption fits the inputs."""
    batch = splits.batch(Part.SELECT, [0])
    told = ", ".join(f"{name}: {array.dtype}[{','.join(map(str, ('?', *array.shape[1:])))}]"
                     for name, array in batch.items())  # fmt: skip
    return (
        f"Behaviour on corrupted inputs was not looked at: {told} is neither a picture nor text nor a table, "
        f"as far as axes and type tell"
    )
