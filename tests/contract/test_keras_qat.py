"""Quantization-aware training of Keras models, and what prune, cluster and qat keep of each other in the file."""

from dataclasses import replace

import numpy as np
import pytest

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.errors import DataError, RecipeError
from whet.machine import this_machine
from whet.models.keras.adapter import KerasAdapter
from whet.models.source import source_of
from whet.models.tflite import constants
from whet.models.tflite.adapter import TfliteAdapter
from whet.models.tflite.flatbuffer import parse
from whet.passes.base import PassContext
from whet.passes.cluster.spec import Cluster
from whet.passes.export.spec import ExportTflite
from whet.passes.prune.spec import MagnitudePrune
from whet.passes.quantize.keras_fake import FakeActivations, Rounded
from whet.passes.quantize.spec import StaticInt8
from whet.passes.quantize.trained import Qat
from whet.recipe.recipe import Recipe
from whet.train.spec import Recovery
from whet.types import Format, TraitKind

import keras  # after the adapter, which chooses its backend  # isort: skip
import tensorflow as tf

L = keras.layers
MACHINE = replace(this_machine(), cores=1)
QUICK = Recovery(epochs=1, learning_rate=3e-3, batch_size=50)
KERNELS = {
    "CONV_2D": (3, 0),
    "DEPTHWISE_CONV_2D": (2, 3),
    "FULLY_CONNECTED": (1, 0),
}  # channels in Keras, in TFLite


def pictures(count=120, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 8, 8, 2)).astype(np.float32)


def net():
    """(N, 8, 8, 2) to (N, 3): norms to fold in, of other signs and sizes by channel; by depth; a sum."""
    keras.utils.set_random_seed(0)
    picture = keras.Input((8, 8, 2), name="picture")
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(picture)
    x = L.ReLU()(L.BatchNormalization(momentum=0.5, name="norm")(x))
    y = L.DepthwiseConv2D(3, padding="same", name="depth")(x)
    y = L.BatchNormalization(momentum=0.5, name="norm2")(y)
    z = L.Conv2D(16, 1, activation="relu", name="point")(L.Add()([x, y]))
    model = keras.Model(picture, L.Dense(3, name="top")(L.GlobalAveragePooling2D()(z)))
    for name in ("norm", "norm2"):
        model.get_layer(name).gamma.assign(np.linspace(-0.5, 2, 8))
    for _ in range(8):
        model(pictures(), training=True)
    return model


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    path = tmp_path_factory.mktemp("given") / "net.keras"
    net().save(path)
    return KerasAdapter().open(source_of(path), None)


def context(folder, model):
    samples = ArraySamples({"picture": pictures()})
    data = Splits(dict.fromkeys((Part.TRAIN, Part.CALIBRATE), samples))
    return PassContext(folder, data=data, machine=MACHINE, original=lambda: model)


def rows(array, axis):
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def integers_of(lite):
    """Return the kind, the type and the integers (channels, numbers) of each kernel of a file, in its order."""
    graph = parse(lite.payload)[0]
    found = []
    for one in graph.operators:
        if one.kind in KERNELS:
            stored = constants.stored(graph.tensors[one.inputs[1]]).astype(np.int64)
            found.append((one.kind, graph.tensors[one.inputs[1]].type, rows(stored, KERNELS[one.kind][1])))
    return found


def in_keras(model):
    """Return the kernels of a model (channels, numbers) in the order of the file's operators."""
    weights = KerasAdapter().weights(model)
    found = []
    for name, kind in (("conv", "CONV_2D"), ("depth", "DEPTHWISE_CONV_2D"), ("point", "CONV_2D"),
                       ("top", "FULLY_CONNECTED")):  # fmt: skip
        found.append(rows(weights[f"{name}.kernel"], KERNELS[kind][0]))
    return found


STEPS = {
    "prune": lambda: MagnitudePrune(sparsity=0.5),
    "cluster": lambda: Cluster(clusters=6),
    "qat": lambda: Qat(weight_bits=4, edge_bits=4, recovery=QUICK),
}


@pytest.mark.parametrize(
    "names",
    [
        ("prune", "cluster", "qat"),
        pytest.param(("prune", "cluster"), marks=pytest.mark.slow),
        pytest.param(("prune", "qat"), marks=pytest.mark.slow),
        pytest.param(("cluster", "qat"), marks=pytest.mark.slow),
    ],
    ids="-".join,
)
def test_what_each_step_made_is_in_the_file(given, tmp_path, names):
    """Zeros are zero, a channel has at most so many integers, and they are the very ones that were trained."""
    model, where = given, context(tmp_path, given)
    for name in names:
        model = STEPS[name]().apply(model, where).model
    lite = ExportTflite().apply(model, where).model
    bits = 4 if "qat" in names else 8
    file = StaticInt8(weight_bits=bits, samples=50).apply(lite, where).model
    found = integers_of(file)
    assert [kind for kind, _, _ in found] == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "FULLY_CONNECTED"]
    for (kind, stored, integers), mine in zip(found, in_keras(model), strict=True):
        assert stored == ("INT4" if bits == 4 and kind != "DEPTHWISE_CONV_2D" else "INT8")
        if "prune" in names:
            np.testing.assert_array_equal(integers[mine == 0], 0)
            assert np.mean(integers == 0) >= 0.45
        if "cluster" in names:
            assert max(len(np.unique(row)) for row in integers) <= 6
        if "qat" in names:
            for row, numbers in zip(integers, mine, strict=True):
                step = (row * numbers).sum() / (row * row).sum()
                np.testing.assert_allclose(row * step, numbers, atol=1e-5 * np.abs(numbers).max())
    batch = {"picture": pictures(seed=3)}
    outputs = [KerasAdapter().forward(model, batch)["output"], TfliteAdapter().forward(file, batch)["output"]]
    assert np.abs(outputs[0] - outputs[1]).max() < 0.1 * np.abs(outputs[0]).max()


@pytest.mark.slow
def test_bits_that_tflite_has_no_type_of_are_held_in_eight(given, tmp_path):
    where = context(tmp_path, given)
    model = Qat(weight_bits=3, edge_bits=6, recovery=QUICK).apply(given, where).model
    file = StaticInt8(samples=50).apply(ExportTflite().apply(model, where).model, where).model
    tops = []
    for (_, stored, integers), mine in zip(integers_of(file), in_keras(model), strict=True):
        assert stored == "INT8"
        tops.append(int(np.abs(integers).max()))
        for row, numbers in zip(integers, mine, strict=True):
            step = (row * numbers).sum() / (row * row).sum()
            np.testing.assert_allclose(row * step, numbers, atol=1e-5 * np.abs(numbers).max())
    assert tops == [31, 127, 3, 31]


def test_activations_are_rounded_where_the_file_rounds_them(given, tmp_path):
    """Rounded in Keras it is nearer to the INT8 file than unrounded, and rounded as often."""
    where = context(tmp_path, given)
    fake = FakeActivations(KerasAdapter().clone(given), 100.0)
    fake.watch(given, {"picture": pictures()})
    file = StaticInt8(calibration="minmax").apply(ExportTflite().apply(given, where).model, where).model
    batch = {"picture": pictures(seed=4)}
    plain, exact = (adapter.forward(model, batch)["output"] for adapter, model in
                    ((KerasAdapter(), given), (TfliteAdapter(), file)))  # fmt: skip
    rounded = np.asarray(fake.network(batch["picture"], training=False))
    assert np.abs(rounded - exact).mean() < np.abs(plain - exact).mean()
    graph = parse(file.payload)[0]
    made = {at for one in graph.operators for at in one.outputs if graph.tensors[at].type == "INT8"}
    assert len(fake.roundings) == len(made) + 1  # the input too


def test_a_rounding_is_tensorflows_in_a_range_of_numpys_percentiles():
    still = tf.Variable(True)
    layer = Rounded(90.0, still)
    x = np.random.default_rng(0).standard_normal((10, 1000)).astype(np.float32)
    layer.build(x.shape)
    layer.watches = True
    layer(x)
    layer.watches = False
    low, high = np.quantile(x, [0.05, 0.95])
    np.testing.assert_allclose(np.array(layer.ends), [low, high], rtol=1e-2)
    value = tf.constant([[low - 1, 0.3, high + 1]], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(value)
        found = layer(value, training=True)
    np.testing.assert_array_equal(tape.gradient(found, value), [[0, 1, 0]])
    np.testing.assert_allclose(found, [[low, 0.3, high]], atol=1.5 * (high - low) / 255)
    before = np.array(layer.ends)
    for _ in range(40):
        layer(3 * x, training=True)
    np.testing.assert_array_equal(np.array(layer.ends), before)
    still.assign(False)
    for _ in range(40):
        layer(3 * x, training=True)
    assert np.array(layer.ends)[1] > 1.1 * before[1]


def test_statistics_stand_still_in_the_end_and_what_is_learned_does_not(given, tmp_path):
    def moving(model):
        return {name: array for name, array in KerasAdapter().weights(model).items() if "moving" in name}

    def gammas(model):
        return {name: array for name, array in KerasAdapter().weights(model).items() if name.endswith("gamma")}

    request = Qat(weight_bits=4, edge_bits=4, recovery=replace(QUICK, epochs=4), freeze=1.0)
    outcome = request.apply(given, context(tmp_path, given))
    assert outcome.notes["loss_after"] < outcome.notes["loss_before"]
    for name, array in moving(outcome.model).items():
        np.testing.assert_array_equal(array, moving(given)[name])
    assert not all(np.array_equal(array, gammas(given)[name]) for name, array in gammas(outcome.model).items())


@pytest.mark.slow
def test_bits_are_what_the_file_has_kernels_for_and_what_is_left_is_said(given, tmp_path):
    request = Qat(
        weight_bits=4, edge_bits=8, recovery=replace(QUICK, minutes=0), exclude=("top",), allow_unchanged=True
    )
    outcome = request.apply(given, context(tmp_path, given))
    assert "0 minutes" in outcome.skipped[0].reason
    trained = replace(request, recovery=QUICK, allow_unchanged=False).apply(given, context(tmp_path, given))
    assert trained.notes["bits_by_weight"] == {"conv.kernel": 8, "depth.kernel": 8, "point.kernel": 4}
    assert [(item.layer, item.reason) for item in trained.skipped] == [("top", "excluded by the recipe (top)")]
    assert {trait.kind: trait.amount for trait in trained.model.traits} == {TraitKind.GRID: 4}


@pytest.mark.slow
def test_a_recurrent_layer_is_left_and_said(tmp_path):
    keras.utils.set_random_seed(0)
    net = keras.Sequential([keras.Input((4, 6), name="x"), L.LSTM(5, name="cell"), L.Dense(3, name="top")])
    net.save(tmp_path / "net.keras")
    model = KerasAdapter().open(source_of(tmp_path / "net.keras"), None)
    x = np.random.default_rng(0).standard_normal((60, 4, 6)).astype(np.float32)
    data = Splits({Part.TRAIN: ArraySamples({"x": x})})
    where = PassContext(tmp_path, data=data, machine=MACHINE, original=lambda: model)
    outcome = Qat(recovery=QUICK).apply(model, where)
    assert outcome.changed == ("top",)
    assert {item.layer: item.reason for item in outcome.skipped} == {
        "cell": "LiteRT's quantizer has no integer form of a LSTM"
    }


def test_what_cannot_be_is_refused_before_any_work(given, tmp_path):
    with pytest.raises(DataError, match="none was given"):
        Qat().apply(given, replace(context(tmp_path, given), data=None))
    for after in ("distill", "cluster"):
        with pytest.raises(RecipeError, match="would erase what an earlier step made"):
            Recipe.of("late", [{"pass": "qat"}, {"pass": after}]).check(Format.KERAS)
