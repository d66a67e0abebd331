"""Packed files: the same outputs in ONNX Runtime and in OpenVINO, folded as they are opened, and smaller."""

import re
from collections import Counter

import graphs
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.errors import NothingChanged, PassError, RecipeError
from whet.models.adapter import adapter_for
from whet.passes.base import PassContext
from whet.passes.graph.spec import CleanGraph, OptimizeGraph
from whet.passes.pack import math
from whet.passes.pack.spec import Pack
from whet.passes.quantize.spec import DynamicInt8, StaticInt8
from whet.testing import PassContract
from whet.types import Format, TraitKind


def clustered(proto, values, zeros=0.0, channels=False):
    """Give the matrices of a graph few values; the channels' each their own where asked."""
    rng = np.random.default_rng(0)
    for tensor in proto.graph.initializer:
        if len(tensor.dims) > 1:
            array = numpy_helper.to_array(tensor)
            books = rng.standard_normal((array.shape[0] if channels else 1, values)).astype(np.float32)
            rows = [rng.choice(books[at % len(books)], array.shape[1:]) for at in range(len(array))]
            new = np.stack(rows) * (rng.random(array.shape) >= zeros)
            tensor.CopyFrom(numpy_helper.from_array(new.astype(array.dtype), tensor.name))
    return proto


def wide_net():
    """Two convolutions and a Gemm, with weights enough for codes to pay."""
    return graphs.proto(
        [
            graphs.node("Conv", "x conv1.weight conv1.bias", "a"),
            graphs.node("Relu", "a", "b"),
            graphs.node("Conv", "b conv2.weight conv2.bias", "c"),
            graphs.node("GlobalAveragePool", "c", "d"),
            graphs.node("Flatten", "d", "e"),
            graphs.node("Gemm", "e fc.weight fc.bias", "y", transB=1),
        ],
        {"x": ("float32", ["N", 8, 8, 8])},
        {"y": ("float32", ["N", 100])},
        {
            "conv1.weight": graphs.floats(32, 8, 3, 3, seed=1) / 8,
            "conv1.bias": graphs.floats(32, seed=2),
            "conv2.weight": graphs.floats(48, 32, 3, 3, seed=3) / 16,
            "conv2.bias": graphs.floats(48, seed=4),
            "fc.weight": graphs.floats(100, 48, seed=5) / 7,
            "fc.bias": graphs.floats(100, seed=6),
        },
    )


def calibrated(folder):
    return PassContext(folder, data=Splits({Part.CALIBRATE: ArraySamples({"x": graphs.floats(20, 8, 8, 8)})}))


class TestPackContract(PassContract):
    def make_pass(self):
        return Pack()

    def make_model(self):
        return graphs.model(clustered(wide_net(), 16))


def nodes_once_opened(proto, path):
    """The operators that ONNX Runtime is left with, constants folded and nothing fused."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return sorted(node.op_type for node in onnx.load(path).graph.node)


FORMS = [(2, 0, False), (3, 0, False), (16, 0, False), (17, 0, False), (100, 0, False), (16, 0.8, False),
         (5, 0.5, True), (16, 0, True), (3000, 0.8, False)]  # fmt: skip


@pytest.mark.parametrize(("values", "zeros", "channels"), FORMS)
def test_every_form_computes_the_same_and_is_folded_away(values, zeros, channels, tmp_path):
    model = graphs.model(clustered(wide_net(), values, zeros, channels))
    outcome = Pack(least_bytes=64).apply(model, PassContext(tmp_path))
    batch = model.signature.synthetic(3)
    wanted = adapter_for(Format.ONNX).forward(model, batch)
    have = adapter_for(Format.ONNX).forward(outcome.model, batch)
    for name in wanted:
        np.testing.assert_array_equal(have[name], wanted[name])
    assert nodes_once_opened(outcome.model.payload, tmp_path / "a.onnx") == nodes_once_opened(
        model.payload, tmp_path / "b.onnx"
    )


def in_openvino(proto, batch, path, hint="f32"):
    """Outputs, and how many layers of which kind and precision OpenVINO is left with beside constants."""
    openvino = pytest.importorskip("openvino")
    onnx.save(proto, path)
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    told = [layer.get_rt_info() for layer in compiled.get_runtime_model().get_ops()]
    layers = Counter((info["layerType"].value, info["runtimePrecision"].value) for info in told)
    kept = {key: count for key, count in layers.items() if key[0] != "Const"}
    return list(compiled(dict(batch)).values()), kept


def assert_same_in_openvino(packed, unpacked, batch, folder, hint="f32"):
    """Hold two graphs to the same layers and outputs; return the layers."""
    have, layers = in_openvino(packed, batch, folder / "packed.onnx", hint)
    wanted, wanted_layers = in_openvino(unpacked, batch, folder / "unpacked.onnx", hint)
    assert layers == wanted_layers
    for one, other in zip(have, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    return layers


@pytest.mark.parametrize(("values", "zeros", "channels"), FORMS)
@pytest.mark.parametrize("hint", ["f32", "f16"])
def test_every_form_is_folded_away_in_openvino(values, zeros, channels, hint, tmp_path):
    """In float16 too, where a count of the ones in floats would be off from 2,048 on."""
    model = graphs.model(clustered(wide_net(), values, zeros, channels))
    packed = Pack(least_bytes=64).apply(model, PassContext(tmp_path)).model
    assert_same_in_openvino(packed.payload, model.payload, model.signature.synthetic(3), tmp_path, hint)


INTEGERS = [
    ("4-bit codes, one codebook", 16, 0.0, False), ("mask and 4-bit codes, one codebook", 16, 0.8, False),
    ("mask and 5-bit codes, one codebook", 20, 0.8, False), ("2-bit codes, a codebook a channel", 4, 0.0, True),
    ("mask and 2-bit codes, a codebook a channel", 4, 0.8, True), ("mask and [0-9,]+ values", 127, 0.9, False),
]  # fmt: skip


@pytest.mark.parametrize(("form", "values", "zeros", "channels"), INTEGERS)
def test_quantized_layers_stay_in_integers_in_openvino(form, values, zeros, channels, tmp_path):
    context = calibrated(tmp_path)
    model = StaticInt8().apply(graphs.model(wide_net()), context).model
    rng = np.random.default_rng(0)
    for tensor in model.payload.graph.initializer:
        if tensor.name in integers(model.payload):
            books = np.stack([rng.permutation(np.arange(1, 128))[:values] for _ in range(tensor.dims[0])])
            rows = [rng.choice(books[at if channels else 0], tensor.dims[1:]) for at in range(tensor.dims[0])]
            new = np.stack(rows) * (rng.random(tensor.dims) >= zeros)
            tensor.CopyFrom(numpy_helper.from_array(new.astype(np.int8), tensor.name))
    outcome = Pack(least_bytes=64).apply(model, context)
    assert re.fullmatch(form, outcome.notes["forms"]["conv2.weight_quantized"])
    layers = assert_same_in_openvino(
        outcome.model.payload, model.payload, {"x": graphs.floats(4, 8, 8, 8)}, tmp_path
    )
    assert layers["Convolution", "u8"] == 2
    assert layers["FullyConnected", "u8"] == 1


def awkward():
    """Tensors whose masks end within a byte, hold a single one, or all but one, of every kind that is packed."""
    rng = np.random.default_rng(0)
    first, last, full = np.zeros(1001), np.zeros((7, 11, 13)), np.arange(1.0, 100.0)
    first[0], last[-1, -1, -1], full[50] = 3, 5, 0
    found = {"first": first, "last": last, "full": full, "tiny": np.array([0, 0, 7])}
    books = rng.permuted(np.tile(np.arange(1, 100), (31, 1)), axis=1)[:, :3]
    rows = np.stack([rng.choice(book, 13) * (rng.random(13) < 0.6) for book in books])
    found |= {"rows": rows, "columns": rows.T, "deep": rng.choice([0, 1, 2, 99], (3, 5, 7, 9))}
    kinds = (np.float32, np.float16, np.int8, np.uint8)
    return {f"{name}_{kind.__name__}": array.astype(kind) for name, array in found.items() for kind in kinds}


@pytest.mark.parametrize("which", range(7))
def test_awkward_tensors_come_out_of_any_form(which, monkeypatch, tmp_path):
    """Every form a tensor has, the smallest or not, in both runtimes and the oldest opset; an empty one stays."""
    monkeypatch.setattr(math, "smallest", lambda array: (math._forms(array) * 7)[which])
    arrays = awkward()
    nodes = [graphs.node("Cast", name, f"{name}_cast", to=1) for name in arrays]
    nodes += [graphs.node("Add", f"x {name}_cast", f"{name}_y") for name in arrays]
    outputs = {f"{name}_y": ("float32", array.shape) for name, array in arrays.items()}
    constants = arrays | {"empty": np.zeros((0, 3), np.int8)}
    proto = graphs.proto(nodes, {"x": ("float32", [1])}, outputs, constants, opset=13, ir=8)
    outcome = Pack(least_bytes=1).apply(graphs.model(proto), PassContext(tmp_path))
    assert len(outcome.changed) == len(arrays)
    batch = {"x": np.ones(1, np.float32)}
    session = onnxruntime.InferenceSession(outcome.model.payload.SerializeToString())
    for array, have in zip(arrays.values(), session.run(None, batch), strict=True):
        np.testing.assert_array_equal(have, array.astype(np.float32) + 1)
    assert_same_in_openvino(outcome.model.payload, proto, batch, tmp_path)


@pytest.mark.slow
def test_more_ones_than_float32_counts(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.integers(1, 256, (4400, 4400), np.uint8) * (rng.random((4400, 4400), np.float32) < 0.87)
    assert np.count_nonzero(weight) > 1 << 24
    proto = graphs.proto(
        [graphs.node("Cast", "w", "a", to=1), graphs.node("MatMul", "x a", "y")],
        {"x": ("float32", ["N", 4400])}, {"y": ("float32", ["N", 4400])}, {"w": weight},
    )  # fmt: skip
    outcome = Pack().apply(graphs.model(proto), PassContext(tmp_path))
    assert "mask and" in outcome.notes["forms"]["w"]
    assert_same_in_openvino(outcome.model.payload, proto, {"x": graphs.floats(2, 4400)}, tmp_path)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("quantize", [DynamicInt8, StaticInt8])
def test_int8_of_few_bits_is_stored_in_few_bits(bits, quantize, tmp_path):
    model = graphs.model(wide_net())
    context = calibrated(tmp_path)
    settings = {"convolutions": True} if quantize is DynamicInt8 else {}
    narrow = quantize(weight_bits=bits, **settings).apply(model, context).model
    packed = Pack(least_bytes=32).apply(narrow, context).model
    for name, tensor in integers(narrow.payload).items():
        assert np.abs(tensor.astype(np.int16)).max() <= 2 ** (bits - 1) - 1, name
    batch = model.signature.synthetic(3)
    adapter = adapter_for(Format.ONNX)
    np.testing.assert_array_equal(
        next(iter(adapter.forward(packed, batch).values())), next(iter(adapter.forward(narrow, batch).values()))
    )
    assert packed.payload.ByteSize() < narrow.payload.ByteSize()
    if bits < 6:  # where more are saved than the nodes take, in matrices as small as these
        assert not integers(packed.payload)
    assert {trait.kind for trait in packed.traits} == {TraitKind.QUANTIZED, TraitKind.PACKED}


def integers(proto):
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in proto.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    }


def test_six_bits_are_as_near_to_float_as_they_say(tmp_path):
    """Each weight within half a step of where it was, but for clipped outliers; biases follow their scale."""
    model = graphs.model(wide_net())
    context = calibrated(tmp_path)
    batch, adapter = {"x": graphs.floats(16, 8, 8, 8)}, adapter_for(Format.ONNX)
    wanted = next(iter(adapter.forward(model, batch).values()))
    errors = []
    for bits in (8, 6, 3):
        have = adapter.forward(StaticInt8(weight_bits=bits).apply(model, context).model, batch)
        errors.append(float(np.abs(next(iter(have.values())) - wanted).mean() / np.abs(wanted).mean()))
    assert errors[0] < 0.1
    assert errors[1] < 0.1
    assert errors[1] < errors[2]


def test_a_recurrent_network_of_four_bits_is_packed(tmp_path):
    model = graphs.model(graphs.recurrent("LSTM", width=20, hidden=40))
    context = PassContext(tmp_path)
    narrow = DynamicInt8(weight_bits=4).apply(model, context).model
    outcome = Pack(least_bytes=32).apply(narrow, context)
    assert any("4-bit" in form for form in outcome.notes["forms"].values())
    batch, adapter = model.signature.synthetic(2), adapter_for(Format.ONNX)
    wanted = adapter.forward(narrow, batch)
    for name, array in adapter.forward(outcome.model, batch).items():
        np.testing.assert_array_equal(array, wanted[name])


def test_cleaning_a_packed_graph_keeps_it_packed(tmp_path):
    model = graphs.model(clustered(wide_net(), 16))
    packed = Pack().apply(model, PassContext(tmp_path)).model
    clean = CleanGraph().apply(packed, PassContext(tmp_path)).model
    assert clean.payload.ByteSize() <= packed.payload.ByteSize()
    batch, adapter = model.signature.synthetic(2), adapter_for(Format.ONNX)
    wanted = adapter.forward(model, batch)
    for name, array in adapter.forward(clean, batch).items():
        np.testing.assert_array_equal(array, wanted[name])
    with pytest.raises(RecipeError, match="pack last"):
        OptimizeGraph().apply(packed, PassContext(tmp_path))


def test_nothing_to_pack_is_said_with_the_reason(tmp_path):
    with pytest.raises(NothingChanged, match=r"no form is smaller: [\d,]+ values, 0% of them zeros"):
        Pack().apply(graphs.model(wide_net()), PassContext(tmp_path))


def test_what_is_excluded_stays(tmp_path):
    model = graphs.model(clustered(wide_net(), 16))
    name = max(model.payload.graph.initializer, key=lambda tensor: tensor.ByteSize()).name
    outcome = Pack(exclude=(name,), allow_unchanged=True).apply(model, PassContext(tmp_path))
    assert name not in outcome.changed
    assert [item.reason for item in outcome.skipped if item.layer == name] == [f"excluded by the recipe ({name})"]


def test_an_old_opset_is_refused_in_one_line(tmp_path):
    weight = numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "old",
        [helper.make_tensor_value_info("x", 1, [None, 64])],
        [helper.make_tensor_value_info("y", 1, [None, 64])],
        [weight],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    with pytest.raises(PassError, match="need opset 13; this file is of opset 11"):
        Pack().apply(graphs.model(proto), PassContext(tmp_path))


def test_weights_of_inner_graphs_stay(tmp_path):
    """An If that holds weights of its own computes the same; only what the outer graph holds is packed."""
    model = graphs.model(clustered(wide_net(), 4))
    inner = helper.make_graph(
        [helper.make_node("Identity", ["k"], ["o"])],
        "inner",
        [],
        [helper.make_tensor_value_info("o", 1, [128])],
        [numpy_helper.from_array(np.ones(128, np.float32), "k")],
    )
    graph = model.payload.graph
    graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    graph.node.append(helper.make_node("If", ["yes"], ["extra"], then_branch=inner, else_branch=inner))
    graph.output.append(helper.make_tensor_value_info("extra", 1, [128]))
    both = graphs.model(model.payload)
    packed = Pack().apply(both, PassContext(tmp_path)).model
    batch, adapter = both.signature.synthetic(2), adapter_for(Format.ONNX)
    wanted = adapter.forward(both, batch)
    for name, array in adapter.forward(packed, batch).items():
        np.testing.assert_array_equal(array, wanted[name])


def test_the_scale_of_a_bias_is_made_of_the_two_it_is_the_product_of(tmp_path):
    context = calibrated(tmp_path)
    narrow = StaticInt8(weight_bits=4).apply(graphs.model(wide_net()), context).model
    outcome = Pack(least_bytes=32).apply(narrow, context)
    made = [name for name, form in outcome.notes["forms"].items() if form == "a product"]
    assert sorted(made) == [f"{layer}.bias_quantized_scale" for layer in ("conv1", "conv2", "fc")]
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "opened.onnx")
    proto = outcome.model.payload.SerializeToString()
    onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "opened.onnx").graph.node]
    assert kinds.count("QLinearConv") == 2
    assert "Mul" not in kinds
