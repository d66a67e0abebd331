"""The table of passes: those of whet, and those that other packages register.

A package adds a pass by an entry point of the group ``whet.passes``: ``my-pass = my_package.spec:MyPass``.
"""

from __future__ import annotations

from importlib import metadata
from typing import cast

from whet.errors import RecipeError, did_you_mean
from whet.lazy import resolve
from whet.passes.base import Pass

_PASSES = {
    "magnitude-prune": "whet.passes.prune.spec:MagnitudePrune",
    "prune-channels": "whet.passes.prune.spec:PruneChannels",
    "drop-blocks": "whet.passes.prune.blocks:DropBlocks",
    "factorize": "whet.passes.factorize.spec:Factorize",
    "cluster": "whet.passes.cluster.spec:Cluster",
    "distill": "whet.passes.distill.spec:Distill",
    "qat": "whet.passes.quantize.trained:Qat",
    "dynamic-int8": "whet.passes.quantize.spec:DynamicInt8",
    "equalize": "whet.passes.quantize.spec:Equalize",
    "static-int8": "whet.passes.quantize.spec:StaticInt8",
    "int4-weights": "whet.passes.quantize.spec:Int4Weights",
    "half": "whet.passes.quantize.spec:Half",
    "export-onnx": "whet.passes.export.spec:ExportOnnx",
    "export-tflite": "whet.passes.export.spec:ExportTflite",
    "to-torch": "whet.passes.export.spec:ToTorch",
    "to-keras": "whet.passes.export.spec:ToKeras",
    "optimize-graph": "whet.passes.graph.spec:OptimizeGraph",
    "fuse-transformer": "whet.passes.graph.spec:FuseTransformer",
    "pack": "whet.passes.pack.spec:Pack",
    "clean-graph": "whet.passes.graph.spec:CleanGraph",
}


def names() -> list[str]:
    """Return the names of all passes."""
    return [*_PASSES, *_foreign()]


def pass_class(name: str) -> type[Pass]:
    """Return the class of a pass.

    Raises:
        RecipeError: There is no pass of this name.
    """
    if name in _PASSES:
        return cast("type[Pass]", resolve(_PASSES[name]))
    foreign = _foreign()
    if name not in foreign:
        raise RecipeError(f"there is no pass {name!r}{did_you_mean(name, names())}")
    return cast("type[Pass]", foreign[name].load())


def _foreign() -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group="whet.passes") if point.name not in _PASSES}
