"""Recipes by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whet.errors import RecipeError, did_you_mean
from whet.passes.registry import pass_class
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

# For TFLite files, and models that become one: what is done to the model first, and to the file.
_TFLITE: Mapping[str, tuple[str, Steps, Steps]] = {
    "graph-only": ("The float model, converted: what a runtime alone gives.", [], []),
    "half": ("Weights in float16: half the bytes, no CPU time won.", [], [{"pass": "half"}]),
    "dynamic-int8": (
        "INT8 weights, activations quantized as they come; no data needed.",
        [],
        [{"pass": "dynamic-int8"}],
    ),
    "static-int8": (
        "INT8 weights and activations, ranges calibrated by percentile.",
        [],
        [{"pass": "static-int8", "calibration": "percentile"}],
    ),
    "static-int8-minmax": (
        "Static INT8, ranges from the extremes.",
        [],
        [{"pass": "static-int8", "calibration": "minmax"}],
    ),
    "static-int8-edges": (
        "Static INT8 but for the first and the last layer.",
        [],
        [{"pass": "static-int8", "calibration": "percentile", "float_edges": True}],
    ),
    "int4-weights": (
        "INT4 weights, multiplied in float: an eighth of the size; small networks lose much.",
        [],
        [{"pass": "int4-weights"}],
    ),
    "pruned": (
        "Half of the MACs taken out as channels, recovered from the original: trains, minutes to hours.",
        [{"pass": "prune-channels", "keep": 0.5}],
        [],
    ),
    "pruned-static-int8": (
        "Channels for half of the MACs taken out and recovered, then static INT8: trains.",
        [{"pass": "prune-channels", "keep": 0.5}],
        [{"pass": "static-int8", "calibration": "percentile"}],
    ),
    "qat-int4": (
        "Weights trained to 4 bits and stored in them, INT8 activations: trains; about a seventh of the size.",
        [{"pass": "qat", "weight_bits": 4, "edge_bits": 4}],
        [{"pass": "static-int8", "calibration": "percentile", "weight_bits": 4}],
    ),
}

IN_TORCH = tuple(_TORCH)
IN_TFLITE = tuple(name for name, (_, before, after) in _TFLITE.items() if after and not before)
TRAINED = tuple(_TRAINED)
NAMES = (*_PRESETS, *_TRAINED, *_TORCH)
ALL = tuple(dict.fromkeys((*NAMES, *_TFLITE)))


def preset(name: str, source: Format, runtime: str = "") -> Recipe:
    """Return a recipe by name, for a source of this format that is to run in this runtime.

    Raises:
        RecipeError: There is no preset of this name, or none for such a source.
    """
    if name not in ALL:
        raise RecipeError(f"there is no preset {name!r}, and a file's name ends in .toml{did_you_mean(name, ALL)}")
    known = _known(source, runtime)
    if name not in known:
        raise RecipeError(
            f"the preset {name!r} is not for {source} models{f' in {runtime}' if runtime else ''}; for these there "
            f"are {', '.join(known)}"
        )
    description, steps = known[name]
    return Recipe.of(name, steps, description=description)


def export(source: Format, runtime: str = "") -> Mapping[str, Any]:
    """Return the step that leads from a source to what is shipped: TFLite from Keras, or for LiteRT; else ONNX."""
    return {"pass": "export-tflite" if becomes_tflite(source, runtime) else "export-onnx"}


def becomes_tflite(source: Format, runtime: str) -> bool:
    """Tell whether what is shipped is a TFLite file."""
    return runtime == "litert" or (source is Format.KERAS and not runtime)


def _known(source: Format, runtime: str) -> dict[str, tuple[str, Steps]]:
    """Return all presets for a source, each with its description."""
    if source is Format.TFLITE:
        found = {name: (told, after) for name, (told, before, after) in _TFLITE.items() if after and not before}
        return {name: (told, [*after, *_CLEAN]) for name, (told, after) in found.items()}
    step = export(source, runtime)
    if becomes_tflite(source, runtime):
        return {
            name: (told, [*_trained(before, source), step, *after, *_CLEAN])
            for name, (told, before, after) in _TFLITE.items()
        }
    first: Steps = [{"pass": "to-torch"}] if source is Format.KERAS else []
    leads: Steps = [] if source is Format.ONNX else [step]
    found = {
        name: (told, [*(first if before else []), *before, *leads, *_OPTIMIZE, *after, *_CLEAN])
        for name, (told, before, after) in {**_PRESETS, **_TRAINED}.items()
    }
    return found if source is Format.KERAS else {**found, **_TORCH}


def _trained(steps: Steps, source: Format) -> Steps:
    """Return steps that train: a Keras model by way of torch where one of them does not run on it."""
    if source is not Format.KERAS or all(source in pass_class(step["pass"]).realised_by for step in steps):
        return steps
    return [{"pass": "to-torch"}, *steps, {"pass": "to-keras"}]


def recipe(given: str | Path | Recipe, source: Format, runtime: str = "") -> Recipe:
    """Return a recipe as given: one already, a ``.toml`` file, or a preset's name."""
    if isinstance(given, Recipe):
        return given
    if str(given).endswith(".toml"):
        return Recipe.load(Path(given))
    return preset(str(given), source, runtime)
