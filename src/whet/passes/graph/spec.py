"""What can be asked of graphs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from whet.passes.base import AllowUnchanged, Pass
from whet.types import Format, TraitKind

_PACKED = "it would unfold the packed weights; pack last"


@dataclass(frozen=True, kw_only=True)
class OptimizeGraph(Pass):
    """Fold constants, fuse BatchNorm and the like, drop dead nodes and repeated constants, flush subnormals.

    The file gets smaller and opens faster. ONNX Runtime does the same and more when it opens a file, so that little
    latency is won on a graph it already fuses; quantizers need the folded form. Initial states of LSTMs and GRUs
    that an exporter writes out as zeros in the batch's size are left out, which ONNX Runtime does not do.
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

    A TFLite file is written anew: zero points, scales and settings that are there many times once, ranges of
    calibration not at all, names of tensors only where they name a layer of reports. LiteRT refuses fewer zero
    points than scales, so that a row of zeros stays a row, and is shared. Both files are run, with XNNPACK and with
    LiteRT's own kernels, and have to give the same bits. Labels that a converter packed into a file
    (``TFLITE_METADATA``) go, and are told.
    """

    name: ClassVar[str] = "clean-graph"
    realised_by: ClassVar = {
        Format.ONNX: "whet.passes.graph.onnx:clean_graph",
        Format.TFLITE: "whet.passes.graph.tflite:clean_graph",
    }

    allow_unchanged: AllowUnchanged = True


@dataclass(frozen=True, kw_only=True)
class FuseTransformer(Pass):
    """Make one node of each attention's products, mask, Softmax and transposes: ONNX Runtime's MultiHeadAttention.

    Heads are read from the graph; numbers of samples and positions stay free. The products with the weights of
    query, key and value stay as they are, so that they can be quantized after. ONNX Runtime fuses the rest of a
    transformer as it opens the file (a sum with the LayerNorm after it, a bias with its GELU). An attention that is
    not written as scaled products by heads is left alone and reported with the reason. Put it after optimize-graph;
    the file then runs in ONNX Runtime alone. **A query that may look at no key gets the mean of the values**,
    where torch gives zeros.

    Source: Vaswani et al. 2017, "Attention is all you need".
    """

    name: ClassVar[str] = "fuse-transformer"
    realised_by: ClassVar = {Format.ONNX: "whet.passes.graph.onnx:fuse_transformer"}
    extra: ClassVar[str] = "onnx"
    refuses: ClassVar = {TraitKind.PACKED: _PACKED}

    tolerance: Annotated[
        float,
        Meta(gt=0, description="Greatest difference from the unfused graph, as a share of the greatest output."),
    ] = 1e-4
