"""What can be asked of quantization that trains."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from msgspec import Meta

from whet.errors import RecipeError
from whet.passes.base import Exclude, ExcludeTypes, Pass
from whet.train.spec import Recovery
from whet.types import Format, TraitKind

_RECOVERY = Recovery()
Bits = Annotated[int, Meta(ge=2, le=8)]


@dataclass(frozen=True, kw_only=True)
class Qat(Pass):
    """Quantization-aware training: train the weights so that little is lost once they are integers of few bits.

    While it trains, from the original's outputs as ``distill`` does, the forward pass sees weights on a symmetric
    grid of ``weight_bits`` bits a channel and activations in 8 bits, where ONNX Runtime will have them: at the
    inputs of convolutions, products, sums and poolings, but not between a convolution, its BatchNorm and its ReLU,
    which become one. Such a grid is a grid still after the BatchNorm is folded in, so that nothing has to be folded
    before. For the last steps BatchNorm statistics and ranges stand still.

    What comes out is a float model of the same layers whose weights lie on their grids: **no smaller and no faster
    by itself**. ``export-onnx``, ``optimize-graph`` and ``static-int8`` then give it integers, the very ones that
    were trained; ``pack`` stores them in as few bits. Zeros of a pruned model stay zero, and weights that share a
    value go on sharing it (one scale a tensor, where they share it across channels); those on a 4-bit grid of
    ``cluster`` keep to its integers, where 4 bits or more are asked for. LSTMs, GRUs, embeddings, transposed
    convolutions and the fused projection of ``nn.MultiheadAttention`` are left as they are, and said.

    In Keras a grid is the one that LiteRT's quantizer finds in a file: a scale a channel, which ends at its
    greatest weight; of 8 bits where LiteRT has no kernels for fewer (depthwise and transposed convolutions).
    ``export-tflite`` and ``static-int8`` give the file the very integers that were trained; where that one has
    ``weight_bits = 4``, set ``edge_bits = 4`` here: such a file holds all layers in as many. Shared values stay
    shared within a channel.

    Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference"; Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference" (statistics
    that stand still at the end); Mishra and Marr 2018, "Apprentice" (learning from the float original).
    """

    name: ClassVar[str] = "qat"
    realised_by: ClassVar = {
        Format.TORCH: "whet.passes.quantize.torch_qat:qat",
        Format.KERAS: "whet.passes.quantize.keras_qat:qat",
    }
    extra: ClassVar[str] = "train"
    establishes: ClassVar = frozenset({TraitKind.GRID})
    erases: ClassVar = frozenset({TraitKind.PACKED})
    refuses: ClassVar = {
        TraitKind.QUANTIZED: "its weights are integers already; train the float model",
        TraitKind.HALF: "its weights are in half precision, in which small steps vanish; train the float32 model",
    }
    reads: ClassVar = ("train", "calibrate")

    weight_bits: Annotated[
        Bits, Meta(description="Bits of a weight; 7 in place of 8 where this processor would saturate (no VNNI).")
    ] = 8
    edge_bits: Annotated[
        Bits, Meta(description="Bits of a weight of the first and the last layer, often the most sensitive.")
    ] = 8
    activations: Annotated[
        bool, Meta(description="Quantize activations to 8 bits too while it trains; false for weights alone.")
    ] = True
    percentile: Annotated[
        float, Meta(gt=50, le=100, description="Share of an activation's values inside its range, in percent.")
    ] = 99.99
    freeze: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="Share of the steps, the last ones, in which BatchNorm statistics and ranges stand still.",
        ),
    ] = 0.3
    recovery: Annotated[Recovery, Meta(description="How it is trained.")] = _RECOVERY
    exclude: Exclude = ()
    exclude_types: ExcludeTypes = ()

    def check(self, source: Format) -> None:
        """Explain what cannot be trained, before any work."""
        if source is Format.ONNX:
            raise RecipeError(
                "qat does not run on an onnx model, it runs on torch, keras: an ONNX graph has no gradients; put "
                "it before export-onnx"
            )
        super().check(source)
        self.recovery.check_training(self.name, source)

    def files(self) -> tuple[Path, ...]:
        """Return the user's files that the recovery names, with those they import."""
        return tuple(self.recovery.own_files())
