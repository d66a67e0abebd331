"""Quantization in both formats: what is quantized and what not, the numbers in the file, what a processor needs."""

import gc
import tracemalloc
import weakref

import graphs
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.errors import NothingChanged, PassError, RecipeError
from whet.machine import Machine, this_machine
from whet.models.signature import parse_input
from whet.models.source import source_of
from whet.models.torch.adapter import TorchAdapter
from whet.passes.graph.spec import OptimizeGraph
from whet.passes.quantize.spec import DynamicInt8, Half, StaticInt8
from whet.recipe.recipe import Recipe
from whet.types import Format, Range, TraitKind


def machine(*flags):
    return Machine("a test's", flags, 2, 2**30, "Linux x86_64", "3", {})


OLD, NEW = machine("avx2"), machine("avx2", "avx512_vnni")


def calibration(count=64, seed=7, **inputs):
    arrays = inputs or {"x": graphs.floats(count, 1, 8, 8, seed=seed)}
    return Splits({Part.CALIBRATE: ArraySamples(arrays)})


def static(given=None, data=None, machine=NEW, **settings):
    given = graphs.model(graphs.conv_net()) if given is None else given
    return graphs.apply(StaticInt8(**settings), given, data=data or calibration(), machine=machine)


def dynamic(given, machine=NEW, **settings):
    return graphs.apply(DynamicInt8(**settings), given, machine=machine)


def sqnr(want, have):
    want, have = np.float64(want), np.float64(have)
    return float(10 * np.log10((want**2).sum() / max(((want - have) ** 2).sum(), 1e-300)))


def reasons(outcome):
    return {item.layer: item.reason for item in outcome.skipped}


def fused(made, folder):
    """The operators that ONNX Runtime really runs."""
    path = folder / "optimized.onnx"
    graphs.run(made, {"x": graphs.floats(1, 1, 8, 8)}, optimized_model_filepath=str(path))
    return graphs.kinds(onnx.load(path))


BATCH = {"x": graphs.floats(32, 1, 8, 8, seed=9)}
FLOAT = graphs.run(graphs.conv_net(), BATCH)[0]


# --- static ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy"])
def test_static_int8_is_near_the_float_model(calibration, per_channel, activations):
    outcome = static(calibration=calibration, per_channel=per_channel, activations=activations, reduce_range="on")
    assert outcome.changed == ("conv1", "conv2", "fc")
    assert outcome.skipped == ()
    assert outcome.notes["activations"] == activations
    assert sqnr(FLOAT, graphs.forward(outcome.model, BATCH)["y"]) > 20


@pytest.mark.parametrize("activations", ["uint8", "int8"])
def test_the_file_runs_in_integer_kernels(tmp_path, activations):
    kinds = fused(static(activations=activations).model.payload, tmp_path)
    assert kinds.count("QLinearConv") == 2
    assert not {"Conv", "FusedConv", "Gemm", "FusedGemm"} & set(kinds)


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_weight_has_a_scale_for_each_output_channel_or_one(per_channel):
    held = graphs.constants(static(per_channel=per_channel, reduce_range="off").model.payload)
    weight, scale = graphs.constants(graphs.conv_net())["conv2.weight"], held["conv2.weight_scale"]
    most = np.abs(weight).max(axis=(1, 2, 3)) if per_channel else np.abs(weight).max()
    np.testing.assert_allclose(scale, most / 127, rtol=1e-5)
    restored = held["conv2.weight_quantized"] * (scale.reshape(-1, 1, 1, 1) if per_channel else scale)
    assert (np.abs(restored - weight) <= scale.max() / 2 * 1.01).all()


def old(kind="Relu"):
    """The convolution network as it was written for opset 9."""
    made = graphs.conv_net()
    made.opset_import[0].version = 9
    made.graph.node[1].op_type = kind
    return graphs.model(made)


def test_an_old_file_is_brought_to_the_opset_that_has_a_scale_for_each_channel():
    outcome = static(old())
    assert next(item.version for item in outcome.model.payload.opset_import if not item.domain) >= 13
    assert sqnr(FLOAT, graphs.forward(outcome.model, BATCH)["y"]) > 15
    assert graphs.constants(outcome.model.payload)["conv2.weight_scale"].shape == (16,)


def test_an_old_file_that_cannot_be_converted_says_what_to_do():
    with pytest.raises(
        PassError, match=r"needs opset 13; this file is of opset 9 .*set per_channel = false"
    ) as caught:
        static(old("Relux"))
    assert "\n" not in str(caught.value)


def test_the_type_of_activations_is_as_asked():
    for kind, dtype in (("uint8", np.uint8), ("int8", np.int8)):
        held = graphs.constants(static(activations=kind).model.payload)
        assert held["x_zero_point"].dtype == dtype
        assert (held["x_zero_point"] == 0) == (kind == "int8")  # signed activations are symmetric


def input_range(outcome):
    """The least and greatest input that the quantized model can say."""
    held = graphs.constants(outcome.model.payload)
    scale, zero = float(held["x_scale"]), int(held["x_zero_point"])
    return (0 - zero) * scale, (255 - zero) * scale


def test_minmax_keeps_the_extremes():
    x = graphs.floats(64, 1, 8, 8, seed=7)
    low, high = input_range(static(calibration="minmax", activations="uint8"))
    assert (low, high) == pytest.approx((x.min(), x.max()), abs=float(np.ptp(x)) / 255)


@pytest.mark.parametrize("share", [99.9, 90.0])
def test_percentile_gives_up_that_share_of_the_values(share):
    x = graphs.floats(64, 1, 8, 8, seed=7)
    low, high = input_range(static(calibration="percentile", percentile=share, activations="uint8"))
    want = np.percentile(x, [(100 - share) / 2, 100 - (100 - share) / 2])
    assert (low, high) == pytest.approx(want, abs=2 * float(np.ptp(x)) / 255)


def test_entropy_gives_up_an_outlier_that_minmax_keeps():
    x = graphs.floats(64, 1, 8, 8, seed=7)
    x[3, 0, 2, 2] = 100
    data = calibration(x=x)
    assert input_range(static(data=data, calibration="minmax", activations="uint8"))[1] > 99
    assert 1 < input_range(static(data=data, calibration="entropy", activations="uint8"))[1] < 20


@pytest.mark.parametrize(
    ("asked", "on", "bits", "needs"),
    [
        ("auto", OLD, 7, set()),
        ("auto", NEW, 8, {"exact-u8s8"}),
        ("on", NEW, 7, set()),
        ("off", OLD, 8, {"exact-u8s8"}),
    ],
)
@pytest.mark.parametrize("how", ["static uint8", "static int8", "dynamic"])
def test_a_processor_that_saturates_gets_seven_bits_or_is_named(how, asked, on, bits, needs):
    if how == "dynamic":
        outcome = dynamic(graphs.model(graphs.conv_net()), on, reduce_range=asked)
    else:
        outcome = static(machine=on, activations=how.split()[1], reduce_range=asked)
    assert outcome.notes["weight_bits"] == bits
    assert outcome.model.needs == needs
    widest = max(
        np.abs(array.astype(int)).max()
        for name, array in graphs.constants(outcome.model.payload).items()
        if array.dtype == np.int8 and name.endswith("quantized")
    )
    assert widest <= 64 if bits == 7 else widest == 127


@pytest.mark.parametrize("activations", ["uint8", "int8"])
@pytest.mark.parametrize("reduce_range", ["on", "off"])
def test_sums_are_exact_on_this_machine_if_it_can_what_the_file_needs(activations, reduce_range):
    """Fused integer kernels against the same file run unfused, in float: the greatest products there are."""
    made = graphs.conv_net()
    heavy = np.full((16, 2, 3, 3), 1, np.float32)
    made.graph.initializer[2].CopyFrom(onnx.numpy_helper.from_array(heavy, "conv2.weight"))
    x = np.abs(graphs.floats(64, 1, 8, 8))
    outcome = static(
        graphs.model(made),
        calibration(x=x),
        activations=activations,
        reduce_range=reduce_range,
        calibration="minmax",
    )
    level = __import__("onnxruntime").GraphOptimizationLevel.ORT_DISABLE_ALL
    (plain,) = graphs.run(outcome.model.payload, {"x": x}, graph_optimization_level=level)
    (integer,) = graphs.run(outcome.model.payload, {"x": x})
    exact = sqnr(plain, integer) > 30
    assert exact or this_machine().missing(outcome.model.needs)


def test_float_edges_leaves_the_first_and_the_last_layer(tmp_path):
    outcome = static(float_edges=True)
    assert outcome.changed == ("conv2",)
    assert reasons(outcome) == dict.fromkeys(("conv1", "fc"), "left in float by float_edges")
    held = graphs.constants(outcome.model.payload)
    assert {name: held[name].dtype for name in ("conv1.weight", "fc.weight")} == dict.fromkeys(
        ("conv1.weight", "fc.weight"), np.float32
    )
    assert fused(outcome.model.payload, tmp_path).count("QLinearConv") == 1


@pytest.mark.parametrize(
    ("settings", "changed", "reason"),
    [
        ({"exclude": ("conv*",)}, ("fc",), "excluded by the recipe (conv*)"),
        ({"exclude": ("fc", "conv?")}, (), "excluded by the recipe (conv?)"),
        ({"exclude_types": ("Conv",)}, ("fc",), "excluded by the recipe (type Conv)"),
        ({"exclude": ("conv1",), "exclude_types": ("Gemm",)}, ("conv2",), "excluded by the recipe (conv1)"),
    ],
)
@pytest.mark.parametrize("how", ["static", "dynamic"])
def test_what_the_recipe_excludes_stays_float_and_is_told(how, settings, changed, reason):
    settings = {**settings, "allow_unchanged": True}
    model = graphs.model(graphs.conv_net())
    outcome = static(model, **settings) if how == "static" else dynamic(model, convolutions=True, **settings)
    assert outcome.changed == changed
    assert reasons(outcome)["conv1"] == reason
    held = graphs.constants(outcome.model.payload)
    for name in ("conv1", "conv2", "fc"):
        assert (f"{name}.weight" in held) == (name not in changed)


def test_more_samples_than_there_are_is_an_error_and_none_named_is_content():
    with pytest.raises(RecipeError, match=r"asks for 65 calibration samples, the data has 64; .*samples = 64"):
        static(samples=65)
    assert static(samples=0).notes["calibration_samples"] == 64
    assert static(samples=5).notes["calibration_samples"] == 5


def test_no_data_is_an_error_that_names_another_way():
    with pytest.raises(
        RecipeError, match="calibrates on data, and none was given; give --data, or use dynamic-int8"
    ):
        graphs.apply(StaticInt8(), graphs.model(graphs.conv_net()))


def test_a_torch_model_is_told_to_export_first():
    with pytest.raises(RecipeError, match="put an export-onnx step before it"):
        graphs.apply(StaticInt8(), graphs.opened("tiny"))


class Watched:
    """Samples made as they are asked for; counts how many batches are alive."""

    def __init__(self, count):
        self.count, self.alive, self.most, self.seen = count, 0, 0, 0

    def __len__(self):
        return self.count

    def rows(self, indices):
        x = np.random.default_rng(indices[0]).standard_normal((len(indices), 1, 8, 8)).astype(np.float32)
        self.alive, self.seen = self.alive + 1, self.seen + len(indices)
        self.most = max(self.most, self.alive)
        weakref.finalize(x, self.gone)
        return {"x": x}

    def gone(self):
        self.alive -= 1

    def labels(self):
        return None


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_memory_does_not_grow_with_the_samples(method):
    peaks = []
    for count in (64, 1024):
        samples = Watched(count)
        gc.collect()
        tracemalloc.start()
        static(data=Splits({Part.CALIBRATE: samples}), calibration=method, samples=count)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert samples.seen == count * (1 if method == "minmax" else 2)
        assert samples.most <= 3
    assert peaks[1] < 1.2 * peaks[0] + 50_000  # a thousand samples are 250,000 bytes


def test_a_model_with_ranges_of_its_own_is_not_calibrated():
    made = graphs.conv_net()
    names = ["x", "y", *(name for node in made.graph.node for name in node.output)]
    ranges = {name: Range(-3.0, 2.1) for name in names}
    outcome = graphs.apply(StaticInt8(activations="uint8"), graphs.model(made, ranges=ranges), machine=NEW)
    assert outcome.notes["calibration_samples"] == 0
    assert outcome.model.ranges == {}
    assert input_range(outcome) == pytest.approx((-3.0, 2.1), abs=5.1 / 255)


def test_a_model_with_some_ranges_says_which_are_missing():
    model = graphs.model(graphs.conv_net(), ranges={"x": Range(-3.0, 3.0)})
    with pytest.raises(PassError, match="Quantization parameters are not specified for param a") as caught:
        graphs.apply(StaticInt8(), model, machine=NEW)
    assert "\n" not in str(caught.value)


def test_a_value_that_is_not_finite_names_its_tensor():
    made = graphs.proto(
        [graphs.node("Log", "x", "l"), graphs.node("Gemm", "l w", "y")],
        {"x": ("float32", ["N", 4])},
        {"y": ("float32", ["N", 2])},
        {"w": graphs.floats(4, 2)},
    )
    with pytest.raises(PassError, match="tensor 'l' took a NaN or infinite value on a calibration sample"):
        static(graphs.model(made), calibration(x=np.zeros((4, 4), np.float32)))


@pytest.mark.parametrize("count", [3, 10])
def test_a_fixed_batch_is_calibrated_in_lots_of_its_length(count):
    made = graphs.conv_net()
    for value in (made.graph.input[0], made.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    data = graphs.floats(count, 1, 8, 8, seed=3)
    outcome = static(graphs.model(made), calibration(x=data), calibration="minmax", activations="uint8")
    assert input_range(outcome) == pytest.approx((data.min(), data.max()), abs=float(np.ptp(data)) / 255)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("LSTM", "no static INT8 LSTM; dynamic-int8 quantizes it"),
        ("GRU", "no quantized GRU kernel"),
        ("RNN", "no quantized RNN kernel"),
    ],
)
def test_a_model_of_recurrent_layers_alone_says_why_nothing_changed(kind, why):
    data = calibration(x=graphs.floats(20, 4, 6))
    with pytest.raises(NothingChanged, match=why):
        static(graphs.model(graphs.recurrent(kind, layer=False)), data)
    outcome = static(graphs.model(graphs.recurrent(kind)), data)
    assert outcome.changed == ("fc",)
    assert [why in reason for reason in reasons(outcome).values()] == [True]


@pytest.mark.parametrize("request_", [StaticInt8, DynamicInt8])
def test_a_model_that_is_unchanged_by_leave_is_the_very_same(request_):
    model = graphs.model(graphs.two_ways())
    outcome = graphs.apply(
        request_(allow_unchanged=True, exclude=("*",)),
        model,
        data=calibration(left=graphs.floats(9, 4), right=graphs.floats(9, 4)),
    )
    assert outcome.model is model
    assert not outcome.model.has(TraitKind.QUANTIZED)
    assert reasons(outcome) == {"m": "excluded by the recipe (*)"}


# --- dynamic, ONNX --------------------------------------------------------------------------------------------


def test_dynamic_int8_quantizes_an_lstm_and_stays_near():
    model, batch = graphs.model(graphs.recurrent("LSTM", 16, 24)), {"x": graphs.floats(8, 4, 16)}
    outcome = dynamic(model, reduce_range="on")
    assert outcome.changed == ("LSTM_1", "fc")
    assert "DynamicQuantizeLSTM" in graphs.kinds(outcome.model.payload)
    assert "LSTM" not in graphs.kinds(outcome.model.payload)
    assert sqnr(graphs.forward(model, batch)["y"], graphs.forward(outcome.model, batch)["y"]) > 20


@pytest.mark.parametrize("kind", ["GRU", "RNN"])
def test_dynamic_int8_reports_cells_without_a_kernel(kind):
    outcome = dynamic(graphs.model(graphs.recurrent(kind)))
    assert outcome.changed == ("fc",)
    assert reasons(outcome) == {f"{kind}_1": f"ONNX Runtime has no quantized {kind} kernel"}


def test_dynamic_int8_leaves_convolutions_unless_asked():
    model = graphs.model(graphs.conv_net())
    outcome = dynamic(model)
    assert outcome.changed == ("fc",)
    assert reasons(outcome).keys() == {"conv1", "conv2"}
    assert "0.2-0.5 of the float speed; set convolutions = true" in reasons(outcome)["conv1"]
    asked = dynamic(model, convolutions=True, reduce_range="on")
    assert asked.changed == ("conv1", "conv2", "fc")
    assert graphs.kinds(asked.model.payload).count("ConvInteger") == 2
    assert sqnr(FLOAT, graphs.forward(asked.model, BATCH)["y"]) > 20


def test_dynamic_int8_quantizes_the_embedding_of_an_exported_model():
    model = graphs.exported("lstm")
    outcome = dynamic(model, reduce_range="on")
    assert reasons(outcome) == {}
    assert len(outcome.changed) == 3
    batch = model.signature.synthetic(8)
    for name, want in graphs.forward(model, batch).items():
        assert sqnr(want, graphs.forward(outcome.model, batch)[name]) > 20
    floats = [array for array in graphs.constants(outcome.model.payload).values() if array.dtype == np.float32]
    assert max(array.size for array in floats if array.ndim > 1) <= 192  # the biases of the LSTM


@pytest.mark.slow
def test_dynamic_int8_reports_the_gru_of_an_exported_model():
    outcome = dynamic(graphs.exported("gru"))
    assert list(reasons(outcome).values()) == ["ONNX Runtime has no quantized GRU kernel"]


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_noise_that_is_noted_is_that_of_the_file(per_channel):
    outcome = static(per_channel=per_channel)
    held, floats = graphs.constants(outcome.model.payload), graphs.constants(graphs.conv_net())
    signal = noise = 0.0
    for name in ("conv1.weight", "conv2.weight"):
        scale = held[f"{name}_scale"]
        restored = held[f"{name}_quantized"] * (scale.reshape(-1, 1, 1, 1) if per_channel else scale)
        signal += float((np.float64(floats[name]) ** 2).sum())
        noise += float(((floats[name] - np.float64(restored)) ** 2).sum())
    assert outcome.notes["weight_sqnr_db_by_type"]["Conv"] == pytest.approx(10 * np.log10(signal / noise), abs=0.01)


def tied():
    """An embedding (5, 5) whose table is also a Gemm's weight, and a second Gemm's."""
    return graphs.proto(
        [
            graphs.node("Gather", "table.weight ids", "g", axis=0),
            graphs.node("ReduceMean", "g one", "m", keepdims=0),
            graphs.node("Gemm", "m table.weight", "h", transB=1),
            graphs.node("Gemm", "h table.weight", "y", transB=1),
        ],
        {"ids": ("int64", ["N", 3])},
        {"y": ("float32", ["N", 5])},
        {"table.weight": graphs.floats(5, 5), "one": np.array([1])},
    )


@pytest.mark.parametrize("how", ["static", "dynamic"])
def test_a_weight_with_several_readers_of_several_kinds_stays_near(how):
    model, batch = graphs.model(tied()), {"ids": np.arange(15).reshape(5, 3) % 5}
    if how == "dynamic":
        outcome = dynamic(model, reduce_range="on")
    else:
        outcome = static(model, calibration(**batch), reduce_range="on")
    assert len(outcome.changed) == 3
    assert sqnr(graphs.forward(model, batch)["y"], graphs.forward(outcome.model, batch)["y"]) > 20


def test_a_convolution_that_is_applied_twice_keeps_one_weight():
    made = graphs.proto(
        [graphs.node("Conv", "x w.weight", "a"), graphs.node("Conv", "a w.weight", "y")],
        {"x": ("float32", ["N", 2, 8, 8])},
        {"y": ("float32", ["N", 2, 4, 4])},
        {"w.weight": graphs.floats(2, 2, 3, 3)},
    )
    batch = {"x": graphs.floats(8, 2, 8, 8)}
    outcome = static(graphs.model(made), calibration(**batch), reduce_range="on")
    held = [name for name, array in graphs.constants(outcome.model.payload).items() if array.shape == (2, 2, 3, 3)]
    assert held == ["w.weight_quantized"]
    assert sqnr(graphs.run(made, batch)[0], graphs.forward(outcome.model, batch)["y"]) > 20


def test_the_noise_of_a_transposed_weight_is_noted():
    outcome = dynamic(graphs.model(graphs.conv_net()), per_channel=False, reduce_range="on")
    weight = graphs.constants(graphs.conv_net())["fc.weight"]
    held = graphs.constants(outcome.model.payload)
    noise = weight - held["fc.weight_quantized"].T * held["fc.weight_scale"]
    want = 10 * np.log10((np.float64(weight) ** 2).sum() / (np.float64(noise) ** 2).sum())
    assert outcome.notes["weight_sqnr_db_by_type"] == {"Gemm": pytest.approx(want, abs=0.01)}


# --- dynamic, torch -------------------------------------------------------------------------------------------


def test_torch_dynamic_int8_quantizes_a_gru():
    model = graphs.opened("gru")
    outcome = dynamic(model)
    assert set(outcome.changed) == {"cell", "fc"}
    assert outcome.model.has(TraitKind.QUANTIZED)
    batch = model.signature.synthetic(16)
    for name, want in graphs.forward(model, batch).items():
        assert sqnr(want, graphs.forward(outcome.model, batch)[name]) > 20


def test_torch_dynamic_int8_quantizes_a_root_layer():
    outcome = dynamic(graphs.opened("root_linear"))
    assert outcome.changed == ("(root)",)
    held = TorchAdapter().matrices(outcome.model)
    assert [(name, array.dtype) for name, array in held.items()] == [("weight_int8", np.int8)]


def test_torch_dynamic_int8_reports_what_it_cannot():
    outcome = dynamic(graphs.opened("tiny"))
    assert outcome.changed == ("fc",)
    assert reasons(outcome) == dict.fromkeys(("conv1", "conv2"), "torch has no dynamic INT8 convolution")


class Odd(nn.Module):
    """One layer of each kind that has no INT8 form."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.rnn = nn.RNN(8, 8, batch_first=True)
        self.narrow = nn.LSTM(8, 8, proj_size=4, batch_first=True)
        self.own = type("MyLinear", (nn.Linear,), {})(4, 4)
        self.bound = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x, _ = self.attention(x, x, x)
        x, _ = self.narrow(self.rnn(x)[0])
        return self.fc(self.bound(self.own(x[:, -1])))


def test_torch_dynamic_int8_reports_every_layer_that_has_no_int8_form(monkeypatch):
    module = Odd().eval()
    model = TorchAdapter().open(source_of(nn.Linear(2, 2)), None)
    model = model.with_payload(type(model.payload)(module))
    monkeypatch.setattr("whet.passes.quantize.torch._replay", lambda model, edit: model)  # a parametrized one
    outcome = dynamic(model)
    assert outcome.changed == ("fc",)
    told = reasons(outcome)
    assert told["rnn"] == "only LSTM and GRU cells have an INT8 kernel here"
    assert told["narrow"] == "an LSTM with a projection has no INT8 kernel here"
    assert told["own"] == "this MyLinear has no dynamic INT8 form"
    assert "fused projection is a bare parameter" in told["attention"]
    assert "belongs to a MultiheadAttention" in told["attention.out_proj"]
    assert told["bound"].startswith("its weight is derived from others (pruned or parametrized)")


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"exclude": ("f*",)}, "excluded by the recipe (f*)"), ({"exclude_types": ("Linear",)}, "(type Linear)")],
)
def test_torch_dynamic_int8_excludes(settings, reason):
    outcome = dynamic(graphs.opened("gru"), **settings)
    assert outcome.changed == ("cell",)
    assert reason in reasons(outcome)["fc"]


@pytest.mark.parametrize("request_", [Half(), DynamicInt8(), StaticInt8()])
def test_an_integer_model_is_not_quantized_again(request_):
    model = static().model
    with pytest.raises(RecipeError, match="its weights are integers already; keep one quantization a recipe"):
        graphs.apply(request_, model)


# --- half -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["onnx", "torch"])
def test_half_is_near_and_keeps_float32_at_the_edges(format_):
    model = graphs.model(graphs.conv_net()) if format_ == "onnx" else graphs.opened("tiny")
    batch = model.signature.synthetic(16)
    outcome = graphs.apply(Half(), model)
    assert outcome.model.has(TraitKind.HALF)
    assert outcome.notes["weights"] == "float16"
    for name, want in graphs.forward(model, batch).items():
        have = graphs.forward(outcome.model, batch)[name]
        assert have.dtype == np.float32
        assert sqnr(want, have) > 45


def test_half_holds_every_weight_in_two_bytes():
    outcome = graphs.apply(Half(), graphs.model(graphs.conv_net()))
    held = graphs.constants(outcome.model.payload)
    assert set(outcome.changed) == {"conv1.weight", "conv1.bias", "conv2.weight", "fc.weight", "fc.bias"}
    for name, array in graphs.constants(graphs.conv_net()).items():
        assert held[name].dtype == np.float16
        np.testing.assert_array_equal(held[name], array.astype(np.float16))


def test_half_clips_what_float16_cannot_hold_and_says_so():
    made = graphs.conv_net()
    weight = np.array(graphs.constants(made)["fc.weight"])
    weight[0, :2] = [1e6, -1e6]
    made.graph.initializer[3].CopyFrom(onnx.numpy_helper.from_array(weight, "fc.weight"))
    outcome = graphs.apply(Half(), graphs.model(made))
    assert outcome.notes["values_clipped_to_65504"] == 2
    assert np.isfinite(graphs.constants(outcome.model.payload)["fc.weight"]).all()


def test_half_takes_integer_inputs_and_dict_outputs():
    model = graphs.opened("lstm")
    outcome = graphs.apply(Half(), model)
    batch = model.signature.synthetic(8)
    for name, want in graphs.forward(model, batch).items():
        assert sqnr(want, graphs.forward(outcome.model, batch)[name]) > 40


def test_a_module_that_mixes_in_float32_numbers_of_its_own_cannot_be_half():
    class Adds(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(x + torch.ones(4, dtype=torch.float32))

    source = source_of(Adds(), inputs=(parse_input("float32[1,4]"),))
    with pytest.raises(
        PassError, match=r"cannot be run in float16 \(.*\); .*export it and use half in ONNX"
    ) as caught:
        graphs.apply(Half(), TorchAdapter().open(source, None))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("factory", ["tiny", "lstm"])
def test_bfloat16_holds_torchs_own_roundings_and_takes_and_gives_float32(factory):
    model = graphs.opened(factory)
    outcome = graphs.apply(Half(kind="bfloat16"), model)
    before, after = (dict(each.payload.module.named_parameters()) for each in (model, outcome.model))
    assert set(outcome.changed) == set(after)
    for name, value in after.items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, before[name].bfloat16())
    assert outcome.notes["weights"] == "bfloat16"
    batch = model.signature.synthetic(16)
    for name, want in graphs.forward(model, batch).items():
        have = graphs.forward(outcome.model, batch)[name]
        assert have.dtype == np.float32
        assert 25 < sqnr(want, have) < 70


def test_bfloat16_holds_what_float16_cannot():
    model = graphs.opened("root_linear")
    with torch.no_grad():
        model.payload.module.weight[0, 0] = 2.0**20
    outcome = graphs.apply(Half(kind="bfloat16"), model)
    assert outcome.model.payload.module.weight[0, 0].item() == 2.0**20
    assert [value for name, value in outcome.notes.items() if name.startswith("values_clipped")] == [0]


@pytest.mark.parametrize(("flag", "multiplied"), [("avx512_vnni", False), ("amx_bf16", True)])
def test_bfloat16_says_whether_this_processor_multiplies_it(flag, multiplied):
    outcome = graphs.apply(Half(kind="bfloat16"), graphs.opened("root_linear"), machine=machine(flag))
    assert outcome.notes["multiplied_by_this_processor"] is multiplied


def test_bfloat16_is_refused_in_onnx_with_the_reason():
    with pytest.raises(RecipeError, match=r"runs on torch: ONNX Runtime has no bfloat16 kernels on a CPU; take"):
        graphs.apply(Half(kind="bfloat16"), graphs.model(graphs.conv_net()))
    with pytest.raises(RecipeError, match="step 2: half with kind = 'bfloat16' does not run on an onnx model"):
        Recipe.of("a", [{"pass": "export-onnx"}, {"pass": "half", "kind": "bfloat16"}]).check(Format.TORCH)


def made_by_nodes():
    """An LSTM whose weights are put together by other nodes, as torch exports them before anything is folded."""
    made = graphs.recurrent("LSTM")
    for name in ("rnn.w", "rnn.r"):
        tensor = next(each for each in made.graph.initializer if each.name == name)
        array = numpy_helper.to_array(tensor)
        tensor.CopyFrom(numpy_helper.from_array(array[0], f"{name}.flat"))
        made.graph.node.insert(0, graphs.node("Unsqueeze", f"{name}.flat first", name))
    made.graph.initializer.append(numpy_helper.from_array(np.array([0]), "first"))
    return made


def test_a_layer_whose_weights_other_nodes_make_is_reported():
    outcome = graphs.apply(DynamicInt8(), graphs.model(made_by_nodes()))
    (left,) = outcome.skipped
    assert "fold them with an optimize-graph step before this one" in left.reason
    folded = graphs.apply(OptimizeGraph(), graphs.model(made_by_nodes())).model
    assert not graphs.apply(DynamicInt8(), folded).skipped
