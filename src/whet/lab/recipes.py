"""The recipes of the laboratory: each optimization alone, in several strengths, and their combinations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from whet.recipe.recipe import Recipe

Step = Mapping[str, Any]

_EXPORT: Step = {"pass": "export-tflite"}
_HALF: Step = {"pass": "half"}
_DYNAMIC: Step = {"pass": "dynamic-int8"}
_FULL: Step = {"pass": "static-int8", "calibration": "percentile"}
_INT4: Step = {"pass": "int4-weights"}
_SPARSE: Step = {"pass": "pack", "allow_unchanged": True}  # where there are few zeros it pays for no weight
_STEPS_BETWEEN_ZEROS = 20  # shares of the training after which zeros are chosen anew


@dataclass(frozen=True)
class Training:
    """How a pruned or clustered model is trained.

    Attributes:
        pictures: It is trained on.
        epochs: Passes over them.
        seed: Of their order.
    """

    pictures: int
    epochs: float
    seed: int = 0

    @property
    def batch(self) -> int:
        """Pictures a step: 128, fewer where that would make less than twenty steps an epoch."""
        return min(128, max(8, self.pictures // 20))

    @property
    def recovery(self) -> dict[str, Any]:
        """Return the table of settings that the training passes take."""
        return {"epochs": float(self.epochs), "batch_size": self.batch}

    @property
    def between_zeros(self) -> int:
        """Steps between two choices of zeros."""
        steps = self.epochs * self.pictures / self.batch
        return max(1, int(steps / _STEPS_BETWEEN_ZEROS))


def recipes(clusters: Sequence[int], sparsities: Sequence[float], training: Training) -> list[Recipe]:
    """Return every recipe but ``fp32``, which is the export that a run measures anyway.

    Combinations take the first number of clusters and the first sparsity; the greatest sparsity is stored in sparse
    encoding too. What trains alike shares its steps.

    Args:
        clusters: Values that the weights of a layer may have, one recipe each.
        sparsities: Shares of weights that become zero, one recipe each.
        training: How they are trained.
    """
    pruned = {f"pruned-{share:g}": _prune(share, training) for share in sparsities}
    clustered = {f"clustered-{count}": _cluster(count, training) for count in clusters}
    (cut, cutting), (few, sharing) = next(iter(pruned.items())), next(iter(clustered.items()))
    both = {f"{cut}-{few}": [*cutting, *sharing]}
    trained = {**clustered, **pruned, **both}
    made = [
        _recipe("fp16", [], _HALF, "Weights in float16.", training),
        _recipe("int8-dynamic", [], _DYNAMIC, "INT8 weights, activations quantized as they come.", training),
        _recipe("int8-full", [], _FULL, "INT8 weights and activations, inputs and outputs too.", training),
        _recipe("int4-weights", [], _INT4, "INT4 weights, multiplied in float.", training),
    ]
    made += [_recipe(f"{name}-fp32", steps, None, _told(name), training) for name, steps in trained.items()]
    most = f"pruned-{max(sparsities):g}"
    told = f"{_told(most)} What is not zero is stored, with its place."
    made.append(_recipe(f"{most}-sparse-fp32", pruned[most], _SPARSE, told, training))
    quantized = {cut: cutting, few: sharing, **both}
    made += [
        _recipe(f"{name}-int8-full", steps, _FULL, f"{_told(name)} Then full INT8.", training)
        for name, steps in quantized.items()
    ]
    return made


def family(name: str) -> str:
    """Return the optimization that a recipe is of: quantization, pruning, clustering, combination or none."""
    kinds = {kind for kind in ("pruned", "clustered") if f"{kind}-" in name}
    if "int" in name or "fp16" in name:
        kinds.add("quantized")
    if len(kinds) > 1:
        return "combination"
    words = {"pruned": "pruning", "clustered": "clustering", "quantized": "quantization"}
    return words[kinds.pop()] if kinds else "none"


def _recipe(name: str, train: Sequence[Step], after: Step | None, told: str, training: Training) -> Recipe:
    """Return a recipe: what trains, the export, and what is done after."""
    return Recipe.of(name, [*train, _EXPORT, *([after] if after else [])], training.seed, told)


def _prune(share: float, training: Training) -> list[Step]:
    return [
        {
            "pass": "magnitude-prune", "sparsity": share, "schedule": "polynomial",
            "frequency": training.between_zeros, "recovery": training.recovery,
        }
    ]  # fmt: skip


def _cluster(count: int, training: Training) -> list[Step]:
    # Of few pictures training may find nothing better than the values that were there: a variant like any other.
    return [
        {"pass": "cluster", "clusters": count},
        {"pass": "distill", "allow_unchanged": True, **training.recovery},
    ]


def _told(name: str) -> str:
    """Say in a sentence what a training recipe does."""
    words = name.split("-")
    told = []
    if "pruned" in words:
        told.append(f"{float(words[words.index('pruned') + 1]):.0%} of the weights set to zero while it trained.")
    if "clustered" in words:
        told.append(f"{words[words.index('clustered') + 1]} values for the weights of each layer, then trained.")
    return " ".join(told)
