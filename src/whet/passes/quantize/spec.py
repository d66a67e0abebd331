"""What can be asked of quantization."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from whet.errors import RecipeError
from whet.passes.base import Exclude, ExcludeTypes, Pass
from whet.types import Format, TraitKind

_ALREADY = {
    TraitKind.QUANTIZED: "its weights are integers already; keep one quantization a recipe",
    TraitKind.HALF: "its weights are in half precision; quantize the float32 model",
}

ReduceRange = Annotated[
    Literal["auto", "on", "off"],
    Meta(
        description="Use 7 of the 8 bits of a weight. auto: where this processor would saturate sums of full-range "
        "products (no VNNI)."
    ),
]


WeightBits = Annotated[
    int,
    Meta(
        ge=2,
        le=8,
        description="Round weights to so many bits, of least squared error a channel. They stay INT8, as fast as "
        "before; the file gets smaller once a pack step stores them in as many. ONNX only.",
    ),
]


def _only(request: Pass, source: Format, taken: tuple[str, ...]) -> None:
    """Refuse settings that the realisation of a format does not have, so that none is passed over.

    Raises:
        RecipeError: One of the others is set.
    """
    for field in fields(request):
        value = getattr(request, field.name)
        if field.name not in (*taken, "allow_unchanged") and value != field.default:
            raise RecipeError(
                f"{request.name} with {field.name} = {value!r} does not run on a {source} model; leave it out, or "
                f"export to another format"
            )


@dataclass(frozen=True, kw_only=True)
class DynamicInt8(Pass):
    """Hold weights in INT8 and quantize activations as they come. Needs no data.

    Pays for matrix products, and for LSTMs; in torch for GRUs too. **Convolutions become slower**
    (ONNX Runtime's ConvInteger runs a ResNet-20 at 0.2-0.5 of the float speed) and stay float unless
    ``convolutions`` asks. ONNX Runtime has no quantized GRU. The range of an activation is that of a whole call, so
    that the answer for a sample depends a little on the others of its batch.

    In LiteRT convolutions are quantized too, and weights that are to have 4 bits are stored in 4 (INT8 where its
    kernels have no such form, as in depthwise convolutions). **Depthwise networks become slower than in float.**
    """

    name: ClassVar[str] = "dynamic-int8"
    realised_by: ClassVar = {
        Format.ONNX: "whet.passes.quantize.onnx_dynamic:dynamic_int8",
        Format.TFLITE: "whet.passes.quantize.tflite:dynamic_int8",
        Format.TORCH: "whet.passes.quantize.torch:dynamic_int8",
    }
    establishes: ClassVar = frozenset({TraitKind.QUANTIZED})
    erases: ClassVar = frozenset({TraitKind.PACKED})
    refuses: ClassVar = _ALREADY

    convolutions: Annotated[
        bool, Meta(description="Quantize convolutions too: smaller, and slower. ONNX only.")
    ] = False
    per_channel: Annotated[
        bool, Meta(description="A scale for each output channel. ONNX only; torch always does.")
    ] = True
    reduce_range: ReduceRange = "auto"
    weight_bits: WeightBits = 8
    exclude: Exclude = ()
    exclude_types: ExcludeTypes = ()

    def check(self, source: Format) -> None:
        """Explain that torch's kernels take all eight bits."""
        super().check(source)
        if source is Format.TFLITE:
            _only(self, source, ("weight_bits", "exclude", "exclude_types"))
            _stored(self.name, self.weight_bits)
        if source is Format.TORCH and self.weight_bits < 8:
            raise RecipeError(
                f"dynamic-int8 with weight_bits = {self.weight_bits} runs on an onnx model alone: "
                "fewer bits pay only where a pack step stores them; put an export-onnx step before it"
            )


@dataclass(frozen=True, kw_only=True)
class StaticInt8(Pass):
    """Hold weights and activations in INT8, with ranges calibrated beforehand (QDQ form).

    Done in ONNX and not in torch: torch's static INT8 modules have no ONNX form, run in torch alone, and its eager
    quantization is on its way out, while ONNX Runtime fuses QDQ into integer kernels. Unsigned activations are the
    fast form on x86; full-range weights need VNNI. A range taken as the extremes (``minmax``) suits ReLU networks;
    ``percentile`` and ``entropy`` give up outliers. Weights that ``qat`` trained keep the integers that they were
    trained for, whatever ``weight_bits`` says. It ruins some networks (small depthwise ones, transformers with
    outliers): look at the verdict, and train with ``qat``.

    With ``max_error`` precision is mixed: every layer is quantized alone, and the most sensitive are given back (to
    float, with the activation that follows; to 7 bits where ``weight_bits`` are fewer) until the outputs of
    calibration samples err by no more than that, as squared error over variance: 0.01 is 20 dB. What is given back
    costs speed, or bytes.

    With ``bias_correction`` the mean that rounding adds to each channel is taken off the layer's bias, in the order
    of the graph: no slower, no larger, and for depthwise networks half the error or less. Layers left in float are
    corrected too. What has no bias of its own (a MatMul without an Add, an LSTM) is reported. With both, the
    corrected file is what is judged, so that fewer layers are given back.

    In TFLite ranges are the ones found here and the rest is LiteRT's own quantizer. Its weights may have 4 bits,
    stored so (8 where its kernels have no such form, as in depthwise convolutions). The file takes and gives
    integers unless ``io`` says float; sessions here take and give numbers either way. ``activations = "int16"``
    (16x8) loses next to nothing and **runs on reference kernels, many times slower than float**.

    Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference"; entropy after Migacz 2017, "8-bit inference with TensorRT"; biases after Nagel et al. 2019,
    "Data-free quantization through weight equalization and bias correction", section 4.2, from data.
    """

    name: ClassVar[str] = "static-int8"
    realised_by: ClassVar = {
        Format.ONNX: "whet.passes.quantize.onnx_static:static_int8",
        Format.TFLITE: "whet.passes.quantize.tflite:static_int8",
    }
    extra: ClassVar[str] = "onnx"
    establishes: ClassVar = frozenset({TraitKind.QUANTIZED})
    erases: ClassVar = frozenset({TraitKind.PACKED})
    refuses: ClassVar = _ALREADY
    reads: ClassVar = ("calibrate",)

    calibration: Annotated[
        Literal["minmax", "percentile", "entropy"], Meta(description="How a range is taken from what was seen.")
    ] = "percentile"
    percentile: Annotated[
        float, Meta(gt=50, le=100, description="Share of values kept inside the range, in percent.")
    ] = 99.99
    samples: Annotated[
        int, Meta(ge=0, description="Samples to calibrate on; 0 takes up to 512 and is content with fewer.")
    ] = 0
    activations: Annotated[
        Literal["auto", "uint8", "int8", "int16"],
        Meta(
            description="auto: INT8; in ONNX unsigned on x86, signed on ARM, as each is faster. int16 in TFLite "
            "alone: finer, and slow."
        ),
    ] = "auto"
    io: Annotated[
        Literal["auto", "float", "int8"],
        Meta(
            description="What the file itself takes and gives. auto: as activations in TFLite, float in ONNX, "
            "which has nothing else."
        ),
    ] = "auto"
    per_channel: Annotated[bool, Meta(description="A scale for each output channel of a weight.")] = True
    reduce_range: ReduceRange = "auto"
    weight_bits: WeightBits = 8
    float_edges: Annotated[
        bool,
        Meta(
            description="Leave the first and the last layer in float: often the most sensitive, and a first "
            "convolution of few channels is slow in INT8."
        ),
    ] = False
    bias_correction: Annotated[
        bool,
        Meta(
            description="Take off each layer's bias what rounding adds to the mean of its channels, on up to 64 "
            "calibration samples."
        ),
    ] = False
    max_error: Annotated[
        float, Meta(ge=0, description="Squared error of the outputs over their variance that may be left; 0: any.")
    ] = 0.0
    exclude: Exclude = ()
    exclude_types: ExcludeTypes = ()

    def check(self, source: Format) -> None:
        """Explain why a torch model has to be exported first."""
        if source is Format.TORCH:
            raise RecipeError(
                "static-int8 does not run on a torch model, it runs on onnx, tflite: torch's static INT8 modules "
                "do not export; put an export-onnx step before it"
            )
        super().check(source)
        if source is Format.TFLITE:
            self._check_tflite()
        elif self.io == "int8" or self.activations == "int16":
            raise RecipeError(
                f"static-int8 with io = {self.io!r} and activations = {self.activations!r} runs on a tflite model "
                f"alone: ONNX files take and give floats, and have no INT16 kernels; leave both out"
            )

    def _check_tflite(self) -> None:
        """Explain what LiteRT's quantizer does not do."""
        taken = ("calibration", "percentile", "samples", "activations", "io", "weight_bits", "float_edges")
        _only(self, Format.TFLITE, (*taken, "exclude", "exclude_types"))
        _stored(self.name, self.weight_bits)
        if self.activations == "uint8" or (self.io == "int8" and self.activations == "int16"):
            raise RecipeError(
                f"static-int8 with activations = {self.activations!r} and io = {self.io!r} does not run on a "
                f"tflite model: it has signed activations, and takes and gives integers as wide as these, or floats"
            )


def _stored(name: str, bits: int) -> None:
    """Refuse widths that TFLite has no type of."""
    if bits not in (4, 8):
        raise RecipeError(
            f"{name} with weight_bits = {bits} does not run on a tflite model, whose weights have 4 bits or 8; "
            f"take one of these, or export to ONNX"
        )


@dataclass(frozen=True, kw_only=True)
class Equalize(Pass):
    """Bring the channels of activations to like ranges, so that one scale suits them all: for INT8 afterwards.

    A channel that a convolution gives is divided by a number and the next convolution's weights for it are
    multiplied by the same, which a ReLU, a LeakyReLU or a pooling between lets through: **the float model computes
    what it computed, no smaller and no faster**. Put it between ``optimize-graph`` and ``static-int8``. It pays
    where channels differ much, in small depthwise networks above all. Where the next convolution is depthwise,
    channels become alike; elsewhere ``share`` of the difference goes over to the weights. They come off the values
    that ``cluster`` shared, and off the grids of ``qat``.

    Source: Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction"; ranges from
    data, and the half, after Xiao et al. 2023, "SmoothQuant".
    """

    name: ClassVar[str] = "equalize"
    realised_by: ClassVar = {Format.ONNX: "whet.passes.quantize.onnx_equalize:equalize"}
    extra: ClassVar[str] = "onnx"
    erases: ClassVar = frozenset({TraitKind.CLUSTERED, TraitKind.GRID, TraitKind.PACKED})
    refuses: ClassVar = _ALREADY
    reads: ClassVar = ("calibrate",)

    share: Annotated[
        float,
        Meta(
            ge=0, le=1, description="Of the difference between channels, what goes over to weights that share it."
        ),
    ] = 0.5
    samples: Annotated[int, Meta(ge=1, description="Calibration samples, at most.")] = 128
    exclude: Exclude = ()


@dataclass(frozen=True, kw_only=True)
class Int4Weights(Pass):
    """Hold the matrices of products in 4 bits, with a scale for each block of inputs; arithmetic stays float.

    For Linear layers (ONNX ``MatMulNBits``, of ONNX Runtime) and, where asked, tables of embeddings
    (``GatherBlockQuantized``): language models, text encoders. The file shrinks to about a seventh of these layers'
    float bytes. **It pays where weights are read more than they are multiplied** (large matrices, few rows); small
    layers and large batches may become slower: look at the measured latency. Convolutions and recurrent layers
    have no such form and are said. Other runtimes than ONNX Runtime do not open the file.

    ``rtn`` rounds to nearest, ``hqq`` searches the zero points of least error and needs no data either. (ONNX
    Runtime's GPTQ is not offered: it fails on odd numbers of blocks, and was no better where it ran.)

    In TFLite every convolution, product and table of embeddings has a scale a channel, rounded to nearest;
    depthwise convolutions have no such form and stay. Small networks lose much of their quality: train for it
    (``qat``).

    Source: Badri and Shaji 2023, "Half-quadratic quantization of large machine learning models".
    """

    name: ClassVar[str] = "int4-weights"
    realised_by: ClassVar = {
        Format.ONNX: "whet.passes.quantize.onnx_int4:int4_weights",
        Format.TFLITE: "whet.passes.quantize.tflite:int4_weights",
    }
    extra: ClassVar[str] = "torch"
    establishes: ClassVar = frozenset({TraitKind.QUANTIZED})
    erases: ClassVar = frozenset({TraitKind.PACKED, TraitKind.CLUSTERED, TraitKind.GRID})
    refuses: ClassVar = _ALREADY

    method: Annotated[
        Literal["rtn", "hqq"], Meta(description="How integers are chosen: rounded to nearest, or of least error.")
    ] = "hqq"
    block_size: Annotated[
        Literal[16, 32, 64, 128, 256],
        Meta(description="Inputs that share a scale; fewer are finer, and more bytes."),
    ] = 32
    symmetric: Annotated[bool, Meta(description="No zero points (rtn and embeddings alone).")] = False
    accuracy_level: Annotated[
        int,
        Meta(
            ge=0,
            le=4,
            description="What products are computed in: 0 as the runtime likes, 1 float32, 4 INT8 activations, "
            "which is faster (with rtn alone).",
        ),
    ] = 0
    embeddings: Annotated[bool, Meta(description="Tables of embeddings too, rounded to nearest.")] = False
    exclude: Exclude = ()
    exclude_types: ExcludeTypes = ()

    def check(self, source: Format) -> None:
        """Explain that LiteRT's quantizer rounds to nearest, with a scale a channel."""
        super().check(source)
        if source is Format.TFLITE:
            _only(self, source, ("exclude", "exclude_types"))


@dataclass(frozen=True, kw_only=True)
class Half(Pass):
    """Hold weights in 16 bits instead of 32: half the bytes. Inputs and outputs stay float32.

    ``float16`` keeps 11 significant bits up to 65,504. **It is no faster on a CPU**: x86 kernels compute in float32
    and convert (ONNX Runtime once, when it opens the file; torch at every call, and more slowly). Faster on a GPU.

    ``bfloat16`` keeps 8 significant bits over the range of float32, in torch alone: weights and arithmetic. It pays
    on processors that multiply it (AMX, AVX512-BF16, ARM's bf16) and is **slower than float32 elsewhere**, where
    every product converts.

    Source: Micikevicius et al. 2018, "Mixed precision training"; Kalamkar et al. 2019, "A study of BFLOAT16".
    """

    name: ClassVar[str] = "half"
    realised_by: ClassVar = {
        Format.ONNX: "whet.passes.quantize.onnx_half:half",
        Format.TFLITE: "whet.passes.quantize.tflite:half",
        Format.TORCH: "whet.passes.quantize.torch:half",
    }
    establishes: ClassVar = frozenset({TraitKind.HALF})
    erases: ClassVar = frozenset({TraitKind.PACKED})
    refuses: ClassVar = _ALREADY

    kind: Annotated[
        Literal["float16", "bfloat16"],
        Meta(description="float16 is finer, bfloat16 has the range of float32 (torch only)."),
    ] = "float16"

    def check(self, source: Format) -> None:
        """Explain why bfloat16 stays in torch."""
        if source is Format.TFLITE:
            _only(self, source, ())
        if source is Format.ONNX and self.kind == "bfloat16":
            raise RecipeError(
                "half with kind = 'bfloat16' does not run on an onnx model, it runs on torch: ONNX Runtime has no "
                "bfloat16 kernels on a CPU; take kind = 'float16', or leave export-onnx out"
            )
        super().check(source)
