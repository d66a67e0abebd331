"""Measure any artifacts side by side: files, factories or bundles, ours or not. Nothing is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whet import isolate, markup
from whet.bundle.verify import deployment_of, opened
from whet.data import modes
from whet.data.data import Part, Splits
from whet.data.samples import looks
from whet.data.sources import DataSource
from whet.data.tasks import Task, check_classes, resolve_task
from whet.errors import DataError, ModelError, SignatureError
from whet.measure import latency, memory, size
from whet.measure.measurement import Measurement, value_of
from whet.measure.quality import Comparison, Quality, assess, compare
from whet.measure.robustness import Robustness
from whet.models.adapter import adapter_for
from whet.models.model import Model, Stored
from whet.models.source import Source
from whet.profile.profile import Profile, profile
from whet.progress import Event, OnEvent
from whet.runtimes.base import Deployment, open_session, predict, usual
from whet.temporary import temporary_folder
from whet.trials.closer import running, unknown
from whet.trials.fit import as_given, crashes_explained, open_data, open_model
from whet.trials.opened import Contestant, one, raced, truth
from whet.trials.spoil import Asked, spoil
from whet.trials.trial import default_limits
from whet.types import Format, Signature

if TYPE_CHECKING:
    from whet.types import Array, Batch

_BATCH = 64
Judged = tuple[Quality, Comparison | None, Robustness | None]


@dataclass(frozen=True)
class Entrant:
    """What is to be measured: a source, or a bundle.

    Attributes:
        name: For tables; no two alike.
        source: Of a model as given.
        bundle: The folder of a bundle.
    """

    name: str
    source: Source | None = None
    bundle: Path | None = None


@dataclass(frozen=True)
class Contest:
    """What is asked.

    Attributes:
        entrants: The first is what the others are compared with.
        data: Where inputs and labels come from; None measures on synthetic inputs.
        deployment: How sources are run; a bundle is run as it was deployed, with these threads and batch sizes.
        quality, speed: What is measured.
        confidence: One-sided, of quality.
        robustness: Whether they are also tried on corrupted inputs; ``seed`` draws these.
    """

    entrants: Sequence[Entrant]
    data: DataSource | None
    deployment: Deployment
    quality: bool
    speed: bool
    confidence: float = 0.95
    robustness: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Standing:
    """What was measured of one entrant.

    Attributes:
        name: Of the entrant.
        format: Of its model. ``facts`` is what really ran it.
        signature: Its inputs and outputs.
        measurements: Latency, size, memory, scores.
        quality, comparison: On ``test``; the comparison is with the first entrant.
        robustness: On corrupted inputs, where it was asked for.
        notes: What is to be known of the data: what was carved out, left out or converted.
    """

    name: str
    format: str
    facts: Mapping[str, Any]
    signature: Signature
    measurements: tuple[Measurement, ...]
    quality: Quality | None = None
    comparison: Comparison | None = None
    robustness: Robustness | None = None
    notes: tuple[str, ...] = ()


class Standings(list[Standing]):
    """Standings in the order of the entrants; a notebook shows them as a table."""

    def _repr_html_(self) -> str:
        sizes = _sizes_measured(self)
        scores = list(dict.fromkeys(name for item in self if item.quality for name in item.quality.scores))
        heads = [
            "model",
            "format",
            *(f"ms, batch {size}" for size in sizes),
            *(f"faster, batch {size}" for size in sizes),
        ]
        heads += ["bytes", "deflated", "peak bytes", *scores, "worse by"]
        return markup.table(heads, [_cells(item, sizes, scores) for item in self])


def _sizes_measured(standings: Sequence[Standing]) -> list[int]:
    numbers = [number for item in standings for number in item.measurements]
    return sorted({int(each.conditions["batch_size"]) for each in numbers if each.metric == "latency_p50_ms"})


def _cells(item: Standing, sizes: Sequence[int], scores: Sequence[str]) -> list[str]:
    """Return one row of the table of standings."""
    numbers, number = item.measurements, markup.number
    cells = [item.name, str(item.format)]
    cells += [number(value_of(numbers, "latency_p50_ms", batch_size=size)) for size in sizes]
    cells += [number(value_of(numbers, "speedup", batch_size=size), ".2f") for size in sizes]
    cells += [
        number(value_of(numbers, name), ",.0f") for name in ("size_bytes", "deflated_bytes", "peak_memory_bytes")
    ]
    cells += [number(item.quality.scores.get(name) if item.quality else None) for name in scores]
    return [*cells, number(item.comparison.drop if item.comparison else None, "+.4f")]


def hold(contest: Contest, on_event: OnEvent) -> Standings:
    """Measure all entrants in one fresh process, in turns; then each one's memory in a process of its own.

    Raises:
        UserError: An entrant or the data cannot be opened, or they do not fit.
    """
    limits = default_limits()
    with temporary_folder("models-") as folder:
        deployment = contest.deployment
        with crashes_explained([entrant.source for entrant in contest.entrants if entrant.source is not None]):
            standings, contestants = isolate.call(
                _measure, contest, folder, limits=limits, threads=deployment.threads, on_event=on_event
            )
        if not contest.speed:
            return Standings(standings)
        weighed = []
        for standing, runs in zip(standings, contestants, strict=True):
            on_event(Event(f"{standing.name}: memory"))
            found = memory.measure(runs.stored, runs.signature, runs.deployment, limits)
            where = {"batch_size": found.batch_size}
            more = (
                Measurement("load_ms", found.load_ms, "ms", "min"),
                Measurement("peak_memory_bytes", found.peak_bytes, "bytes", "min", 0, None, where),
                Measurement("added_memory_bytes", found.added_bytes, "bytes", "min", 0, None, where),
            )
            weighed.append(replace(standing, measurements=(*standing.measurements, *more)))
        return Standings(weighed)


def profile_entrant(
    entrant: Entrant, data: DataSource | None, deployment: Deployment, on_event: OnEvent
) -> Profile:
    """Count and time the layers of a model. Runs in a child.

    Raises:
        UserError: It cannot be opened, or nothing says what goes in.
    """
    splits = _splits(data, entrant)
    count = deployment.batch_sizes[0]
    if entrant.source is not None:
        model = _model(entrant.source, splits, max(count, 2))
    else:
        assert entrant.bundle is not None
        made, stored = opened(entrant.bundle)
        payload = adapter_for(made.format).load(stored.path, stored.source)
        model = Model(made.format, payload, made.signature, source=stored.source)
    if model.signature is None:
        raise SignatureError("nothing says what goes into the model; give --data, or --input 'name=dtype[axes]'")
    batch = model.signature.synthetic(count) if splits is None else _sample(splits, model.signature.batch or count)
    on_event(Event("profile"))
    with ExitStack() as stack:
        if entrant.source is not None:
            stack.enter_context(as_given(entrant.source))
        return profile(model, model.signature.bind(batch), deployment.threads)


def _measure(contest: Contest, folder: Path, on_event: OnEvent) -> tuple[list[Standing], list[Contestant]]:
    splits = _splits(contest.data, contest.entrants[0])
    if contest.quality and splits is None:
        raise DataError("quality is measured on data; give --data")
    notes = _notes(splits, contest, on_event)
    contestants = [_open(entrant, contest, splits, folder) for entrant in contest.entrants]
    names = [entrant.name for entrant in contest.entrants]
    numbers: dict[str, list[Measurement]] = {
        name: _sizes(runs) for name, runs in zip(names, contestants, strict=True)
    }
    judged: dict[str, Judged] = {}
    if contest.quality and splits is not None:
        judged = _judge(contest, dict(zip(names, contestants, strict=True)), splits, on_event)
    facts = _race(contest, dict(zip(names, contestants, strict=True)), splits, numbers, on_event)
    standings = [
        Standing(name, runs.stored.format, facts[name], runs.signature, tuple(numbers[name]), *judged.get(name, ()))
        for name, runs in zip(names, contestants, strict=True)
    ]
    return [replace(standing, notes=notes) for standing in standings], contestants


def _notes(splits: Splits | None, contest: Contest, on_event: OnEvent) -> tuple[str, ...]:
    """Say what is to be known of the data: of the pictures that quality is measured on, which are converted."""
    if splits is None or not contest.quality:
        return () if splits is None else splits.notes
    seen = looks([splits.parts[Part.TEST]], on_event)
    return (*splits.notes, *modes.told(seen, splits.preprocess.color))


def _race(
    contest: Contest,
    contestants: Mapping[str, Contestant],
    splits: Splits | None,
    numbers: Mapping[str, list[Measurement]],
    on_event: OnEvent,
) -> Mapping[str, Any]:
    """Add what a race at each batch size says to the numbers of each; return what each session really used."""
    if not contest.speed:
        return {name: _facts(runs) for name, runs in contestants.items()}
    facts: Mapping[str, Any] = {}
    first, *others = contestants
    for count in _batch_sizes(contest, list(contestants.values())):
        batch = _inputs(contestants[first].signature, splits, count)
        timings, facts = raced(contestants, batch, latency.CAREFUL, on_event)
        for name in contestants:
            numbers[name] += latency.measurements(timings, name, count)
        for name in others:
            numbers[name].append(latency.speedup(timings, name, first, count))
    return facts


def _facts(runs: Contestant) -> Mapping[str, Any]:
    with open_session(runs.stored, runs.deployment) as session:
        return dict(session.facts)


def _open(entrant: Entrant, contest: Contest, splits: Splits | None, folder: Path) -> Contestant:
    """Open an entrant as something to run; a torch module is stored first, as every runtime opens files."""
    deployment = contest.deployment
    if entrant.bundle is not None:
        made, stored = opened(entrant.bundle)
        own = replace(deployment_of(made), threads=deployment.threads, batch_sizes=deployment.batch_sizes)
        return Contestant(stored, made.signature, own)
    source = entrant.source
    assert source is not None
    adapter, model = adapter_for(source.format), _model(source, splits, 2)
    if model.signature is None:
        raise SignatureError(
            f"nothing says what goes into {entrant.name}; give --data, or --input 'name=dtype[axes]'"
        )
    asked = deployment if deployment.runtime else replace(deployment, runtime=usual(source.format))
    whole = source.format in (Format.ONNX, Format.TFLITE)  # what is run is the file itself
    path = Path(source.path) if whole else adapter.save(model, folder / entrant.name)
    runs = Contestant(Stored(source.format, path, source), model.signature, asked)
    batch = _inputs(model.signature, splits, model.signature.batch or deployment.batch_sizes[0])
    with as_given(source), open_session(runs.stored, asked) as session:
        session.run(model.signature.bind(batch))
    return runs


def _model(source: Source, splits: Splits | None, count: int) -> Model:
    """Open a source on so many samples, or on what it says itself."""
    if splits is None:
        return adapter_for(source.format).open(source, None)
    return open_model(source, splits, _sample(splits, count))


def _judge(
    contest: Contest, contestants: Mapping[str, Contestant], splits: Splits, on_event: OnEvent
) -> dict[str, Judged]:
    """Assess every entrant on ``test`` and compare it with the first; intervals hold for all at once."""
    outputs: dict[str, Array] = {}
    for name, runs in contestants.items():
        on_event(Event(f"evaluate {name}"))
        with open_session(runs.stored, runs.deployment) as session:
            found = splits.fold(
                predict(session, runs.signature, splits.batches(Part.TEST, _BATCH), runs.signature.answer)
            )
        outputs[name] = one(found, runs.signature.answer)
    reference = next(iter(outputs.values()))
    task: Task = resolve_task(splits.task, reference, splits.labels(Part.TEST))
    check_classes(task, splits.classes)
    right = reference if task.name == "fidelity" else truth(task, splits, Part.TEST)
    task.check(reference, right)
    spoilt: Mapping[str, Robustness] = {}
    if contest.robustness:
        spoilt = _spoilt(contest, contestants, splits, Asked(task, None if right is reference else right), on_event)
    judged: dict[str, Judged] = {}
    for name, array in outputs.items():
        compared = None
        if array is not reference:
            compared = compare(task, reference, array, right, contest.confidence, len(outputs) - 1)
        judged[name] = (assess(task, array, right), compared, spoilt.get(name))
    return judged


def _spoilt(
    contest: Contest, contestants: Mapping[str, Contestant], splits: Splits, asked: Asked, on_event: OnEvent
) -> dict[str, Robustness]:
    """Compare every entrant with the first on corrupted inputs.

    Raises:
        DataError: No corruption is known for such inputs.
    """
    names = {name: runs.signature.answer for name, runs in contestants.items()}
    asked = replace(asked, seed=contest.seed, confidence=contest.confidence)
    with ExitStack() as stack:
        found = spoil(running(contestants, names, stack), splits, asked, on_event)
    if not found:
        raise DataError(f"{unknown(splits)}; leave --robustness out")
    return found


def _splits(data: DataSource | None, entrant: Entrant) -> Splits | None:
    """Open the data, with the inputs that an entrant takes; the others must take the same."""
    if data is None:
        return None
    if entrant.source is not None:
        return open_data(data, entrant.source)
    assert entrant.bundle is not None
    return data.open().fitted(opened(entrant.bundle)[0].signature.inputs)


def _sizes(runs: Contestant) -> list[Measurement]:
    found = size.measure(runs.stored.files())
    return [
        Measurement("size_bytes", found.bytes, "bytes", "min"),
        Measurement("deflated_bytes", found.deflated_bytes, "bytes", "min"),
        Measurement("deflation_percent", found.deflation_percent, "%", "max"),
    ]


def _batch_sizes(contest: Contest, contestants: Sequence[Contestant]) -> Sequence[int]:
    fixed = {count for runs in contestants if (count := runs.signature.batch) is not None}
    if len(fixed) > 1:
        raise ModelError(
            f"the models take {' and '.join(map(str, sorted(fixed)))} samples at a time; compare like with like"
        )
    return sorted(fixed) or contest.deployment.batch_sizes


def _inputs(signature: Signature, splits: Splits | None, count: int) -> Batch:
    return signature.synthetic(count) if splits is None else _sample(splits, count)


def _sample(splits: Splits, count: int) -> Batch:
    """Return real inputs of ``select``, repeated where there are fewer than asked for."""
    batch = splits.batch(Part.SELECT, range(min(count, splits.size(Part.SELECT))))
    return {name: np.resize(array, (count, *array.shape[1:])) for name, array in batch.items()}
