"""What runs in child processes: prepare the original, build a candidate and bundle it, measure it.

Each job opens the data and the models anew, from files or from what came through the pipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whet import plain
from whet.bundle.write import Contents, write
from whet.data import modes
from whet.data.data import Part, Splits
from whet.data.preprocess import Postprocess
from whet.data.samples import looks
from whet.data.tasks import Task, check_classes, class_numbers, resolve_task
from whet.errors import DataError
from whet.measure import latency, size
from whet.measure.measurement import Measurement
from whet.measure.quality import Comparison, Quality, assess, compare
from whet.models.adapter import adapter_for
from whet.models.model import Model, Stored
from whet.progress import Event, OnEvent
from whet.recipe.cache import Entry, root_key
from whet.recipe.execute import execute
from whet.trials.fit import as_given, open_model
from whet.trials.opened import BATCH, Judge, Opened, one, truth
from whet.trials.problem import Candidate, Original, Problem, Scope
from whet.types import Layer, Signature

if TYPE_CHECKING:
    from whet.types import Array


@dataclass(frozen=True)
class Measured:
    """What was measured of an artifact, reloaded."""

    measurements: tuple[Measurement, ...]
    quality: Quality
    comparison: Comparison
    original: Quality
    facts: Mapping[str, Any]


def prepare(problem: Problem, on_event: OnEvent) -> Original:
    """Open the model and the data, check that they fit, and measure the original on ``select``.

    Raises:
        UserError: They cannot be opened, or do not fit.
    """
    on_event(Event("open the model and the data"))
    opened = Opened(problem, on_event)
    splits = opened.splits
    converted = modes.told(looks(splits.parts.values(), on_event), splits.preprocess.color)
    model = open_model(problem.source, splits, splits.batch(Part.SELECT, range(min(2, splits.size(Part.SELECT)))))
    assert model.signature is not None
    root = root_key(problem.source.fingerprint(), plain.fingerprint(model.signature))
    entry = opened.cache.get(root) or opened.cache.put(root, model, None, 0.0)
    output = model.signature.answer
    with as_given(problem.source):
        found = opened.outputs(opened.contestant(entry, problem.original), Part.SELECT, output)[output]
    task = resolve_task(splits.task, found, splits.labels(Part.SELECT))
    _check(task, found, splits)
    _look_through(splits, model.signature, on_event)
    opened.save_reference(root, Part.SELECT, found)
    judge = Judge(task, output, found if task.name == "fidelity" else truth(task, splits, Part.SELECT))
    if not entry.measures:
        opened.cache.annotate(entry, opened.step_measures(entry, judge))
    layers = adapter_for(problem.source.format).layers(model)
    return Original(
        name=problem.source.name,
        format=problem.source.format,
        root=root,
        float_key=None,
        float_failure=None,
        output=output,
        task=task.name,
        metric=task.metric.name,
        goal=task.metric.goal,
        classes=splits.classes,
        parameters=sum(layer.parameters for layer in layers),
        macs=Layer.macs_of(layers),
        quality=assess(task, found, judge.truth),
        splits={str(part): splits.size(part) for part in Part},
        notes=(*splits.notes, *converted),
        data=splits.fingerprint(),
    )


def fingerprint_data(problem: Problem, on_event: OnEvent) -> str:
    """Return the fingerprint of the data as it is now."""
    on_event(Event("open the data"))
    return Opened(problem, on_event).splits.fingerprint()


def build(
    problem: Problem, original: Original, candidate: Candidate, folder: Path | None, on_event: OnEvent
) -> list[Entry]:
    """Run a recipe from the original and bundle what comes out; what each step cost is measured as it goes.

    Args:
        problem: The search.
        original: Its baseline.
        candidate: Whose recipe is run.
        folder: Of the bundle; None writes none.
        on_event: Told of progress.
    """
    opened = Opened(problem, on_event)
    judge = opened.judge(original, Part.SELECT)
    entries = execute(
        candidate.recipe,
        opened.entry(original.root),
        opened.cache,
        opened.splits,
        lambda entry: opened.step_measures(entry, judge),
        on_event,
    )
    if folder is not None:
        on_event(Event("write the bundle"))
        write(folder, _contents(opened, original, entries[-1], candidate, judge))
    return entries


def measure(problem: Problem, original: Original, shipped: Path, scope: Scope, on_event: OnEvent) -> Measured:
    """Measure a shipped file against the original and the float model, in this fresh process.

    Args:
        problem: The search.
        original: Its baseline.
        shipped: The bundle.
        scope: The part of the data, and how many candidates are judged on it together.
        on_event: Told of progress.
    """
    part = Part(scope.part)
    opened = Opened(problem, on_event)
    artifact = opened.shipped(shipped)
    judge, reference = opened.judge(original, part), opened.reference(original, part)
    judge.task.check(reference, judge.truth)
    outputs = one(opened.outputs(artifact, part, original.output), original.output)
    if part is Part.TEST:
        opened.keep(shipped, outputs)
    compared = compare(judge.task, reference, outputs, judge.truth, problem.budget.confidence, scope.family)
    assessed = assess(judge.task, outputs, judge.truth)
    effort = latency.CAREFUL if part is Part.TEST else latency.USUAL
    alone = not problem.races_original and shipped != problem.folder / "baseline"
    raced, facts = opened.race(original, artifact, effort, alone=alone)
    numbers = (
        *_scores(assessed, part),
        *_fidelity(compared, part),
        *raced,
        *_sizes(artifact.stored, original),
    )
    return Measured(numbers, assessed, compared, assess(judge.task, reference, judge.truth), facts)


def _contents(opened: Opened, original: Original, entry: Entry, candidate: Candidate, judge: Judge) -> Contents:
    """Return what goes into a candidate's bundle."""
    return Contents(
        stored=opened.cache.stored(entry),
        facts=entry.facts,
        recipe=candidate.recipe,
        deployment=candidate.deployment,
        splits=opened.splits,
        output=original.output,
        task=original.task,
        metric=original.metric,
        postprocess=_postprocess(judge.task, opened.splits),
        source=opened.problem.source,
        data={"splits": original.splits, "notes": original.notes, "fingerprint": original.data, "test_opened": 0},
    )


def _check(task: Task, outputs: Array, splits: Splits) -> None:
    """Check outputs, and the labels of both parts that are judged by; the model is not run on ``test`` for it."""
    check_classes(task, splits.classes)
    for part in (Part.SELECT, Part.TEST):
        labels = class_numbers(splits.labels(part), task)
        if labels is None and task.name != "fidelity":
            raise DataError(
                f"the {part} part has no labels, but the task is {task.name}; give labels to both parts"
            )
        shown = np.resize(outputs, (splits.size(part), *outputs.shape[1:]))
        try:
            task.check(shown, labels)
        except DataError as error:
            raise DataError(f"{part}: {error}") from error


def _look_through(splits: Splits, signature: Signature, on_event: OnEvent) -> None:
    """Read every input that is yet to be used: one that cannot be is told now, not at the verdict.

    The model is not run on them, so that nothing is learned of ``test``.
    """
    for part in (Part.CALIBRATE, Part.TEST):
        for at, batch in enumerate(splits.batches(part, BATCH)):
            on_event(Event(f"look through {part}", at * BATCH, splits.size(part)))
            signature.bind(batch)


def _scores(assessed: Quality, part: Part) -> list[Measurement]:
    where = {"part": str(part)}
    return [
        Measurement(name, value, "", "", assessed.samples, None, where) for name, value in assessed.scores.items()
    ]


def _fidelity(compared: Comparison, part: Part) -> list[Measurement]:
    where = {"part": str(part), "against": "original"}
    found = [
        Measurement(name, value, "dB" if name.endswith("_db") else "", "", compared.samples, None, where)
        for name, value in compared.fidelity.items()
    ]
    drop = Measurement(
        f"{compared.metric}_drop", compared.drop, "", "min", compared.samples, compared.interval, where
    )
    return [*found, drop]


def _sizes(stored: Stored, original: Original) -> list[Measurement]:
    """Return bytes, deflated bytes, ratios to float32 weights, and the zeros of the shipped file."""
    found = size.measure(stored.files())
    adapter = adapter_for(stored.format)
    matrices = adapter.matrices(Model(stored.format, adapter.load(stored.path, stored.source)))
    total = sum(array.size for array in matrices.values())
    zeros = sum(array.size - int(np.count_nonzero(array)) for array in matrices.values())
    return [
        Measurement("size_bytes", found.bytes, "bytes", "min"),
        Measurement("deflated_bytes", found.deflated_bytes, "bytes", "min"),
        Measurement("deflation_percent", found.deflation_percent, "%", "max"),
        Measurement("size_ratio", original.float_bytes / found.bytes, "x", "max"),
        Measurement("deflated_ratio", original.float_bytes / found.deflated_bytes, "x", "max"),
        Measurement("sparsity", zeros / total if total else None, "share"),
        Measurement("parameters", original.parameters),
        Measurement("macs", original.macs),
    ]


def _postprocess(task: Task, splits: Splits) -> Postprocess:
    """Return what turns outputs into answers."""
    if splits.postprocess != Postprocess():
        return splits.postprocess
    if task.name == "classification" or (task.name == "fidelity" and task.classes):
        return Postprocess("classification", task.logits, splits.classes, min(5, task.classes))
    return Postprocess()
