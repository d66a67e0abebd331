"""Equalization: the same outputs, channels alike, and INT8 that errs less where they were not."""

import graphs
import numpy as np
import pytest
from onnx import numpy_helper

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.errors import NothingChanged, RecipeError
from whet.passes.quantize.spec import Equalize, StaticInt8

X = graphs.floats(64, 3, 8, 8, seed=7)
DATA = Splits({Part.CALIBRATE: ArraySamples({"x": X})})


def uneven():
    """A convolution of channels a hundred times as great as others, a depthwise one, a whole one, one in groups."""
    sizes = np.geomspace(0.1, 10, 8).astype(np.float32)
    return graphs.proto(
        [
            graphs.node("Conv", "x first.weight first.bias", "a", pads=[1, 1, 1, 1]),
            graphs.node("LeakyRelu", "a", "b", alpha=0.1),
            graphs.node("Conv", "b depth.weight depth.bias", "c", pads=[1, 1, 1, 1], group=8),
            graphs.node("Relu", "c", "d"),
            graphs.node("Conv", "d point.weight", "e"),
            graphs.node("Conv", "e pair.weight", "f", group=2),
            graphs.node("GlobalAveragePool", "f", "g"),
            graphs.node("Flatten", "g", "h"),
            graphs.node("Gemm", "h fc.weight fc.bias", "y", transB=1),
        ],
        {"x": ("float32", ["N", 3, 8, 8])},
        {"y": ("float32", ["N", 3])},
        {
            "first.weight": graphs.floats(8, 3, 3, 3, seed=1) * sizes[:, None, None, None],
            "first.bias": graphs.floats(8, seed=2) * sizes,
            "depth.weight": graphs.floats(8, 1, 3, 3, seed=3) / sizes[:, None, None, None],
            "depth.bias": graphs.floats(8, seed=4),
            "point.weight": graphs.floats(8, 8, 1, 1, seed=5),
            "pair.weight": graphs.floats(8, 4, 1, 1, seed=6),
            "fc.weight": graphs.floats(3, 8, seed=7),
            "fc.bias": graphs.floats(3, seed=8),
        },
    )


def equalized(given=None, **settings):
    return graphs.apply(Equalize(**settings), given or graphs.model(uneven()), data=DATA)


def outputs(given):
    return np.float64(graphs.forward(given, {"x": X})["y"])


def test_the_float_model_computes_what_it_did():
    given = graphs.model(uneven())
    outcome = equalized(given)
    np.testing.assert_allclose(outputs(outcome.model), outputs(given), rtol=1e-4, atol=1e-4)
    assert outcome.changed == ("first", "depth")
    assert {item.layer: item.reason for item in outcome.skipped} == {
        "point": "a convolution in groups follows",
        "pair": "a Flatten follows, not a convolution of constant weights",
    }


def test_channels_before_a_depthwise_convolution_become_alike():
    """By NumPy's own convolution of the new weights, the greatest magnitudes a channel are equal."""
    outcome = equalized()
    found = graphs.constants(outcome.model.payload)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(X, ((0, 0), (0, 0), (1, 1), (1, 1))), (3, 3), (2, 3))
    given = np.einsum("nchwij,ocij->nohw", windows, found["first.weight"])
    given += found["first.bias"][:, None, None]
    ranges = np.abs(given).max(axis=(2, 3)).mean(axis=0)
    np.testing.assert_allclose(ranges, ranges[0], rtol=1e-3)
    assert outcome.notes["median_spread_after"] < outcome.notes["median_spread_before"]


def test_int8_errs_less():
    given = graphs.model(uneven())
    want, errors = outputs(given), []
    for each in (given, equalized(given).model):
        int8 = graphs.apply(StaticInt8(calibration="minmax"), each, data=DATA).model
        errors.append(((outputs(int8) - want) ** 2).sum())
    assert errors[1] < 0.5 * errors[0]


def test_what_others_read_too_is_left_alone():
    made = uneven()
    made.graph.output.extend([graphs.helper.make_tensor_value_info("b", 1, ["N", 8, 8, 8])])
    shared = graphs.apply(Equalize(), graphs.model(made), data=DATA)
    assert {item.layer: item.reason for item in shared.skipped}["first"].startswith("what it gives is read by more")
    with pytest.raises(NothingChanged):
        equalized(exclude=("*",))
    with pytest.raises(RecipeError, match="none were given"):
        graphs.apply(Equalize(), graphs.model(uneven()))


def test_a_dead_channel_stays_finite():
    made = uneven()
    for tensor in made.graph.initializer:
        if tensor.name.startswith("first"):
            array = numpy_helper.to_array(tensor).copy()
            array[3] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    outcome = equalized(graphs.model(made))
    assert all(np.isfinite(each).all() for each in graphs.constants(outcome.model.payload).values())
    np.testing.assert_allclose(outputs(outcome.model), outputs(graphs.model(made)), rtol=1e-4, atol=1e-4)
