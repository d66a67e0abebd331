"""What can be asked of clustering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from whet.errors import RecipeError
from whet.passes.base import Exclude, ExcludeTypes, Pass
from whet.types import Format, TraitKind

Initial = Literal["optimal", "linear", "density", "k-means++"]


@dataclass(frozen=True, kw_only=True)
class Cluster(Pass):
    """Let the weights of a layer share a few values: a codebook, and a code of few bits for each weight.

    Matrices, kernels and embedding tables are clustered; biases and norms are left alone. It keeps shapes, types
    and the length of the file: **only a packed export, or deflating, makes it smaller, and nothing here makes it
    faster**. ``distill`` trains the values afterwards and keeps who shares which.

    Values are chosen by k-means, in one dimension: ``optimal`` is its exact minimum for arrays of up to 4,096
    values; larger ones are brought to 2,048 points, solved exactly, and polished on 65,536. ``linear``, ``density``
    and ``k-means++`` are starts of Lloyd's iteration, which may end in a worse place.

    A BatchNorm that is folded in later multiplies each channel: at most so many values *a channel* are left. To
    keep one codebook a tensor, cluster the exported file after ``optimize-graph``. ``grid`` is for integers
    afterwards: one codebook of them a tensor and a scale a channel, which per-channel INT8 reproduces exactly
    (unless it reduces its range), folded or not; a BatchNorm that turns a channel's sign adds the negatives of its
    integers. With ``grid_bits = 4`` they are -7 to 7, 15 at most, each channel clipped to where it errs least, and
    a file of INT4 weights has the very same. ``pack`` stores up to 128 values as codes, by tensor or by channel.

    Trained afterwards, by ``distill`` or ``qat``, a weight on a 4-bit grid may take another integer of its tensor's
    codebook; no integer is added. Values of an INT8 grid become each channel's own, no more than there were.

    By tensor ten million weights take seconds, by channel minutes. With ``ratio`` or ``size_bytes`` each layer gets
    the bits that cost the model least, from two up.

    Source: Han et al. 2016, "Deep compression"; Wang and Song 2011, "Ckmeans.1d.dp: optimal k-means clustering in
    one dimension by dynamic programming"; bits by layer after Shoham and Gersho 1988, "Efficient bit allocation
    for an arbitrary set of quantizers".
    """

    name: ClassVar[str] = "cluster"
    realised_by: ClassVar = dict.fromkeys(
        (Format.TORCH, Format.KERAS, Format.ONNX), "whet.passes.cluster.weights:cluster"
    )
    establishes: ClassVar = frozenset({TraitKind.CLUSTERED})
    erases: ClassVar = frozenset({TraitKind.PACKED, TraitKind.GRID})
    refuses: ClassVar = {TraitKind.QUANTIZED: "its weights are integers already; cluster before quantizing"}
    reads: ClassVar = ("calibrate",)

    clusters: Annotated[
        int, Meta(ge=0, le=256, description="Values a codebook; 0: as bits says, or 16, or (for a size) up to 256.")
    ] = 0
    bits: Annotated[
        int, Meta(ge=0, le=8, description="The same in bits, 1 to 8: 4 are 16 values; 0: as clusters says.")
    ] = 0
    granularity: Annotated[
        Literal["tensor", "channel", "group"],
        Meta(description="What shares a codebook: a tensor, an output channel, or a group of a channel's weights."),
    ] = "tensor"
    group: Annotated[
        Literal[16, 32, 64, 128, 256],
        Meta(description="Neighbours that share a codebook; a channel that is no multiple of it has one codebook."),
    ] = 64
    initial: Annotated[Initial, Meta(description="Where k-means starts; optimal needs no start.")] = "optimal"
    grid: Annotated[
        bool,
        Meta(description="Values on the integer grid of each channel's scale, one codebook of integers a tensor."),
    ] = False
    grid_bits: Annotated[
        Literal[4, 8], Meta(description="Bits of the grid's integers: as many as weights are to have in the file.")
    ] = 8
    keep_zeros: Annotated[
        Literal["auto", "on", "off"],
        Meta(description="Keep zeros zero, as one of the values. auto: where the model was pruned."),
    ] = "auto"
    embeddings: Annotated[bool, Meta(description="Cluster embedding tables too.")] = True
    ratio: Annotated[
        float, Meta(ge=0, description="How much smaller than 4 bytes a weight, as packed; 0: as bits makes them.")
    ] = 0.0
    size_bytes: Annotated[
        int, Meta(ge=0, description="Bytes that all weights may take, as packed; 0: as many as bits makes them.")
    ] = 0
    samples: Annotated[
        int, Meta(ge=1, description="Samples of calibrate that tell, for a size, how much each layer matters.")
    ] = 64
    exclude: Exclude = ()
    exclude_types: ExcludeTypes = ()

    @property
    def most(self) -> int:
        """The most values a codebook may have."""
        asked = self.clusters or (2**self.bits if self.bits else 256 if self.sized else 16)
        return min(asked, 2**self.grid_bits - 1) if self.grid else asked

    @property
    def sized(self) -> bool:
        """Whether bits are shared out under a size."""
        return bool(self.ratio or self.size_bytes)

    def check(self, source: Format) -> None:
        """Refuse settings that contradict each other."""
        if self.clusters == 1:
            raise RecipeError("cluster takes clusters = 2 to 256: with one value a layer would say nothing")
        if self.clusters and self.bits:
            raise RecipeError(f"cluster takes clusters = {self.clusters} or bits = {self.bits}; leave one out")
        if self.ratio and self.size_bytes:
            raise RecipeError(
                f"cluster takes ratio = {self.ratio} or size_bytes = {self.size_bytes}; leave one out"
            )
        self._check_grid()
        super().check(source)

    def _check_grid(self) -> None:
        asked = self.clusters or 2**self.bits
        if not self.grid and self.grid_bits != 8:
            raise RecipeError(f"cluster with grid_bits = {self.grid_bits} is on no grid; set grid = true too")
        if self.grid and self.most < 4:
            top = 2 ** (self.grid_bits - 1) - 1
            raise RecipeError(
                f"cluster with grid takes 4 values or more, {top} and -{top} among them, not {self.most}"
            )
        if self.grid and asked > 2**self.grid_bits:
            raise RecipeError(
                f"cluster with grid_bits = {self.grid_bits} has {2**self.grid_bits - 1} values to choose from, not "
                f"{asked}; ask for fewer, or leave grid_bits out"
            )
        if self.grid and self.granularity != "tensor":
            raise RecipeError(
                f"cluster with grid has one codebook a tensor and a scale a channel; "
                f"leave granularity = {self.granularity!r} out"
            )
