"""What can be asked of graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from whet.passes.base import AllowUnchanged, Pass
from whet.types import Format, TraitKind

_PACKED = "it would unfold the packed weights; pack last"


@dataclass(frozen=True, kw_only=True)
class OptimizeGraph(Pass):
    """Fold constants, fuse BatchNorm and the like, drop dead nodes and repeated constants, flush subnormals.

    The file gets smaller and opens faster. ONNX Runtime does the same and more when it opens a file, so that little
    latency is won on a graph it already fuses; quantizers need the folded form.
    """

    name: ClassVar[str] = "optimize-graph"
    realised_by: ClassVar = {Format.ONNX: "whet.passes.graph.onnx:optimize_graph"}
    extra: ClassVar[str] = "onnx"
    erases: ClassVar = frozenset({TraitKind.PACKED})
    refuses: ClassVar = {
        TraitKind.QUANTIZED: "it would fold the quantized weights back to float; optimize before quantizing",
        TraitKind.PACKED: _PACKED,
    }

    allow_unchanged: AllowUnchanged = True


@dataclass(frozen=True, kw_only=True)
class CleanGraph(Pass):
    """Drop what no runtime reads: exporter metadata, doc strings, inner shapes, long names, repeated constants.

    Computes the very same. Shapes and names of inputs and outputs stay.
    """

    name: ClassVar[str] = "clean-graph"
    realised_by: ClassVar = {Format.ONNX: "whet.passes.graph.onnx:clean_graph"}
    extra: ClassVar[str] = "onnx"

    allow_unchanged: AllowUnchanged = True
