"""Passes to and on TFLite files, and between Keras and torch: their contracts; their arithmetic in NumPy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import whet
from whet.data.data import Part
from whet.errors import PassError, RecipeError
from whet.models.keras.adapter import KerasAdapter
from whet.models.onnx.adapter import OnnxAdapter
from whet.models.source import source_of
from whet.models.tflite import constants
from whet.models.tflite.adapter import TfliteAdapter
from whet.models.tflite.flatbuffer import parse
from whet.models.torch.adapter import TorchAdapter
from whet.passes.base import PassContext
from whet.passes.export.spec import ExportOnnx, ExportTflite, ToKeras, ToTorch
from whet.passes.quantize import tflite, tflite_grid
from whet.passes.quantize.spec import DynamicInt8, Half, Int4Weights, StaticInt8
from whet.testing import PassContract
from whet.types import Format, Range

import keras  # after the adapter, which chooses its backend  # isort: skip

L = keras.layers


def net(depthwise=True):
    """(N, 8, 8, 2) to (N, 3), with a shortcut: what static INT8 has to scale alike."""
    keras.utils.set_random_seed(0)
    picture = keras.Input((8, 8, 2), name="picture")
    x = L.Conv2D(4, 3, padding="same", name="conv")(picture)
    x = L.BatchNormalization(name="norm")(x)
    y = L.DepthwiseConv2D(3, padding="same", name="depth")(x) if depthwise else x
    x = L.GlobalAveragePooling2D()(L.ReLU()(L.Add()([x, y])))
    return keras.Model(picture, L.Dense(3, name="top")(L.Dense(16, activation="relu", name="middle")(x)))


def rows(width=5, units=4):
    """(N, width) to (N, units): one product, for arithmetic on paper."""
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((width,), name="row"), L.Dense(units, bias_initializer="normal")])


def as_data(x):
    y = np.arange(len(x)) % 3
    return whet.dataset(((x, y), (x, y)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The net in Keras and in TFLite, and data."""
    folder = tmp_path_factory.mktemp("made")
    x = np.random.default_rng(0).standard_normal((120, 8, 8, 2)).astype(np.float32)
    net().save(folder / "net.keras")
    model = KerasAdapter().open(source_of(folder / "net.keras"), None)
    data = as_data(x)
    lite = ExportTflite().apply(model, PassContext(folder, data=data)).model
    return {Format.KERAS: model, Format.TFLITE: lite, "data": data}


class Exported(PassContract):
    @pytest.fixture(autouse=True)
    def given(self, made):
        self.made = made

    def make_model(self):
        return self.made[Format.KERAS]

    def make_context(self, folder):
        return PassContext(folder, data=self.made["data"], original=lambda: self.made[Format.KERAS])


class TestExportTflite(Exported):
    covers = ("export-tflite", Format.KERAS)

    def make_pass(self):
        return ExportTflite()


class TestExportOnnx(Exported):
    covers = ("export-onnx", Format.KERAS)

    def make_pass(self):
        return ExportOnnx()


class TestToTorch(Exported):
    covers = ("to-torch", Format.KERAS)

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        self.folder = tmp_path

    def make_pass(self):
        return ToTorch()

    def make_context(self, folder):
        return super().make_context(self.folder)  # the description in it is there until the step is stored


class TestToKeras(Exported):
    covers = ("to-keras", Format.TORCH)

    @pytest.fixture(autouse=True)
    def translated(self, made, tmp_path_factory):
        context = PassContext(tmp_path_factory.mktemp("torch"), data=made["data"])
        self.module = ToTorch().apply(made[Format.KERAS], context).model

    def make_pass(self):
        return ToKeras()

    def make_model(self):
        return self.module


class Quantized(Exported):
    def make_model(self):
        return self.made[Format.TFLITE]


class TestHalf(Quantized):
    covers = ("half", Format.TFLITE)

    def make_pass(self):
        return Half()


class TestDynamicInt8(Quantized):
    covers = ("dynamic-int8", Format.TFLITE)

    def make_pass(self):
        return DynamicInt8()


class TestStaticInt8(Quantized):
    covers = ("static-int8", Format.TFLITE)

    def make_pass(self):
        return StaticInt8(samples=32)


class TestStatic16x8(Quantized):
    def make_pass(self):
        return StaticInt8(samples=32, activations="int16", io="float", calibration="minmax")


class TestStaticInt4(Quantized):
    def make_pass(self):
        return StaticInt8(samples=32, weight_bits=4, calibration="entropy")


class TestInt4Weights(Quantized):
    covers = ("int4-weights", Format.TFLITE)

    def make_pass(self):
        return Int4Weights()


# --- what is in the file --------------------------------------------------------------------------------------


def applied(request, made, tmp_path):
    return request.apply(made[Format.TFLITE], PassContext(tmp_path, data=made["data"]))


def weight_types(content):
    """Return the type of the weights of each layer, by what the operator is."""
    graph = parse(content)[0]
    stored = {one.outputs[0]: one.inputs[0] for one in graph.operators if one.kind == "DEQUANTIZE"}
    kinds = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
    return [
        (one.kind, graph.tensors[stored.get(one.inputs[1], one.inputs[1])].type)
        for one in graph.operators
        if one.kind in kinds
    ]


@pytest.mark.parametrize(
    ("request_", "conv", "depth", "dense"),
    [
        (Half(), "FLOAT16", "FLOAT16", "FLOAT16"),
        (DynamicInt8(), "INT8", "INT8", "INT8"),
        (DynamicInt8(weight_bits=4), "INT4", "INT8", "INT4"),
        (StaticInt8(samples=16), "INT8", "INT8", "INT8"),
        (StaticInt8(samples=16, weight_bits=4), "INT4", "INT8", "INT4"),
        (StaticInt8(samples=16, float_edges=True), "FLOAT32", "INT8", "INT8"),
        (Int4Weights(), "INT4", "FLOAT32", "INT4"),
    ],
)
def test_weights_are_held_as_asked(made, tmp_path, request_, conv, depth, dense):
    outcome = applied(request_, made, tmp_path)
    last = "FLOAT32" if getattr(request_, "float_edges", False) else dense
    assert weight_types(outcome.model.payload) == [
        ("CONV_2D", conv), ("DEPTHWISE_CONV_2D", depth), ("FULLY_CONNECTED", dense), ("FULLY_CONNECTED", last),
    ]  # fmt: skip
    left = [kind for kind in (conv, depth, dense, last) if kind == "FLOAT32"]
    assert (len(outcome.changed), len(outcome.skipped)) == (4 - len(left), len(left))
    told = {name: count for name, count in outcome.notes.items() if name.startswith("layers_in_")}
    assert sum(told.values()) == len(outcome.changed)
    assert told.get("layers_in_int4", 0) == [conv, depth, dense, last].count("INT4")


def test_what_is_left_out_stays_in_float_and_its_neighbours_of_like_names_do_not(made, tmp_path):
    layers = {layer.name: layer for layer in TfliteAdapter().layers(made[Format.TFLITE])}
    (conv,) = [name for name, layer in layers.items() if layer.kind == "CONV_2D"]
    outcome = applied(StaticInt8(samples=16, exclude=(conv,)), made, tmp_path)
    assert [(item.layer, item.reason) for item in outcome.skipped] == [(conv, f"excluded by the recipe ({conv})")]
    assert [kind for _, kind in weight_types(outcome.model.payload)] == ["FLOAT32", "INT8", "INT8", "INT8"]
    outcome = applied(DynamicInt8(exclude_types=("FULLY_CONNECTED",)), made, tmp_path)
    assert [kind for _, kind in weight_types(outcome.model.payload)] == ["INT8", "INT8", "FLOAT32", "FLOAT32"]


@pytest.mark.parametrize(
    ("options", "coded"),
    [({}, "int8"), ({"io": "int8"}, "int8"), ({"io": "float"}, ""), ({"activations": "int16"}, "int16"),
     ({"activations": "int16", "io": "float"}, "")],
)  # fmt: skip
def test_the_file_takes_and_gives_what_was_asked(made, tmp_path, options, coded):
    model = applied(StaticInt8(samples=32, **options), made, tmp_path).model
    (taken,), (given,) = model.signature.inputs, model.signature.outputs
    assert (taken.dtype, taken.coded, given.dtype, given.coded) == ("float32", coded, "float32", coded)
    graph = parse(model.payload)[0]
    assert {graph.tensors[at].type for _, at in (*graph.inputs, *graph.outputs)} == {coded.upper() or "FLOAT32"}
    batch = made["data"].batch(Part.CALIBRATE, range(30))
    wanted = TfliteAdapter().forward(made[Format.TFLITE], made[Format.TFLITE].signature.bind(batch))["output"]
    found = TfliteAdapter().forward(model, model.signature.bind(batch))["output"]
    assert np.abs(found - wanted).max() < (0.02 if "activations" in options else 0.1) * np.abs(wanted).max()


# --- arithmetic -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """One product in TFLite, its weights, and the rows it is calibrated on."""
    folder = tmp_path_factory.mktemp("rows")
    model = rows()
    model.save(folder / "rows.keras")
    x = np.random.default_rng(3).uniform(-2, 3, (64, 5)).astype(np.float32)
    source = KerasAdapter().open(source_of(folder / "rows.keras"), None)
    lite = ExportTflite().apply(source, PassContext(folder)).model
    kernel, bias = model.get_weights()
    return lite, kernel.T.astype(np.float64), bias.astype(np.float64), x


def steps(array, bits):
    """Return each row's scale and the row in it, symmetric: the greatest weight is the greatest integer."""
    scale = np.abs(array).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1)
    return scale, np.rint(array / scale)


def affine(low, high):
    """Return scale and zero point of INT8 for a range, zero in it."""
    scale = (max(high, 0) - min(low, 0)) / 255
    return scale, np.rint(-128 - min(low, 0) / scale)


@pytest.mark.parametrize("bits", [8, 4])
def test_static_int8_computes_what_integers_on_paper_do(product, tmp_path, bits):
    lite, weight, bias, x = product
    request = StaticInt8(calibration="minmax", weight_bits=bits, samples=64)
    model = request.apply(lite, PassContext(tmp_path, data=as_data(x))).model
    (scale_in, zero_in), exact = affine(x.min(), x.max()), x @ weight.T + bias
    scale_out, zero_out = affine(exact.min(), exact.max())
    scale, integers = steps(weight, bits)
    into = np.clip(np.rint(x / scale_in) + zero_in, -128, 127)
    sums = (into - zero_in) @ integers.T + np.rint(bias / (scale_in * scale.T))
    out = np.clip(np.rint(sums * scale_in * scale.T / scale_out) + zero_out, -128, 127)
    wanted = (out - zero_out) * scale_out
    found = TfliteAdapter().forward(model, {"row": x})["output"]
    np.testing.assert_allclose(found, wanted, atol=1.01 * scale_out)  # a step: the kernel rounds twice
    assert np.mean(np.abs(found - wanted) < scale_out / 2) > 0.95
    assert np.abs(found - exact).max() < (0.5 if bits == 4 else 0.05) * np.abs(exact).max()


def test_weights_of_int4_and_int8_are_those_of_numpy(product, tmp_path):
    lite, weight, bias, x = product
    for request, bits in ((Int4Weights(), 4), (DynamicInt8(), 8)):
        model = request.apply(lite, PassContext(tmp_path)).model
        scale, integers = steps(weight, bits)
        held = [array for array in TfliteAdapter().weights(model).values() if array.shape == weight.shape]
        np.testing.assert_allclose(held[0], scale * integers, rtol=1e-6)
        if bits == 4:
            found = TfliteAdapter().forward(model, {"row": x})["output"]
            np.testing.assert_allclose(found, x @ (scale * integers).T + bias, rtol=1e-4, atol=1e-4)


def test_half_rounds_weights_to_float16(product, tmp_path):
    lite, weight, bias, x = product
    model = Half().apply(lite, PassContext(tmp_path)).model
    wanted = x @ weight.astype(np.float16).astype(np.float64).T + bias.astype(np.float16)
    np.testing.assert_allclose(TfliteAdapter().forward(model, {"row": x})["output"], wanted, rtol=1e-3, atol=1e-3)


def test_ranges_are_those_of_the_samples_not_of_one(product, tmp_path):
    lite, _, _, x = product
    spread = np.concatenate([x, np.full((1, 5), 40, np.float32), np.full((1, 5), -40, np.float32)])
    ends = {}
    for calibration, percentile in (("minmax", 100), ("percentile", 90)):
        request = StaticInt8(calibration=calibration, percentile=percentile, samples=66)
        (spec,) = request.apply(lite, PassContext(tmp_path, data=as_data(spread))).model.signature.inputs
        ends[calibration] = Range(spec.low, spec.high)
    assert ends["minmax"].low == pytest.approx(-40, rel=0.01)
    assert ends["minmax"].high == pytest.approx(40, rel=0.01)
    assert ends["percentile"].high < 5


# --- weights on a grid ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The net as qat leaves it: weights on a symmetric 4-bit grid a channel, the greatest level 3 to 7; in TFLite.

    The BatchNorm that the converter folds has learned something.
    """
    folder, rng, model = tmp_path_factory.mktemp("trained"), np.random.default_rng(7), net()
    for layer in model.layers:
        if isinstance(layer, L.BatchNormalization):
            layer.set_weights([rng.uniform(0.3, 2, array.shape) for array in layer.get_weights()])
        elif layer.get_weights():
            kernel, bias = layer.get_weights()
            channels = bias.size  # the last axis, of a depthwise kernel too: its multiplier is 1
            levels = rng.integers(3, 8, channels)
            whole = np.rint(rng.uniform(-1, 1, (kernel.size // channels, channels)) * levels)
            whole[0] = levels
            grid = (whole * rng.uniform(0.01, 0.1, channels)).reshape(kernel.shape)
            layer.set_weights([grid.astype(np.float32), rng.standard_normal(bias.shape)])
    model.save(folder / "net.keras")
    source = KerasAdapter().open(source_of(folder / "net.keras"), None)
    x = rng.standard_normal((64, 8, 8, 2)).astype(np.float32)
    return ExportTflite().apply(source, PassContext(folder)).model, as_data(x)


KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def held(model):
    """Return the weights and biases of each layer as the numbers that they stand for, in order."""
    (graph,) = parse(model.payload)
    stored = {one.outputs[0]: one.inputs[0] for one in graph.operators if one.kind == "DEQUANTIZE"}
    layers = [one for one in graph.operators if one.kind in KINDS]
    return [[constants.numbers(graph.tensors[stored.get(at, at)]) for at in one.inputs[1:3]] for one in layers]


@pytest.mark.parametrize(
    "request_",
    [
        StaticInt8(samples=32, weight_bits=4), StaticInt8(samples=32), DynamicInt8(), DynamicInt8(weight_bits=4),
        Int4Weights(), StaticInt8(samples=32, activations="int16"),
    ],
)  # fmt: skip
def test_weights_that_were_trained_on_a_grid_stay_on_it(trained, tmp_path, request_):
    model, data = trained
    outcome = request_.apply(model, PassContext(tmp_path, data=data))
    assert outcome.notes["grids_kept"] == (3 if isinstance(request_, Int4Weights) else 4)
    for (wanted, bias), (found, found_bias) in zip(held(model), held(outcome.model), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=1e-7)
        if isinstance(request_, StaticInt8):
            np.testing.assert_allclose(found_bias, bias, atol=0.01)


def test_a_file_of_trained_integers_computes_what_the_float_file_does(trained, tmp_path):
    model, data = trained
    batch = model.signature.bind(data.batch(Part.CALIBRATE, range(30)))
    wanted = TfliteAdapter().forward(model, batch)["output"]
    for request, most in ((Int4Weights(), 1e-5), (StaticInt8(weight_bits=4, calibration="minmax"), 0.03)):
        found = request.apply(model, PassContext(tmp_path, data=data)).model
        off = np.abs(TfliteAdapter().forward(found, batch)["output"] - wanted).max() / np.abs(wanted).max()
        assert off < most


def test_weights_that_are_on_no_grid_keep_what_the_quantizer_made_of_them(made):
    def configure(quantizer):
        quantizer.add_dynamic_config(".*", tflite._EVERY, 8)

    content = tflite._run(made[Format.TFLITE], configure, [], {})
    assert tflite_grid.keep(made[Format.TFLITE].payload, content) == (content, {})


# --- what cannot be done ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (
            DynamicInt8(weight_bits=6),
            r"weight_bits = 6 does not run on a tflite model, whose weights have 4 bits or 8",
        ),
        (DynamicInt8(convolutions=True), "dynamic-int8 with convolutions = True does not run on a tflite model"),
        (StaticInt8(weight_bits=6), "static-int8 with weight_bits = 6 does not run on a tflite model"),
        (StaticInt8(max_error=0.01), "static-int8 with max_error = 0.01 does not run on a tflite model"),
        (StaticInt8(bias_correction=True), "static-int8 with bias_correction = True does not run"),
        (StaticInt8(per_channel=False), "static-int8 with per_channel = False does not run"),
        (StaticInt8(activations="uint8"), "signed activations"),
        (StaticInt8(activations="int16", io="int8"), "integers as wide as these, or floats"),
        (Half(kind="bfloat16"), "half with kind = 'bfloat16' does not run on a tflite model"),
        (Int4Weights(method="rtn"), "int4-weights with method = 'rtn' does not run on a tflite model"),
    ],
)
def test_what_tflite_does_not_have_is_refused_in_words(request_, said):
    with pytest.raises(RecipeError, match=said):
        request_.check(Format.TFLITE)


@pytest.mark.parametrize("options", [{"io": "int8"}, {"activations": "int16"}])
def test_what_onnx_does_not_have_is_refused_in_words(options):
    with pytest.raises(RecipeError, match="runs on a tflite model alone"):
        StaticInt8(**options).check(Format.ONNX)


def test_calibration_needs_data_and_not_more_than_there_are(made, tmp_path):
    with pytest.raises(RecipeError, match="calibrates on data, and none was given"):
        StaticInt8().apply(made[Format.TFLITE], PassContext(tmp_path))
    with pytest.raises(RecipeError, match="asks for 5000 calibration samples, the data has"):
        applied(StaticInt8(samples=5000), made, tmp_path)


# --- between Keras and torch -----------------------------------------------------------------------------------


def test_a_fixed_number_of_samples_is_smaller_and_computes_the_same(made, tmp_path):
    fixed = ExportTflite(batch=1).apply(made[Format.KERAS], PassContext(tmp_path)).model
    assert fixed.signature.batch == 1
    assert len(fixed.payload) < len(made[Format.TFLITE].payload)
    batch = fixed.signature.synthetic(1)
    np.testing.assert_allclose(
        TfliteAdapter().forward(fixed, batch)["output"],
        KerasAdapter().forward(made[Format.KERAS], batch)["output"],
        rtol=1e-4,
        atol=1e-5,
    )


def test_thinner_layers_go_back_to_keras(made, tmp_path):
    """A module with half the units in its middle, as channel pruning leaves it."""
    context = PassContext(tmp_path, data=made["data"], original=lambda: made[Format.KERAS])
    model = ToTorch().apply(made[Format.KERAS], context).model
    module = TorchAdapter().clone(model).payload.module
    kept = torch.arange(0, 16, 2)
    module.middle.weight = torch.nn.Parameter(module.middle.weight[kept])
    module.middle.bias = torch.nn.Parameter(module.middle.bias[kept])
    module.top.weight = torch.nn.Parameter(module.top.weight[:, kept])
    thin = model.with_payload(replace(model.payload, module=module))
    back = ToKeras().apply(thin, context).model
    assert back.payload.get_layer("middle").units == 8
    batch = back.signature.synthetic(3)
    np.testing.assert_allclose(
        KerasAdapter().forward(back, batch)["output"], TorchAdapter().forward(thin, batch)["output"], rtol=1e-4,
        atol=1e-5,
    )  # fmt: skip


def test_onnx_comes_through_torch_and_holds_no_norm(made, tmp_path):
    outcome = ExportOnnx().apply(made[Format.KERAS], PassContext(tmp_path, data=made["data"]))
    kinds = [node.op_type for node in outcome.model.payload.graph.node]
    assert kinds.count("Conv") == 2
    assert not {"BatchNormalization", "Sub", "Mul"} & set(kinds)
    batch = outcome.model.signature.synthetic(5)
    np.testing.assert_allclose(
        OnnxAdapter().forward(outcome.model, batch)["output"],
        KerasAdapter().forward(made[Format.KERAS], batch)["output"],
        rtol=1e-4,
        atol=1e-5,
    )


def test_to_keras_needs_the_model_that_it_leads_back_to(made, tmp_path):
    model = ToTorch().apply(made[Format.KERAS], PassContext(tmp_path)).model
    with pytest.raises(PassError, match="to-keras needs the Keras model that the module came from"):
        ToKeras().apply(model, PassContext(tmp_path))
    with pytest.raises(PassError, match="did not come from there; use export-onnx"):
        ToKeras().apply(model, PassContext(tmp_path, original=lambda: model))


def test_an_export_that_is_off_is_an_error(made, tmp_path):
    with pytest.raises(PassError, match=r"is off the source's by .* of its greatest value"):
        ExportTflite(tolerance=1e-12).apply(made[Format.KERAS], PassContext(tmp_path, data=made["data"]))
