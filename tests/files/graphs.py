"""ONNX graphs written by hand, and user's models opened: what the contract tests build on."""

import functools
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from whet.models.adapter import adapter_for
from whet.models.model import Model
from whet.models.onnx.signature import graph_signature
from whet.models.signature import parse_input
from whet.models.source import source_of
from whet.passes.base import PassContext
from whet.passes.export.spec import ExportOnnx
from whet.types import Format

_KINDS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}
_TINY = Path(__file__).parent / "tiny.py"
_INPUTS = {
    "tiny": ("float32[1,1,8,8]",),
    "regressor": ("float32[1,6]",),
    "root_linear": ("float32[1,6]",),
    "lstm": ("ids=int64[1,12]:0..49", "mask=float32[1,12]:0..1"),
    "gru": ("ids=int64[1,12]:0..49", "mask=float32[1,12]:0..1"),
}


def node(kind, inputs, outputs, **attributes):
    """A node; ``inputs`` and ``outputs`` are names with spaces between, ``-`` an input that is left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(kind, names, outputs.split(), **attributes)


def proto(nodes, inputs, outputs, constants=None, *, opset=20, ir=10, **more):
    """A model of nodes; inputs and outputs are ``{name: (dtype, shape)}``, a shape may hold names and None."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, _KINDS[kind], shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, _KINDS[kind], shape) for name, (kind, shape) in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
        **more,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def model(made, **fields):
    """A graph as whet's Model."""
    return Model(Format.ONNX, made, graph_signature(made), **fields)


def floats(*shape, seed=0, scale=1.0):
    """Normal numbers, float32."""
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def conv_net():
    """(N, 1, 8, 8) to (N, 3): a convolution, a grouped one of stride 2, a Gemm."""
    return proto(
        [
            node("Conv", "x conv1.weight conv1.bias", "a", pads=[1, 1, 1, 1]),
            node("Relu", "a", "b"),
            node("Conv", "b conv2.weight", "c", pads=[1, 1, 1, 1], strides=[2, 2], group=4),
            node("Relu", "c", "d"),
            node("GlobalAveragePool", "d", "e"),
            node("Flatten", "e", "f"),
            node("Gemm", "f fc.weight fc.bias", "y", transB=1),
        ],
        {"x": ("float32", ["N", 1, 8, 8])},
        {"y": ("float32", ["N", 3])},
        {
            "conv1.weight": floats(8, 1, 3, 3, seed=1),
            "conv1.bias": floats(8, seed=2),
            "conv2.weight": floats(16, 2, 3, 3, seed=3),
            "fc.weight": floats(3, 16, seed=4),
            "fc.bias": floats(3, seed=5),
        },
    )


def recurrent(kind, width=6, hidden=5, layer=True):
    """(N, 4, width) through an LSTM or GRU and, where ``layer``, a Gemm."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    last = [node("Gemm", "h fc.weight", "y", transB=1)] if layer else [node("Identity", "h", "y")]
    return proto(
        [
            node("Transpose", "x", "t", perm=[1, 0, 2]),
            node(kind, "t rnn.w rnn.r rnn.b", "all last", hidden_size=hidden, **_reset(kind)),
            node("Squeeze", "last axis", "h"),
            *last,
        ],
        {"x": ("float32", ["N", 4, width])},
        {"y": ("float32", ["N", 3 if layer else hidden])},
        {
            "rnn.w": floats(1, gates * hidden, width, seed=1),
            "rnn.r": floats(1, gates * hidden, hidden, seed=2),
            "rnn.b": floats(1, 2 * gates * hidden, seed=3),
            "axis": np.array([0]),
            **({"fc.weight": floats(3, hidden, seed=4)} if layer else {}),
        },
    )


def _reset(kind):
    return {"linear_before_reset": 1} if kind == "GRU" else {}


def attention(keys="turned", mask=True, heads=2):
    """(N, S, 8) and, where ``mask``, (N, S) of ones and zeros to (N, 3): one attention, its keys turned some way.

    ``turned`` is one Transpose, ``twice`` is two, ``flat`` turns (N * heads, S, size) as torch's exporter does.
    """
    split = [node("Transpose", "q3", "q4", perm=[0, 2, 1, 3]), node("Transpose", "v3", "v4", perm=[0, 2, 1, 3])]
    first = [] if keys == "turned" else [node("Transpose", "k3", "k4", perm=[0, 2, 1, 3])]
    turn = {
        "turned": [node("Transpose", "k3", "kt", perm=[0, 2, 3, 1])],
        "twice": [node("Transpose", "k4", "kt", perm=[0, 1, 3, 2])],
        "flat": [
            node("Reshape", "k4 rows", "kf"),
            node("Transpose", "kf", "kr", perm=[0, 2, 1]),
            node("Shape", "q4", "qs"),
            node("Gather", "qs order", "ks"),
            node("Reshape", "kr ks", "kt"),
        ],
    }[keys]
    masked = [
        node("Sub", "mask one", "less"),
        node("Mul", "less much", "low"),
        node("Unsqueeze", "low axes", "bias"),
        node("Add", "scaled bias", "scores"),
    ]
    return proto(
        [
            *(item for name in "qkv" for item in _projected(name)),
            *split,
            *first,
            *turn,
            node("MatMul", "q4 kt", "product"),
            node("Div", "product root", "scaled" if mask else "scores"),
            *(masked if mask else []),
            node("Softmax", "scores", "weights", axis=-1),
            node("MatMul", "weights v4", "c4"),
            node("Transpose", "c4", "c3", perm=[0, 2, 1, 3]),
            node("Reshape", "c3 whole", "context"),
            node("ReduceMean", "context middle", "mean", keepdims=0),
            node("Gemm", "mean fc.weight", "y", transB=1),
        ],
        {"x": ("float32", ["N", "S", 8]), **({"mask": ("float32", ["N", "S"])} if mask else {})},
        {"y": ("float32", ["N", 3])},
        {
            **{f"{name}.weight": floats(8, 8, seed=at) for at, name in enumerate("qkv", 1)},
            **{f"{name}.bias": floats(8, seed=at) for at, name in enumerate("qkv", 4)},
            "fc.weight": floats(3, 8, seed=7),
            "heads": np.array([0, 0, heads, 8 // heads]),
            "rows": np.array([-1, 5, 8 // heads]),
            "order": np.array([0, 1, 3, 2]),
            "whole": np.array([0, 0, 8]),
            "middle": np.array([1]),
            "axes": np.array([1, 2]),
            "one": np.float32(1),
            "much": np.float32(1e9),
            "root": np.float32(np.sqrt(8 / heads)),
        },
    )


def _projected(name):
    return [
        node("MatMul", f"x {name}.weight", f"{name}1"),
        node("Add", f"{name}1 {name}.bias", f"{name}2"),
        node("Reshape", f"{name}2 heads", f"{name}3"),
    ]


def two_ways():
    """(N, 4) and (N, 4) to their sum and to a product with a matrix."""
    return proto(
        [node("Add", "left right", "sum"), node("MatMul", "left m.weight", "product")],
        {"left": ("float32", ["N", 4]), "right": ("float32", ["N", 4])},
        {"sum": ("float32", ["N", 4]), "product": ("float32", ["N", 2])},
        {"m.weight": floats(4, 2)},
    )


def branches():
    """(N, 4) to (N, 4): an If whose branches hold constants of their own and read an outer one."""
    then = helper.make_graph(
        [node("Mul", "input_of_the_graph outer_constant", "product"), node("Add", "product inner", "then_out")],
        "then",
        [],
        [helper.make_tensor_value_info("then_out", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.float32([1, 2, 3, 4]), "inner")],
    )
    other = helper.make_graph(
        [node("Sub", "input_of_the_graph outer_constant", "else_out")],
        "else",
        [],
        [helper.make_tensor_value_info("else_out", TensorProto.FLOAT, None)],
    )
    return proto(
        [
            node("ReduceSum", "input_of_the_graph", "total", keepdims=0),
            node("Greater", "total zero", "positive"),
            helper.make_node("If", ["positive"], ["chosen"], then_branch=then, else_branch=other),
            node("Relu", "chosen", "output_of_the_graph"),
        ],
        {"input_of_the_graph": ("float32", ["N", 4])},
        {"output_of_the_graph": ("float32", ["N", 4])},
        {"outer_constant": np.float32([2, 2, 2, 2]), "zero": np.float32(0), "never_read": floats(64)},
    )


def loop():
    """(N, 4) to (N, 4): doubled three times in a Loop that reads an outer constant."""
    body = helper.make_graph(
        [node("Mul", "carried two", "doubled"), node("Identity", "going", "still")],
        "body",
        [
            helper.make_tensor_value_info("at", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried", TensorProto.FLOAT, ["N", 4]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("doubled", TensorProto.FLOAT, ["N", 4]),
        ],
    )
    return proto(
        [helper.make_node("Loop", ["times", "", "values"], ["result"], body=body)],
        {"values": ("float32", ["N", 4])},
        {"result": ("float32", ["N", 4])},
        {"times": np.array(3), "two": np.float32(2)},
    )


def opened(factory, inputs=None):
    """A factory of tiny.py as an opened torch Model."""
    specs = tuple(parse_input(text) for text in inputs or _INPUTS[factory])
    source = source_of(f"{_TINY}:{factory}", inputs=specs)
    return adapter_for(Format.TORCH).open(source, None)


@functools.cache
def exported(factory):
    """The same, as ONNX. Exported once; every caller gets a copy."""
    return apply(ExportOnnx(), opened(factory)).model


@functools.cache
def _read_operators_once():
    """torch reads its 500 translations to ONNX anew for each export: two thirds of the time of a small one."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    ONNXRegistry.from_torchlib = staticmethod(functools.cache(ONNXRegistry.from_torchlib))


def apply(request, given, **context):
    """Apply a pass in a folder of its own."""
    if isinstance(request, ExportOnnx):
        _read_operators_once()
    with tempfile.TemporaryDirectory() as folder:
        return request.apply(given, PassContext(Path(folder), **context))


def forward(given, batch):
    """Run a Model plainly."""
    return adapter_for(given.format).forward(given, batch)


def run(made, batch, **options):
    """Run a graph in ONNX Runtime; returns the outputs in order."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    for name, value in options.items():
        setattr(settings, name, value)
    content = made if isinstance(made, bytes | str) else made.SerializeToString()
    return onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"]).run(None, batch)


def kinds(made):
    """The operator types of a graph, in order."""
    return [item.op_type for item in made.graph.node]


def constants(made):
    """The initializers of a graph as arrays, by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}


def copy(made):
    """A graph that can be changed."""
    return onnx.ModelProto.FromString(made.SerializeToString())
