"""Clustering onto a grid of integers: the file has the very ones, of 4 bits and of 8, from Keras and from torch."""

import zlib
from dataclasses import replace

import graphs
import numpy as np
import pytest
import torch

import whet
from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.machine import this_machine
from whet.models.keras.adapter import KerasAdapter
from whet.models.onnx.adapter import OnnxAdapter
from whet.models.source import source_of
from whet.models.tflite import constants
from whet.models.tflite.adapter import TfliteAdapter
from whet.models.tflite.flatbuffer import parse
from whet.passes.base import PassContext
from whet.passes.cluster.spec import Cluster
from whet.passes.distill.spec import Distill
from whet.passes.export.spec import ExportOnnx, ExportTflite, ToKeras, ToTorch
from whet.passes.graph.spec import OptimizeGraph
from whet.passes.prune.spec import MagnitudePrune
from whet.passes.quantize.spec import DynamicInt8, Int4Weights, StaticInt8
from whet.passes.quantize.trained import Qat
from whet.recipe.recipe import Recipe
from whet.train.constraints import constraints_of
from whet.train.spec import Recovery
from whet.types import Format, TraitKind

import keras  # after the adapter, which chooses its backend  # isort: skip

L = keras.layers
MACHINE = replace(this_machine(), cores=1, flags=("avx512_vnni",))
QUICK = Recovery(epochs=4, learning_rate=1e-2, batch_size=50)
KERNELS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}  # output channels in TFLite


def pictures(count=120):
    return np.random.default_rng(0).standard_normal((count, 8, 8, 2)).astype(np.float32)


def net(least):
    """(N, 8, 8, 2) to (N, 3): norms to fold in, of factors from ``least`` to 2; by depth; a sum; products."""
    keras.utils.set_random_seed(0)
    picture = keras.Input((8, 8, 2), name="picture")
    x = L.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(picture)
    x = L.ReLU()(L.BatchNormalization(momentum=0.5, name="norm")(x))
    y = L.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="depth")(x)
    y = L.BatchNormalization(momentum=0.5, name="norm2")(y)
    z = L.Conv2D(16, 3, activation="relu", name="second")(L.Add()([L.Concatenate()([x, x]), y]))
    model = keras.Model(picture, L.Dense(3, name="top")(L.Dense(24, "relu", name="middle")(L.Flatten()(z))))
    for name in ("norm", "norm2"):
        gamma = model.get_layer(name).gamma
        gamma.assign(np.linspace(least, 2, gamma.shape[0]))
    for _ in range(8):
        model(pictures(), training=True)
    return model


NAMES = ("conv", "depth", "second", "middle", "top")  # in the order of a file's operators


def opened(folder, least):
    net(least).save(folder / "net.keras")
    return KerasAdapter().open(source_of(folder / "net.keras"), None)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    return opened(tmp_path_factory.mktemp("given"), 0.3)


@pytest.fixture(scope="module")
def turned(tmp_path_factory):
    """With norms that turn the signs of some channels."""
    return opened(tmp_path_factory.mktemp("turned"), -0.55)


def context(folder, model):
    data = Splits(dict.fromkeys((Part.TRAIN, Part.CALIBRATE), ArraySamples({"picture": pictures()})))
    return PassContext(folder, data=data, machine=MACHINE, original=lambda: model)


def shrunk(model, request, where, sparsity=0.0):
    """Cluster, pruned before or not."""
    if sparsity:
        model = MagnitudePrune(sparsity=sparsity).apply(model, where).model
    return request.apply(model, where).model


def channels(kernel, name):
    """Return a kernel of Keras as (channels, numbers), in the order of TFLite's."""
    if name == "depth":
        return kernel.reshape(-1, kernel.shape[-2] * kernel.shape[-1]).T
    if kernel.ndim == 4:
        return np.moveaxis(kernel, -1, 0).reshape(kernel.shape[-1], -1)
    return kernel.T


def integers_in_keras(model, top):
    """Return the integers of each kernel by NumPy alone: numbers over the greatest of their channel, times its end.

    A BatchNorm that is folded in turns the signs of channels by its own.
    """
    found, weights = [], KerasAdapter().weights(model)
    for name in NAMES:
        rows = channels(weights[f"{name}.kernel"], name).astype(np.float64)
        greatest = np.abs(rows).max(1, keepdims=True)
        steps = rows / np.where(greatest > 0, greatest, 1) * top
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
        norm = {"conv": "norm.gamma", "depth": "norm2.gamma"}.get(name)
        signs = 1 if norm is None else np.sign(weights[norm])[:, None]
        found.append((np.rint(steps) * signs).astype(int))
    return found


def in_file(lite, read=constants.stored):
    """Return the types and the kernels of a file (channels, numbers): its integers, or what they stand for."""
    (graph,) = parse(lite.payload)
    through = {one.outputs[0]: one.inputs[0] for one in graph.operators if one.kind == "DEQUANTIZE"}
    found = []
    for one in graph.operators:
        if one.kind in KERNELS:
            tensor = graph.tensors[through.get(one.inputs[1], one.inputs[1])]
            moved = np.moveaxis(read(tensor), KERNELS[one.kind], 0)
            found.append((tensor.type, moved.reshape(len(moved), -1)))
    return [kind for kind, _ in found], [array for _, array in found]


def held_to(wanted, found):
    """Tell that numbers are the same to a millionth of the greatest."""
    for one, other in zip(wanted, found, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-6 * np.abs(one).max())


IN_4_BITS = ["INT4", "INT8", "INT4", "INT4", "INT4"]  # LiteRT has no depthwise convolution of fewer than 8
FORMS = [
    (StaticInt8(weight_bits=4, samples=60), 4, IN_4_BITS),
    (DynamicInt8(weight_bits=4), 4, IN_4_BITS),
    (StaticInt8(samples=60), 4, ["INT8"] * 5),
    (StaticInt8(samples=60), 8, ["INT8"] * 5),
    (DynamicInt8(), 8, ["INT8"] * 5),
]


# --- from Keras -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "sparsity"), [(16, 0.8), (6, 0.0)])
@pytest.mark.parametrize("form", FORMS)
def test_the_file_has_the_integers_that_were_clustered(given, tmp_path, form, k, sparsity):
    form, bits, types = form
    where = context(tmp_path, given)
    model = shrunk(given, Cluster(clusters=k, grid=True, grid_bits=bits), where, sparsity)
    lite = ExportTflite().apply(model, where).model
    outcome = form.apply(lite, where)
    assert outcome.notes["grids_kept"] == 5
    found_types, found = in_file(outcome.model)
    assert found_types == types
    top = 2 ** (bits - 1) - 1
    for wanted, integers in zip(integers_in_keras(model, top), found, strict=True):
        np.testing.assert_array_equal(integers, wanted)
        assert len(np.unique(integers)) <= min(k, 2 * top + 1)
    held_to(in_file(lite)[1], in_file(outcome.model, constants.numbers)[1])


@pytest.mark.parametrize("bits", [4, 8])
def test_a_norm_that_turns_signs_turns_those_of_the_integers(turned, tmp_path, bits):
    where = context(tmp_path, turned)
    model = shrunk(turned, Cluster(clusters=6, grid=True, grid_bits=bits), where)
    lite = ExportTflite().apply(model, where).model
    made = StaticInt8(weight_bits=bits, samples=60).apply(lite, where).model
    for wanted, integers in zip(integers_in_keras(model, 2 ** (bits - 1) - 1), in_file(made)[1], strict=True):
        np.testing.assert_array_equal(integers, wanted)
        assert len(np.unique(np.abs(integers))) <= 6
    held_to(in_file(lite)[1], in_file(made, constants.numbers)[1])


def test_the_file_answers_as_the_clustered_weights_do(given, tmp_path):
    """To rounding in float where activations are floats; to that of 8 bits where they are integers, no more."""
    where = context(tmp_path, given)
    model = shrunk(given, Cluster(grid=True, grid_bits=4, clusters=9), where, 0.5)
    lite = ExportTflite().apply(model, where).model
    batch = model.signature.bind({"picture": pictures(40)})
    (wanted,) = KerasAdapter().forward(model, batch).values()
    for form, most in ((Int4Weights(), 1e-5), (StaticInt8(weight_bits=4, calibration="minmax"), 0.03)):
        made = form.apply(lite, where).model
        (found,) = TfliteAdapter().forward(made, batch).values()
        assert np.abs(found - wanted).max() < most * np.abs(wanted).max()


def test_zeros_stay_and_are_one_of_the_values(given, tmp_path):
    where = context(tmp_path, given)
    pruned = MagnitudePrune(sparsity=0.6).apply(given, where).model
    model = Cluster(clusters=8, grid=True, grid_bits=4).apply(pruned, where).model
    zeros = 0
    for name in NAMES:
        before, after = (KerasAdapter().weights(each)[f"{name}.kernel"] for each in (pruned, model))
        assert not after[before == 0].any()
        zeros += (after == 0).sum()
    traits = {trait.kind: trait.amount for trait in model.traits}
    count = sum(array.size for array in KerasAdapter().matrices(model).values())
    assert traits[TraitKind.SPARSE] == pytest.approx(zeros / count)
    assert all(trait.amount <= traits[TraitKind.SPARSE] for trait in pruned.traits)  # its share of zeros
    assert traits[TraitKind.CLUSTERED] == 8


# --- trained afterwards ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "training",
    [
        Distill(epochs=6, learning_rate=1e-2, batch_size=30), Qat(weight_bits=4, edge_bits=4, recovery=QUICK),
        pytest.param(Qat(recovery=QUICK), marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_training_in_keras_keeps_the_integers_and_the_zeros(given, tmp_path, training):
    """Qat of 8 bits, too: a weight on a coarser grid stays there, as one by depth has to."""
    where = context(tmp_path, given)
    clustered = shrunk(given, Cluster(clusters=7, grid=True, grid_bits=4), where, 0.5)
    outcome = training.apply(clustered, where)
    assert outcome.notes["loss_after"] < outcome.notes["loss_before"]
    before, after = (KerasAdapter().weights(each) for each in (clustered, outcome.model))
    for name in NAMES:
        assert not after[f"{name}.kernel"][before[f"{name}.kernel"] == 0].any()
    codebooks = [set(np.unique(each)) | {-7, 7} for each in integers_in_keras(clustered, 7)]
    trained = integers_in_keras(outcome.model, 7)
    for known, integers in zip(codebooks, trained, strict=True):
        assert len(known) <= 7
        assert set(np.unique(integers)) <= known
    assert any(not np.array_equal(*pair) for pair in zip(integers_in_keras(clustered, 7), trained, strict=True))
    lite = ExportTflite().apply(outcome.model, where).model
    made = StaticInt8(weight_bits=4, samples=60).apply(lite, where).model
    for wanted, integers in zip(trained, in_file(made)[1], strict=True):
        np.testing.assert_array_equal(integers, wanted)


@pytest.mark.parametrize("training", [None, Distill(epochs=2, learning_rate=1e-2, batch_size=30)])
def test_from_torch_onnx_has_the_integers_too(tmp_path, training):
    """Through training, export and the folding of a BatchNorm, into integers of 4 bits."""
    model = graphs.opened("tiny")
    with torch.no_grad():
        model.payload.module.bn1.weight.uniform_(0.5, 2.0)
    data = Splits({part: ArraySamples({"x": graphs.floats(120, 1, 8, 8)}) for part in (Part.TRAIN, Part.CALIBRATE)})
    where = PassContext(tmp_path, data=data, machine=MACHINE, original=lambda: graphs.opened("tiny"))
    before = shrunk(model, Cluster(clusters=7, grid=True, grid_bits=4), where, 0.5)
    made = before if training is None else training.apply(before, where).model
    exported = OptimizeGraph().apply(ExportOnnx().apply(made, where).model, where).model
    outcome = StaticInt8(weight_bits=4, reduce_range="off").apply(exported, where)
    assert outcome.notes["grids_kept"] == 3
    codes = list(OnnxAdapter().matrices(outcome.model).values())
    for name, mine in zip(("conv1", "conv2", "fc"), codes, strict=True):
        weight = made.payload.module.get_submodule(name).weight.detach().numpy()
        steps = weight / np.abs(weight).max(axis=tuple(range(1, weight.ndim)), keepdims=True) * 7
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
        assert len(np.unique(mine)) <= 7
        np.testing.assert_array_equal(mine if mine.shape == steps.shape else mine.T, np.rint(steps))
        kept = before.payload.module.get_submodule(name).weight.detach().numpy()
        assert not weight[kept == 0].any()
        assert training is None or not np.array_equal(weight, kept)
    (few,) = {type(each[-1]).__name__ for each in constraints_of(made.payload.module, made.traits).kept.values()}
    assert few == "Levels"  # what came out of training is such a model again


def test_from_torch_by_way_of_keras(tmp_path):
    start = opened(tmp_path, 0.3)
    where = context(tmp_path, start)
    module = shrunk(ToTorch().apply(start, where).model, Cluster(clusters=8, grid=True, grid_bits=4), where, 0.5)
    model = ToKeras().apply(module, where).model
    lite = ExportTflite().apply(model, where).model
    made = StaticInt8(weight_bits=4, samples=60).apply(lite, where).model
    for wanted, integers in zip(integers_in_keras(model, 7), in_file(made)[1], strict=True):
        np.testing.assert_array_equal(integers, wanted)
        assert len(np.unique(integers)) <= 8


# --- a real one -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.assets
def test_resnet8_of_16_clusters_and_80_percent_zeros_takes_22_kilobytes_deflated(assets, tmp_path):
    file = assets / "models" / "mlperf-tiny" / "pretrainedResnet.h5"
    recipe = Recipe.of(
        "small",
        [
            {"pass": "magnitude-prune", "sparsity": 0.8, "scope": "global"},
            {"pass": "cluster", "clusters": 16, "grid": True, "grid_bits": 4},
            {"pass": "export-tflite", "batch": 1},
            {"pass": "static-int8", "weight_bits": 4, "calibration": "percentile"},
            {"pass": "clean-graph"},
        ],
    )
    recipe.check(Format.KERAS)
    with np.load(assets / "images" / "cifar10" / "train.npz") as images:
        x, y = images["x"][:300].astype(np.float32), images["y"][:300]
    model, where = whet.load(str(file)), PassContext(tmp_path, data=whet.dataset(((x, y), (x, y))))
    for step in recipe.steps:
        model = step.apply(model, where).model
    types, integers = in_file(model)
    assert types == ["INT4"] * 10
    assert all(len(np.unique(each)) <= 15 for each in integers)
    assert np.mean(np.concatenate([each.ravel() for each in integers]) == 0) >= 0.8
    assert len(zlib.compress(model.payload, 9)) < 22_500
