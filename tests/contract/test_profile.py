"""Profiles: every layer is there, counted as by hand, and the times add up."""

import graphs
import numpy as np
import pytest
import torch
from torch import nn

from whet.errors import RuntimeFailure, SignatureError
from whet.machine import this_machine
from whet.models.model import Model
from whet.models.signature import parse_input
from whet.models.source import source_of
from whet.models.torch.adapter import TorchAdapter
from whet.passes.graph.spec import CleanGraph
from whet.passes.quantize.spec import DynamicInt8, StaticInt8
from whet.profile.profile import profile
from whet.types import Format, Range


def wide(count=32):
    """A convolution network that is worth timing."""
    made = graphs.proto(
        [
            graphs.node("Conv", "x first.weight first.bias", "a", pads=[1, 1, 1, 1]),
            graphs.node("Relu", "a", "b"),
            graphs.node("Conv", "b second.weight second.bias", "c", pads=[1, 1, 1, 1], strides=[2, 2]),
            graphs.node("Relu", "c", "d"),
            graphs.node("Flatten", "d", "e"),
            graphs.node("Gemm", "e fc.weight fc.bias", "y", transB=1),
        ],
        {"x": ("float32", ["N", 3, 32, 32])},
        {"y": ("float32", ["N", 10])},
        {
            "first.weight": graphs.floats(count, 3, 3, 3, seed=1),
            "first.bias": graphs.floats(count, seed=2),
            "second.weight": graphs.floats(count, count, 3, 3, seed=3),
            "second.bias": graphs.floats(count, seed=4),
            "fc.weight": graphs.floats(10, count * 256, seed=5, scale=0.01),
            "fc.bias": graphs.floats(10, seed=6),
        },
    )
    return graphs.model(made)


COUNTS = {
    "first": (32 * 27 + 32, 32 * 32 * 32 * 27),
    "second": (32 * 288 + 32, 16 * 16 * 32 * 288),
    "fc": (10 * 8192 + 10, 81920),
}


def int8():
    """The same in QDQ form, with ranges that need no calibration."""
    model = wide()
    names = ["x", *(name for node in model.payload.graph.node for name in node.output)]
    brings = model.with_payload(model.payload, ranges={name: Range(-5, 5) for name in names})
    return graphs.apply(StaticInt8(), brings).model


def torch_model():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8192, 10),
    )
    return TorchAdapter().open(source_of(module, inputs=(parse_input("float32[1,3,32,32]"),)), None)


def keras_model():
    keras = pytest.importorskip("keras")
    from whet.models.keras.adapter import KerasAdapter  # chooses the backend

    second = keras.layers.Conv2D(32, 3, 2, "same", activation="relu", name="second")
    inner = keras.Sequential([keras.Input((32, 32, 32)), second], name="inner")
    layers = [
        keras.Input((32, 32, 3)),
        keras.layers.Conv2D(32, 3, padding="same", activation="relu", name="first"),
        inner,
        keras.layers.Flatten(),
        keras.layers.Dense(10, name="fc"),
    ]
    return KerasAdapter().open(source_of(keras.Sequential(layers)), None)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (wide, ("first", "second", "fc")),
        (int8, ("first", "second", "fc")),
        (torch_model, ("0", "2", "5")),
        (keras_model, ("first", "inner.second", "fc")),
    ],
)
def test_every_weighted_layer_is_counted_and_timed_and_the_times_add_up(make, names):
    model = make()
    found = profile(model, model.signature.synthetic(8))
    rows = {row.name: row for row in found.layers}
    assert [row.name for row in found.layers if row.parameters] == list(names)
    for name, (parameters, macs) in zip(names, COUNTS.values(), strict=True):
        assert (rows[name].parameters, rows[name].macs) == (parameters, macs)
        assert rows[name].time_ms > 0
    assert found.parameters == sum(parameters for parameters, _ in COUNTS.values())
    assert found.macs == sum(macs for _, macs in COUNTS.values())
    assert rows[names[1]].time_ms > rows[names[2]].time_ms  # with thirty times the MACs
    spent = sum(row.time_ms or 0 for row in found.layers)
    assert 0.5 * found.time_ms < spent < 1.05 * found.time_ms


def test_the_conditions_are_told():
    model = wide()
    found = profile(model, model.signature.synthetic(3), threads=2)
    assert (found.format, found.signature) == (Format.ONNX, model.signature)
    assert (found.batch_size, found.threads, found.machine) == (3, 2, this_machine())
    assert found.bytes == 4 * found.parameters


def test_bytes_follow_the_type_of_the_weights():
    by_name = {row.name: row for row in profile(int8(), wide().signature.synthetic(1)).layers}
    assert by_name["second"].bytes == 32 * 288 + 4 * 32  # a byte a weight, four a bias


def test_activations_that_the_runtime_fuses_have_no_row():
    model = wide()
    kinds = [row.kind for row in profile(model, model.signature.synthetic(2)).layers]
    assert "Relu" not in kinds
    assert "FusedConv" not in kinds


def test_what_the_runtime_puts_in_stands_in_parentheses():
    rows = profile(wide(), wide().signature.synthetic(2)).layers
    own = [row for row in rows if row.name.startswith("(")]
    assert own
    assert all(row.parameters == row.macs == 0 for row in own)


def test_a_cleaned_graph_without_names_is_timed():
    model = graphs.apply(CleanGraph(), wide()).model
    rows = [row for row in profile(model, model.signature.synthetic(2)).layers if row.parameters]
    assert [(row.name, row.kind) for row in rows] == [("Conv_0", "Conv"), ("Conv_2", "Conv"), ("Gemm_5", "Gemm")]
    assert all(row.time_ms > 0 for row in rows)


def test_dynamic_int8_is_timed_under_the_names_of_its_layers():
    model = graphs.apply(DynamicInt8(convolutions=True), wide()).model
    rows = {row.name: row for row in profile(model, model.signature.synthetic(2)).layers}
    assert {name: rows[name].kind for name in COUNTS} == {
        "first": "ConvInteger",
        "second": "ConvInteger",
        "fc": "MatMulInteger",
    }
    assert all(rows[name].time_ms > 0 and rows[name].macs == COUNTS[name][1] for name in COUNTS)


def test_what_stands_in_a_branch_is_the_time_of_the_if():
    model = graphs.model(graphs.branches())
    batch = {"input_of_the_graph": np.ones((4, 4), np.float32)}
    rows = {row.name: row for row in profile(model, batch).layers}
    assert rows["If_2"].time_ms > 0
    assert not {"(Mul)", "(Add)", "(Sub)", "Mul", "Add"} & set(rows)


@pytest.mark.parametrize("factory", ["lstm", "gru"])
def test_a_recurrent_torch_model_is_timed_by_module(factory):
    model = graphs.opened(factory)
    rows = {row.name: row for row in profile(model, model.signature.synthetic(4)).layers}
    assert {"embed", "cell", "fc"} <= set(rows)
    assert rows["cell"].time_ms == max(row.time_ms for row in rows.values())


def test_a_module_that_is_called_twice_has_one_row_with_both_times():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.once, self.twice = nn.Linear(256, 256), nn.Linear(256, 256)

        def forward(self, x):
            return self.twice(self.twice(self.once(x)))

    model = TorchAdapter().open(source_of(Twice(), inputs=(parse_input("float32[1,256]"),)), None)
    rows = {row.name: row for row in profile(model, model.signature.synthetic(64)).layers}
    assert rows["twice"].macs == 2 * rows["once"].macs == 2 * 256 * 256
    assert rows["twice"].parameters == rows["once"].parameters
    assert rows["twice"].time_ms > 1.2 * rows["once"].time_ms


def test_arithmetic_outside_any_module_is_told_apart():
    class Heavy(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x):
            x = self.fc(x)
            return x + (torch.ones(300, 300) @ torch.ones(300, 300)).sum() * 0

    model = TorchAdapter().open(source_of(Heavy(), inputs=(parse_input("float32[1,8]"),)), None)
    rows = {row.name: row for row in profile(model, model.signature.synthetic(1)).layers}
    assert rows["(outside modules)"].time_ms > rows["fc"].time_ms


def test_a_keras_layer_that_is_called_twice_has_both_times_and_nothing_is_left_switched_off():
    keras = pytest.importorskip("keras")
    import tensorflow as tf

    from whet.models.keras.adapter import KerasAdapter

    before = tf.config.optimizer.get_experimental_options()
    given = keras.Input((64,), name="row")
    twice, once = keras.layers.Dense(64, name="twice"), keras.layers.Dense(64, name="once")
    model = keras.Model(given, once(twice(twice(given))))
    opened = KerasAdapter().open(source_of(model), None)
    found = profile(opened, {"row": graphs.floats(4096, 64)})
    rows = {row.name: row for row in found.layers}
    assert set(rows) == {"twice", "once"}
    assert rows["twice"].time_ms > 1.2 * rows["once"].time_ms
    assert rows["twice"].time_ms + rows["once"].time_ms == pytest.approx(found.time_ms)
    assert tf.config.optimizer.get_experimental_options() in (before, {**before, "disable_meta_optimizer": False})


def test_hooks_are_gone_afterwards():
    model = graphs.opened("tiny")
    profile(model, model.signature.synthetic(1))
    for part in model.payload.module.modules():
        assert not part._forward_hooks
        assert not part._forward_pre_hooks


@pytest.mark.parametrize("make", [wide, torch_model])
def test_data_of_one_array_fits_whatever_its_name(make):
    assert profile(make(), {"pictures": graphs.floats(2, 3, 32, 32)}).batch_size == 2
    with pytest.raises(SignatureError, match="does not take the data's shape"):
        profile(make(), {"pictures": graphs.floats(2, 3, 16, 16)})


def test_a_model_that_cannot_be_run_is_one_clear_line(capfd):
    made = graphs.proto(
        [graphs.node("Reshape", "x shape", "y")],
        {"x": ("float32", ["N", 4])},
        {"y": ("float32", ["N", 8])},
        {"shape": np.array([2, 8])},
    )
    model = graphs.model(made)
    with pytest.raises(RuntimeFailure, match=r"cannot be run to be timed \(.*\); give data, or say what") as caught:
        profile(model, model.signature.synthetic(3))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_macs_of_a_model_without_a_sample_are_unknown():
    model = TorchAdapter().open(source_of(nn.Linear(4, 2)), None)
    (layer,) = TorchAdapter().layers(model)
    assert (layer.parameters, layer.macs) == (10, None)
    assert isinstance(model, Model)
