"""What can be asked of taking whole blocks out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from msgspec import Meta

from whet.errors import RecipeError
from whet.passes.base import Exclude, Pass
from whet.train.spec import Recovery
from whet.types import Format, TraitKind

_RECOVERY = Recovery()


@dataclass(frozen=True, kw_only=True)
class DropBlocks(Pass):
    """Take whole blocks out of a torch model: a shallower one, which learns the original's outputs again.

    A block is a part of ``nn.Sequential`` or ``nn.ModuleList`` that has layers of its own, is called once, and
    gives what it takes in the same shape: the layers of a transformer, residual blocks of one width. In the place
    of one that goes its input goes on. What matters least goes first: the block without which the outputs change
    least, on samples of ``calibrate`` and without labels; the others are judged anew after each. A block without
    which the model does not run stays, and is reported with the reason.

    It keeps the widths, names and weights of every other layer, zeros and shared values among them. **It makes a
    model faster by what the blocks took**, on any runtime and at any batch size; a latency that is spent outside of
    them (a large first or last layer) stays. Without recovery a model that is not deep loses most of what it knows.

    Source: Sajjad et al. 2023, "On the effect of dropping layers of pre-trained transformer models"; Men et al.
    2024, "ShortGPT: layers in large language models are more redundant than you expect"; Veit et al. 2016,
    "Residual networks behave like ensembles of relatively shallow networks".
    """

    name: ClassVar[str] = "drop-blocks"
    realised_by: ClassVar = {Format.TORCH: "whet.passes.prune.torch_blocks:drop_blocks"}
    extra: ClassVar[str] = "train"
    erases: ClassVar = frozenset({TraitKind.PACKED})
    refuses: ClassVar = {
        TraitKind.QUANTIZED: "its weights are integers already; drop blocks before quantizing",
        TraitKind.HALF: "its weights are in half precision, and cannot be trained; drop blocks before halving",
    }
    reads: ClassVar = ("train", "calibrate")

    keep: Annotated[
        float, Meta(gt=0, lt=1, description="Share of the blocks that may be left: 0.5 takes half of them or more.")
    ] = 0.5
    blocks: Annotated[
        tuple[str, ...],
        Meta(description="Blocks to take out, by name: ['encoder.layer.3']; empty takes those that matter least."),
    ] = ()
    recovery: Annotated[Recovery, Meta(description="How it is trained.")] = _RECOVERY
    exclude: Exclude = ()

    def check(self, source: Format) -> None:
        """Explain why blocks of a graph are not taken out."""
        if source is Format.ONNX:
            raise RecipeError(
                "drop-blocks does not run on an onnx model, it runs on torch: an ONNX graph has no blocks, and "
                "cannot be trained to recover; put it before export-onnx"
            )
        super().check(source)
        self.recovery.check_training(self.name, source)

    def files(self) -> tuple[Path, ...]:
        """Return the user's files that the recovery names, with those they import."""
        return tuple(self.recovery.own_files())
