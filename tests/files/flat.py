"""TFLite files written by hand, operator by operator: what the tests of the format build on."""

from pathlib import Path

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from whet.models.source import source_of
from whet.models.tflite.adapter import TfliteAdapter

KINDS = {
    "float32": schema.TensorType.FLOAT32, "float16": schema.TensorType.FLOAT16, "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8, "int16": schema.TensorType.INT16, "int32": schema.TensorType.INT32,
    "int64": schema.TensorType.INT64, "int4": schema.TensorType.INT4,
    "string": schema.TensorType.STRING,
}  # fmt: skip


def floats(*shape, seed=0, scale=1.0):
    """Normal numbers, float32."""
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def tensor(name, shape, kind="float32", *, data=None, scale=None, zero=0, axis=0):
    """A tensor; a free length is None, ``data`` are a constant's, ``scale`` and ``zero`` make it quantized."""
    made = schema.TensorT()
    made.name, made.type = name, KINDS[kind]
    made.shape = [1 if size is None else size for size in shape]
    if None in shape:
        made.shapeSignature = [-1 if size is None else size for size in shape]
    if scale is not None:
        made.quantization = schema.QuantizationParametersT()
        made.quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
        made.quantization.zeroPoint = np.broadcast_to(np.int64(zero), made.quantization.scale.shape).copy()
        made.quantization.quantizedDimension = axis
    made.data = data  # for ``file``
    return made


def constant(name, array, **more):
    """A constant of an array's own type."""
    array = np.asarray(array)
    return tensor(name, array.shape, str(array.dtype), data=np.ascontiguousarray(array).tobytes(), **more)


def operator(kind, inputs, outputs, **options):
    """An operator by the schema's name (or a custom one's), names with spaces between, and its options."""
    return kind, inputs.split(), outputs.split(), options


_OPTIONS = {
    "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions", "AVERAGE_POOL_2D": "Pool2DOptions", "RESHAPE": "ReshapeOptions",
    "SOFTMAX": "SoftmaxOptions", "DEQUANTIZE": "DequantizeOptions", "BATCH_MATMUL": "BatchMatMulOptions",
    "DENSIFY": "DensifyOptions", "TRANSPOSE_CONV": "TransposeConvOptions",
    "MEAN": "ReducerOptions",
}  # fmt: skip


def file(tensors, operators, inputs, outputs, signature=None, shared=None):
    """Return the bytes of a file.

    ``signature`` names inputs and outputs otherwise; ``shared`` tells constants to lie where others do.
    """
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description = 3, "written by hand"
    model.buffers, model.operatorCodes = [schema.BufferT()], []
    places = {made.name: at for at, made in enumerate(tensors)}
    for made in tensors:
        made.buffer = 0
        if made.data is not None:
            made.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
            model.buffers[-1].data = np.frombuffer(made.data, np.uint8)
    for name, other in (shared or {}).items():
        tensors[places[name]].buffer = tensors[places[other]].buffer
    graph.name, graph.tensors = "main", tensors
    graph.inputs, graph.outputs = [places[name] for name in inputs], [places[name] for name in outputs]
    graph.operators = [_operator(model, places, *one) for one in operators]
    model.subgraphs = [graph]
    if signature is not None:
        model.signatureDefs = [_signature(signature, places, inputs, outputs)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _operator(model, places, kind, inputs, outputs, options):
    code = schema.OperatorCodeT()
    number = getattr(schema.BuiltinOperator, kind, schema.BuiltinOperator.CUSTOM)
    code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), options.pop("version", 1)
    if number == schema.BuiltinOperator.CUSTOM:
        code.customCode = kind
    model.operatorCodes.append(code)
    made = schema.OperatorT()
    made.opcodeIndex = len(model.operatorCodes) - 1
    made.inputs = [-1 if name == "-" else places[name] for name in inputs]
    made.outputs = [places[name] for name in outputs]
    if kind in _OPTIONS:
        made.builtinOptionsType = getattr(schema.BuiltinOptions, _OPTIONS[kind])
        made.builtinOptions = getattr(schema, f"{_OPTIONS[kind]}T")()
        for name, value in options.items():
            setattr(made.builtinOptions, name, value)
    return made


def _signature(names, places, inputs, outputs):
    made = schema.SignatureDefT()
    made.signatureKey, made.subgraphIndex = "serving_default", 0
    for attribute, which in (("inputs", inputs), ("outputs", outputs)):
        maps = []
        for name in which:
            maps.append(schema.TensorMapT())
            maps[-1].name, maps[-1].tensorIndex = names[name], places[name]
        setattr(made, attribute, maps)
    return made


RELU = schema.ActivationFunctionType.RELU
SAME, VALID = schema.Padding.SAME, schema.Padding.VALID


def connected():
    """(N, 6) to (N, 3): two fully connected layers in float."""
    return file(
        [
            tensor("x", (None, 6)), tensor("h", (None, 5)), tensor("y", (None, 3)),
            constant("first/weight", floats(5, 6, seed=1)), constant("first/bias", floats(5, seed=2)),
            constant("second/weight", floats(3, 5, seed=3)), constant("second/bias", floats(3, seed=4)),
        ],
        [
            operator("FULLY_CONNECTED", "x first/weight first/bias", "h", fusedActivationFunction=RELU),
            operator("FULLY_CONNECTED", "h second/weight second/bias", "y"),
        ],
        ["x"], ["y"], {"x": "row", "y": "answer"},
    )  # fmt: skip


def conv_net(*, reshape_to=-1, batch=None):
    """(N, 8, 8, 2) to (N, 3): a convolution, a depthwise one of stride 2, a mean, a connected layer."""
    return file(
        [
            tensor("x", (batch, 8, 8, 2)), tensor("a", (batch, 8, 8, 4)), tensor("b", (batch, 4, 4, 4)),
            tensor("c", (batch, 1, 1, 4)), tensor("d", (batch, 4)), tensor("e", (batch, 3)),
            tensor("y", (batch, 3)),
            constant("conv/weight", floats(4, 3, 3, 2, seed=1)), constant("conv/bias", floats(4, seed=2)),
            constant("depth/weight", floats(1, 3, 3, 4, seed=3)), constant("depth/bias", floats(4, seed=4)),
            constant("shape", np.array([reshape_to, 4], np.int32)),
            constant("fc/weight", floats(3, 4, seed=5)), constant("fc/bias", floats(3, seed=6)),
        ],
        [
            operator("CONV_2D", "x conv/weight conv/bias", "a", padding=SAME, strideW=1, strideH=1,
                     fusedActivationFunction=RELU),
            operator("DEPTHWISE_CONV_2D", "a depth/weight depth/bias", "b", padding=SAME, strideW=2, strideH=2,
                     depthMultiplier=1),
            operator("AVERAGE_POOL_2D", "b", "c", padding=VALID, strideW=4, strideH=4, filterWidth=4,
                     filterHeight=4),
            operator("RESHAPE", "c shape", "d"),
            operator("FULLY_CONNECTED", "d fc/weight fc/bias", "e"),
            operator("SOFTMAX", "e", "y", beta=1.0),
        ],
        ["x"], ["y"],
    )  # fmt: skip


IN, OUT, ZERO = (0.05, 5), (0.1, 4), 128  # scale and zero point of input and output; zero point of uint8 weights


def quantized(kind="int8"):
    """(N, 6) to (N, 3): a fully connected layer of integers, whose input and output are of ``kind``.

    The weights are int8 with a scale a row; of uint8, as files used to be, they have one scale and a zero point.
    """
    symmetric, old = kind == "int16", kind == "uint8"
    scales = np.float32(0.01) if old else np.array([0.01, 0.02, 0.005], np.float32)
    weight = np.random.default_rng(1).integers(-127, 128, (3, 6)).astype(np.int8)
    weight = (weight.astype(np.int32) + ZERO).astype(np.uint8) if old else weight
    start, end = (IN[0], 0) if symmetric else IN, (OUT[0], 0) if symmetric else OUT
    bias = np.array([100, -200, 300], np.int64 if symmetric else np.int32)
    return file(
        [
            tensor("x", (None, 6), kind, scale=start[0], zero=start[1]),
            tensor("y", (None, 3), kind, scale=end[0], zero=end[1]),
            constant("weight", weight, scale=scales, zero=ZERO if old else 0),
            constant("bias", bias, scale=start[0] * scales),
        ],
        [operator("FULLY_CONNECTED", "x weight bias", "y", version=1 if old else 7 if symmetric else 5)],
        ["x"], ["y"],
    )  # fmt: skip


def halved():
    """(N, 6) to (N, 3): float16 weights, which a DEQUANTIZE hands on."""
    return file(
        [
            tensor("x", (None, 6)), tensor("y", (None, 3)), tensor("w", (3, 6)),
            constant("weight", floats(3, 6, seed=1).astype(np.float16)), constant("bias", floats(3, seed=2)),
        ],
        [operator("DEQUANTIZE", "weight", "w", version=3), operator("FULLY_CONNECTED", "x w bias", "y")],
        ["x"], ["y"],
    )  # fmt: skip


def sparse(dense, block=None):
    """(N, width) to (N, rows): a matrix of which only what is not zero is stored, one by one or in blocks of a row.

    A DENSIFY fills it up.
    """
    rows, width = dense.shape
    size = block[1] if block else 1
    there = [np.flatnonzero(np.abs(row).reshape(-1, size).sum(1)) for row in dense]
    values = np.concatenate([row.reshape(-1, size)[at].ravel() for row, at in zip(dense, there, strict=True)])
    weight = tensor("weight", dense.shape, data=values.astype(np.float32).tobytes())
    weight.sparsity = schema.SparsityParametersT()
    weight.sparsity.traversalOrder = [0, 1, 2] if block else [0, 1]
    weight.sparsity.blockMap = [1] if block else []
    starts = np.cumsum([0, *map(len, there)])
    listed = schema.DimensionMetadataT()
    listed.format = schema.DimensionType.SPARSE_CSR
    listed.arraySegmentsType, listed.arrayIndicesType = schema.SparseIndexVector.Uint8Vector, 1
    listed.arraySegments, listed.arrayIndices = schema.Uint8VectorT(), schema.Int32VectorT()
    listed.arraySegments.values, listed.arrayIndices.values = starts.tolist(), np.concatenate(there).tolist()
    weight.sparsity.dimMetadata = [_whole(rows), listed, *([_whole(size)] if block else [])]
    return file(
        [tensor("x", (None, width)), tensor("y", (None, rows)), tensor("w", dense.shape), weight],
        [operator("DENSIFY", "weight", "w"), operator("FULLY_CONNECTED", "x w -", "y")],
        ["x"], ["y"],
    )  # fmt: skip


def blocked():
    """(N, 64) to (N, 3): a matrix of 4 bits, a scale for 32 numbers: integers, numbers, file."""
    raw = np.random.default_rng(1).integers(-8, 8, (3, 64)).astype(np.int8)
    packed = (raw.ravel()[0::2] & 15) | ((raw.ravel()[1::2] & 15) << 4)
    weight = tensor("weight", raw.shape, "int4", data=packed.astype(np.uint8).tobytes())
    weight.quantization = schema.QuantizationParametersT()
    weight.quantization.detailsType = schema.QuantizationDetails.BlockwiseQuantization
    weight.quantization.details = schema.BlockwiseQuantizationT()
    weight.quantization.details.scales, weight.quantization.details.zeroPoints = 3, -1
    weight.quantization.details.blockSize = 32
    scales = np.float16([[0.5, 0.25], [1, 2], [0.125, 0.5]])
    return raw, np.repeat(scales.astype(np.float32), 32, axis=1) * raw, file(
        [tensor("x", (None, 64)), tensor("y", (None, 3)), weight, constant("scales", scales)],
        [operator("FULLY_CONNECTED", "x weight -", "y")],
        ["x"], ["y"],
    )  # fmt: skip


def free():
    """(N, height, width, 2) to (N, 4): a convolution and a mean, of pictures of 3x3 and more."""
    return file(
        [
            tensor("x", (None, None, None, 2)), tensor("a", (None, None, None, 4)), tensor("y", (None, 4)),
            constant("weight", floats(4, 3, 3, 2, seed=1)), constant("bias", floats(4, seed=2)),
            constant("axes", np.array([1, 2], np.int32)),
        ],
        [
            operator("CONV_2D", "x weight bias", "a", padding=VALID, strideW=1, strideH=1),
            operator("MEAN", "a axes", "y"),
        ],
        ["x"], ["y"],
    )  # fmt: skip


def _whole(size):
    made = schema.DimensionMetadataT()
    made.format, made.denseSize = schema.DimensionType.DENSE, size
    return made


def foreign(*kinds):
    """(N, 6) to (N, 6) through operators that are none of LiteRT's."""
    names = ["x", *(f"t{at}" for at in range(len(kinds)))]
    steps = zip(kinds, names, names[1:], strict=False)
    return file(
        [tensor(name, (None, 6)) for name in names],
        [operator(kind, before, after) for kind, before, after in steps],
        ["x"], [names[-1]],
    )  # fmt: skip


def written(content, folder, name="model.tflite"):
    """Write a file and return its path."""
    path = Path(folder) / name
    path.write_bytes(content)
    return path


def opened(content, folder, sample=None, inputs=()):
    """A file as whet's Model."""
    return TfliteAdapter().open(source_of(written(content, folder), inputs=inputs), sample)
