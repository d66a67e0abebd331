"""A problem with its data opened: what the jobs of a child process share."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.bundle import manifest
from whet.bundle.verify import deployment_of, stored_in_run
from whet.data.data import Part, Splits
from whet.data.tasks import Task, class_numbers, resolve_task
from whet.errors import PassError, WhetError
from whet.measure import latency
from whet.measure.measurement import Measurement
from whet.models.model import Stored
from whet.progress import Event, OnEvent, silent
from whet.recipe.cache import Cache, Entry
from whet.runtimes.base import Deployment, open_session, predict
from whet.storage import write_bytes
from whet.trials import kept
from whet.trials.fit import open_data
from whet.trials.problem import Original, Problem
from whet.types import Signature

if TYPE_CHECKING:
    from whet.types import Array, Batch

BATCH = 64  # samples in one call where quality is measured


@dataclass(frozen=True)
class Judge:
    """What outputs are judged by: the task, the name of the output, and the truth of the samples."""

    task: Task
    output: str
    truth: Array


@dataclass(frozen=True)
class Contestant:
    """Something to run: files, what goes in and comes out, and how."""

    stored: Stored
    signature: Signature
    deployment: Deployment


class Opened:
    """A problem with its data opened, in a child process."""

    def __init__(self, problem: Problem, on_event: OnEvent) -> None:
        self.problem = problem
        self.splits: Splits = open_data(problem.data, problem.source, problem.cache / "takes.json")
        self.cache = Cache(problem.cache, problem.source)
        self.on_event = on_event

    def entry(self, key: str) -> Entry:
        """Return an entry of the cache that must be there."""
        entry = self.cache.get(key)
        if entry is None:
            raise PassError(
                f"step {key} has vanished from {self.cache.folder}; remove the RUN folder and start over"
            )
        return entry

    def contestant(self, entry: Entry, deployment: Deployment) -> Contestant:
        """Return an entry of the cache, to be run in a deployment."""
        assert entry.facts.signature is not None
        return Contestant(self.cache.stored(entry), entry.facts.signature, deployment)

    def outputs(
        self, runs: Contestant, part: Part, wanted: str, on_event: OnEvent | None = None
    ) -> dict[str, Array]:
        """Run something on a whole part; return the output that is wanted, or all where none is called so."""
        tell = on_event or self.on_event
        total = self.splits.size(part)

        def batches() -> Iterator[Batch]:
            for done, batch in enumerate(self.splits.batches(part, BATCH)):
                tell(Event(f"evaluate on {part}", min(done * BATCH, total), total))
                yield batch

        with open_session(runs.stored, runs.deployment) as session:
            return self.splits.fold(predict(session, runs.signature, batches(), wanted))

    def reference(self, original: Original, part: Part) -> Array:
        """Return the original's outputs on a part: as saved, or found now and saved."""
        path = self._outputs_file(original.root, part)
        known = kept.read_array(path, self.splits.size(part))
        if known is not None:
            return known
        given = self.contestant(self.entry(original.root), self.problem.original)
        found = self.outputs(given, part, original.output)
        self.save_reference(original.root, part, found[original.output])
        return found[original.output]

    def save_reference(self, root: str, part: Part, outputs: Array) -> None:
        """Keep the original's outputs on a part."""
        content = io.BytesIO()
        np.save(content, outputs)
        write_bytes(self._outputs_file(root, part), content.getvalue())

    def shipped(self, bundle: Path) -> Contestant:
        """Return what lies in a bundle, to be run as it was deployed, at the batch sizes asked for."""
        made = manifest.read(bundle)
        stored = stored_in_run(bundle, made, self.problem.source)
        deployment = replace(deployment_of(made), batch_sizes=self.problem.deployment.batch_sizes)
        return Contestant(stored, made.signature, deployment)

    def keep(self, bundle: Path, outputs: Array) -> None:
        """Keep a bundle's outputs on ``test`` for a closer look."""
        content = io.BytesIO()
        np.save(content, outputs)
        write_bytes(self._kept_file(bundle), content.getvalue())

    def kept(self, bundle: Path, output: str) -> Array:
        """Return a bundle's outputs on ``test``: as kept, or found now."""
        known = kept.read_array(self._kept_file(bundle), self.splits.size(Part.TEST))
        if known is not None:
            return known
        return one(self.outputs(self.shipped(bundle), Part.TEST, output), output)

    def judge(self, original: Original, part: Part) -> Judge:
        """Return what outputs on a part are judged by. The original's on ``select`` tell what task it is."""
        on_select = self.reference(original, Part.SELECT)
        task = resolve_task(self.splits.task, on_select, self.splits.labels(Part.SELECT))
        if task.name == "fidelity":
            return Judge(task, original.output, self.reference(original, part))
        return Judge(task, original.output, truth(task, self.splits, part))

    def batch(self, count: int) -> Batch:
        """Return real inputs, repeated where there are fewer than asked for."""
        batch = self.splits.batch(Part.SELECT, range(min(count, self.splits.size(Part.SELECT))))
        return {name: np.resize(array, (count, *array.shape[1:])) for name, array in batch.items()}

    def step_measures(self, entry: Entry, judge: Judge) -> Mapping[str, Any]:
        """Measure a step there and then: quality on ``select``, bytes, latency of one call.

        What cannot be run is no failure of the recipe yet: a later step may mend it. It is noted.
        """
        asked = self.problem.deployment
        runs = self.contestant(entry, Deployment(threads=asked.threads, batch_sizes=asked.batch_sizes))
        measures: dict[str, Any] = {"size_bytes": sum(path.stat().st_size for path in runs.stored.files())}
        try:
            outputs = one(self.outputs(runs, Part.SELECT, judge.output, silent), judge.output)
            measures["value"] = judge.task.value(outputs, judge.truth)
            batch = self.batch(runs.signature.batch or asked.batch_sizes[0])
            timings, _ = raced({"step": runs}, batch, latency.QUICK)
            measures["latency_ms"] = float(np.median(timings.calls_ms["step"]))
        except WhetError as error:
            measures["problem"] = str(error)
        return measures

    def race(
        self, original: Original, artifact: Contestant, effort: latency.Effort, *, alone: bool = False
    ) -> tuple[list[Measurement], Mapping[str, Any]]:
        """Time an artifact, the float model and the original in turns, at each batch size.

        Where there is a float model, ``alone`` leaves the original out.

        Returns the measurements, and what each session really used.
        """
        exported = original.float_key not in (None, original.root)
        contestants = {}
        if not (alone and exported):
            contestants["original"] = self.contestant(self.entry(original.root), self.problem.original)
        if exported:
            contestants["float"] = self.contestant(self.entry(str(original.float_key)), self.problem.deployment)
        contestants["candidate"] = artifact
        fixed = {size for runs in contestants.values() if (size := runs.signature.batch) is not None}
        numbers: list[Measurement] = []
        facts: Mapping[str, Any] = {}
        for count in sorted(fixed) or artifact.deployment.batch_sizes:
            timings, facts = raced(contestants, self.batch(count), effort, self.on_event)
            numbers += _numbers(timings, count)
        return numbers, facts

    def _kept_file(self, bundle: Path) -> Path:
        place = bundle.relative_to(self.problem.folder)
        return self.problem.folder / ".trials" / "outputs" / place.with_name(f"{place.name}.npy")

    def _outputs_file(self, root: str, part: Part) -> Path:
        return self.cache.folder / root / f"outputs-{part}.npy"


def raced(
    contestants: Mapping[str, Contestant], batch: Batch, effort: latency.Effort, on_event: OnEvent = silent
) -> tuple[latency.Timings, Mapping[str, Any]]:
    """Time contestants in turns on a batch; return the timings, and what each one's session really used."""
    runners = {name: _Runner(runs, batch) for name, runs in contestants.items()}
    timings = latency.race({name: runner.open for name, runner in runners.items()}, effort, on_event)
    return timings, {name: runner.facts for name, runner in runners.items()}


@dataclass
class _Runner:
    """A contestant on a batch, opened as often as a race asks; ``facts`` is what its last session used."""

    runs: Contestant
    batch: Batch
    facts: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def open(self) -> Iterator[Callable[[], object]]:
        """Open a session and give what runs it once on the batch, bound beforehand."""
        bound = self.runs.signature.bind(self.batch)
        with open_session(self.runs.stored, self.runs.deployment) as session:
            self.facts = dict(session.facts)
            yield lambda: session.run(bound)


def _numbers(timings: latency.Timings, count: int) -> list[Measurement]:
    """Return what a race of original, float model and candidate says."""
    numbers: list[Measurement] = []
    for name in timings.calls_ms:
        numbers += latency.measurements(timings, name, count, contestant=name)
    for against in ("original", "float"):
        if against in timings.calls_ms:
            numbers.append(latency.speedup(timings, "candidate", against, count))
    if "original" in timings.calls_ms and "float" in timings.calls_ms:
        numbers.append(latency.speedup(timings, "float", "original", count, contestant="float"))
    return numbers


def truth(task: Task, splits: Splits, part: Part) -> Array:
    """Return the labels of a part, as the task takes them."""
    labels = class_numbers(splits.labels(part), task)
    assert labels is not None
    return labels


def one(outputs: Mapping[str, Array], name: str) -> Array:
    """Return the output that the task is about; passes keep names, but a sole output may be called otherwise."""
    if name in outputs:
        return outputs[name]
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    raise PassError(f"the artifact has no output {name!r}; it has {', '.join(outputs)}")
