"""The one loop that trains torch models, on Accelerate: recovery of compressed ones, and students."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from whet import plain
from whet.models.model import Model
from whet.progress import Event
from whet.train.checkpoint import Checkpoint, Progress, optimizer_state, random_state
from whet.train.constraints import Constraints, constraints_of
from whet.train.rate import find_rate
from whet.train.spec import CHECKPOINTS, Recovery, Trained, Trainer
from whet.train.training import Training

if TYPE_CHECKING:
    from whet.types import Array

OnStep = Callable[[int, int], bool | None]
"""Called before every step with its number and how many there are; False while the model is not yet what it is to
become: such weights are not kept as the best."""


def recover(
    model: Model,
    teacher: Model | None,
    settings: Recovery,
    context: Trainer,
    *,
    constraints: Constraints | None = None,
    on_step: OnStep | None = None,
) -> Trained:
    """Train a model in place until it answers as its teacher does; leave it with the best weights that were seen.

    Args:
        model: Whose module is trained; hand in a clone.
        teacher: The original; None to learn the labels alone.
        settings: How.
        context: Data, seed, folder for checkpoints. The same call in the same folder goes on where it was killed.
        constraints: What weights may be, kept throughout and baked in at the end; None re-derives them from the
            model's traits, ``Constraints()`` frees all weights.
        on_step: Told before every step.

    Raises:
        DataError: There is nothing to train on, or labels are asked for that are not there.
        PassError: No parameter can be trained, or the outputs do not fit the teacher's.
        RecipeError: A layer, or the user's own loss, cannot be used.
    """
    if settings.minutes == 0:
        return Trained(stopped="no time", notes={"training": "the time budget is 0 minutes: nothing was trained"})
    if constraints is None:
        constraints = constraints_of(model.payload.module, model.traits)
    with _repeatable(context):
        training = Training(model, teacher, settings, context, constraints)
        try:
            return _Course(training, on_step).run()
        finally:
            training.close()


class _Course:
    """A training from its first step to its last, or from where it was killed."""

    def __init__(self, training: Training, on_step: OnStep | None) -> None:
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
        self.checkpoint = Checkpoint(
            self.context.folder / CHECKPOINTS, plain.builtins(self.settings), self.context.seed, self.steps,
            {group: {name: _digest(value) for name, value in each.items()} for group, each in self.start.items()},
        )  # fmt: skip

    def run(self) -> Trained:
        """Train, restore the best weights, and say what became of it."""
        stopped = self._begin() or self._learn()
        self.training.restore(self.best)
        self.training.finish()
        self.progress.seconds = self.training.seconds()
        self._save(finished=stopped)
        return self._told(stopped)

    def _begin(self) -> str:
        """Take up a checkpoint, or find the learning rate; return why it is over already, if it is."""
        found = self.checkpoint.load()
        if found is not None:
            self.progress, groups = found
            self.best = {kind: groups.get(f"best-{kind}", {}) for kind in self.start}
            if self.progress.stopped:
                return self.progress.stopped
            self.training.resume(self.progress, groups)
            return ""
        torch.manual_seed(self.context.seed)
        self.progress.rate = self.settings.learning_rate or find_rate(self.training, self.steps)
        torch.manual_seed(self.context.seed)
        return ""

    def _learn(self) -> str:
        """Make all steps; return why it ended."""
        for step in range(self.progress.step, self.steps):
            if self.on_step is not None:
                self.final = self.on_step(step, self.steps) is not False
                self.training.constraints.hold(self.training.module)
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
            progress.waited += 1
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
        """Write where it stands; of what has ended, the best weights alone."""
        self.progress.seconds, self.progress.stopped = self.training.seconds(), finished
        if not self.training.accelerator.is_main_process:
            return
        groups = {f"best-{kind}": tensors for kind, tensors in self.best.items()}
        if not finished:
            groups |= self.training.snapshot()
            groups |= {"optimizer": optimizer_state(self.training.optimizer), "random": random_state()}
        self.checkpoint.save(self.progress, groups)

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


def _digest(value: torch.Tensor) -> str:
    """Return a hash of a tensor's bytes."""
    return hashlib.sha256(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


@contextmanager
def _repeatable(context: Trainer) -> Iterator[None]:
    """Have torch do the same each time, on all cores that it may use; dice and threads are as before afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        torch.manual_seed(context.seed)
        torch.set_num_threads(context.machine.cores)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
