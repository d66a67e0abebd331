"""What can be asked of pruning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from whet.errors import RecipeError
from whet.passes.base import Exclude, ExcludeTypes, Pass
from whet.train.spec import Recovery
from whet.types import Format, TraitKind


@dataclass(frozen=True, kw_only=True)
class MagnitudePrune(Pass):
    """Set the weights of least magnitude to zero (unstructured, L1).

    Matrices and kernels are pruned; biases, norms and embeddings are left alone. It keeps shapes, and the file's
    length on disk: zeros shrink a model only where it is deflated. **It makes no CPU runtime here faster**: dense
    kernels multiply zeros too. Without recovery 40 % costs a small network many points.

    Source: Han et al. 2015, "Learning both weights and connections for efficient neural networks".
    """

    name: ClassVar[str] = "magnitude-prune"
    realised_by: ClassVar = dict.fromkeys((Format.TORCH, Format.ONNX), "whet.passes.prune.weights:magnitude_prune")
    establishes: ClassVar = frozenset({TraitKind.SPARSE})
    erases: ClassVar = frozenset({TraitKind.CLUSTERED, TraitKind.PACKED})
    refuses: ClassVar = {TraitKind.QUANTIZED: "its weights are integers already; prune before quantizing"}

    sparsity: Annotated[float, Meta(gt=0, lt=1, description="Share of weights that become zero.")] = 0.5
    scope: Annotated[
        Literal["layer", "global"],
        Meta(description="layer: the same share of every layer; global: the least weights of the whole model."),
    ] = "layer"
    exclude: Exclude = ()
    exclude_types: ExcludeTypes = ()


@dataclass(frozen=True, kw_only=True)
class PruneChannels(Pass):
    """Take whole channels out: of convolutions, Linear layers, norms, LSTMs, GRUs, attention heads, feed-forwards.

    What is left is a plain model of the same layers, thinner, **and as much faster as its widths allow**: kernels
    work in steps of 16 channels, and off these a thinner model may be slower. Which channels belong together is
    found by running the model with some of them marked, through whatever operations lie between; each family of
    channels is then taken out in part and compared with the whole model in which nothing reads them, and is left
    alone, with the reason and the line of code, where that is not the same. Channels that LayerNorm normalises
    together, outputs of the model, grouped (not depthwise) convolutions, the fused projections of a
    MultiheadAttention, and weights that two layers share are left alone. Zeros and shared values are kept in
    recovery.

    **Without recovery a model loses nearly everything.** It is trained towards the original's outputs after every
    one of ``steps``, which share the epochs; ``recovery.minutes = 0`` leaves it untrained.

    Source: Li et al. 2017, "Pruning filters for efficient ConvNets" (l1, l2); Liu et al. 2017, "Learning efficient
    convolutional networks through network slimming" (batch-norm); Molchanov et al. 2019, "Importance estimation for
    neural network pruning" (taylor); Lee et al. 2021, "Layer-adaptive sparsity for the magnitude-based pruning"
    (lamp); Fang et al. 2023, "DepGraph: towards any structural pruning" (channels that go together); Michel et al.
    2019, "Are sixteen heads really better than one?".
    """

    name: ClassVar[str] = "prune-channels"
    realised_by: ClassVar = {Format.TORCH: "whet.passes.prune.torch:prune_channels"}
    extra: ClassVar[str] = "train"
    erases: ClassVar = frozenset({TraitKind.PACKED})
    refuses: ClassVar = {
        TraitKind.QUANTIZED: "its weights are integers already; prune before quantizing",
        TraitKind.HALF: "its weights are in half precision, in which it cannot be trained; prune before halving",
    }
    reads: ClassVar = ("train", "calibrate")

    keep: Annotated[
        float, Meta(gt=0, lt=1, description="Share of the target that may be left: 0.5 halves the MACs.")
    ] = 0.5
    target: Annotated[
        Literal["macs", "parameters", "bytes", "latency"],
        Meta(
            description="What is to shrink; latency is measured: exported, in ONNX Runtime, one thread, one sample."
        ),
    ] = "macs"
    importance: Annotated[
        Literal["l1", "l2", "batch-norm", "taylor", "lamp", "random"],
        Meta(
            description="What a channel matters by; batch-norm takes l2 where there is none; random is a control."
        ),
    ] = "l2"
    ratios: Annotated[
        Literal["global", "layer", "sensitivity"],
        Meta(
            description="global: the least channels of the whole model; layer: the same share of every layer; "
            "sensitivity: more of the layers without which the outputs change least, for the MACs they save."
        ),
    ] = "global"
    multiple: Annotated[
        int, Meta(ge=1, description="Widths are brought to multiples of this, and never below it.")
    ] = 16
    most: Annotated[float, Meta(gt=0, le=1, description="Share of a layer's channels that may go.")] = 1.0
    steps: Annotated[int, Meta(ge=1, le=100, description="Times it is pruned and recovered.")] = 1
    recovery: Recovery = field(default_factory=Recovery)
    exclude: Exclude = ()
    exclude_types: ExcludeTypes = ()

    def check(self, source: Format) -> None:
        """Explain why a graph is not thinned."""
        if source is Format.ONNX:
            raise RecipeError(
                "prune-channels does not run on an onnx model, it runs on torch: an ONNX graph cannot be trained "
                "to recover; put it before export-onnx"
            )
        super().check(source)
