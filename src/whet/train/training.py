"""One training of a torch model: its data, teacher, loss and optimizer, and a step of it."""

from __future__ import annotations

import hashlib
import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from whet import plain
from whet.errors import PassError, RecipeError
from whet.models.model import Model
from whet.train.checkpoint import Checkpoint, load_optimizer, load_random, optimizer_state, random_state
from whet.train.constraints import Constraints
from whet.train.course import Progress, State
from whet.train.features import Features
from whet.train.judged import check_fit, check_labels, task_of
from whet.train.objectives import Objective, Outputs, variance
from whet.train.runner import Runner, learning
from whet.train.samples import TrainingSet, augmented
from whet.train.spec import CHECKPOINTS, Recovery, Trainer
from whet.train.teacher import Teacher

if TYPE_CHECKING:
    from whet.types import Array

_MOST_NORM = 1.0
_LARGE = 100_000  # parameters from which bfloat16 pays where the processor has it


class Training:
    """One training, with everything that it needs.

    Attributes:
        module: What is trained.
        samples: What it is trained on.
        size: Samples in a step.
    """

    def __init__(
        self, model: Model, teacher: Model | None, settings: Recovery, context: Trainer, constraints: Constraints
    ) -> None:
        """Open the data, run the teacher, and lay out the loss."""
        self.settings, self.context, self.constraints = settings, context, constraints
        self.module: nn.Module = model.payload.module
        self._began, self._earlier = time.monotonic(), 0.0
        self._trainable = [each for each in self.module.parameters() if each.requires_grad]
        if not self._trainable:
            raise PassError("the model has no parameter that can be trained (none at all, or all are frozen)")
        self.samples = TrainingSet(context)
        check_labels(settings, self.samples.labels, taught=teacher is not None)
        self.accelerator = Accelerator()
        self.student = Runner(model, self.accelerator.device)
        self.teacher = None
        if teacher is not None:
            self.teacher = Teacher(teacher, self.samples, settings, context, self.accelerator.device)
        self.size = _samples_a_step(self.student, self.samples, settings.batch_size)
        self._bfloat16 = _in_bfloat16(settings, context, self.module, self.accelerator.device)
        for runner in self._runners():
            runner.lay_out(self.samples)
        constraints.hold(self.module)
        self.objective, self._labels = self._loss()
        self.features = self._features()
        self.student.module = self.accelerator.prepare_model(self.module)
        learning(self.module, batch_of_one=self.size * self.samples.sides == 1)
        self.begin()

    def begin(self) -> None:
        """Lay out a fresh optimizer."""
        parameters = [*self._trainable, *(self.features.parameters() if self.features else [])]
        groups = [
            {"params": [each for each in parameters if each.ndim > 1], "weight_decay": self.settings.weight_decay},
            {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([group for group in groups if group["params"]])
        self._learned = parameters

    def step(self, numbers: Array, rate: float, at: int) -> float:
        """Learn some samples; return the loss, which is not finite if nothing was learned for that reason."""
        mine = numbers[self.accelerator.process_index :: self.accelerator.num_processes]
        batch = augmented(self.samples.batch(mine), self.settings, self.context.seed, at)
        self._listen(True)
        with self._precision():
            targets = None if self.teacher is None else self.teacher(mine, batch)
        labels = None if self._labels is None else self._labels[torch.from_numpy(mine)].to(self.student.device)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self.constraints.seen(self.module):
            with self._precision():
                loss = self.objective(self.student(batch), targets, labels)
                if self.features is not None:
                    loss = loss + self.features()
            self.accelerator.backward(loss)
        self._listen(False)
        self.constraints.gradients(self.module)
        norm = torch.nn.utils.clip_grad_norm_(self._learned, _MOST_NORM)
        if not bool(torch.isfinite(norm)):
            self.optimizer.zero_grad()
            return math.nan
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.constraints.hold(self.module)
        return float(loss.detach())

    @torch.no_grad()
    def evaluate(self, which: Array | None = None) -> float:
        """Return the loss on the held-out samples (on some of them), in inference mode and float32."""
        which = np.arange(len(self.samples.held)) if which is None else which
        rows = torch.from_numpy((which[:, None] * self.samples.sides + np.arange(self.samples.sides)).reshape(-1))
        with self.constraints.seen(self.module):
            outputs = self.student.outputs(self.samples, self.samples.held[which])
        targets: Outputs | None = None
        if self.teacher is not None:
            targets = {name: value[rows] for name, value in self.teacher.held.items()}
        numbers = torch.from_numpy(self.samples.held[which])
        labels = None if self._labels is None else self._labels[numbers]
        return float(self.objective(outputs, targets, labels))

    def snapshot(self) -> State:
        """Return a copy of all that a step changes, but for the optimizer."""
        groups = {
            "model": self.module.state_dict(),
            "constraints": self.constraints.state(),
            "features": self.features.state_dict() if self.features is not None else {},
        }
        return {
            group: {name: _copied(value) for name, value in tensors.items() if isinstance(value, Tensor)}
            for group, tensors in groups.items()
        }

    def restore(self, state: State) -> None:
        """Take up what ``snapshot`` gave."""
        self.module.load_state_dict(state["model"])
        self.constraints.load(state.get("constraints", {}))
        if self.features is not None:
            self.features.load_state_dict(state.get("features", {}))

    def keeps_partial(self, left: int) -> bool:
        """Tell whether the last samples of an epoch, fewer than a step takes, make one more.

        Not where the model takes a fixed number, where BatchNorm would see one sample alone, or where a device
        would have none.
        """
        fewest = max(2, self.accelerator.num_processes) if self.size > 1 else 1
        return self.student.signature.batch is None and left >= fewest

    def notes(self) -> dict[str, Any]:
        """Return facts worth a line in the report."""
        told = {**self.samples.notes, "held_out_samples": len(self.samples.held), "batch_size": self.size}
        told["loss"] = self.settings.loss or self.objective.task.name
        told["precision"] = "bfloat16" if self._bfloat16 else "float32"
        frozen = [name for name, each in self.module.named_parameters() if not each.requires_grad]
        if frozen:
            told["frozen"] = frozen
        if self.constraints:
            told["constrained"] = sorted(self.constraints.kept)
        return told

    def share_of_time(self) -> float:
        """Return which share of the time budget is spent; 0 where there is none."""
        return self.seconds() / (60 * self.settings.minutes) if self.settings.minutes else 0.0

    def seconds(self) -> float:
        """Return the wall time of this training, that of an attempt that was killed included."""
        return self._earlier + time.monotonic() - self._began

    def reseed(self) -> None:
        """Throw dice from the seed on."""
        torch.manual_seed(self.context.seed)

    def hold(self) -> None:
        """Bring the weights back to where they may be."""
        self.constraints.hold(self.module)

    def saved(self, steps: int, start: State) -> tuple[Progress, State] | None:
        """Return what a killed attempt at so many steps from this start left behind."""
        self._checkpoint = Checkpoint(
            self.context.folder / CHECKPOINTS, plain.builtins(self.settings), self.context.seed, steps,
            {group: {name: _digest(value) for name, value in each.items()} for group, each in start.items()},
        )  # fmt: skip
        return self._checkpoint.load()

    def save(self, progress: Progress, best: State, *, finished: bool) -> None:
        """Write where it stands; of what has ended, the best weights alone."""
        if not self.accelerator.is_main_process:
            return
        groups = {f"best-{kind}": tensors for kind, tensors in best.items()}
        if not finished:
            groups |= self.snapshot()
            groups |= {"optimizer": optimizer_state(self.optimizer), "random": random_state()}
        self._checkpoint.save(progress, groups)

    def resume(self, progress: Progress, groups: State) -> None:
        """Go on where a checkpoint was made."""
        self._earlier = progress.seconds
        self.restore(groups)
        load_optimizer(self.optimizer, groups.get("optimizer", {}))
        load_random(groups["random"])

    def finish(self) -> None:
        """Bake the constraints in and leave the module as it came: on the CPU, in inference mode."""
        self.constraints.bake(self.module)
        self.optimizer.zero_grad()
        self.module.cpu().eval()

    def close(self) -> None:
        """Stop listening to layers, and leave modules lying as they came."""
        if self.features is not None:
            self.features.close()
        for runner in self._runners():
            runner.as_it_was()

    def _runners(self) -> list[Runner]:
        return [self.student] if self.teacher is None else [self.student, self.teacher.runner]

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self._bfloat16)

    def _loss(self) -> tuple[Objective, Tensor | None]:
        """Return the loss, by the task that outputs and labels tell, and the labels it takes."""
        held = self.student.outputs(self.samples, self.samples.held)
        if self.teacher is not None:
            check_fit(held, self.teacher.held)
        shown = held if self.teacher is None else self.teacher.held
        answer = self.student.signature.answer
        task, labels = task_of(
            self.samples, {answer: shown[answer].numpy()}, self.settings, self.teacher is not None
        )
        numbers = None if labels is None else torch.from_numpy(labels)
        spread = {name: variance(value) for name, value in shown.items()}
        limits = (0.0, 1.0)
        if numbers is not None:
            spread[""] = variance(numbers.double())
            limits = float(numbers.min()), float(numbers.max())
        return Objective(task, answer, self.settings, spread, limits), numbers

    def _listen(self, on: bool) -> None:
        if self.features is not None:
            self.features.listening = on

    def _features(self) -> Features | None:
        """Listen to the layers that are compared, once on a batch to learn their widths."""
        if not self.settings.features:
            return None
        if self.teacher is None:
            raise RecipeError("features are learned from the original, and there is none; leave features out")
        features = Features(self.settings.features, self.module, self.teacher.runner.module)
        few = self.samples.held[: self.student.lot(2)]
        features.to(self.accelerator.device)
        self.student.outputs(self.samples, few)
        self.teacher.runner.outputs(self.samples, few)
        features.prepare()
        features.listening = False
        return features.to(self.accelerator.device)


def _samples_a_step(student: Runner, samples: TrainingSet, wanted: int) -> int:
    """Return how many samples make a step: as asked for, or what the model is bound to."""
    size = min(wanted, len(samples.fit))
    fixed = student.signature.batch
    lot = student.lot(size * samples.sides)
    if fixed and (fixed % samples.sides or fixed // samples.sides > len(samples.fit)):
        raise PassError(
            f"the model takes {fixed} rows at once, there are {len(samples.fit)} samples to train on; "
            f"free its batch axis, or give more samples"
        )
    return max(1, lot // samples.sides)


def _in_bfloat16(settings: Recovery, context: Trainer, module: nn.Module, device: torch.device) -> bool:
    """Tell whether to multiply in bfloat16: as asked, or where the hardware does and the model is large enough.

    Recurrent layers stay in float32: their fused kernels of the CPU convert every step.
    """
    if settings.precision != "auto":
        return settings.precision == "bfloat16"
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else context.machine.can("bfloat16")
    recurrent = any(isinstance(part, nn.RNNBase) for part in module.modules())
    return native and not recurrent and sum(each.numel() for each in module.parameters()) >= _LARGE


def _copied(value: Tensor) -> Tensor:
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)


def _digest(value: Tensor) -> str:
    """Return a hash of a tensor's bytes."""
    return hashlib.sha256(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()
