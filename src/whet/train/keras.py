"""The training of Keras models, in TensorFlow alone: recovery of compressed ones, and students."""

from __future__ import annotations

from whet.models.model import Model
from whet.train.course import Course, OnStep
from whet.train.keras_constraints import Constraints, constraints_of
from whet.train.keras_fit import fit_by_user
from whet.train.keras_training import Training
from whet.train.spec import Recovery, Trained, Trainer
from whet.types import Format


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
        model: Whose layers are trained; hand in a clone.
        teacher: The original, in Keras too; None to learn the labels alone.
        settings: How.
        context: Data, seed, folder for checkpoints. The same call in the same folder goes on where it was killed.
        constraints: What weights may be, kept throughout and baked in at the end; None re-derives them from the
            model's traits.
        on_step: Told before every step.

    Raises:
        DataError: There is nothing to train on, or labels are asked for that are not there.
        PassError: No parameter can be trained, or the outputs do not fit the teacher's.
        RecipeError: A layer, the user's own loss or own training cannot be used.
    """
    settings.check_training("a recovery", Format.KERAS)
    if settings.minutes == 0:
        return Trained(stopped="no time", notes={"training": "the time budget is 0 minutes: nothing was trained"})
    if constraints is None:
        constraints = constraints_of(model)
    if settings.fit:
        return fit_by_user(model, teacher, settings, context, constraints, on_step)
    training = Training(model, teacher, settings, context, constraints)
    return Course(training, on_step).run()
