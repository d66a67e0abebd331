"""Recipes by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whet.errors import RecipeError, did_you_mean
from whet.recipe.recipe import Recipe
from whet.types import Format

Steps = list[Mapping[str, Any]]

_OPTIMIZE: Steps = [{"pass": "optimize-graph"}]
_CLEAN: Steps = [{"pass": "clean-graph"}]

# What is done before a torch model is exported, and in ONNX after that.
_PRESETS: Mapping[str, tuple[str, Steps, Steps]] = {
    "graph-only": ("The float model, folded and cleaned: what a runtime alone gives.", [], []),
    "half": ("Weights in float16: half the bytes, no CPU time won.", [], [{"pass": "half"}]),
    "dynamic-int8": (
        "INT8 weights, activations quantized as they come, attention fused; no data needed.",
        [],
        [{"pass": "fuse-transformer", "allow_unchanged": True}, {"pass": "dynamic-int8"}],
    ),
    "static-int8": (
        "INT8 weights and activations, ranges calibrated by percentile.",
        [],
        [{"pass": "static-int8", "calibration": "percentile"}],
    ),
    "combined": (
        "40 % of the weights zeroed by magnitude, without recovery, then static INT8.",
        [{"pass": "magnitude-prune", "sparsity": 0.4}],
        [{"pass": "static-int8", "calibration": "percentile"}],
    ),
    "static-int8-minmax": (
        "Static INT8, ranges from the extremes.",
        [],
        [{"pass": "static-int8", "calibration": "minmax"}],
    ),
    "static-int8-entropy": (
        "Static INT8, ranges of least divergence.",
        [],
        [{"pass": "static-int8", "calibration": "entropy"}],
    ),
    "static-int8-edges": (
        "Static INT8 but for the first and the last layer.",
        [],
        [{"pass": "static-int8", "calibration": "percentile", "float_edges": True}],
    ),
    "static-int8-mixed": (
        "Static INT8 for depthwise networks: channels equalized, biases corrected, what errs most left in float.",
        [],
        [
            {"pass": "equalize", "allow_unchanged": True},
            {"pass": "static-int8", "calibration": "percentile", "bias_correction": True, "max_error": 0.003},
        ],
    ),
    "static-int8-packed": (
        "Static INT8 of 6-bit weights, stored in 6 bits: as fast, a fifth of the size.",
        [],
        [{"pass": "static-int8", "calibration": "percentile", "weight_bits": 6}, {"pass": "pack"}],
    ),
    "dynamic-int8-packed": (
        "Dynamic INT8 of 6-bit weights, stored in 6 bits: as fast, a fifth of the size.",
        [],
        [
            {"pass": "fuse-transformer", "allow_unchanged": True},
            {"pass": "dynamic-int8", "weight_bits": 6},
            {"pass": "pack"},
        ],
    ),
}  # fmt: skip

_HALVED: Steps = [{"pass": "prune-channels", "keep": 0.5, "importance": "taylor", "ratios": "sensitivity"}]

# Those that train: they need training samples and patience, and a torch model.
_TRAINED: Mapping[str, tuple[str, Steps, Steps]] = {
    "pruned": (
        "Half of the MACs taken out as channels, recovered from the original: trains, minutes to hours.",
        _HALVED,
        [],
    ),
    "qat-packed": (
        "Weights trained to 4 bits, static INT8, stored in 4 bits: trains; about a seventh of the size.",
        [{"pass": "qat", "weight_bits": 4}],
        [{"pass": "static-int8", "calibration": "percentile"}, {"pass": "pack"}],
    ),
    "pruned-qat-packed": (
        "Channels for half of the MACs, then 4-bit weights trained and packed: trains; smaller still.",
        [*_HALVED, {"pass": "qat", "weight_bits": 4}],
        [{"pass": "static-int8", "calibration": "percentile"}, {"pass": "pack"}],
    ),
}

# For models that stay in torch.
_TORCH: Mapping[str, tuple[str, Steps]] = {
    "torch-dynamic-int8": (
        "INT8 weights of Linear, LSTM and GRU layers, in torch itself; no data needed.",
        [{"pass": "dynamic-int8"}],
    ),
    "torch-half": ("Weights in float16, in torch itself: slower on a CPU.", [{"pass": "half"}]),
    "torch-bfloat16": (
        "Weights and arithmetic in bfloat16, in torch itself: for processors with AMX or AVX512-BF16.",
        [{"pass": "half", "kind": "bfloat16"}],
    ),
    "torch-prune": (
        "40 % of the weights zeroed by magnitude, without recovery, in torch itself.",
        [{"pass": "magnitude-prune", "sparsity": 0.4}],
    ),
}

IN_TORCH = tuple(_TORCH)
TRAINED = tuple(_TRAINED)
NAMES = (*_PRESETS, *_TRAINED, *_TORCH)


def preset(name: str, source: Format) -> Recipe:
    """Return a recipe by name, for a source of this format.

    Raises:
        RecipeError: There is no preset of this name.
    """
    if name not in NAMES:
        raise RecipeError(
            f"there is no preset {name!r}, and a file's name ends in .toml{did_you_mean(name, NAMES)}"
        )
    if name in _TORCH:
        return Recipe.of(name, _TORCH[name][1], description=_TORCH[name][0])
    description, before, after = {**_PRESETS, **_TRAINED}[name]
    export: Steps = [] if source is Format.ONNX else [{"pass": "export-onnx"}]
    return Recipe.of(name, [*before, *export, *_OPTIMIZE, *after, *_CLEAN], description=description)


def recipe(given: str | Path | Recipe, source: Format) -> Recipe:
    """Return a recipe as given: one already, a ``.toml`` file, or a preset's name."""
    if isinstance(given, Recipe):
        return given
    if str(given).endswith(".toml"):
        return Recipe.load(Path(given))
    return preset(str(given), source)
