"""What can be asked of an export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from whet.passes.base import Pass
from whet.types import Format, TraitKind


@dataclass(frozen=True, kw_only=True)
class ExportOnnx(Pass):
    """Write a torch model as ONNX (``torch.export``), folded, checked, and compared with the source on real inputs.

    The number of samples stays free. BatchNorm is folded into the convolution before it. Weights below the least
    normal float32 are set to zero: arithmetic on such subnormals can be fifty times slower.
    """

    name: ClassVar[str] = "export-onnx"
    realised_by: ClassVar = {Format.TORCH: "whet.passes.export.torch:export_onnx"}
    extra: ClassVar[str] = "torch"
    refuses: ClassVar = {
        TraitKind.QUANTIZED: "torch's INT8 layers have no ONNX form; export first, then quantize in ONNX"
    }

    opset: Annotated[int, Meta(ge=18, le=23, description="The ONNX operator set.")] = 20
    batch: Annotated[
        int,
        Meta(
            ge=0, description="A fixed number of samples, for models that cannot leave it free; 0 leaves it free."
        ),
    ] = 0
    tolerance: Annotated[
        float,
        Meta(gt=0, description="Greatest difference from the source allowed, as a share of the greatest output."),
    ] = 1e-3

    def output_format(self, source: Format) -> Format:
        """Return ONNX."""
        return Format.ONNX
