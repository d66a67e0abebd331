"""The samples a model is trained on: decoded once, a tenth held out, drawn in an order that the seed decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from whet.data.data import Part, Splits, stratified
from whet.errors import DataError
from whet.progress import Event

if TYPE_CHECKING:
    from whet.train.spec import Recovery, Trainer
    from whet.types import Array, Batch

_HELD_SHARE, _HELD_MOST, _TOO_FEW = 0.1, 2000, 20
_LOT = 256  # samples that are decoded at once
_MEMORY_SHARE = 0.25  # of the machine's, that decoded samples may take


class TrainingSet:
    """The part that is trained on.

    Attributes:
        part: ``train``, or ``calibrate`` where there is no ``train``.
        fit: Numbers of the samples that are learned.
        held: Numbers of those that tell which weights are best; all of ``fit`` where there are fewer than 20.
        labels: Of all, or None.
        sides: Rows a sample has in a batch: 2 of pairs, else 1.
        notes: What was read in place of what.
    """

    def __init__(self, context: Trainer) -> None:
        self.splits = _splits(context)
        self.part = Part.TRAIN if self.splits.size(Part.TRAIN) else Part.CALIBRATE
        total = self.splits.size(self.part)
        if total < 2:
            raise DataError(f"training needs samples, the data has {total} to train on; give a train part")
        self.labels = self.splits.labels(self.part)
        self.sides = 2 if self.splits.sides else 1
        self.notes: dict[str, Any] = {"samples": total, "part": str(self.part)}
        wanted = min(round(_HELD_SHARE * total), _HELD_MOST)
        self.held = self.fit = np.arange(total)
        if total >= _TOO_FEW:
            self.held = stratified(total, _one_each(self.labels), wanted, context.seed)
            self.fit = np.setdiff1d(self.fit, self.held)
        else:
            self.notes["held_out"] = f"none of {total} samples: too few; the loss on all of them decides"
        self._kept = self._decoded(context, total)

    def batch(self, numbers: Array) -> Batch:
        """Return the inputs of these samples, ``sides`` rows each."""
        if not self._kept:
            return self.splits.inputs(self.part, numbers)
        rows = (numbers[:, None] * self.sides + np.arange(self.sides)).reshape(-1)
        return {name: array[rows] for name, array in self._kept.items()}

    def order(self, epoch: int, seed: int) -> Array:
        """Return the numbers to learn, in the order of an epoch."""
        return np.random.default_rng([seed, epoch]).permutation(self.fit)

    def _decoded(self, context: Trainer, total: int) -> dict[str, Array]:
        """Decode all samples once, if they fit into a quarter of the machine's memory; nothing if they do not."""
        most = _MEMORY_SHARE * context.machine.memory_bytes
        lots: dict[str, list[Array]] = {}
        for start in range(0, total, _LOT):
            context.on_event(Event("train: read samples", start, total))
            batch = self.splits.inputs(self.part, range(start, min(start + _LOT, total)))
            if start == 0:
                a_row = sum(array.nbytes for array in batch.values()) / min(_LOT, total)
                if a_row * total > most:
                    self.notes["memory"] = (
                        f"samples would take {a_row * total / 2**20:.0f} MiB: decoded every epoch"
                    )
                    return {}
            for name, array in batch.items():
                lots.setdefault(name, []).append(array)
                if array.shape[1:] != lots[name][0].shape[1:]:
                    return {}  # texts padded to the longest of their batch
        return {name: np.concatenate(arrays) for name, arrays in lots.items()}


def augmented(batch: Batch, settings: Recovery, seed: int, step: int, channels: int = 1) -> Batch:
    """Return pictures (N, C, H, W), mirrored and shifted at random; what is shifted in repeats the edge.

    Args:
        batch: Pictures, whose axis of channels is ``channels``: 1 of torch, -1 of Keras.
        settings: Which of both is asked for.
        seed: What is drawn follows from it,
        step: and from this.
        channels: The axis of channels.

    Raises:
        DataError: An input is no picture.
    """
    if not settings.augment:
        return batch
    rng = np.random.default_rng([seed, step])
    changed = {}
    for name, array in batch.items():
        if array.ndim != 4:
            raise DataError(
                f"augment = {list(settings.augment)} is for pictures "
                f"({'N, C, H, W' if channels == 1 else 'N, H, W, C'}), the input {name!r} is "
                f"{list(array.shape)}; leave augment out"
            )
        last = np.moveaxis(array, channels, -1)
        rows, columns = (np.tile(np.arange(size), (len(array), 1)) for size in last.shape[1:3])
        if "flip" in settings.augment:
            mirrored = rng.random(len(array)) < 0.5
            columns[mirrored] = columns[mirrored, ::-1]
        if "crop" in settings.augment:
            rows = _shifted(rows, last.shape[1], rng)
            columns = _shifted(columns, last.shape[2], rng)
        samples = np.arange(len(array))[:, None, None]
        taken = last[samples, rows[:, :, None], columns[:, None, :]]
        changed[name] = np.ascontiguousarray(np.moveaxis(taken, -1, channels))
    return changed


def _shifted(places: Array, size: int, rng: np.random.Generator) -> Array:
    """Shift each sample's places by up to an eighth of the side."""
    shift = rng.integers(-(size // 8), size // 8, len(places), endpoint=True)
    return np.asarray(np.clip(places + shift[:, None], 0, size - 1))


def _splits(context: Trainer) -> Splits:
    if context.data is None:
        raise DataError("training needs data, none was given; give --data with a train part")
    return context.data


def _one_each(labels: Array | None) -> Array | None:
    """Return labels if the held-out samples can be stratified by them: no class has one member alone."""
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "biu":
        return None
    return labels if int(np.unique(labels, return_counts=True)[1].min()) > 1 else None
