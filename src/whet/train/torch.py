"""The one loop that trains torch models, on Accelerate: recovery of compressed ones, and students."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from whet.models.model import Model
from whet.train.constraints import Constraints, constraints_of
from whet.train.course import Course, OnStep
from whet.train.spec import Recovery, Trained, Trainer
from whet.train.training import Training
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
        RecipeError: A layer, or the user's own loss, cannot be used; or the training is the user's own, in Keras.
    """
    settings.check_training("a recovery", Format.TORCH)
    if settings.minutes == 0:
        return Trained(stopped="no time", notes={"training": "the time budget is 0 minutes: nothing was trained"})
    if constraints is None:
        constraints = constraints_of(model.payload.module, model.traits)
    with _repeatable(context):
        training = Training(model, teacher, settings, context, constraints)
        try:
            return Course(training, on_step).run()
        finally:
            training.close()


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
