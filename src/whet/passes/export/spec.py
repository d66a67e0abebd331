"""What can be asked of an export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from whet.passes.base import Pass
from whet.types import Format, TraitKind

Tolerance = Annotated[
    float, Meta(gt=0, description="Greatest difference from the source allowed, as a share of the greatest output.")
]


@dataclass(frozen=True, kw_only=True)
class ExportOnnx(Pass):
    """Write a torch model as ONNX (``torch.export``), folded, checked, and compared with the source on real inputs.

    A Keras model is translated into torch first (see ``to-torch``): tf2onnx leaves each BatchNorm as arithmetic.

    The number of samples stays free. BatchNorm is folded into the convolution before it. Weights below the least
    normal float32 are set to zero: arithmetic on such subnormals can be fifty times slower.
    """

    name: ClassVar[str] = "export-onnx"
    realised_by: ClassVar = {
        Format.TORCH: "whet.passes.export.torch:export_onnx",
        Format.KERAS: "whet.passes.export.keras:export_onnx",
    }
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
    tolerance: Tolerance = 1e-3

    def output_format(self, source: Format) -> Format:
        """Return ONNX."""
        return Format.ONNX


@dataclass(frozen=True, kw_only=True)
class ExportTflite(Pass):
    """Write a Keras or torch model as TFLite in float; compared with the source on real inputs.

    BatchNorm is folded into the convolution before it. What quantizes comes after it, on the file. TensorFlow's
    converter leaves the number of samples free; litert-torch, which takes torch models, cannot: there it is one,
    or ``batch``. Inputs of a torch model stay as they are, channels first.
    """

    name: ClassVar[str] = "export-tflite"
    realised_by: ClassVar = {
        Format.KERAS: "whet.passes.export.keras:export_tflite",
        Format.TORCH: "whet.passes.export.torch_tflite:export_tflite",
    }
    extra: ClassVar[str] = "keras"
    extras: ClassVar = {Format.TORCH: "litert-torch"}
    refuses: ClassVar = {
        TraitKind.QUANTIZED: "torch's INT8 layers have no TFLite form; export first, then quantize the file"
    }

    batch: Annotated[
        int,
        Meta(ge=0, description="A fixed number of samples; 0 leaves it free, which of a torch model makes it one."),
    ] = 0
    tolerance: Tolerance = 1e-3

    def output_format(self, source: Format) -> Format:
        """Return TFLite."""
        return Format.TFLITE


@dataclass(frozen=True, kw_only=True)
class ToTorch(Pass):
    """Translate a Keras model into a native module of torch, layer by layer, so that every pass of torch takes it.

    Layers keep their names, samples go in as before (channels last), and outputs are compared with the source's.
    ``to-keras`` leads back. Layers that torch has no equal of are refused, all of them by name; so are models with
    a ``call`` of their own.
    """

    name: ClassVar[str] = "to-torch"
    realised_by: ClassVar = {Format.KERAS: "whet.passes.export.keras:to_torch"}
    extra: ClassVar[str] = "keras"

    tolerance: Tolerance = 1e-3

    def output_format(self, source: Format) -> Format:
        """Return torch."""
        return Format.TORCH


@dataclass(frozen=True, kw_only=True)
class ToKeras(Pass):
    """Give the widths and weights of a module back to the Keras model that ``to-torch`` made it of.

    Layers may have become thinner (``prune-channels``) and weights other (``distill``, ``cluster``, ``qat``);
    layers that were replaced (``factorize``) or taken out (``drop-blocks``) have no way back: export those to ONNX.
    """

    name: ClassVar[str] = "to-keras"
    realised_by: ClassVar = {Format.TORCH: "whet.passes.export.keras:to_keras"}
    extra: ClassVar[str] = "keras"

    tolerance: Tolerance = 1e-3

    def output_format(self, source: Format) -> Format:
        """Return Keras."""
        return Format.KERAS
