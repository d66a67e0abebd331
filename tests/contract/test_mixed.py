"""Mixed precision: as few layers are given back as the outputs need, the most sensitive first."""

from dataclasses import replace

import graphs
import numpy as np
import pytest
from onnx import numpy_helper

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.errors import RecipeError
from whet.machine import this_machine
from whet.passes.quantize.spec import StaticInt8

X = graphs.floats(64, 1, 8, 8, seed=7)
DATA = Splits({Part.CALIBRATE: ArraySamples({"x": X})})
# Which layer errs most depends on the bits that a processor multiplies: seven on all but those with VNNI.
OLD = replace(this_machine(), flags=("avx2",))


def uneven():
    """conv_net with great weights in the second layer, on channels that are always zero: 3 bits lose the others."""
    made = graphs.conv_net()
    for tensor in made.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if tensor.name in ("conv1.weight", "conv1.bias"):
            array[0::2] = 0
        elif tensor.name == "conv2.weight":
            array[:, 0] *= 100
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return graphs.model(made)


def static(given, **settings):
    return graphs.apply(StaticInt8(calibration="minmax", **settings), given, data=DATA, machine=OLD)


def error(given, outcome):
    """Squared error of the outputs over their variance, as NumPy has it."""
    want, have = (np.float64(graphs.forward(each, {"x": X})["y"]) for each in (given, outcome.model))
    return float(((have - want) ** 2).sum() / ((want - want.mean(0)) ** 2).sum())


def test_as_few_layers_as_are_needed_are_given_back():
    given = graphs.model(graphs.conv_net())
    limit = 1.001 * error(given, static(given, exclude=("conv1",)))
    outcome = static(given, max_error=limit)
    assert error(given, static(given)) > limit
    assert outcome.notes["given_back"] == [next(iter(outcome.notes["sensitivity"]))] == ["conv1"]
    assert [item.layer for item in outcome.skipped] == ["conv1"]
    assert "alone it errs by" in outcome.skipped[0].reason
    assert outcome.notes["output_error"] == pytest.approx(error(given, outcome), rel=1e-6)


def test_of_few_bits_layers_are_given_back_to_seven():
    given = graphs.model(graphs.conv_net())
    plain = error(given, static(given, weight_bits=3))
    outcome = static(given, weight_bits=3, max_error=plain / 3)
    notes = outcome.notes
    assert 0 < len(notes["given_back"]) < 3
    assert not outcome.skipped
    assert notes["output_error"] == pytest.approx(error(given, outcome), rel=1e-6)
    assert notes["output_error"] <= plain / 3
    assert list(notes["sensitivity"].values()) == sorted(notes["sensitivity"].values(), reverse=True)
    assert notes["given_back"] == list(notes["sensitivity"])[: len(notes["given_back"])]
    for name, integers in graphs.constants(outcome.model.payload).items():
        if integers.dtype == np.int8 and integers.ndim > 1:
            few = not any(name.startswith(layer) for layer in notes["given_back"])
            assert (np.abs(integers).max() <= 3) == few


def test_what_is_good_enough_is_left_as_it_is():
    given = graphs.model(graphs.conv_net())
    outcome = static(given, max_error=0.5)
    assert outcome.notes["given_back"] == []
    assert not outcome.skipped


def test_the_most_sensitive_layer_is_found():
    given = uneven()
    outcome = static(given, weight_bits=3, max_error=1e-9)
    assert next(iter(outcome.notes["sensitivity"])) == "conv2"
    assert outcome.notes["max_error"].startswith("not reached")


def test_it_is_measured_on_data():
    given = graphs.model(graphs.conv_net())
    with pytest.raises(RecipeError, match="none was given"):
        graphs.apply(StaticInt8(max_error=0.1), given)


def test_an_activation_goes_with_its_layer():
    """A LeakyRelu after a layer that is given back is float too: nothing is rounded between."""
    made = graphs.conv_net()
    (first, *_) = [node for node in made.graph.node if node.op_type == "Relu"]
    first.op_type = "LeakyRelu"
    given = graphs.model(made)
    limit = 1.001 * error(given, static(given, exclude=("conv1",)))
    outcome = static(given, max_error=min(limit, 0.99 * error(given, static(given))))
    assert "conv1" in outcome.notes["given_back"]
    rounded = {node.input[0] for node in outcome.model.payload.graph.node if node.op_type == "QuantizeLinear"}
    assert "a" not in rounded
    assert "b" in rounded or "conv2" in outcome.notes["given_back"]
