"""What can be asked of factorization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from whet.errors import RecipeError
from whet.passes.base import Exclude, ExcludeTypes, Pass
from whet.types import Format, TraitKind

_ENERGY = 0.95


@dataclass(frozen=True, kw_only=True)
class Factorize(Pass):
    """Replace layers by chains of thin ones: a matrix of low rank is a product of two.

    A Linear becomes two (SVD). A convolution becomes k x 1 then 1 x k (``spatial``), or 1 x 1, k x k and 1 x 1
    between fewer channels (``tucker``); one whose window is a point, or has one or three axes, becomes its window
    at few channels, then 1 x 1. Inputs, outputs and biases stay. A layer whose chain has more weights or products,
    or is not faster by ``least_speedup`` where both are timed (ONNX Runtime, one thread, one sample), is left alone
    and told with the numbers; clocks vary: a layer at the limit may be factorized one time and not the next.

    **Most trained layers have no low rank**: without ``distill`` afterwards 95 % of the energy costs a small
    network many points. Small layers never pay: each operator has a price of its own. Weights become dense again:
    factorize before pruning and clustering. Grouped, depthwise and transposed convolutions, recurrent cells,
    embeddings, the projections that a MultiheadAttention fuses, and weights that two layers share are left alone.

    Source: Jaderberg et al. 2014, "Speeding up convolutional neural networks with low rank expansions" (spatial);
    Kim et al. 2016, "Compression of deep convolutional neural networks for fast and low power mobile applications"
    (tucker); De Lathauwer et al. 2000, "On the best rank-1 and rank-(R1, ..., RN) approximation" (its iteration).
    """

    name: ClassVar[str] = "factorize"
    realised_by: ClassVar = {
        Format.TORCH: "whet.passes.factorize.torch:factorize",
        Format.ONNX: "whet.passes.factorize.onnx:factorize",
    }
    establishes: ClassVar = frozenset({TraitKind.LOW_RANK})
    erases: ClassVar = frozenset({TraitKind.SPARSE, TraitKind.CLUSTERED, TraitKind.GRID, TraitKind.PACKED})
    refuses: ClassVar = {
        TraitKind.QUANTIZED: "its weights are integers already; factorize before quantizing",
        TraitKind.HALF: "its weights are in half precision; factorize the float32 model",
    }

    energy: Annotated[
        float, Meta(ge=0, le=1, description="Share of the squared weights that is kept; 0: as macs or rank says.")
    ] = 0.0
    macs: Annotated[
        float,
        Meta(ge=0, lt=1, description="Share of each layer's MACs that its chain may have; 0: as energy says."),
    ] = 0.0
    rank: Annotated[int, Meta(ge=0, description="The same rank for every layer; 0: as energy says.")] = 0
    multiple: Annotated[
        int, Meta(ge=1, description="Ranks by energy are rounded up to this, by macs down, as kernels like it.")
    ] = 8
    convolutions: Annotated[
        Literal["best", "tucker", "spatial", "none"],
        Meta(description="best: both are tried, and the faster is taken; none: convolutions are left alone."),
    ] = "best"
    judge: Annotated[
        Literal["latency", "macs"],
        Meta(description="latency: the chain is timed against the layer; macs: counted, where no clock is wanted."),
    ] = "latency"
    least_speedup: Annotated[
        float, Meta(ge=1, description="How many times faster than its layer a chain must be, by the judge.")
    ] = 1.05
    exclude: Exclude = ()
    exclude_types: ExcludeTypes = ()

    @property
    def kept(self) -> float:
        """The share of energy to keep where neither MACs nor a rank is given."""
        return self.energy or _ENERGY

    def check(self, source: Format) -> None:
        """Refuse settings that contradict each other."""
        given = {key: value for key in ("energy", "macs", "rank") if (value := getattr(self, key))}
        if len(given) > 1:
            told = " and ".join(f"{key} = {value}" for key, value in given.items())
            raise RecipeError(f"factorize takes one of energy, macs and rank, not {told}; leave out all but one")
        super().check(source)
