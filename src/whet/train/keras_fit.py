"""The user's own training of a Keras model: called, watched and checked."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from whet import userfile
from whet.errors import PassError, RecipeError, UserError, in_one_line
from whet.models.keras import counting, describe
from whet.models.keras.adapter import KerasAdapter
from whet.models.model import Model
from whet.progress import Event
from whet.train.course import OnStep
from whet.train.keras_constraints import Constraints
from whet.train.keras_model import constrained
from whet.train.samples import TrainingSet
from whet.train.spec import Recovery, Trained, Trainer

import keras  # after the adapter, which chooses its backend  # isort: skip

if TYPE_CHECKING:
    from whet.types import Array


@dataclass(frozen=True)
class FitData:
    """What a training of the user's own may learn from; it may as well read its own.

    Attributes:
        train: Inputs as the model takes them, and labels; None where there are none.
        validation: The same of a tenth that is held out.
        original: The model as it was before any compression, to learn its outputs from.
    """

    train: tuple[Any, Any] | None
    validation: tuple[Any, Any] | None
    original: keras.Model | None


def fit_by_user(
    model: Model, teacher: Model | None, settings: Recovery, context: Trainer, constraints: Constraints,
    on_step: OnStep | None,
) -> Trained:  # fmt: skip
    """Have the user's function train a model in place; the arguments are those of ``whet.train.keras.recover``.

    Raises:
        RecipeError: The function is not there, or raises.
        PassError: It did not train the model it was given, left out callbacks that were needed, or changed what it
            may not.
    """
    parts = userfile.split(settings.fit)
    assert parts is not None
    function = userfile.find(*parts, RecipeError)
    data = _data(model, teacher, context)
    keras.utils.set_random_seed(context.seed)
    constraints.hold()
    network = constrained(constraints)
    keeper = Keeper(model, constraints, settings, context, on_step)
    before, trainable = _structure(model), _trainable(model)
    try:
        function(network, [keeper], data)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # from the user's own function
        raise RecipeError(
            f"the training {settings.fit} raised {type(error).__name__}: {in_one_line(error, 300)}"
        ) from error
    if _structure(model) != before:
        raise PassError(
            f"the training {settings.fit} changed the layers of the model; train the weights it has, and change "
            f"layers before"
        )
    for layer, flag in trainable:
        layer.trainable = flag
    keeper.check(settings.fit)
    return keeper.finish(settings.fit, {} if data.train is None else {"samples": len(_first(data.train[0]))})


class Keeper(keras.callbacks.Callback):  # type: ignore[misc]
    """The callback that a training of the user's own passes on to ``fit``.

    It tells steps to whoever chooses zeros or freezes ranges, tells progress, stops where time or patience ends or
    the loss is no number, and remembers the best weights by the validation loss.
    """

    def __init__(
        self, given: Model, constraints: Constraints, settings: Recovery, context: Trainer, on_step: OnStep | None
    ) -> None:
        super().__init__()
        self._given, self._kept, self._on_step = given, constraints, on_step
        self._settings, self._context = settings, context
        self._began, self._called, self._told = time.monotonic(), 0, 0
        self._before, self._total = 0, 0
        self._final = on_step is None
        self._losses: list[float] = []
        self._best: float | None = None
        self._waited, self._epochs = 0, 0
        self._stopped = "finished"
        self._start = self._weights()
        self._best_weights: list[Array] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Learn how many steps there will be, for what depends on it.

        Raises:
            RecipeError: That is not known.
        """
        self._called += 1
        self._before = int(self._kept.steps)
        steps, epochs = self.params.get("steps"), self.params.get("epochs") or 1
        if steps is None and self._on_step is not None:
            raise RecipeError(
                "the number of steps of an epoch is not known, and what is trained depends on it; give fit "
                "steps_per_epoch, or data whose length is known"
            )
        self._total = self._before + (steps or 0) * epochs

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Tell of the steps that were made, and of the one that comes."""
        if self._on_step is None:
            return
        for step in range(self._told, int(self._kept.steps) + 1):
            self._final = self._on_step(step, max(self._total, step + 1)) is not False
        self._told = int(self._kept.steps) + 1
        self._kept.hold()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stop where the loss is no number or the time is over."""
        loss = float((logs or {}).get("loss", 0.0))
        made = int(self._kept.steps)
        self._context.on_event(Event(f"train: loss {loss:.4g}", made, max(self._total, made)))
        if not math.isfinite(loss):
            self._end("not finite")
        elif self._settings.minutes and self._seconds() >= 60 * self._settings.minutes:
            self._end("time")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Remember the weights if they are the best yet; stop where none were for so many epochs."""
        logs = logs or {}
        self._epochs += 1
        judged = logs.get("val_loss")
        loss = float(judged if judged is not None else logs.get("loss", math.nan))
        self._losses.append(loss)
        if judged is None or not self._final:
            return
        self._waited += 1
        if math.isfinite(loss) and (self._best is None or loss < self._best):
            self._best, self._best_weights, self._waited = loss, self._weights(), 0
        if self._settings.patience and self._waited >= self._settings.patience:
            self._end("patience")

    def check(self, name: str) -> None:
        """Make sure that the model was trained as it has to be.

        Raises:
            PassError: It was not.
        """
        if not int(self._kept.steps):
            raise PassError(
                f"the training {name} made no step on the model that it was given; compile that model, and call "
                f"model.fit(..., callbacks=callbacks)"
            )
        if not self._called and self._on_step is not None:
            raise PassError(
                f"the training {name} did not pass its callbacks on, on which the schedule depends; write "
                f"model.fit(..., callbacks=callbacks)"
            )

    def finish(self, name: str, notes: dict[str, Any]) -> Trained:
        """Bring back the best weights, bake the constraints in, and say what became of it.

        Raises:
            PassError: Weights are not what compression made of them.
        """
        if self._best_weights is not None:
            self._restore(self._best_weights)
        kept = "those of the least validation loss" if self._best_weights is not None else "the last"
        if not all(np.isfinite(array).all() for array in KerasAdapter().weights(self._given).values()):
            self._restore(self._start)
            kept, self._stopped = "those of the start", "not finite"
        broken = self._kept.broken()
        if broken:
            raise PassError(
                f"the training {name} left {', '.join(broken[:3])} with values that compression had taken away: "
                f"weights were set past model.fit, or brought back from before the last zeros were chosen; leave "
                f"which weights are kept to the callbacks"
            )
        self._kept.bake()
        told: dict[str, Any] = {**notes, "fit": name, "weights_kept": kept, "stopped": self._stopped}
        if not self._called:
            told["callbacks"] = "not passed on: nothing stopped early, and the last weights were kept"
        if self._stopped == "not finite":
            told["problem"] = f"the loss or a weight was not finite; {kept} were restored"
        if self._kept:
            told["constrained"] = sorted(self._kept.kept)
        steps = int(self._kept.steps)
        return Trained(
            self._epochs, steps, self._seconds(), self._best, None, tuple(self._losses), self._stopped,
            kept != "those of the start", told,
        )  # fmt: skip

    def _end(self, why: str) -> None:
        self._stopped = why
        self.model.stop_training = True

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _weights(self) -> list[Array]:
        return [np.array(each.value) for each in self._kept.network.variables]

    def _restore(self, arrays: list[Array]) -> None:
        for each, array in zip(self._kept.network.variables, arrays, strict=True):
            each.assign(array)


def _data(model: Model, teacher: Model | None, context: Trainer) -> FitData:
    """Return all samples, decoded, a tenth of them held out; none where there are none."""
    original = None if teacher is None else teacher.payload
    if context.data is None:
        return FitData(None, None, original)
    samples = TrainingSet(context)
    return FitData(_part(model, samples, samples.fit), _part(model, samples, samples.held), original)


def _part(model: Model, samples: TrainingSet, numbers: Array) -> tuple[Any, Any]:
    assert model.signature is not None
    bound = model.signature.bind(samples.batch(numbers))
    values = [bound[name] for name in KerasAdapter.inputs(model.payload)]
    return describe.arranged(model.payload, values), None if samples.labels is None else samples.labels[numbers]


def _first(values: Any) -> Any:
    return keras.tree.flatten(values)[0]


def _structure(model: Model) -> list[Any]:
    """Return what a training may not change: layers, and the names and shapes of their weights."""
    weights = {name: tuple(each.shape) for name, each in counting.named_weights(model.payload).items()}
    return [[(name, id(layer)) for name, layer in describe.layers(model.payload).items()], weights]


def _trainable(model: Model) -> list[tuple[Any, bool]]:
    return [(layer, layer.trainable) for layer in model.payload._flatten_layers(include_self=False)]
