"""What can be asked of packing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

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

    Source: the storage of Han et al. 2016, "Deep compression", without its Huffman code.
    """

    name: ClassVar[str] = "pack"
    realised_by: ClassVar = {Format.ONNX: "whet.passes.pack.onnx:pack"}
    extra: ClassVar[str] = "onnx"
    establishes: ClassVar = frozenset({TraitKind.PACKED})
    refuses: ClassVar = {TraitKind.PACKED: "it is packed already"}

    exclude: Exclude = ()
    least_bytes: Annotated[
        int, Meta(ge=1, description="Leave tensors alone that take fewer bytes than this: the nodes cost some too.")
    ] = 128
