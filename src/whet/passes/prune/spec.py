"""What can be asked of pruning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from whet.errors import RecipeError
from whet.passes.base import Exclude, ExcludeTypes, Pass
from whet.train.spec import Recovery
from whet.types import Format, TraitKind

_RECOVERY = Recovery()
_TRAINED = {
    Format.TORCH: "whet.passes.prune.torch_schedule:magnitude_prune",
    Format.KERAS: "whet.passes.prune.keras:magnitude_prune",
}


@dataclass(frozen=True, kw_only=True)
class MagnitudePrune(Pass):
    """Set the weights of least magnitude to zero (unstructured, L1), at once or along a schedule of training.

    Matrices and kernels are pruned; biases, norms and embeddings are left alone. It keeps shapes, and the file's
    length on disk: zeros shrink a model only where it is deflated or packed. **It makes no CPU runtime here
    faster**: dense kernels multiply zeros too, and 2:4, which some GPUs skip, is as slow as any other. Without
    recovery 40 % costs a small network many points.

    With a ``schedule`` (torch and Keras) the model is trained towards the original's outputs as ``recovery`` says,
    while every ``frequency`` steps from ``begin_step`` to ``end_step`` the least weights of then are chosen anew:
    as many as in the end (``constant``), or from ``initial_sparsity`` on ever more (``polynomial``). After the last
    choice zeros stay. The names are those of TensorFlow Model Optimization.

    Source: Han et al. 2015, "Learning both weights and connections for efficient neural networks"; Zhu and Gupta
    2017, "To prune, or not to prune" (polynomial); Mishra et al. 2021, "Accelerating sparse deep neural networks"
    (2:4).
    """

    name: ClassVar[str] = "magnitude-prune"
    realised_by: ClassVar = dict.fromkeys(
        (Format.TORCH, Format.KERAS, Format.ONNX), "whet.passes.prune.weights:magnitude_prune"
    )
    establishes: ClassVar = frozenset({TraitKind.SPARSE})
    erases: ClassVar = frozenset({TraitKind.CLUSTERED, TraitKind.PACKED})
    refuses: ClassVar = {TraitKind.QUANTIZED: "its weights are integers already; prune before quantizing"}

    sparsity: Annotated[float, Meta(gt=0, lt=1, description="Share of weights that become zero.")] = 0.5
    scope: Annotated[
        Literal["layer", "global", "sensitivity"],
        Meta(
            description="layer: the same share of every layer; global: the least weights of the whole model; "
            "sensitivity: more of the layers without whose weights the outputs change least."
        ),
    ] = "layer"
    pattern: Annotated[
        str,
        Meta(
            description="2:4: of every 4 neighbours along the input axis 2 are kept; sparsity says nothing.",
        ),
    ] = ""
    schedule: Annotated[
        Literal["none", "constant", "polynomial"],
        Meta(description="none: pruned at once, and not trained; the others train as recovery says."),
    ] = "none"
    initial_sparsity: Annotated[float, Meta(ge=0, lt=1, description="That a polynomial schedule begins with.")] = (
        0.0
    )
    begin_step: Annotated[int, Meta(ge=0, description="Of training, at which weights become zero first.")] = 0
    end_step: Annotated[
        int, Meta(ge=-1, description="After which zeros stay; -1: after three quarters of the training.")
    ] = -1
    frequency: Annotated[int, Meta(ge=1, description="Steps between two choices of zeros.")] = 100
    recovery: Annotated[Recovery, Meta(description="How it is trained.")] = _RECOVERY
    exclude: Exclude = ()
    exclude_types: ExcludeTypes = ()

    def __post_init__(self) -> None:
        """A schedule is training, which reads data and has a realisation of its own."""
        if self.schedule != "none":
            object.__setattr__(self, "realised_by", _TRAINED)
            object.__setattr__(self, "extra", "train")
        if self.schedule != "none" or self.scope == "sensitivity":
            object.__setattr__(self, "reads", ("train", "calibrate"))

    @property
    def kept(self) -> tuple[int, int] | None:
        """How many are kept of how many neighbours, where there is a pattern."""
        kept, _, of = self.pattern.partition(":")
        return (int(kept), int(of)) if kept.isdigit() and of.isdigit() else None

    @property
    def wanted(self) -> float:
        """The share of zeros in the end."""
        return 1 - self.kept[0] / self.kept[1] if self.kept else self.sparsity

    def check(self, source: Format) -> None:
        """Refuse settings that contradict each other."""
        if self.pattern and (self.kept is None or not 0 < self.kept[0] < self.kept[1]):
            raise RecipeError(
                f"magnitude-prune: pattern = {self.pattern!r} is not some of more; write 2:4 to keep two of four"
            )
        if self.kept and (self.schedule == "polynomial" or self.scope != "layer"):
            told = "polynomial schedule" if self.schedule == "polynomial" else f"{self.scope} scope"
            raise RecipeError(
                f"magnitude-prune: pattern = {self.pattern!r} is the same share everywhere and from the start, "
                f"which a {told} is not; leave one of them out"
            )
        if -1 < self.end_step < self.begin_step:
            raise RecipeError(
                f"magnitude-prune: end_step = {self.end_step} lies before begin_step = {self.begin_step}; "
                f"begin earlier"
            )
        if source is Format.ONNX and self.schedule != "none":
            raise RecipeError(
                "magnitude-prune with a schedule does not run on an onnx model, it runs on torch, keras: a "
                "schedule is training; put the step before export-onnx, or leave the schedule out"
            )
        super().check(source)
        self.recovery.check_training(self.name, source)

    def files(self) -> tuple[Path, ...]:
        """Return the user's files that the recovery names, with those they import."""
        return tuple(self.recovery.own_files())


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
    recovery: Annotated[Recovery, Meta(description="How it is trained.")] = _RECOVERY
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
        self.recovery.check_training(self.name, source)

    def files(self) -> tuple[Path, ...]:
        """Return the user's files that the recovery names, with those they import."""
        return tuple(self.recovery.own_files())
