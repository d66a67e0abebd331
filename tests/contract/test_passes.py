"""Every pass against the public contract, on every format it claims; pruning against torch's own."""

import importlib.util
import itertools
from pathlib import Path

import graphs
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.errors import NothingChanged
from whet.models.adapter import adapter_for
from whet.models.source import source_of
from whet.models.torch.adapter import TorchAdapter
from whet.passes.base import PassContext
from whet.passes.cluster.spec import Cluster
from whet.passes.distill.spec import Distill
from whet.passes.export.spec import ExportOnnx
from whet.passes.factorize.spec import Factorize
from whet.passes.graph.spec import CleanGraph, FuseTransformer, OptimizeGraph
from whet.passes.pack.spec import Pack
from whet.passes.prune.spec import MagnitudePrune, PruneChannels
from whet.passes.quantize.spec import DynamicInt8, Equalize, Half, Int4Weights, StaticInt8
from whet.passes.quantize.trained import Qat
from whet.passes.registry import names, pass_class
from whet.testing import PassContract
from whet.train.spec import Recovery
from whet.types import Format, Trait, TraitKind

ELSEWHERE = (
    "test_drop_blocks",
    "test_keras_passes",
    "test_keras_trained",
    "test_tflite_clean",
    "test_tflite_pack",
    "test_tflite_passes",
    "test_torch_tflite",
)  # suites that say themselves which pass they cover, on which format


class OnnxPass(PassContract):
    def make_model(self):
        return graphs.model(graphs.conv_net())

    def make_context(self, folder):
        samples = ArraySamples({"x": graphs.floats(20, 1, 8, 8)})
        return PassContext(folder, data=Splits({Part.CALIBRATE: samples}))


class TorchPass(PassContract):
    def make_model(self):
        return graphs.opened("tiny")


class TestPruneOnnx(OnnxPass):
    def make_pass(self):
        return MagnitudePrune(sparsity=0.4)


class TestPruneTorch(TorchPass):
    def make_pass(self):
        return MagnitudePrune(sparsity=0.4, scope="global")


class TestClusterOnnx(OnnxPass):
    def make_pass(self):
        return Cluster(ratio=5.0)


class TestClusterTorch(TorchPass):
    def make_pass(self):
        return Cluster(bits=3, granularity="channel", exclude=("conv1",))


class TestClusterTorchRecurrent(TestClusterTorch):
    def make_pass(self):
        return Cluster(grid=True, initial="k-means++")

    def make_model(self):
        return graphs.opened("lstm")


class TestDistill(TorchPass):
    def make_pass(self):
        return Distill(epochs=2, learning_rate=3e-3, batch_size=32)

    def make_model(self):
        return graphs.apply(MagnitudePrune(sparsity=0.7), graphs.opened("tiny")).model

    def make_context(self, folder):
        data = Splits({Part.TRAIN: ArraySamples({"x": graphs.floats(100, 1, 8, 8)})})
        return PassContext(folder, data=data, original=lambda: graphs.opened("tiny"))


class TestFactorizeOnnx(OnnxPass):
    def make_pass(self):
        return Factorize(rank=2, judge="macs")


class TestFactorizeTorch(TorchPass):
    def make_pass(self):
        return Factorize(macs=0.5, multiple=1, judge="macs", convolutions="spatial")


class TestFactorizeTorchRoot(TestFactorizeTorch):
    def make_model(self):
        return graphs.opened("root_linear")


class TestPruneChannelsTorch(TorchPass):
    def make_pass(self):
        return PruneChannels(multiple=4, importance="taylor", ratios="sensitivity", recovery=Recovery(minutes=0))


class TestPruneChannelsTorchRecurrent(TestPruneChannelsTorch):
    def make_model(self):
        return graphs.opened("gru")


class TestDynamicOnnx(OnnxPass):
    def make_pass(self):
        return DynamicInt8()


class TestDynamicOnnxRecurrent(TestDynamicOnnx):
    def make_model(self):
        return graphs.model(graphs.recurrent("LSTM"))


class TestDynamicTorch(TorchPass):
    def make_pass(self):
        return DynamicInt8()


class TestDynamicTorchRecurrent(TestDynamicTorch):
    def make_model(self):
        return graphs.opened("gru")


class TestStaticOnnx(OnnxPass):
    def make_pass(self):
        return StaticInt8(calibration="entropy", exclude=("fc",))


class TestQat(TestDistill):
    def make_pass(self):
        return Qat(weight_bits=4, recovery=Recovery(epochs=1, learning_rate=1e-3, batch_size=50))


class TestEqualize(OnnxPass):
    def make_pass(self):
        return Equalize()

    def make_model(self):
        made = graphs.conv_net()
        (second,) = [node for node in made.graph.node if "conv2.weight" in node.input]
        del second.attribute[:]
        for tensor in made.graph.initializer:
            if tensor.name == "conv2.weight":
                tensor.CopyFrom(graphs.numpy_helper.from_array(graphs.floats(16, 8, 3, 3), tensor.name))
        return graphs.model(made)


class TestInt4Weights(OnnxPass):
    def make_pass(self):
        return Int4Weights(method="rtn", block_size=16)


class TestPack(OnnxPass):
    def make_pass(self):
        return Pack(least_bytes=64)

    def make_model(self):
        return graphs.apply(Cluster(clusters=2), graphs.model(graphs.conv_net())).model


class TestHalfOnnx(OnnxPass):
    def make_pass(self):
        return Half()


class TestHalfTorch(TorchPass):
    def make_pass(self):
        return Half()


class TestHalfTorchRecurrent(TestHalfTorch):
    def make_model(self):
        return graphs.opened("lstm")


class TestBfloat16Torch(TestHalfTorchRecurrent):
    def make_pass(self):
        return Half(kind="bfloat16")


class TestExport(TorchPass):
    def make_pass(self):
        return ExportOnnx()

    def make_model(self):
        return graphs.opened("root_linear")


class TestOptimizeGraph(OnnxPass):
    def make_pass(self):
        return OptimizeGraph()


class TestOptimizeGraphBranches(TestOptimizeGraph):
    def make_model(self):
        return graphs.model(graphs.branches())


class TestCleanGraph(OnnxPass):
    def make_pass(self):
        return CleanGraph()


class TestCleanGraphBranches(TestCleanGraph):
    def make_model(self):
        return graphs.model(graphs.branches())


class TestFuseTransformer(OnnxPass):
    def make_pass(self):
        return FuseTransformer()

    def make_model(self):
        return graphs.model(graphs.attention())

    def make_context(self, folder):
        return PassContext(folder)


def suites(kind):
    return [each for sub in kind.__subclasses__() for each in (sub, *suites(sub))]


def covered(name):
    """Return what the suites of another file of this folder say that they cover."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [each.covers for each in vars(module).values() if isinstance(each, type) and hasattr(each, "covers")]


def test_every_pass_is_under_contract_on_every_format_it_claims():
    tested = {
        (made().make_pass().name, Format.ONNX if issubclass(made, OnnxPass) else Format.TORCH)
        for made in suites(PassContract)
        if made.__module__ == __name__ and "make_pass" in dir(made) and made not in (OnnxPass, TorchPass)
    }
    tested |= {covers for name in ELSEWHERE for covers in covered(name)}
    claimed = {(name, format_) for name in names() for format_ in pass_class(name).realised_by}
    assert tested == claimed


# --- pruning --------------------------------------------------------------------------------------------------


def modules(model):
    return {name: part for name, part in model.payload.module.named_modules() if hasattr(part, "weight")}


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_pruning_by_layer_is_torchs_own(sparsity):
    model = graphs.opened("tiny")
    found = graphs.apply(MagnitudePrune(sparsity=sparsity), model).model
    want = TorchAdapter().clone(model)
    for name, part in modules(want).items():
        if name != "bn1":
            prune.l1_unstructured(part, "weight", sparsity)
    for name, part in modules(found).items():
        assert torch.equal(part.weight, modules(want)[name].weight), name


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
def test_pruning_globally_is_torchs_own(sparsity):
    model = graphs.opened("tiny")
    found = graphs.apply(MagnitudePrune(sparsity=sparsity, scope="global"), model).model
    want = TorchAdapter().clone(model)
    parts = [(part, "weight") for name, part in modules(want).items() if name != "bn1"]
    prune.global_unstructured(parts, pruning_method=prune.L1Unstructured, amount=sparsity)
    for name, part in modules(found).items():
        assert torch.equal(part.weight, modules(want)[name].weight), name


def test_pruning_takes_every_matrix_of_a_recurrent_layer():
    model = graphs.opened("lstm")
    outcome = graphs.apply(MagnitudePrune(sparsity=0.5), model)
    want = TorchAdapter().clone(model).payload.module
    for part, name in ((want.cell, "weight_ih_l0"), (want.cell, "weight_hh_l0"), (want.fc, "weight")):
        prune.l1_unstructured(part, name, 0.5)
        prune.remove(part, name)
    for name, tensor in outcome.model.payload.module.state_dict().items():
        assert torch.equal(tensor, want.state_dict()[name]), name
    assert outcome.changed == ("cell", "fc")
    assert [(item.layer, item.reason) for item in outcome.skipped] == [
        ("embed", "this Embedding has no matrix or kernel of its own to prune")
    ]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_pruning_in_onnx_is_pruning_in_torch(scope):
    request = MagnitudePrune(sparsity=0.3, scope=scope)
    made = graphs.conv_net()
    names = [name for name in graphs.constants(made) if name.endswith(".weight")]
    layers = nn.ModuleList([nn.Linear(1, 1) for _ in names])
    for layer, name in zip(layers, names, strict=True):
        layer.weight = nn.Parameter(torch.from_numpy(np.array(graphs.constants(made)[name])))
    if scope == "layer":
        for layer in layers:
            prune.l1_unstructured(layer, "weight", 0.3)
    else:
        pairs = [(layer, "weight") for layer in layers]
        prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=0.3)
    found = graphs.constants(graphs.apply(request, graphs.model(made)).model.payload)
    for layer, name in zip(layers, names, strict=True):
        np.testing.assert_array_equal(found[name], layer.weight.detach().numpy())
    for name in ("conv1.bias", "fc.bias"):
        np.testing.assert_array_equal(found[name], graphs.constants(made)[name])


@pytest.mark.parametrize("make", [lambda: graphs.model(graphs.conv_net()), lambda: graphs.opened("tiny")])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_sparsity_that_is_told_is_that_of_the_weights(make, scope):
    outcome = graphs.apply(MagnitudePrune(sparsity=0.37, scope=scope), make())
    adapter = adapter_for(outcome.model.format)
    arrays = adapter.matrices(outcome.model)
    zeros = {name: int((array == 0).sum()) for name, array in arrays.items()}
    total = sum(array.size for array in arrays.values())
    if scope == "layer":
        assert zeros == {name: round(0.37 * array.size) for name, array in arrays.items()}
    else:
        assert sum(zeros.values()) == round(0.37 * total)
    assert outcome.notes["sparsity"] == sum(zeros.values()) / total
    assert outcome.notes["sparsity_by_layer"] == {name: zeros[name] / arrays[name].size for name in arrays}
    assert outcome.model.traits == {Trait(TraitKind.SPARSE, sum(zeros.values()) / total)}


def test_the_noise_that_is_told_is_that_of_what_was_taken():
    made = graphs.conv_net()
    outcome = graphs.apply(MagnitudePrune(sparsity=0.5), graphs.model(made))
    before, after = graphs.constants(made), graphs.constants(outcome.model.payload)
    for kind, layers in {"Conv": ("conv1", "conv2"), "Gemm": ("fc",)}.items():
        whole = np.concatenate([before[f"{name}.weight"].ravel() for name in layers]).astype(float)
        lost = whole - np.concatenate([after[f"{name}.weight"].ravel() for name in layers])
        want = 10 * np.log10((whole**2).sum() / (lost**2).sum())
        assert outcome.notes["weight_sqnr_db_by_type"][kind] == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"exclude": ("conv?",)}, {"conv1": "(conv?)", "conv2": "(conv?)"}),
        ({"exclude": ("fc", "conv1")}, {"fc": "(fc)", "conv1": "(conv1)"}),
        ({"exclude_types": ("Conv2d", "Conv")}, {"conv1": "(type Conv", "conv2": "(type Conv"}),
    ],
)
@pytest.mark.parametrize("make", [lambda: graphs.model(graphs.conv_net()), lambda: graphs.opened("tiny")])
def test_excluded_layers_are_whole_and_told(make, settings, left):
    model = make()
    outcome = graphs.apply(MagnitudePrune(sparsity=0.5, **settings), model)
    told = {item.layer: item.reason for item in outcome.skipped}
    before, after = (adapter_for(model.format).weights(each) for each in (model, outcome.model))
    for name in ("conv1", "conv2", "fc"):
        assert np.array_equal(before[f"{name}.weight"], after[f"{name}.weight"]) == (name in left)
        assert (name in outcome.changed) != (name in left)
    for name, reason in left.items():
        assert told[name].startswith("excluded by the recipe")
        assert reason in told[name]


def test_pruning_a_model_without_matrices_says_so():
    model = TorchAdapter().open(source_of(nn.BatchNorm1d(4)), None)
    with pytest.raises(
        NothingChanged, match=r"\(root\): this BatchNorm1d has no matrix or kernel of its own to prune"
    ):
        graphs.apply(MagnitudePrune(), model)
    allowed = graphs.apply(MagnitudePrune(allow_unchanged=True), model)
    assert allowed.model is model
    assert allowed.changed == ()


def test_tied_weights_are_pruned_in_neither_place_and_it_is_told():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mid, self.out = nn.Embedding(10, 4), nn.Linear(4, 4), nn.Linear(4, 10)
            self.out.weight = self.embed.weight

    model = TorchAdapter().open(source_of(Tied()), None)
    outcome = graphs.apply(MagnitudePrune(sparsity=0.5), model)
    assert outcome.changed == ("mid",)
    assert {item.layer for item in outcome.skipped} == {"embed", "out"}
    module = outcome.model.payload.module
    assert torch.equal(module.out.weight, model.payload.module.embed.weight)


# --- nothing changed, and the suite itself --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "make"),
    [
        (DynamicInt8(exclude=("*",)), lambda: graphs.opened("tiny")),
        (DynamicInt8(exclude=("*",)), lambda: graphs.model(graphs.conv_net())),
        (MagnitudePrune(exclude=("*",)), lambda: graphs.model(graphs.conv_net())),
    ],
)
def test_a_pass_that_changes_nothing_says_so_with_a_reason(request_, make):
    PassContract().nothing_changes(request_, make())
    with pytest.raises(NothingChanged, match=r"excluded by the recipe \(\*\).*leave the step out"):
        graphs.apply(request_, make())


class Spoils(MagnitudePrune):
    """Changes the model it was given."""

    def apply(self, model, context):
        for tensor in model.payload.graph.initializer:
            tensor.CopyFrom(
                __import__("onnx").numpy_helper.from_array(np.zeros(tensor.dims, np.float32), tensor.name)
            )
        return super().apply(model, context)


_TURN = itertools.count()


class Rolls(MagnitudePrune):
    """Does something else each time."""

    def apply(self, model, context):
        outcome = super().apply(model, context)
        adapter = adapter_for(model.format)
        weights = {name: array + next(_TURN) for name, array in adapter.weights(outcome.model).items()}
        return type(outcome)(adapter.with_weights(outcome.model, weights), outcome.changed, outcome.skipped)


class Silent(MagnitudePrune):
    """Skips without a reason and establishes nothing."""

    def apply(self, model, context):
        outcome = super().apply(model, context)
        return type(outcome)(model, outcome.changed, (type("Skipped", (), {"layer": "conv1", "reason": ""})(),))


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (Spoils, "test_it_leaves_the_model_it_was_given_alone"),
        (Rolls, "test_it_does_the_same_twice"),
        (Silent, "test_it_says_what_it_changed"),
        (Silent, "test_it_has_the_traits_it_establishes"),
    ],
)
def test_the_suite_finds_a_pass_that_breaks_its_promises(kind, test):
    suite = OnnxPass()
    suite.make_pass = lambda: kind(sparsity=0.4)
    with pytest.raises(AssertionError):
        getattr(suite, test)()


# --- real files -----------------------------------------------------------------------------------------------


def sqnr(want, have):
    want, have = np.float64(want), np.float64(have)
    return float(10 * np.log10((want**2).sum() / max(((want - have) ** 2).sum(), 1e-30)))


@pytest.mark.assets
@pytest.mark.parametrize(
    ("request_", "least"),
    [
        (OptimizeGraph(), 100),
        (CleanGraph(), 150),
        (MagnitudePrune(sparsity=0.01), 30),
        (DynamicInt8(convolutions=True, reduce_range="on"), 25),
        (StaticInt8(samples=4, reduce_range="on", calibration="minmax"), 20),
        (Half(), 50),
    ],
)
def test_an_old_detector_goes_through_every_pass(assets, request_, least):
    source = source_of(assets / "models" / "odd" / "ultraface-rfb-320.onnx")
    model, batch = adapter_for(Format.ONNX).open(source, None), {"input": graphs.floats(1, 3, 240, 320)}
    data = Splits({Part.CALIBRATE: ArraySamples({"input": graphs.floats(4, 3, 240, 320, seed=1)})})
    outcome = graphs.apply(request_, model, data=data)
    found = graphs.forward(graphs.apply(CleanGraph(), outcome.model).model, batch)
    for name, want in graphs.forward(model, batch).items():
        assert sqnr(want, found[name]) > least


@pytest.mark.assets
@pytest.mark.parametrize(("request_", "least"), [(OptimizeGraph(), 60), (DynamicInt8(), 15), (Half(), 40)])
def test_a_detector_with_an_lstm_in_a_branch_goes_through_every_pass(assets, request_, least):
    source = source_of(assets / "models" / "odd" / "silero-vad-16k.onnx")
    model = adapter_for(Format.ONNX).open(source, None)
    batch = {
        "input": graphs.floats(1, 512),
        "state": graphs.floats(2, 1, 128),
        "sr": np.array(16000),
    }
    optimized = graphs.apply(OptimizeGraph(), model).model
    found = graphs.forward(graphs.apply(CleanGraph(), graphs.apply(request_, optimized).model).model, batch)
    for name, want in graphs.forward(model, batch).items():
        assert sqnr(want, found[name]) > least
