"""What can be asked of training, what it is given, and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from msgspec import Meta

from whet import userfile
from whet.errors import RecipeError
from whet.types import Format

if TYPE_CHECKING:
    from whet.data.data import Splits
    from whet.machine import Machine
    from whet.progress import OnEvent

CHECKPOINTS = "checkpoints"
"""The folder of checkpoints, in that of a step."""


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """How a model is trained. By default it learns the original's outputs on the user's own inputs, without labels.

    AdamW; the learning rate rises over the first ``warmup`` of all steps and falls to zero along a cosine (by the
    time that is spent, where ``minutes`` is the tighter limit). Gradients are clipped to a norm of 1. Weight
    decay takes matrices and kernels alone, not biases and norms. A tenth of the training samples (2,000 at most) is
    held out: after every epoch the loss on it decides which weights are kept, those of the start included, and
    whether to stop early. ``select`` and ``test`` are never looked at.

    Torch and Keras are trained alike, each by itself; Keras in float32. With ``fit`` (Keras alone) the training is
    the user's own: ``function(model, callbacks, data)`` compiles the model and calls its ``fit``. What compression
    made of the weights is held all the same; of the settings here ``patience`` and ``minutes`` count, and the
    user's own validation loss decides which weights are kept.

    A ``learning_rate`` that is not given is found: each of 1e-2, 3e-3, 1e-3, 3e-4, 1e-4 and 3e-5 trains a miniature
    of the run from the same start (a fiftieth of its steps, 8 to 40, falling to zero), and the one with the least
    loss on the held-out samples is taken; of those within 2 % of it, the greatest.

    Source: Hinton et al. 2015, "Distilling the knowledge in a neural network" (temperature, alpha); Romero et al.
    2015, "FitNets" (features); Loshchilov and Hutter 2019, "Decoupled weight decay regularization".
    """

    epochs: Annotated[
        float, Meta(gt=0, le=10_000, description="Passes over the training samples; 0.5 is half of one.")
    ] = 5.0
    learning_rate: Annotated[
        Annotated[float, Meta(gt=0, le=10)] | None,
        Meta(description="The greatest of the run; found on the model where none is given."),
    ] = None
    batch_size: Annotated[int, Meta(ge=1, description="Samples a step, over all devices together.")] = 128
    patience: Annotated[
        int,
        Meta(ge=0, description="Epochs without a better held-out loss before training stops; 0 never stops early."),
    ] = 0
    minutes: Annotated[
        Annotated[float, Meta(ge=0)] | None, Meta(description="Wall time it may take; 0 trains nothing.")
    ] = None
    alpha: Annotated[
        float,
        Meta(ge=0, le=1, description="Share of the original's outputs in the loss; the labels have the rest."),
    ] = 1.0
    temperature: Annotated[float, Meta(gt=0, le=100, description="Softens both outputs of a classifier.")] = 2.0
    features: Annotated[
        tuple[str, ...],
        Meta(
            description="Layers whose outputs are learned too: ['layer3'], or ['mine=theirs'] where names differ."
        ),
    ] = ()
    loss: Annotated[
        str,
        Meta(description="A loss of your own, file.py:function(outputs, targets, labels); empty for the task's."),
    ] = ""
    fit: Annotated[
        str,
        Meta(description="A training of your own, file.py:function(model, callbacks, data); Keras alone."),
    ] = ""
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"],
        Meta(description="auto: bfloat16 arithmetic where this processor has it and the model is large enough."),
    ] = "auto"
    weight_decay: Annotated[float, Meta(ge=0, le=1, description="Of matrices and kernels.")] = 0.01
    warmup: Annotated[float, Meta(ge=0, lt=1, description="Share of the steps in which the rate rises.")] = 0.05
    augment: Annotated[
        tuple[Literal["flip", "crop"], ...],
        Meta(description="flip: mirror half of the pictures; crop: shift each by up to an eighth of its side."),
    ] = ()

    def check_training(self, name: str, source: Format) -> None:
        """Refuse settings that a format's training does not have, or that name no function.

        Raises:
            RecipeError: Of the pass ``name``, on a model of the format ``source``.
        """
        for key, value in (("loss", self.loss), ("fit", self.fit)):
            if value and userfile.split(value) is None:
                raise RecipeError(f"{key} = {value!r} names no function; write file.py:function")
        if self.fit and source is not Format.KERAS:
            raise RecipeError(
                f"{name} with fit = {self.fit!r} does not run on a {source} model: a training of your own is one "
                f"of Keras; leave it out, or put the step before to-torch"
            )
        if self.precision == "bfloat16" and source is Format.KERAS:
            raise RecipeError(
                f"{name} with precision = 'bfloat16' does not run on a keras model, which is trained in float32; "
                f"leave it out"
            )

    def own_files(self) -> list[Path]:
        """Return the user's files that are named, with those they import."""
        named = [parts[0] for text in (self.loss, self.fit) if (parts := userfile.split(text))]
        return list(dict.fromkeys(file for path in named for file in userfile.files(path)))


class Trainer(Protocol):
    """What training needs of its surroundings; a ``PassContext`` has it all."""

    @property
    def folder(self) -> Path:
        """Where checkpoints lie; what a killed attempt left there is taken up."""

    @property
    def seed(self) -> int:
        """For whatever is drawn."""

    @property
    def data(self) -> Splits | None:
        """The user's samples; ``train`` is read, or ``calibrate`` where there is no ``train``."""

    @property
    def machine(self) -> Machine:
        """Whose cores and instruction sets are used."""

    @property
    def on_event(self) -> OnEvent:
        """Told of progress."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What became of a training.

    Attributes:
        epochs: Passes over the training samples that were made.
        steps: Steps of the optimizer.
        seconds: Wall time, that of an attempt that was killed included.
        best_loss: On the held-out samples, with the weights that were kept; None where it was never finite.
        first_loss: The same before the first step.
        losses: On the held-out samples, after every epoch.
        stopped: Why it ended: ``finished``, ``patience``, ``time``, ``not finite``, ``no time``.
        improved: Whether any weights are better than those it began with; if not, those are what is kept.
        notes: Facts worth a line in the report.
    """

    epochs: float = 0.0
    steps: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    first_loss: float | None = None
    losses: tuple[float, ...] = ()
    stopped: str = "finished"
    improved: bool = False
    notes: dict[str, Any] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """Return what a step that trained notes of it."""
        return {
            **self.notes, "epochs": self.epochs, "steps": self.steps, "seconds": self.seconds,
            "loss_before": self.first_loss, "loss_after": self.best_loss, "losses": self.losses,
        }  # fmt: skip
