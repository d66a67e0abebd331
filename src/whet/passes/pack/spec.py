"""What can be asked of packing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from whet.errors import RecipeError
from whet.passes.base import Exclude, Pass
from whet.types import Format, TraitKind


@dataclass(frozen=True, kw_only=True)
class Pack(Pass):
    """Store each tensor in its smallest form, of which the runtime makes it again as it opens the file.

    A tensor of up to 128 values (clustered, or quantized to few bits) becomes codes of 1 to 7 bits and a codebook,
    one for all or one a channel; zeros become one bit of a mask each; a tensor of one value becomes that value.
    Weights are the same, bit for bit, in nodes of the standard alone (Cast, Gather, Reshape, Add, TopK, Scatter),
    which ONNX Runtime and OpenVINO fold away. So the file gets smaller and the model computes the same, **as fast
    as before and no faster**; opening takes longer (up to 0.1 s for a million weights). Without constant folding
    (``graph_level = disabled``) weights would be unpacked at every call. Put it after quantization.

    A TFLite file has codes of no width (``static-int8`` with ``weight_bits = 4`` stores 4): there, weights of many
    zeros (from some 60 % on) are stored as what is not zero and an index each, in TFLite's own sparse form, by rows
    or by blocks, where that is smaller. A DENSIFY operator fills them up, once and not at every call: **as fast as
    before, and as large in memory**. Zeros deflate well by themselves: a deflated file gains little or loses.
    LiteRT 2.3 opens no sparse INT8 weights of float activations with XNNPACK, and leaves sparse products to its own
    kernels (a fourteenth of the speed, of 1024 x 1024 in INT8): only ``kernels = "builtin"`` stores these so.

    Source: the storage of Han et al. 2016, "Deep compression", without its Huffman code.
    """

    name: ClassVar[str] = "pack"
    realised_by: ClassVar = {
        Format.ONNX: "whet.passes.pack.onnx:pack",
        Format.TFLITE: "whet.passes.pack.tflite:pack",
    }
    establishes: ClassVar = frozenset({TraitKind.PACKED})
    refuses: ClassVar = {TraitKind.PACKED: "it is packed already"}

    exclude: Exclude = ()
    least_bytes: Annotated[
        int, Meta(ge=1, description="Leave tensors alone that take fewer bytes than this: the nodes cost some too.")
    ] = 128
    kernels: Annotated[
        Literal["xnnpack", "builtin"],
        Meta(
            description="What a TFLite file is to be run with; for builtin (litert:kernels=builtin), products are "
            "stored sparse too."
        ),
    ] = "xnnpack"

    def check(self, source: Format) -> None:
        """Explain that kernels are LiteRT's."""
        if source is Format.ONNX and self.kernels != "xnnpack":
            raise RecipeError(
                f"pack with kernels = {self.kernels!r} runs on a tflite model alone, for kernels are LiteRT's; "
                f"leave it out"
            )
        super().check(source)
