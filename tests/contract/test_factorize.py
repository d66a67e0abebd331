"""Factorization on torch and ONNX: chains of full rank are their layers, thin ones pay or are not made."""

import graphs
import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from whet.errors import NothingChanged, PassError, RecipeError
from whet.models.model import Facts, Model
from whet.models.signature import parse_input
from whet.models.source import source_of
from whet.models.torch import edits
from whet.models.torch.adapter import TorchAdapter, TorchPayload, find_signature
from whet.passes.export.spec import ExportOnnx
from whet.passes.factorize import choose, onnx_time
from whet.passes.factorize.math import Wish, decompose
from whet.passes.factorize.spec import Factorize
from whet.passes.graph.spec import OptimizeGraph
from whet.passes.prune.spec import MagnitudePrune
from whet.passes.quantize.spec import DynamicInt8
from whet.types import Format, TraitKind

HALF = {"macs": 0.5, "multiple": 1, "judge": "macs"}


def opened(module, *inputs):
    return TorchAdapter().open(source_of(module.eval(), inputs=tuple(parse_input(text) for text in inputs)), None)


def low_rank(layer, rank=2):
    """Give a layer a weight that chains of this rank make exactly."""
    with torch.no_grad():
        shape = layer.weight.shape
        if len(shape) == 4 and shape[2] * shape[3] > 1:
            column, row = torch.randn(rank, shape[1], shape[2]), torch.randn(shape[0], rank, shape[3])
            layer.weight.copy_(torch.einsum("rih,orw->oihw", column, row))
        else:
            layer.weight.copy_(
                (torch.randn(shape[0], rank) @ torch.randn(rank, layer.weight[0].numel())).reshape(shape)
            )
    return layer


def chained(layer, method, wish):
    """A layer, and its chain as the edit makes it, filled."""
    stride = getattr(layer, "stride", ())
    chain = decompose(layer.weight.detach().numpy(), method, wish, stride)
    parts = [{"shape": list(part.shape), "axes": list(axes)}
             for part, axes in zip(chain.parts, chain.axes, strict=True)]  # fmt: skip
    made = edits.replay(layer, [edits.factorize_edit({"": parts})])
    with torch.no_grad():
        for one, part in zip(made, chain.parts, strict=True):
            one.weight.copy_(torch.from_numpy(part))
        if layer.bias is not None:
            made[-1].bias.copy_(layer.bias)
    return made


CONVOLUTIONS = {
    "plain": {},
    "stride": {"stride": 2, "padding": 1},
    "uneven": {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
    "same": {"padding": "same", "dilation": 2},
    "valid": {"padding": "valid"},
    "reflect": {"padding": 1, "padding_mode": "reflect", "bias": False},
    "circular": {"padding": (2, 1), "padding_mode": "circular"},
}


@pytest.mark.parametrize("method", ["spatial", "tucker", "svd"])
@pytest.mark.parametrize("form", CONVOLUTIONS)
def test_a_chain_of_full_rank_is_the_convolution(form, method):
    torch.manual_seed(0)
    layer = nn.Conv2d(5, 7, (3, 3), **CONVOLUTIONS[form])
    x = torch.from_numpy(graphs.floats(2, 5, 11, 12))
    made = chained(layer, method, Wish(rank=10**6))
    assert [type(part) for part in made] == [nn.Conv2d] * (3 if method == "tucker" else 2)
    torch.testing.assert_close(made(x), layer(x), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
        (nn.Conv3d(3, 4, (2, 3, 1), padding=(1, 0, 0)), (1, 3, 4, 5, 6)),
        (nn.Conv2d(4, 6, 1, stride=2), (2, 4, 8, 8)),
        (nn.Linear(6, 9), (2, 5, 6)),
        (nn.Linear(6, 9, bias=False), (2, 6)),
    ],
)
def test_a_chain_of_full_rank_is_the_layer(layer, shape):
    x = torch.from_numpy(graphs.floats(*shape))
    torch.testing.assert_close(chained(layer, "svd", Wish(rank=10**6))(x), layer(x), atol=1e-5, rtol=1e-5)


class Net(nn.Module):
    """Every kind of layer: what has a low rank is replaced."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = low_rank(nn.Conv2d(3, 24, 3, stride=2, padding=1))
        self.point = low_rank(nn.Conv2d(24, 24, 1))
        self.depth = nn.Conv2d(24, 24, 3, groups=24)
        self.back = nn.ConvTranspose2d(24, 16, 3)
        self.fc = low_rank(nn.Linear(16, 20))
        self.again = low_rank(nn.Linear(20, 20))
        self.norm = nn.LayerNorm(20)
        self.last = nn.Linear(20, 3)

    def forward(self, x):
        x = torch.relu(self.point(torch.relu(self.conv(x))))
        x = self.fc(self.back(self.depth(x)).mean((2, 3)))
        return self.last(self.norm(self.again(torch.relu(self.again(x)))))


IMAGE = "x=float32[1,3,12,12]"


def test_layers_of_low_rank_are_replaced_and_compute_the_same():
    model = opened(Net(), IMAGE)
    outcome = graphs.apply(Factorize(energy=0.999, multiple=2, judge="macs"), model)
    assert outcome.changed == ("conv", "point", "fc", "again")  # the last is used twice
    told = {item.layer: item.reason for item in outcome.skipped}
    assert told["depth"] == "a grouped convolution: each group is small already"
    assert told["back"] == "a transposed convolution has no such chain here"
    assert told["last"].startswith(
        "it would not get smaller: it has 60 weights, svd at rank 3 (100.0% of the energy)"
    )
    batch = {"x": graphs.floats(4, 3, 12, 12)}
    for name, want in graphs.forward(model, batch).items():
        np.testing.assert_allclose(graphs.forward(outcome.model, batch)[name], want, atol=1e-4)
    facts = outcome.notes["by_layer"]
    assert facts["conv"]["method"] == "spatial"
    assert [facts[name]["ranks"] for name in ("conv", "point", "fc")] == [(2,), (2,), (2,)]
    before, after = model.payload.module, outcome.model.payload.module
    for name in outcome.changed:
        sizes = [before.get_submodule(name).weight.numel(),
                 sum(part.weight.numel() for part in after.get_submodule(name))]  # fmt: skip
        assert facts[name]["parameters"] == sizes
    assert outcome.notes["energy_kept"] == pytest.approx(1, abs=1e-6)
    (trait,) = outcome.model.traits
    assert trait.kind is TraitKind.LOW_RANK


def test_the_chains_come_back_in_a_fresh_module_and_export(tmp_path):
    model = opened(Net(), IMAGE)
    changed = graphs.apply(Factorize(**HALF), model).model
    adapter = TorchAdapter()
    fresh = Facts.of(changed).model(adapter.load(adapter.save(changed, tmp_path / "m"), model.source), model.source)
    exported = graphs.apply(ExportOnnx(), fresh).model
    batch = {"x": graphs.floats(4, 3, 12, 12)}
    for found in (fresh, exported):
        for want, have in zip(
            graphs.forward(changed, batch).values(), graphs.forward(found, batch).values(), strict=True
        ):
            np.testing.assert_allclose(have, want, atol=1e-5)
    assert graphs.kinds(exported.payload).count("Conv") == 2 + 2 + 1


def test_what_was_frozen_stays_frozen():
    net = Net()
    net.conv.weight.requires_grad_(False)
    chain = graphs.apply(Factorize(**HALF), opened(net, IMAGE)).model.payload.module.conv
    assert [parameter.requires_grad for parameter in chain[-1].parameters()] == [False, True]
    assert not chain[0].weight.requires_grad


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.out, self.mid = nn.Embedding(30, 16), nn.Linear(16, 30), nn.Linear(16, 16)
        self.out.weight = self.embed.weight
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.read = nn.Linear(16, 16)
        self.alias = self.mid

    def forward(self, ids):
        x = self.mid(self.embed(ids))
        x = self.alias(self.attention(x, x, x)[0])
        return self.out(nn.functional.linear(x, self.read.weight).mean(1))


def test_weights_that_others_read_are_left_alone_and_a_layer_of_two_names_stays_one():
    model = opened(Shared(), "ids=int64[1,5]:0..29")
    outcome = graphs.apply(Factorize(**HALF), model)
    assert outcome.changed == ("mid",)
    module = outcome.model.payload.module
    assert module.alias is module.mid
    told = {item.layer: item.reason for item in outcome.skipped}
    assert told["out"] == "another layer has the same weight"
    assert told["embed"] == "a table is looked up, not multiplied"
    assert "fused projection" in told["attention"]
    assert "MultiheadAttention" in told["attention.out_proj"]
    assert told["read"] == "it was not called in a run of the model; its weight may be read directly"


def test_the_layers_of_a_fused_transformer_are_replaced():
    torch.manual_seed(0)
    block = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2)
    model = opened(block, "src=float32[1,5,16]")
    outcome = graphs.apply(Factorize(macs=0.99, multiple=1, judge="macs", least_speedup=1.0), model)
    assert outcome.changed == tuple(f"layers.{at}.linear{each}" for at in (0, 1) for each in (1, 2))
    batch = {"src": graphs.floats(3, 5, 16)}
    want, found = (next(iter(graphs.forward(each, batch).values())) for each in (model, outcome.model))
    assert np.isfinite(found).all()
    assert 0 < np.abs(found - want).max() < 1


def test_a_forward_that_reads_a_weight_as_well_is_told():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(16, 16)

        def forward(self, x):
            return self.fc(x) + self.fc.weight.sum()

    model = opened(Reads(), "x=float32[1,16]")
    with pytest.raises(PassError, match=r"cannot be run with factorized layers .*weight.*exclude these layers"):
        graphs.apply(Factorize(**HALF), model)


def test_traits_that_a_product_does_not_keep_are_gone():
    pruned = graphs.apply(MagnitudePrune(sparsity=0.5), graphs.opened("tiny")).model
    assert {trait.kind for trait in graphs.apply(Factorize(**HALF), pruned).model.traits} == {TraitKind.LOW_RANK}


def test_a_factorized_model_is_quantized_by_the_names_of_its_parts():
    changed = graphs.apply(Factorize(**HALF), graphs.opened("regressor")).model
    int8 = graphs.apply(DynamicInt8(), changed)
    assert int8.changed == ("net.0.0", "net.0.1", "net.2.0", "net.2.1")


# --- ONNX -----------------------------------------------------------------------------------------------------


def products():
    """(N, 6, 9, 9) to (N, 4): convolutions of several attributes, a Gemm of each kind, a MatMul."""
    return graphs.proto(
        [
            graphs.node("Conv", "x c1.weight c1.bias", "a", pads=[1, 0, 1, 2], strides=[2, 1]),
            graphs.node("Conv", "a c2", "b", auto_pad="SAME_UPPER", dilations=[1, 1], kernel_shape=[3, 3]),
            graphs.node("GlobalAveragePool", "b", "c"),
            graphs.node("Flatten", "c", "d"),
            graphs.node("MatMul", "d m.weight", "e"),
            graphs.node("Gemm", "e g1 g1.bias", "f", alpha=0.5, beta=2.0),
            graphs.node("Gemm", "f g2.weight", "y", transB=1),
        ],
        {"x": ("float32", ["N", 6, 9, 9])},
        {"y": ("float32", ["N", 4])},
        {
            "c1.weight": graphs.floats(8, 6, 3, 3, seed=1),
            "c1.bias": graphs.floats(8, seed=2),
            "c2": graphs.floats(10, 8, 3, 3, seed=3),
            "m.weight": graphs.floats(10, 12, seed=4),
            "g1": graphs.floats(12, 14, seed=5),
            "g1.bias": graphs.floats(14, seed=6),
            "g2.weight": graphs.floats(4, 14, seed=7),
        },
    )


@pytest.mark.parametrize("convolutions", ["tucker", "spatial"])
def test_nodes_of_full_rank_compute_what_the_graph_did(monkeypatch, convolutions):
    monkeypatch.setattr(choose.Chain, "macs", lambda self, stride: 0)  # so that full ranks are taken too
    monkeypatch.setattr(choose.Chain, "parameters", 0)
    made = products()
    request = Factorize(rank=10**6, convolutions=convolutions, judge="macs")
    outcome = graphs.apply(request, graphs.model(made))
    assert outcome.changed == ("c1", "Conv_1", "m", "Gemm_5", "g2")
    found, batch = outcome.model.payload, {"x": graphs.floats(3, 6, 9, 9, seed=8)}
    np.testing.assert_allclose(graphs.run(found, batch)[0], graphs.run(made, batch)[0], rtol=1e-4, atol=1e-3)
    many = 3 if convolutions == "tucker" else 2
    assert [graphs.kinds(found).count(kind) for kind in ("Conv", "MatMul", "Gemm")] == [2 * many, 2, 4]
    assert not {"c1.weight", "c2", "m.weight", "g1", "g2.weight"} & set(graphs.constants(found))
    assert "c1.0.weight" in graphs.constants(found)


def test_a_graph_of_low_rank_gets_smaller_and_stays_near():
    made = products()
    outcome = graphs.apply(Factorize(**HALF, exclude=("g2",)), graphs.model(made))
    sizes = [sum(array.size for array in graphs.constants(each).values()) for each in (made, outcome.model.payload)]
    assert sizes[1] < 0.6 * sizes[0]
    (told,) = outcome.skipped
    assert (told.layer, told.reason) == ("g2", "excluded by the recipe (g2)")
    assert graphs.apply(OptimizeGraph(), outcome.model).changed  # and other passes take it


def test_nodes_that_have_no_chain_are_left_alone_and_told():
    made = graphs.recurrent("LSTM")
    told = graphs.apply(Factorize(**HALF), graphs.model(made)).skipped
    assert [(item.layer, item.reason) for item in told] == [("LSTM_1", "a LSTM has no such chain here")]
    shared = graphs.proto(
        [
            graphs.node("MatMul", "x w", "a"),
            graphs.node("MatMul", "a w", "b"),
            graphs.node("MatMul", "left b", "y"),
        ],
        {"x": ("float32", [4, 6])},
        {"y": ("float32", [9, 6])},
        {"w": graphs.floats(6, 6), "left": graphs.floats(9, 4)},
    )
    with pytest.raises(NothingChanged, match=r"its weight is read by 2 nodes.*its weight stands on the left"):
        graphs.apply(Factorize(**HALF), graphs.model(shared))


# --- the clock ------------------------------------------------------------------------------------------------


def test_a_layer_that_would_slow_down_is_left_alone_with_the_numbers(monkeypatch):
    monkeypatch.setattr(onnx_time, "race", lambda models, shape: [0.1, *(0.2 for _ in models[1:])])
    for model in (graphs.opened("regressor"), graphs.model(products())):
        with pytest.raises(
            NothingChanged, match=r"would not get faster: it takes 0\.1000 ms, \w+ at rank .* 0\.2000 ms"
        ):
            graphs.apply(Factorize(macs=0.5, multiple=1), model)


def test_of_two_chains_the_faster_is_taken(monkeypatch):
    for at, method in enumerate(("tucker", "spatial")):
        times = [3.0, 2.0, 2.0]
        times[1 + at] = 1.0
        monkeypatch.setattr(onnx_time, "race", lambda models, shape, times=times: times[: len(models)])
        outcome = graphs.apply(Factorize(macs=0.5, multiple=1), graphs.opened("tiny"))
        facts = outcome.notes["by_layer"]["conv2"]
        assert (facts["method"], facts["layer_ms"], facts["chain_ms"]) == (method, 3.0, 1.0)


def test_the_clock_finds_the_smaller_product_faster():
    torch.manual_seed(0)
    net = nn.Sequential(low_rank(nn.Linear(768, 1024), 16), nn.ReLU(), nn.Linear(1024, 8))
    model = opened(net, "input=float32[1,768]")
    outcome = graphs.apply(Factorize(energy=0.99), model)
    assert outcome.changed == ("0",)
    facts = outcome.notes["by_layer"]["0"]
    assert facts["chain_ms"] < facts["layer_ms"]
    files = [graphs.apply(ExportOnnx(), each).model.payload.SerializeToString() for each in (model, outcome.model)]
    assert len(files[1]) < 0.2 * len(files[0])
    assert all(onnxruntime.InferenceSession(each, providers=["CPUExecutionProvider"]) for each in files)


def test_models_are_raced_on_what_goes_in():
    small, large = (graphs.proto([graphs.node("MatMul", "x w", "y")], {"x": ("float32", [1, 4, size])},
                                 {"y": ("float32", [1, 4, size])}, {"w": graphs.floats(size, size)})
                    for size in (8, 8))  # fmt: skip
    times = onnx_time.race([small, large], (1, 4, 8))
    assert len(times) == 2
    assert all(time > 0 for time in times)


# --- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "error", "match"),
    [
        (
            Factorize(energy=0.9, rank=4),
            RecipeError,
            r"one of energy, macs and rank, not energy = 0\.9 and rank = 4",
        ),
        (Factorize(exclude=("*",)), NothingChanged, r"excluded by the recipe \(\*\)"),
        (Factorize(rank=2, convolutions="none", exclude=("fc",)), NothingChanged, "leaves convolutions alone"),
    ],
)
def test_what_cannot_be_done_is_said(request_, error, match):
    with pytest.raises(error, match=match):
        graphs.apply(request_, graphs.opened("tiny"))


def test_weights_that_cannot_be_factorized_are_refused():
    model = graphs.opened("tiny")
    with torch.no_grad():
        model.payload.module.conv2.weight[0] = float("inf")
    with pytest.raises(PassError, match="conv2 has a NaN or infinite weight"):
        graphs.apply(Factorize(**HALF), model)
    with pytest.raises(RecipeError, match="its weights are integers already"):
        graphs.apply(Factorize(), graphs.apply(DynamicInt8(), graphs.opened("tiny")).model)


def test_a_layer_whose_weight_is_derived_is_left_alone():
    net = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)).eval()
    nn.utils.parametrizations.orthogonal(net[0])
    nn.utils.spectral_norm(net[1])
    model = Model(Format.TORCH, TorchPayload(net), find_signature(net, {"input": graphs.floats(2, 16)}))
    outcome = graphs.apply(Factorize(**HALF), model)
    told = {item.layer: item.reason for item in outcome.skipped}
    assert outcome.changed == ("2",)
    assert "is no plain Linear" in told["0.parametrizations.weight"]
    assert "its weight is derived from others" in told["1"]
