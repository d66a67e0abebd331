"""Clustering on torch and ONNX: which weights, which values, which bits, and what is said of it."""

import graphs
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.errors import NothingChanged, PassError, RecipeError
from whet.models.adapter import adapter_for
from whet.models.onnx.axes import input_axes, output_axes
from whet.models.source import source_of
from whet.models.torch.adapter import TorchAdapter
from whet.passes.cluster import math
from whet.passes.cluster.math import Codebook
from whet.passes.cluster.spec import Cluster
from whet.passes.distill.spec import Distill
from whet.passes.export.spec import ExportOnnx
from whet.passes.graph.spec import OptimizeGraph
from whet.passes.prune.spec import MagnitudePrune
from whet.passes.quantize.spec import DynamicInt8, StaticInt8
from whet.types import Format, TraitKind

MODELS = {"torch": lambda: graphs.opened("tiny"), "onnx": lambda: graphs.model(graphs.conv_net())}


def arrays(model):
    return adapter_for(model.format).weights(model)


def amount(model, kind):
    (found,) = [trait.amount for trait in model.traits if trait.kind is kind]
    return found


def values(array):
    return len(np.unique(array))


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("request_", [Cluster(clusters=5), Cluster(bits=2), Cluster(clusters=7, initial="linear")])
def test_matrices_have_so_many_values_and_nothing_else_is_touched(make, request_):
    model = make()
    outcome = graphs.apply(request_, model)
    before, after = arrays(model), arrays(outcome.model)
    for name, array in before.items():
        if array.ndim > 1:
            assert values(after[name]) <= request_.most < values(array)
            want = math.cluster(array, 0, 0, Codebook(request_.most, request_.initial))
            np.testing.assert_array_equal(after[name], want)
        else:
            np.testing.assert_array_equal(after[name], array)
    assert outcome.changed == ("conv1", "conv2", "fc")
    assert amount(outcome.model, TraitKind.CLUSTERED) == max(
        values(array) for array in after.values() if array.ndim > 1
    )


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_what_is_told_is_what_was_done(make):
    model = make()
    outcome = graphs.apply(Cluster(clusters=6), model)
    before, after = arrays(model), arrays(outcome.model)
    names = [name for name, array in before.items() if array.ndim > 1]
    for name in names:
        lost = (before[name].astype(np.float64) - after[name]) ** 2
        want = 10 * np.log10((before[name].astype(np.float64) ** 2).sum() / lost.sum())
        assert outcome.notes["sqnr_db_by_weight"][name] == pytest.approx(want)
        assert outcome.notes["bits_by_weight"][name] == 3
    packed = sum(-(-before[name].size * 3 // 8) + 6 * 4 for name in names)
    whole = sum(layer.bytes for layer in adapter_for(model.format).layers(model))
    packed += whole - sum(before[name].nbytes for name in names)
    assert outcome.notes["bytes_as_packed"] == packed
    parameters = sum(array.size for array in before.values())
    assert outcome.notes["ratio_as_packed"] == pytest.approx(4 * parameters / packed)


def test_channels_and_groups_have_values_of_their_own():
    model = graphs.opened("lstm")
    for granularity, parts in (("channel", lambda array: array), ("group", lambda array: array.reshape(-1, 16))):
        request = Cluster(clusters=3, granularity=granularity, group=16)
        after = arrays(graphs.apply(request, model).model)
        for name in ("cell.weight_ih_l0", "embed.weight"):
            assert {values(row) for row in parts(after[name])} == {3}
            assert values(after[name]) > 30
    assert {values(row) for row in after["cell.weight_hh_l0"]} == {3}  # 24 are no multiple of 16


def test_channels_are_found_where_onnx_has_them():
    made = graphs.proto(
        [
            graphs.node("ConvTranspose", "x up", "a"),
            graphs.node("GlobalAveragePool", "a", "b"),
            graphs.node("Flatten", "b", "c"),
            graphs.node("MatMul", "c m", "d"),
            graphs.node("Gemm", "d straight", "e"),
            graphs.node("Gemm", "e turned", "y", transB=1),
        ],
        {"x": ("float32", ["N", 6, 4, 4])},
        {"y": ("float32", ["N", 9])},
        {
            "up": graphs.floats(6, 20, 3, 3),
            "m": graphs.floats(20, 30, seed=1),
            "straight": graphs.floats(30, 12, seed=2),
            "turned": graphs.floats(9, 12, seed=3),
        },
    )
    axes = {"up": 1, "m": 1, "straight": 1, "turned": 0}
    assert {name: axis % 2 for name, axis in output_axes(made).items()} == axes
    assert {name: axis % 2 for name, axis in input_axes(made).items()} == {
        name: 1 - axis for name, axis in axes.items()
    }
    after = arrays(graphs.apply(Cluster(bits=1, granularity="channel"), graphs.model(made)).model)
    for name, axis in axes.items():
        assert {values(part) for part in np.moveaxis(after[name], axis, 0)} == {2}, name


def test_a_table_is_clustered_unless_the_recipe_says_otherwise():
    for model in (graphs.opened("lstm"), graphs.exported("lstm")):
        (table,) = [name for name, array in arrays(model).items() if array.shape == (50, 16)]
        with_it = graphs.apply(Cluster(clusters=9), model)
        assert values(arrays(with_it.model)[table]) == 9
        without = graphs.apply(Cluster(clusters=9, embeddings=False), model)
        np.testing.assert_array_equal(arrays(without.model)[table], arrays(model)[table])
        assert "a table, and the recipe leaves embeddings alone" in {item.reason for item in without.skipped}


def test_a_tied_table_is_clustered_once_and_stays_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Embedding(40, 8), nn.Linear(8, 40)
            self.out.weight = self.embed.weight

    model = TorchAdapter().open(source_of(Tied()), None)
    module = graphs.apply(Cluster(clusters=4), model).model.payload.module
    assert module.out.weight is module.embed.weight
    assert len(module.out.weight.unique()) == 4


def test_frozen_weights_stay_frozen():
    model = graphs.opened("tiny")
    model.payload.module.conv1.requires_grad_(False)
    module = graphs.apply(Cluster(clusters=4), model).model.payload.module
    assert [module.conv1.weight.requires_grad, module.conv2.weight.requires_grad] == [False, True]


# --- zeros ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_zeros_of_a_pruned_model_stay_zero(make, granularity):
    pruned = graphs.apply(MagnitudePrune(sparsity=0.6), make()).model
    outcome = graphs.apply(Cluster(clusters=4, granularity=granularity), pruned)
    for name, array in arrays(pruned).items():
        np.testing.assert_array_equal(arrays(outcome.model)[name] == 0, array == 0)
        if array.ndim > 1:
            assert (
                math.distinct(arrays(outcome.model)[name], 0, 0 if granularity == "tensor" else array[0].size) <= 4
            )
    assert amount(outcome.model, TraitKind.SPARSE) == pytest.approx(amount(pruned, TraitKind.SPARSE))


def test_zeros_that_are_given_up_are_no_longer_claimed():
    pruned = graphs.apply(MagnitudePrune(sparsity=0.3), graphs.opened("tiny")).model
    outcome = graphs.apply(Cluster(clusters=5, keep_zeros="off"), pruned)
    zeros = np.mean(
        np.concatenate([array.ravel() for array in TorchAdapter().matrices(outcome.model).values()]) == 0
    )
    assert [trait.amount for trait in outcome.model.traits if trait.kind is TraitKind.SPARSE] == (
        [zeros] if zeros else []
    )
    assert zeros < 0.3


# --- the INT8 grid --------------------------------------------------------------------------------------------


def test_int8_after_the_grid_has_as_few_integers_and_loses_nothing_more():
    """Through export, the folding of a BatchNorm that turns signs and scales channels, and the quantizer."""
    model = graphs.opened("tiny")
    with torch.no_grad():
        model.payload.module.bn1.weight.uniform_(0.5, 2.0)
    clustered = graphs.apply(Cluster(clusters=8, grid=True), model).model
    folded = graphs.apply(OptimizeGraph(), graphs.apply(ExportOnnx(), clustered).model).model
    data = Splits({Part.CALIBRATE: ArraySamples({"x": graphs.floats(20, 1, 8, 8)})})
    int8 = graphs.apply(StaticInt8(reduce_range="off"), folded, data=data).model
    codes = adapter_for(Format.ONNX).matrices(int8)
    assert len(codes) == 3
    for array in codes.values():
        assert values(array) <= 8
        assert np.abs(array).max() == 127
    plain = {name: values(array) for name, array in arrays(folded).items() if array.ndim > 1}
    assert max(plain.values()) > 8  # in float the folding spread the values out


def test_a_size_on_the_grid_of_4_bits_takes_codebooks_of_up_to_15():
    model = graphs.opened("tiny")
    outcome = graphs.apply(Cluster(ratio=7.0, grid=True, grid_bits=4), model)
    assert outcome.notes["reached"]
    assert outcome.notes["values_at_most"] <= 15
    assert set(outcome.notes["bits_by_weight"].values()) <= {2, 3, 4}
    for name in ("conv1", "conv2", "fc"):
        rows = arrays(outcome.model)[f"{name}.weight"].reshape(arrays(model)[f"{name}.weight"].shape[0], -1)
        steps = rows / np.abs(rows).max(1, keepdims=True) * 7
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)


# --- bits under a size ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("ratio", [4.2, 5.2])
def test_a_size_is_kept_as_near_as_bits_go(make, ratio):
    model = make()
    outcome = graphs.apply(Cluster(ratio=ratio), model)
    parameters = sum(array.size for array in arrays(model).values())
    assert outcome.notes["reached"]
    assert (
        outcome.notes["bytes_as_packed"]
        <= 4 * parameters / ratio
        == pytest.approx(outcome.notes["bytes_asked"], abs=1)
    )
    assert outcome.notes["bytes_as_packed"] > 0.85 * outcome.notes["bytes_asked"]
    assert set(outcome.notes["bits_by_weight"].values()) <= set(range(2, 9))


def test_the_layer_that_matters_gets_the_bits():
    """Two equal layers; the outputs of one are hardly read."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.loud, self.still = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x):
            return self.loud(x) + 0.01 * self.still(x)

    x = graphs.floats(64, 16)
    model = TorchAdapter().open(source_of(Two()), {"x": x})
    data = Splits({Part.CALIBRATE: ArraySamples({"x": x})})
    outcome = graphs.apply(Cluster(ratio=5.0), model, data=data)
    bits = outcome.notes["bits_by_weight"]
    assert outcome.notes["importance_by"] == "error of the outputs on calibrate"
    assert bits["loud.weight"] >= bits["still.weight"] + 2

    def score(tried):  # here it is the other that matters
        return -float(((arrays(tried)["still.weight"] - arrays(model)["still.weight"]) ** 2).sum())

    scored = graphs.apply(Cluster(ratio=5.0), model, data=data, score=score)
    bits = scored.notes["bits_by_weight"]
    assert scored.notes["importance_by"] == "quality on select"
    assert bits["still.weight"] >= bits["loud.weight"] + 2


def test_a_size_that_cannot_be_reached_gives_the_least_and_says_what_stands_in_the_way():
    outcome = graphs.apply(Cluster(size_bytes=100), graphs.opened("tiny"))
    assert outcome.notes["reached"] is False
    assert set(outcome.notes["bits_by_weight"].values()) == {2}
    assert outcome.notes["in_the_way"][0] == "conv2.weight"
    assert "bytes that are not clustered" in outcome.notes["in_the_way"][-1]


def test_a_generous_size_leaves_layers_in_float_and_says_so():
    outcome = graphs.apply(Cluster(ratio=1.05, allow_unchanged=True), graphs.opened("regressor"))
    told = {item.layer: item.reason for item in outcome.skipped}
    assert any("left in float: it matters too much for its size" in reason for reason in told.values())
    assert outcome.notes["reached"]


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "match"),
    [
        (Cluster(clusters=4, bits=2), "clusters = 4 or bits = 2; leave one out"),
        (Cluster(ratio=4.0, size_bytes=9), "ratio = 4.0 or size_bytes = 9; leave one out"),
        (Cluster(clusters=1), "clusters = 2 to 256"),
        (Cluster(grid=True, granularity="channel"), "leave granularity = 'channel' out"),
        (Cluster(grid=True, clusters=3), "takes 4 values or more, 127 and -127 among them"),
        (Cluster(grid=True, grid_bits=4, bits=1), "takes 4 values or more, 7 and -7 among them, not 2"),
        (Cluster(grid=True, grid_bits=4, clusters=17), "has 15 values to choose from, not 17; ask for fewer"),
        (Cluster(grid=True, grid_bits=4, bits=5), "has 15 values to choose from, not 32"),
        (Cluster(grid_bits=4), "grid_bits = 4 is on no grid; set grid = true too"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(request_, match):
    with pytest.raises(RecipeError, match=match):
        graphs.apply(request_, graphs.opened("tiny"))


def test_a_weight_that_is_no_number_is_told():
    model = graphs.opened("tiny")
    with torch.no_grad():
        model.payload.module.conv2.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(PassError, match="conv2 has a NaN or infinite weight"):
        graphs.apply(Cluster(), model)
    assert graphs.apply(Cluster(exclude=("conv2",)), model).changed == ("conv1", "fc")


def test_a_codebook_that_takes_more_than_it_saves_is_not_made():
    outcome = graphs.apply(Cluster(bits=4, granularity="channel"), graphs.opened("tiny"))
    told = {item.layer: item.reason for item in outcome.skipped}
    assert "codes and codebook would take" in told["conv1"]
    assert "its values take 288" in told["conv1"]
    assert outcome.changed == ("conv2",)


def test_what_was_clustered_already_is_told():
    once = graphs.apply(Cluster(clusters=4), graphs.opened("tiny")).model
    with pytest.raises(NothingChanged, match="it has 4 values already"):
        graphs.apply(Cluster(clusters=4), once)


def test_integers_are_refused():
    int8 = graphs.apply(DynamicInt8(), graphs.opened("tiny")).model
    with pytest.raises(RecipeError, match="its weights are integers already"):
        graphs.apply(Cluster(), int8)


def test_half_precision_keeps_its_type():
    made = graphs.conv_net()
    for tensor in made.graph.initializer:
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        )
    model = graphs.model(made)
    after = arrays(graphs.apply(Cluster(clusters=4), model).model)
    assert after["fc.weight"].dtype == np.float16
    assert values(after["fc.weight"]) == 4


# --- with other passes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_clusters_are_kept_through_training_and_export(granularity, sparsity):
    """Pruned or not, then clustered, then recovered: on the exported graph, zeros are zeros and values are few."""
    model = graphs.opened("tiny")
    if sparsity:
        model = graphs.apply(MagnitudePrune(sparsity=sparsity), model).model
    clustered = graphs.apply(Cluster(clusters=4, granularity=granularity), model).model
    data = Splits({Part.TRAIN: ArraySamples({"x": graphs.floats(120, 1, 8, 8, seed=2)})})
    request = Distill(epochs=1, learning_rate=3e-3, batch_size=32)
    recovered = graphs.apply(request, clustered, data=data, original=lambda: graphs.opened("tiny")).model
    exported = graphs.apply(ExportOnnx(), recovered).model
    trained, shipped = (adapter_for(each.format).matrices(each) for each in (recovered, exported))
    assert len(shipped) == 3
    for name, before in adapter_for(Format.TORCH).matrices(clustered).items():
        after = trained[name]
        assert math.distinct(after, 0, 0 if granularity == "tensor" else after[0].size) <= 4
        assert math.distinct(shipped[name], 0, after[0].size) <= 4  # a folded BatchNorm scales each channel
        assert not np.array_equal(after, before)  # the values were trained
        if sparsity:
            np.testing.assert_array_equal(shipped[name] == 0, before == 0)
