"""Bias correction: the means of channels are what they were, level by level, in whatever holds the bias."""

import graphs
import numpy as np
import onnx
import pytest

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.errors import RecipeError
from whet.passes.pack.spec import Pack
from whet.passes.quantize import onnx_graph
from whet.passes.quantize.spec import Equalize, StaticInt8
from whet.recipe.presets import preset
from whet.types import Format

X = graphs.floats(64, 3, 8, 8, seed=7) + 2  # of a mean, which weights rounded to one side shift
DATA = Splits({Part.CALIBRATE: ArraySamples({"x": X})})


def depthwise(channels=8):
    """A convolution, a depthwise one without a bias whose few weights round to one side, a Gemm."""
    return graphs.proto(
        [
            graphs.node("Conv", "x first.weight first.bias", "a", pads=[1, 1, 1, 1]),
            graphs.node("Relu", "a", "b"),
            graphs.node("Conv", "b depth.weight", "c", pads=[1, 1, 1, 1], group=channels),
            graphs.node("LeakyRelu", "c", "d", alpha=0.1),
            graphs.node("GlobalAveragePool", "d", "e"),
            graphs.node("Flatten", "e", "f"),
            graphs.node("Gemm", "f fc.weight fc.bias", "y", transB=1),
        ],
        {"x": ("float32", ["N", 3, 8, 8])},
        {"y": ("float32", ["N", 3])},
        {
            "first.weight": graphs.floats(channels, 3, 3, 3, seed=1),
            "first.bias": graphs.floats(channels, seed=2),
            "depth.weight": np.abs(graphs.floats(channels, 1, 3, 3, seed=3)),
            "fc.weight": graphs.floats(3, channels, seed=4),
            "fc.bias": graphs.floats(3, seed=5),
        },
    )


def static(given, data=DATA, **settings):
    return graphs.apply(StaticInt8(calibration="minmax", **settings), given, data=data)


def means(made, name, axis=1, batch=X):
    """The mean of each channel that a node gives, in float64."""
    copy = onnx_graph.named(made)
    (output,) = [node.output[0] for node in copy.graph.node if node.name == name]
    del copy.graph.output[:]
    copy.graph.output.append(onnx.ValueInfoProto(name=output))
    found = np.moveaxis(np.float64(graphs.run(copy, {"x": batch})[0]), axis, -1)
    return found.reshape(-1, found.shape[-1]).mean(axis=0)


def error(given, outcome, batch=X):
    want, have = (np.float64(graphs.forward(each, {"x": batch})["y"]) for each in (given, outcome.model))
    return float(((have - want) ** 2).sum())


def test_by_numpy():
    """A convolution's integers move by what the mean of NumPy's own convolution moved by, in their units."""
    given = graphs.model(depthwise())
    plain, corrected = (graphs.constants(static(given, bias_correction=on).model.payload) for on in (False, True))
    before = graphs.constants(given.payload)
    scale, zero = plain["x_scale"], plain["x_zero_point"]
    x = (np.clip(np.rint(X / scale) + zero, 0, 255) - float(zero)) * scale
    weight = plain["first.weight_quantized"] * np.float64(plain["first.weight_scale"]).reshape(-1, 1, 1, 1)
    unit = np.float64(plain["first.bias_quantized_scale"])
    want = convolved(X, before["first.weight"]) + before["first.bias"]
    have = convolved(x, weight) + plain["first.bias_quantized"] * unit
    moved = corrected["first.bias_quantized"] - plain["first.bias_quantized"]
    assert np.abs(moved).max() > 10
    assert np.abs(moved - (want - have) / unit).max() <= 1


def convolved(x, weight):
    """The mean over samples and positions of each channel of a padded 3 x 3 convolution."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3))
    return np.einsum("nchwij,ocij->nohw", np.float64(windows), np.float64(weight)).mean(axis=(0, 2, 3))


@pytest.mark.parametrize("bits", [8, 3])
def test_every_layer_gives_the_mean_that_it_gave(bits):
    given = graphs.model(depthwise())
    outcomes = [static(given, weight_bits=bits, bias_correction=on) for on in (False, True)]
    assert outcomes[1].notes["biases_corrected"] == 3
    assert "biases_left" not in outcomes[1].notes
    for node in ("Conv_0", "Conv_2", "Gemm_6"):
        want = means(given.payload, node)
        shifts = [np.abs(means(each.model.payload, node) - want).max() for each in outcomes]
        assert shifts[1] < 0.1 * shifts[0]
    fresh = graphs.floats(64, 3, 8, 8, seed=8) + 2
    assert error(given, outcomes[1], fresh) < error(given, outcomes[0], fresh)


def test_layers_that_share_a_bias_get_one_each():
    made = depthwise()
    made.graph.node[2].input.append("first.bias")
    given = graphs.model(made)
    outcome = static(given, bias_correction=True)
    for node in ("Conv_0", "Conv_2"):
        np.testing.assert_allclose(means(outcome.model.payload, node), means(given.payload, node), atol=2e-3)


def tokens():
    """(N, 5, 6): a MatMul with its Add, another without, a Gemm that scales its bias, on the mean."""
    return graphs.proto(
        [
            graphs.node("MatMul", "x one.weight", "a"),
            graphs.node("Add", "one.bias a", "b"),
            graphs.node("Relu", "b", "c"),
            graphs.node("MatMul", "c two.weight", "d"),
            graphs.node("ReduceMean", "d axes", "e", keepdims=0),
            graphs.node("Gemm", "e three.weight three.bias", "f", beta=0.5),
            graphs.node("Gemm", "f four.weight", "y"),
        ],
        {"x": ("float32", ["N", 5, 6])},
        {"y": ("float32", ["N", 3])},
        {
            "one.weight": np.abs(graphs.floats(6, 8, seed=1)),
            "one.bias": graphs.floats(8, seed=2),
            "two.weight": graphs.floats(8, 4, seed=3),
            "axes": np.array([1]),
            "three.weight": graphs.floats(4, 5, seed=4),
            "three.bias": graphs.floats(5, seed=5),
            "four.weight": graphs.floats(5, 3, seed=6),
        },
    )


def test_a_bias_is_where_the_operator_has_it_and_what_has_none_is_told():
    given, x = graphs.model(tokens()), graphs.floats(64, 5, 6, seed=7) + 1
    data = Splits({Part.CALIBRATE: ArraySamples({"x": x})})
    outcomes = [static(given, data, weight_bits=3, bias_correction=on) for on in (False, True)]
    assert outcomes[1].notes["biases_corrected"] == 2
    left = outcomes[1].notes["biases_left"]
    assert left == {
        "two": "a MatMul has no bias, and no Add alone follows",
        "three": "its bias is multiplied by a beta",
    }
    for node, axis in (("Add_1", -1), ("Gemm_6", 1)):
        want = means(given.payload, node, axis, x)
        shifts = [np.abs(means(each.model.payload, node, axis, x) - want).max() for each in outcomes]
        assert shifts[1] < 0.5 * shifts[0]


def test_fewer_layers_are_given_back_of_corrected_ones():
    given = graphs.model(depthwise())
    spread = ((outputs := np.float64(graphs.forward(given, {"x": X})["y"])) - outputs.mean(0)) ** 2
    limit = 1.01 * error(given, static(given, weight_bits=4, bias_correction=True)) / spread.sum()
    plain, corrected = (static(given, weight_bits=4, max_error=limit, bias_correction=on) for on in (False, True))
    assert plain.notes["given_back"]
    assert corrected.notes["given_back"] == []
    assert corrected.notes["output_error"] == pytest.approx(error(given, corrected) / spread.sum(), rel=1e-6)


def test_what_is_given_back_is_corrected_as_it_ships():
    given = graphs.model(depthwise())
    outcome = static(given, weight_bits=3, max_error=1e-3, bias_correction=True)
    assert outcome.notes["given_back"]
    spread = ((outputs := np.float64(graphs.forward(given, {"x": X})["y"])) - outputs.mean(0)) ** 2
    assert outcome.notes["output_error"] == pytest.approx(error(given, outcome) / spread.sum(), rel=1e-6)
    for node in ("Conv_0", "Conv_2", "Gemm_6"):
        np.testing.assert_allclose(means(outcome.model.payload, node), means(given.payload, node), atol=2e-3)


def test_after_equalize_packed_and_again():
    """Packed files give the same bits, and a second time makes the same file."""
    given = graphs.apply(Equalize(), graphs.model(depthwise(64)), data=DATA).model
    outcomes = [static(given, weight_bits=4, bias_correction=on) for on in (True, True, False)]
    assert error(given, outcomes[0]) < error(given, outcomes[2])
    first, second = (each.model.payload.SerializeToString(deterministic=True) for each in outcomes[:2])
    assert first == second
    packed = graphs.apply(Pack(), outcomes[0].model).model
    np.testing.assert_array_equal(*(graphs.forward(each, {"x": X})["y"] for each in (outcomes[0].model, packed)))


def test_it_looks_at_data():
    with pytest.raises(RecipeError, match="none was given"):
        graphs.apply(StaticInt8(bias_correction=True), graphs.model(depthwise()))


def test_the_preset_for_depthwise_networks():
    """It keeps its limit where plain static INT8 does not, and tries no layer alone where that is not needed."""
    uneven = depthwise()
    for tensor in uneven.graph.initializer:
        if tensor.name in ("first.weight", "first.bias"):
            array = onnx.numpy_helper.to_array(tensor).copy()
            array[0] *= 300
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    plain = {}
    for name, given in (("even", graphs.model(depthwise())), ("uneven", graphs.model(uneven))):
        state = given
        for step in preset("static-int8-mixed", Format.ONNX).steps[1:-1]:
            outcome = graphs.apply(step, state, data=DATA)
            state = outcome.model
        want = np.float64(graphs.forward(given, {"x": X})["y"])
        spread = ((want - want.mean(0)) ** 2).sum()
        assert error(given, outcome) / spread <= 0.003
        plain[name] = error(given, static(given)) / spread
        assert outcome.notes["given_back"] == []
        assert outcome.notes["sensitivity"] == {}
    assert plain["uneven"] > 0.003
