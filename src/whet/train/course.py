"""A training from its first step to its last, or from where it was killed; the same in every framework."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from whet.progress import Event
from whet.train.rate import find_rate
from whet.train.spec import Recovery, Trained, Trainer

if TYPE_CHECKING:
    from whet.train.samples import TrainingSet
    from whet.types import Array

OnStep = Callable[[int, int], bool | None]
"""Called before every step with its number and how many there are; False while the model is not yet what it is to
become: such weights are not kept as the best, and no patience is lost over them.

Called once with a step that is not made, the one after the last, where a learning rate has to be found: it is found
on the model as it will be in the end (that of one not pruned yet would be far too small), which is put back.
"""

State = dict[str, dict[str, Any]]
"""Tensors of a framework, by group and name: ``{"model": {"conv.kernel": ...}}``."""


@dataclass
class Progress:
    """Where a training stands.

    Attributes:
        step: Steps made.
        rate: The greatest learning rate, as found.
        seconds: Wall time so far.
        losses: On the held-out samples, after every epoch.
        first: The same before the first step.
        best: The least of them, and the step after which it was found.
        waited: Epochs since.
        stopped: Why it ended; empty while it goes on.
    """

    step: int = 0
    rate: float = 0.0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    first: float | None = None
    best: float | None = None
    best_step: int = 0
    waited: int = 0
    stopped: str = ""


class Learner(Protocol):
    """What a course needs of a training in one framework."""

    settings: Recovery
    context: Trainer
    samples: TrainingSet
    size: int

    def begin(self) -> None:
        """Lay out a fresh optimizer."""

    def reseed(self) -> None:
        """Throw dice from the seed on."""

    def hold(self) -> None:
        """Bring the weights back to where they may be."""

    def step(self, numbers: Array, rate: float, at: int) -> float:
        """Learn some samples; return the loss, which is not finite if nothing was learned for that reason."""

    def evaluate(self, which: Array | None = None) -> float:
        """Return the loss on the held-out samples (on some of them), as in inference."""

    def snapshot(self) -> State:
        """Return a copy of all that a step changes, but for the optimizer."""

    def restore(self, state: State) -> None:
        """Take up what ``snapshot`` gave."""

    def resume(self, progress: Progress, groups: State) -> None:
        """Go on where a checkpoint was made."""

    def keeps_partial(self, left: int) -> bool:
        """Tell whether the last samples of an epoch, fewer than a step takes, make one more."""

    def finish(self) -> None:
        """Bake the constraints in and leave the model as it came."""

    def notes(self) -> dict[str, Any]:
        """Return facts worth a line in the report."""

    def share_of_time(self) -> float:
        """Return which share of the time budget is spent; 0 where there is none."""

    def seconds(self) -> float:
        """Return the wall time of this training, that of an attempt that was killed included."""

    def saved(self, steps: int, start: State) -> tuple[Progress, State] | None:
        """Return what a killed attempt at so many steps from this start left behind."""

    def save(self, progress: Progress, best: State, *, finished: bool) -> None:
        """Write where it stands; of what has ended, the best weights alone."""


class Course:
    """All steps of a training, and which weights are kept."""

    def __init__(self, training: Learner, on_step: OnStep | None) -> None:
        self.training, self.on_step = training, on_step
        self.settings, self.context = training.settings, training.context
        fit = len(training.samples.fit)
        partial = training.keeps_partial(fit % training.size)
        self.an_epoch = max(1, fit // training.size + partial)
        self.steps = max(1, round(self.settings.epochs * self.an_epoch))
        self.progress = Progress()
        self.start = training.snapshot()
        self.best = self.start
        self.final = on_step is None  # whether the model is what it is to become

    def run(self) -> Trained:
        """Train, restore the best weights, and say what became of it."""
        stopped = self._begin() or self._learn()
        self.training.restore(self.best)
        self.training.finish()
        self._save(finished=stopped)
        return self._told(stopped)

    def _begin(self) -> str:
        """Take up a checkpoint, or find the learning rate; return why it is over already, if it is."""
        found = self.training.saved(self.steps, self.start)
        if found is not None:
            self.progress, groups = found
            self.best = {kind: groups.get(f"best-{kind}", {}) for kind in self.start}
            if self.progress.stopped:
                return self.progress.stopped
            self.training.resume(self.progress, groups)
            return ""
        self.training.reseed()
        self.progress.rate = self.settings.learning_rate or self._found_rate()
        self.training.reseed()
        return ""

    def _found_rate(self) -> float:
        """Return the learning rate that serves the model as it is to become."""
        if self.on_step is None:
            return find_rate(self.training, self.steps)
        self.on_step(self.steps, self.steps)
        self.training.hold()
        rate = find_rate(self.training, self.steps)
        self.training.restore(self.start)
        return rate

    def _learn(self) -> str:
        """Make all steps; return why it ended."""
        for step in range(self.progress.step, self.steps):
            if self.on_step is not None:
                self.final = self.on_step(step, self.steps) is not False
                self.training.hold()
            if step == 0:
                self._judge(first=True)
            loss = self.training.step(self._numbers(step), self._rate(step), step)
            if not math.isfinite(loss):
                return "not finite"
            self.progress.step = step + 1
            self.context.on_event(Event(self._stage(), step + 1, self.steps))
            late = self.training.share_of_time() >= 1
            if (step + 1) % self.an_epoch == 0 or step + 1 == self.steps or late:
                self._judge()
                if late and step + 1 < self.steps:
                    return "time"
                if self.settings.patience and self.progress.waited >= self.settings.patience:
                    return "patience"
                self._save()
        return "finished"

    def _judge(self, *, first: bool = False) -> None:
        """Measure the loss on the held-out samples, and keep the weights if they are the best yet."""
        loss, progress = self.training.evaluate(), self.progress
        if first:
            progress.first = loss if math.isfinite(loss) else None
        else:
            progress.losses.append(loss)
            progress.waited += self.final
        if self.final and math.isfinite(loss) and (progress.best is None or loss < progress.best):
            progress.best, progress.best_step, progress.waited = loss, progress.step, 0
            self.best = self.training.snapshot()

    def _numbers(self, step: int) -> Array:
        """Return the samples of a step."""
        epoch, within = divmod(step, self.an_epoch)
        size = self.training.size
        return self.training.samples.order(epoch, self.context.seed)[within * size : (within + 1) * size]

    def _rate(self, step: int) -> float:
        """Return the learning rate: a rise, then half a cosine to zero at the last step or the end of the time."""
        share = max((step + 0.5) / self.steps, min(self.training.share_of_time(), 1.0))
        if share < self.settings.warmup:
            return self.progress.rate * share / self.settings.warmup
        done = (share - self.settings.warmup) / (1 - self.settings.warmup)
        return self.progress.rate * 0.5 * (1 + math.cos(math.pi * done))

    def _stage(self) -> str:
        losses = self.progress.losses
        return f"train: loss {losses[-1]:.4g}" if losses else "train"

    def _save(self, finished: str = "") -> None:
        self.progress.seconds, self.progress.stopped = self.training.seconds(), finished
        self.training.save(self.progress, self.best, finished=bool(finished))

    def _told(self, stopped: str) -> Trained:
        progress = self.progress
        notes = {**self.training.notes(), "learning_rate": progress.rate, "stopped": stopped}
        if stopped == "not finite":
            notes["problem"] = (
                f"the loss was not finite at step {progress.step + 1}; the best weights before it were restored"
            )
        return Trained(
            progress.step / self.an_epoch, progress.step, progress.seconds, progress.best, progress.first,
            tuple(progress.losses), stopped, progress.best_step > 0, notes,
        )  # fmt: skip
