"""TFLite files: the adapter against its contract, arithmetic against NumPy, integers, files that fail."""

import flat
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from scipy.signal import correlate

from whet.errors import ModelError, RuntimeFailure, SignatureError
from whet.models.model import Stored
from whet.models.signature import parse_input
from whet.models.source import source_of
from whet.models.tflite import constants, counting
from whet.models.tflite.adapter import TfliteAdapter
from whet.models.tflite.flatbuffer import parse
from whet.models.tflite.signature import Code
from whet.profile.profile import profile
from whet.runtimes.base import Deployment, open_session
from whet.testing import AdapterContract
from whet.types import Trait, TraitKind


class TestConnected(AdapterContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        self.tmp_path = tmp_path

    def make_adapter(self):
        return TfliteAdapter()

    def make_content(self):
        return flat.connected()

    def make_model(self):
        return flat.opened(self.make_content(), self.tmp_path)


class TestConvolutions(TestConnected):
    def make_content(self):
        return flat.conv_net()


class TestHalved(TestConnected):
    def make_content(self):
        return flat.halved()


def relu(array):
    return np.maximum(array, 0)


def convolved(x, kernel, stride):
    """(N, H, W, C) by one (out, kh, kw, in), padded to the same size as TensorFlow pads: more at the end."""
    high, wide = kernel.shape[1:3]
    pads = [(0, 0)]
    for size, window in ((x.shape[1], high), (x.shape[2], wide)):
        whole = max((-(-size // stride) - 1) * stride + window - size, 0)
        pads.append((whole // 2, whole - whole // 2))
    x = np.pad(x, [*pads, (0, 0)])
    each = [[correlate(sample, one, "valid")[..., 0] for one in kernel] for sample in x]
    return np.moveaxis(np.array(each), 1, -1)[:, ::stride, ::stride]


def conv_net(x, w):
    a = relu(convolved(x, w["conv/weight"], 1) + w["conv/bias"])
    depth = w["depth/weight"]
    parts = [convolved(a[..., at : at + 1], depth[..., at : at + 1], 2) for at in range(depth.shape[-1])]
    b = np.concatenate(parts, -1) + w["depth/bias"]
    e = b.mean((1, 2)) @ w["fc/weight"].T + w["fc/bias"]
    shares = np.exp(e - e.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def connected(x, w):
    return relu(x @ w["first/weight"].T + w["first/bias"]) @ w["second/weight"].T + w["second/bias"]


def halved(x, w):
    return x @ w["weight"].astype(np.float32).T + w["bias"]


@pytest.mark.parametrize(
    ("content", "reference"),
    [(flat.connected(), connected), (flat.conv_net(), conv_net), (flat.halved(), halved)],
)
def test_weights_and_outputs_are_those_of_numpy(tmp_path, content, reference):
    model = flat.opened(content, tmp_path)
    (spec,), (answer,) = model.signature.inputs, model.signature.outputs
    x = spec.synthetic(5, np.random.default_rng(0))
    weights = TfliteAdapter().weights(model)
    found = TfliteAdapter().forward(model, {spec.name: x})[answer.name]
    np.testing.assert_allclose(found, reference(x, weights), rtol=1e-4, atol=1e-5)
    other = {name: array + np.float32(0.1) for name, array in weights.items()}
    changed = TfliteAdapter().with_weights(model, other)
    found = TfliteAdapter().forward(changed, {spec.name: x})[answer.name]
    np.testing.assert_allclose(found, reference(x, TfliteAdapter().weights(changed)), rtol=1e-4, atol=1e-5)
    assert len(changed.payload) == len(content)


def test_names_are_the_signatures_where_the_file_has_one(tmp_path):
    model = flat.opened(flat.connected(), tmp_path)
    assert [str(spec) for spec in model.signature.inputs] == ["row=float32[?,6]"]
    assert [str(spec) for spec in model.signature.outputs] == ["answer=float32[?,3]"]


def test_layers_are_counted_as_on_paper(tmp_path):
    found = {layer.name: layer for layer in TfliteAdapter().layers(flat.opened(flat.conv_net(), tmp_path))}
    conv, depth, fc = found["conv/weight"], found["depth/weight"], found["fc/weight"]
    assert [layer.kind for layer in found.values()] == ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"]
    assert (conv.parameters, conv.bytes, conv.macs) == (4 * 3 * 3 * 2 + 4, 4 * 76, 8 * 8 * 4 * 3 * 3 * 2)
    assert (depth.parameters, depth.bytes, depth.macs) == (3 * 3 * 4 + 4, 4 * 40, 4 * 4 * 4 * 3 * 3)
    assert (fc.parameters, fc.bytes, fc.macs) == (3 * 4 + 3, 4 * 15, 3 * 4)
    assert [layer.weights for layer in found.values()] == [("conv/weight",), ("depth/weight",), ("fc/weight",)]


def test_macs_are_of_one_sample_where_a_file_takes_four(tmp_path):
    four = flat.opened(flat.conv_net(reshape_to=4, batch=4), tmp_path)
    assert four.signature.batch == 4
    one = flat.opened(flat.conv_net(), tmp_path)
    assert TfliteAdapter().layers(four) == TfliteAdapter().layers(one)


def test_a_file_that_says_it_takes_any_number_and_reshapes_to_one_takes_one(tmp_path):
    model = flat.opened(flat.conv_net(reshape_to=1), tmp_path)
    assert [str(spec) for spec in (*model.signature.inputs, *model.signature.outputs)] == [
        "x=float32[1,8,8,2]", "y=float32[1,3]",
    ]  # fmt: skip


def test_matrix_products_and_transposed_convolutions_are_counted(tmp_path):
    content = flat.file(
        [
            flat.tensor("x", (None, 2, 2, 3)), flat.tensor("y", (None, 4, 4, 5)),
            flat.constant("shape", np.array([1, 4, 4, 5], np.int32)),
            flat.constant("kernel", flat.floats(5, 2, 2, 3)),
        ],
        [flat.operator("TRANSPOSE_CONV", "shape kernel x", "y", padding=flat.VALID, strideW=2, strideH=2)],
        ["x"], ["y"],
    )  # fmt: skip
    (layer,) = TfliteAdapter().layers(flat.opened(content, tmp_path))
    assert (layer.parameters, layer.macs) == (60, 2 * 2 * 3 * 2 * 2 * 5)
    content = flat.file(
        [flat.tensor("a", (None, 4, 6)), flat.tensor("b", (None, 6, 5)), flat.tensor("y", (None, 4, 5))],
        [flat.operator("BATCH_MATMUL", "a b", "y")],
        ["a", "b"], ["y"],
    )  # fmt: skip
    (layer,) = TfliteAdapter().layers(flat.opened(content, tmp_path))
    assert (layer.kind, layer.parameters, layer.macs) == ("BATCH_MATMUL", 0, 4 * 6 * 5)


# --- integers -------------------------------------------------------------------------------------------------


def by_hand(model, integers, kind):
    """The outputs of ``flat.quantized`` from the integers that go in, in exact arithmetic, rounded once."""
    zeros = (0, 0) if kind == "int16" else (flat.IN[1], flat.OUT[1])
    weight = TfliteAdapter().matrices(model)["weight"].astype(np.int64)
    sums = (integers.astype(np.int64) - zeros[0]) @ weight.T + [100, -200, 300]
    scales = 0.01 if kind == "uint8" else np.array([0.01, 0.02, 0.005])
    whole = np.rint(sums * flat.IN[0] * scales / flat.OUT[0]) + zeros[1]
    return (np.clip(whole, np.iinfo(kind).min, np.iinfo(kind).max) - zeros[1]) * flat.OUT[0]


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16"])
def test_numbers_go_in_and_come_out_whatever_integers_the_file_holds(tmp_path, kind):
    model = flat.opened(flat.quantized(kind), tmp_path)
    (spec,), (answer,) = model.signature.inputs, model.signature.outputs
    assert (spec.dtype, spec.coded, answer.dtype, answer.coded) == ("float32", kind, "float32", kind)
    zero = 0 if kind == "int16" else flat.IN[1]
    ends = np.iinfo(kind)
    assert (spec.low, spec.high) == pytest.approx(((ends.min - zero) * 0.05, (ends.max - zero) * 0.05))
    assert answer.step == pytest.approx(0.1)
    integers = np.random.default_rng(0).integers(ends.min, ends.max, (40, 6), endpoint=True).astype(kind)
    coded = model.signature.bind({"x": integers})
    numbers = model.signature.bind({"x": ((integers.astype(np.float64) - zero) * 0.05).astype(np.float32)})
    found = TfliteAdapter().forward(model, coded)["y"]
    np.testing.assert_allclose(found, by_hand(model, integers, kind), atol=0.1001)  # a step: LiteRT rounds twice
    assert np.mean(np.abs(found - by_hand(model, integers, kind)) < 1e-3) > 0.95
    np.testing.assert_array_equal(TfliteAdapter().forward(model, numbers)["y"], found)


def test_other_integers_than_the_files_are_refused(tmp_path):
    signature = flat.opened(flat.quantized(), tmp_path).signature
    with pytest.raises(
        SignatureError, match=r"'x' takes float32 \(or int8, as the file holds it\), the data has uint8"
    ):
        signature.bind({"x": np.zeros((1, 6), np.uint8)})
    with pytest.raises(SignatureError, match="does not take the data's shape"):
        signature.bind({"x": np.zeros((1, 5), np.int8)})


def test_numbers_are_rounded_and_cut_off_at_the_ends():
    code = Code("int8", 0.5, -2)
    np.testing.assert_array_equal(code.encode(np.float32([0, 0.24, 0.26, 1e9, -1e9])), [-2, -2, -1, 127, -128])
    np.testing.assert_array_equal(code.decode(np.int8([-2, 0, 127])), [0, 1, 64.5])
    with pytest.raises(SignatureError, match=r"no numbers \(NaN\), which int8 cannot hold"):
        code.encode(np.float32([1, np.nan]))


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_quantized_weights_are_the_numbers_they_stand_for(tmp_path, kind):
    model = flat.opened(flat.quantized(kind), tmp_path)
    raw = np.random.default_rng(1).integers(-127, 128, (3, 6))
    scales = np.float32(0.01) if kind == "uint8" else np.array([[0.01], [0.02], [0.005]])
    found = TfliteAdapter().weights(model)
    np.testing.assert_allclose(found["weight"], raw * scales, rtol=1e-6)
    np.testing.assert_allclose(found["bias"], np.array([100, -200, 300]) * np.squeeze(scales) * 0.05, rtol=1e-6)
    np.testing.assert_array_equal(TfliteAdapter().matrices(model)["weight"], raw)
    assert model.traits == {Trait(TraitKind.QUANTIZED, 8)}
    (layer,) = TfliteAdapter().layers(model)
    assert (layer.parameters, layer.bytes, layer.weights) == (21, 18 + 12, ())


def test_quantized_weights_are_not_replaced(tmp_path):
    model = flat.opened(flat.quantized(), tmp_path)
    with pytest.raises(ModelError, match=r"'weight' are INT8 with scales in the file .* before they are quantized"):
        TfliteAdapter().with_weights(model, {"weight": np.zeros((3, 6), np.float32)})


def test_weights_that_share_their_bytes_are_replaced_together(tmp_path):
    weight = flat.constant("a", flat.floats(6, 6))
    twin = flat.constant("b", flat.floats(6, 6))
    content = flat.file(
        [flat.tensor("x", (None, 6)), flat.tensor("h", (None, 6)), flat.tensor("y", (None, 6)), weight, twin],
        [flat.operator("FULLY_CONNECTED", "x a -", "h"), flat.operator("FULLY_CONNECTED", "h b -", "y")],
        ["x"], ["y"], shared={"b": "a"},
    )  # fmt: skip
    model = flat.opened(content, tmp_path)
    new = {"a": flat.floats(6, 6, seed=7), "b": flat.floats(6, 6, seed=7)}
    np.testing.assert_array_equal(TfliteAdapter().weights(TfliteAdapter().with_weights(model, new))["b"], new["b"])
    with pytest.raises(ModelError, match="shares its bytes with other weights"):
        TfliteAdapter().with_weights(model, {**new, "b": flat.floats(6, 6, seed=8)})


def test_four_bits_are_unpacked_the_lower_half_first(tmp_path):
    raw = np.random.default_rng(0).integers(-8, 8, (3, 6)).astype(np.int8)
    packed = (raw.ravel()[0::2] & 15) | ((raw.ravel()[1::2] & 15) << 4)
    weight = flat.tensor(
        "weight", raw.shape, "int4", data=packed.astype(np.uint8).tobytes(), scale=[0.1, 0.2, 0.3], zero=0
    )
    content = flat.file(
        [flat.tensor("x", (None, 6)), flat.tensor("y", (None, 3)), weight],
        [flat.operator("FULLY_CONNECTED", "x weight -", "y", version=12)],
        ["x"], ["y"],
    )  # fmt: skip
    model = flat.opened(content, tmp_path)
    np.testing.assert_array_equal(TfliteAdapter().matrices(model)["weight"], raw)
    numbers = TfliteAdapter().weights(model)["weight"]
    np.testing.assert_allclose(numbers, raw * np.array([[0.1], [0.2], [0.3]]), rtol=1e-6)
    assert model.traits == {Trait(TraitKind.QUANTIZED, 4)}
    (layer,) = TfliteAdapter().layers(model)
    assert (layer.parameters, layer.bytes) == (18, 9)
    x = flat.floats(4, 6, seed=3)
    found = TfliteAdapter().forward(model, {"x": x})["y"]
    np.testing.assert_allclose(found, x @ numbers.T, atol=0.05)  # activations are rounded to 8 bits as they come


@pytest.mark.parametrize("block", [None, (1, 4)])
def test_sparse_weights_are_filled_up_as_litert_does(tmp_path, block):
    dense = flat.floats(8, 16, seed=5) * (np.random.default_rng(1).random((8, 16)) < 0.3)
    dense = (
        dense if block is None else dense * np.kron(np.random.default_rng(2).random((8, 4)) < 0.5, np.ones(block))
    )
    content = flat.sparse(dense.astype(np.float32), block)
    model = flat.opened(content, tmp_path)
    weight = TfliteAdapter().weights(model)["weight"]
    np.testing.assert_array_equal(weight, dense.astype(np.float32))
    x = flat.floats(3, 16, seed=6)
    np.testing.assert_allclose(TfliteAdapter().forward(model, {"x": x})["y"], x @ weight.T, rtol=1e-4, atol=1e-5)
    (layer,) = TfliteAdapter().layers(model)
    assert (layer.parameters, layer.weights) == (128, ())
    assert layer.bytes < 4 * 128
    with pytest.raises(ModelError, match="'weight' are sparse in the file"):
        TfliteAdapter().with_weights(model, {"weight": weight})


def test_weights_with_a_scale_a_block_are_read_and_run_by_xnnpack_which_is_right(tmp_path):
    raw, numbers, content = flat.blocked()
    model = flat.opened(content, tmp_path)
    np.testing.assert_array_equal(TfliteAdapter().matrices(model)["weight"], raw)
    found = TfliteAdapter().weights(model)
    assert list(found) == ["weight"]  # its scales are no weights
    np.testing.assert_array_equal(found["weight"], numbers)
    x = flat.floats(5, 64)
    wanted = x @ numbers.T
    outputs = TfliteAdapter().forward(model, {"x": x})["y"]
    np.testing.assert_allclose(outputs, wanted, atol=0.02 * np.abs(wanted).max())  # activations: 8 bits
    (layer,) = TfliteAdapter().layers(model)
    assert (layer.parameters, layer.bytes, layer.macs) == (192, 96, 192)
    there = Stored(model.format, tmp_path / "model.tflite")
    with pytest.raises(RuntimeFailure, match="own kernels give wrong numbers; leave kernels=builtin out"):
        open_session(there, Deployment(options={"kernels": "builtin"}))
    found = profile(model, model.signature.synthetic(1))
    assert [layer.kind for layer in found.layers] == ["FULLY_CONNECTED"]


# --- free lengths ---------------------------------------------------------------------------------------------


def test_free_lengths_are_the_least_that_run_the_datas_or_as_declared(tmp_path):
    model = flat.opened(flat.free(), tmp_path)
    (spec,) = model.signature.inputs
    assert (spec.shape, spec.example[1:3]) == ((None, None, None, 2), (16, 16))
    assert str(model.signature.outputs[0]) == "y=float32[?,4]"
    by_data = flat.opened(flat.free(), tmp_path, {"x": flat.floats(2, 5, 7, 2)})
    assert by_data.signature.inputs[0].concrete(1) == (1, 5, 7, 2)
    declared = flat.opened(flat.free(), tmp_path, inputs=(parse_input("x=float32[1,?9,?8,2]:0..1"),))
    assert declared.signature.inputs[0].concrete(1) == (1, 9, 8, 2)
    (layer,) = TfliteAdapter().layers(declared)
    assert layer.macs == 7 * 6 * 4 * 3 * 3 * 2
    with open_session(Stored(model.format, tmp_path / "model.tflite"), Deployment()) as session:
        for size in (5, 9):
            x = flat.floats(2, size, size + 1, 2)
            weights = TfliteAdapter().weights(model)
            wanted = convolved(x, weights["weight"], 1)[:, 1:-1, 1:-1].mean((1, 2)) + weights["bias"]
            np.testing.assert_allclose(session.run({"x": x})["y"], wanted, rtol=1e-4, atol=1e-5)
        assert session.facts["provider"] == "XNNPACK"


def test_an_input_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(SignatureError, match=r"--input x=float32\[\?,5\] does not fit the model's input row="):
        flat.opened(flat.connected(), tmp_path, inputs=(parse_input("x=float32[1,5]"),))


# --- what cannot be opened ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (flat.connected()[:200], "is not a TFLite file, or it is truncated"),
        (b"\0" * 1000, "is not a TFLite file"),
        (b"PK\x03\x04 an archive", "holds a zip archive, which its name does not say"),
        (flat.foreign("FlexErf", "FlexTopK"), r"operators of TensorFlow itself \(FlexErf, FlexTopK\)"),
        (flat.foreign("MyOp"), r"custom operators \(MyOp\), which LiteRT does not know"),
        (flat.foreign("FlexErf", "MyOp"), r"\(FlexErf\).*; also custom operators \(MyOp\)"),
    ],
)
def test_a_file_that_cannot_be_run_is_one_clear_line(tmp_path, content, message):
    with pytest.raises(ModelError, match=message) as caught:
        flat.opened(content, tmp_path)
    assert "\n" not in str(caught.value)


def test_empty_and_missing_files_are_named(tmp_path):
    (tmp_path / "empty.tflite").touch()
    with pytest.raises(ModelError, match=r"empty\.tflite is empty"):
        source_of(tmp_path / "empty.tflite")
    with pytest.raises(ModelError, match=r"nowhere\.tflite does not exist"):
        source_of(tmp_path / "nowhere.tflite")


def test_damaged_files_are_refused_or_read_and_nothing_else(tmp_path):
    """Any byte may be another: that ends in a model or in a ModelError or SignatureError of one line."""
    rng = np.random.default_rng(0)
    dense = flat.floats(8, 16) * (rng.random((8, 16)) < 0.3)
    files, refused = (flat.conv_net(), flat.sparse(dense.astype(np.float32), (1, 4))), 0
    for number in range(80):
        content = bytearray(files[number % 2])
        for at in rng.integers(8, len(content), 3):
            content[at] = rng.integers(256)
        try:
            model = flat.opened(bytes(content), tmp_path)
            TfliteAdapter().weights(model)
        except (ModelError, SignatureError) as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017 - some of them can be read
    assert refused > 5


def test_text_is_no_tensor_of_numbers(tmp_path):
    content = flat.file(
        [flat.tensor("x", (None,), "string"), flat.tensor("y", (None,), "string")],
        [], ["x"], ["x"],
    )  # fmt: skip
    with pytest.raises(SignatureError, match="'x' is text, not a tensor of numbers"):
        flat.opened(content, tmp_path)


# --- time by layer --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [flat.conv_net(), flat.quantized(), flat.halved(), flat.conv_net(reshape_to=1)])
def test_every_operator_has_its_share_of_the_time(tmp_path, content):
    model = flat.opened(content, tmp_path)
    found = profile(model, model.signature.synthetic(1))
    graph = parse(content)[0]
    handed = counting.handed_on(graph)
    wanted = {
        name: one.kind
        for name, one in zip(counting.names(graph), graph.operators, strict=True)
        if one.outputs[0] not in handed
    }
    assert {layer.name: layer.kind for layer in found.layers} == wanted
    assert sum(layer.time_ms for layer in found.layers) == pytest.approx(found.time_ms)
    assert all(layer.time_ms > 0 for layer in found.layers)


def test_an_operator_cut_out_computes_what_it_did(tmp_path):
    from whet.profile import tflite

    model = flat.opened(flat.conv_net(), tmp_path)
    batch = model.signature.synthetic(2)
    tensors = tflite._observed(model.payload, batch)
    for at, operator in enumerate(parse(model.payload)[0].operators):
        alone = Interpreter(model_content=tflite._cut_out(model.payload, at))
        places = [one["index"] for one in alone.get_input_details()]
        for place in places:
            alone.resize_tensor_input(place, tensors[place].shape)
        alone.allocate_tensors()
        for place in places:
            alone.set_tensor(place, tensors[place])
        alone.invoke()
        place = operator.outputs[0]
        np.testing.assert_allclose(alone.get_tensor(place), tensors[place], rtol=1e-4, atol=1e-5)


def test_constants_of_unknown_types_are_refused_by_name():
    (tensor,) = [one for one in parse(flat.connected())[0].tensors if one.name == "first/bias"]
    odd = type(tensor)(**{name: getattr(tensor, name) for name in tensor.__slots__} | {"type": "COMPLEX64"})
    with pytest.raises(ModelError, match="the constant 'first/bias' is COMPLEX64"):
        constants.stored(odd)
