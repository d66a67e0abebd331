"""One training of a Keras model: its data, teacher, loss and optimizer, and a step of it, compiled."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from whet import plain
from whet.errors import PassError, RecipeError
from whet.models.keras import describe
from whet.models.model import Model
from whet.train.course import Progress, State
from whet.train.judged import check_fit, check_labels, task_of
from whet.train.keras_checkpoint import Checkpoint, digest
from whet.train.keras_constraints import Constraints
from whet.train.keras_features import Features
from whet.train.keras_objectives import Objective, variance
from whet.train.keras_runner import Runner, Teacher, specs
from whet.train.samples import TrainingSet, augmented
from whet.train.spec import CHECKPOINTS, Recovery, Trainer

import keras  # after the constraints, whose adapter chooses its backend  # isort: skip
import tensorflow as tf

if TYPE_CHECKING:
    from whet.types import Array

_MOST_NORM = 1.0
_FEW = 64  # samples that tell how far the outputs of a layer vary


class Training:
    """One training, with everything that it needs.

    Attributes:
        network: What is trained, by the layers that it shares with its model.
        samples: What it is trained on.
        size: Samples in a step.
    """

    def __init__(
        self, model: Model, teacher: Model | None, settings: Recovery, context: Trainer, constraints: Constraints
    ) -> None:
        """Open the data, run the teacher (the original, in Keras too), and lay out the loss."""
        self.settings, self.context, self.constraints = settings, context, constraints
        self._model = model
        self.network: keras.Model = constraints.network
        self._began, self._earlier = time.monotonic(), 0.0
        self._trainable = list(self.network.trainable_variables)
        if not self._trainable:
            raise PassError("the model has no parameter that can be trained (none at all, or all are frozen)")
        self.samples = TrainingSet(context)
        check_labels(settings, self.samples.labels, taught=teacher is not None)
        self.size = max(1, min(settings.batch_size, len(self.samples.fit)))
        self.features, self.student, runner = self._runners(model, teacher)
        self.teacher = None if runner is None else Teacher(runner, self.samples, settings, context)
        self.reseed()
        constraints.hold()
        self.objective, self._labels = self._loss()
        self._learned = [*self._trainable, *(self.features.variables if self.features else [])]
        self._optimizer: Any = None
        self.begin()
        self._learn = tf.function(self._step, autograph=False).get_concrete_function(*self._takes())

    def begin(self) -> None:
        """Lay out a fresh optimizer: AdamW, whose decay takes matrices and kernels alone."""
        if self._optimizer is not None:  # the compiled step keeps the variables that it met first
            for variable in self._optimizer.variables:
                variable.assign(np.zeros(variable.shape, str(variable.dtype)))
            return
        self._optimizer = keras.optimizers.AdamW(weight_decay=self.settings.weight_decay, epsilon=1e-8)
        spared = [each for each in self._trainable if len(each.shape) < 2 or each.name == "bias"]
        self._optimizer.exclude_from_weight_decay(var_list=spared)
        self._optimizer.build(self._learned)

    def step(self, numbers: Array, rate: float, at: int) -> float:
        """Learn some samples; return the loss, which is not finite if nothing was learned for that reason."""
        batch = augmented(self.samples.batch(numbers), self.settings, self.context.seed, at, channels=-1)
        values = self.student.values(batch)
        targets, heard = ({}, []) if self.teacher is None else self.teacher(numbers, values)
        labels = [] if self._labels is None else [tf.convert_to_tensor(self._labels[numbers])]
        self._optimizer.learning_rate.assign(rate)
        loss, norm = self._learn(values, targets, heard, labels)
        return float(loss) if math.isfinite(float(norm)) else math.nan

    def _takes(self) -> tuple[Any, ...]:
        """Return what a step is compiled for: inputs, the original's outputs and what is heard of it, labels."""
        targets, heard = {}, []
        if self.teacher is not None:
            runner = self.teacher.runner
            found = specs(runner.network.outputs)
            targets, heard = dict(zip(runner.names, found, strict=False)), found[len(runner.names) :]
        labels = self._labels
        shown = [] if labels is None else [tf.TensorSpec((None, *labels.shape[1:]), labels.dtype)]
        return specs(self.student.network.inputs), targets, heard, shown

    def _step(
        self, values: list[Any], targets: dict[str, Any], theirs: list[Any], labels: list[Any]
    ) -> tuple[Any, Any]:
        """Make a step of the graph; return the loss, and the norm of the gradient, which tells if it counts."""
        with self.constraints.seen(), tf.GradientTape() as tape:
            outputs, ours = self.student.forward(values, training=self.size * self.samples.sides > 1)
            loss = self.objective(outputs, targets or None, labels[0] if labels else None)
            if self.features is not None:
                loss += self.features(ours, theirs)
        gradients = self.constraints.gradients(self._learned, tape.gradient(loss, self._learned))
        pairs = [(each, it) for each, it in zip(gradients, self._learned, strict=True) if each is not None]
        clipped, norm = tf.clip_by_global_norm([each for each, _ in pairs], _MOST_NORM)
        tf.cond(tf.math.is_finite(norm), lambda: self._apply(clipped, [it for _, it in pairs]), lambda: False)
        return loss, norm

    def _apply(self, gradients: list[Any], variables: list[Any]) -> bool:
        self._optimizer.apply(gradients, variables)
        self.constraints.hold()
        return True

    def evaluate(self, which: Array | None = None) -> float:
        """Return the loss on the held-out samples (on some of them), as in inference."""
        which = np.arange(len(self.samples.held)) if which is None else which
        rows = (which[:, None] * self.samples.sides + np.arange(self.samples.sides)).reshape(-1)
        with self.constraints.seen():
            outputs = self.student.outputs(self.samples, self.samples.held[which])
        targets = None
        if self.teacher is not None:
            targets = {name: tf.convert_to_tensor(value[rows]) for name, value in self.teacher.held.items()}
        labels = None if self._labels is None else tf.convert_to_tensor(self._labels[self.samples.held[which]])
        found = {name: tf.convert_to_tensor(value) for name, value in outputs.items()}
        return float(self.objective(found, targets, labels))

    def snapshot(self) -> State:
        """Return a copy of all that a step changes, but for the optimizer: seeds of layers that draw included."""
        return {
            "model": {str(at): np.array(each.value) for at, each in enumerate(self.network.variables)},
            "constraints": self.constraints.state(),
            "features": self.features.state() if self.features is not None else {},
        }

    def restore(self, state: State) -> None:
        """Take up what ``snapshot`` gave."""
        for at, each in enumerate(self.network.variables):
            each.assign(state["model"][str(at)])
        self.constraints.load(state.get("constraints", {}))
        if self.features is not None:
            self.features.load(state.get("features", {}))

    def reseed(self) -> None:
        """Have layers that draw begin anew, from the seed."""
        generators = [each for layer in self.network._flatten_layers() for each in layer._seed_generators]
        for at, generator in enumerate(generators):
            generator.state.assign(np.array([self.context.seed % 2**32, at], np.uint32))

    def hold(self) -> None:
        """Bring the weights back to where they may be."""
        self.constraints.hold()

    def keeps_partial(self, left: int) -> bool:
        """Tell whether the last samples of an epoch make one more step: not one sample alone, for BatchNorm."""
        return left >= (2 if self.size > 1 else 1)

    def saved(self, steps: int, start: State) -> tuple[Progress, State] | None:
        """Return what a killed attempt at so many steps from this start left behind."""
        begun = {group: {name: digest(value) for name, value in each.items()} for group, each in start.items()}
        self._checkpoint = Checkpoint(
            self.context.folder / CHECKPOINTS, plain.builtins(self.settings), self.context.seed, steps, begun
        )
        return self._checkpoint.load()

    def save(self, progress: Progress, best: State, *, finished: bool) -> None:
        """Write where it stands; of what has ended, the best weights alone."""
        groups = {f"best-{kind}": arrays for kind, arrays in best.items()}
        if not finished:
            groups |= self.snapshot()
            groups |= {"optimizer": {str(at): np.array(each.value) for at, each in enumerate(self._slots())}}
        self._checkpoint.save(progress, groups)

    def resume(self, progress: Progress, groups: State) -> None:
        """Go on where a checkpoint was made."""
        self._earlier = progress.seconds
        self.restore(groups)
        for at, each in enumerate(self._slots()):
            each.assign(groups["optimizer"][str(at)])

    def finish(self) -> None:
        """Bake the constraints in."""
        self.constraints.bake()

    def notes(self) -> dict[str, Any]:
        """Return facts worth a line in the report."""
        told = {**self.samples.notes, "held_out_samples": len(self.samples.held), "batch_size": self.size}
        told["loss"] = self.settings.loss or self.objective.task.name
        told["precision"] = "float32"
        if self.size * self.samples.sides == 1:
            told["one_sample_a_step"] = "dropout and BatchNorm as in inference"
        layers = describe.layers(self._model.payload).items()
        frozen = [name for name, layer in layers if not layer.trainable_weights]
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

    def _slots(self) -> list[Any]:
        return list(self._optimizer.variables)

    def _runners(self, model: Model, teacher: Model | None) -> tuple[Features | None, Runner, Runner | None]:
        """Return what is learned of layers, and the student and the teacher, which tell what it needs besides."""
        if not self.settings.features:
            other = None if teacher is None else Runner(teacher, teacher.payload)
            return None, Runner(model, self.network), other
        if teacher is None:
            raise RecipeError("features are learned from the original, and there is none; leave features out")
        features = Features(self.settings.features, self.network, teacher.payload)
        runner = Runner(teacher, features.teacher)
        few = runner.values(self.samples.batch(self.samples.held[:_FEW]))
        features.prepare([each.numpy() for each in runner.infer(few)[1]])
        return features, Runner(model, features.student), runner

    def _loss(self) -> tuple[Objective, Array | None]:
        """Return the loss, by the task that outputs and labels tell, and the labels it takes."""
        held = self.student.outputs(self.samples, self.samples.held)
        if self.teacher is not None:
            check_fit(held, self.teacher.held)
        shown = held if self.teacher is None else self.teacher.held
        answer = self.student.signature.answer
        task, labels = task_of(
            self.samples, {answer: shown[answer]}, self.settings, taught=self.teacher is not None
        )
        spread = {name: variance(value) for name, value in shown.items()}
        limits = (0.0, 1.0)
        if labels is not None:
            spread[""] = variance(labels)
            limits = float(labels.min()), float(labels.max())
        return Objective(task, answer, self.settings, spread, limits), labels
