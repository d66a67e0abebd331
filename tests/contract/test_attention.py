"""Attention made one node: alike by NumPy, in every form that exporters write, and told why where it is not."""

import dataclasses

import graphs
import numpy as np
import pytest
import torch
from torch import nn

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.errors import NothingChanged
from whet.models.signature import parse_input
from whet.models.source import source_of
from whet.models.torch.adapter import TorchAdapter
from whet.passes.export.spec import ExportOnnx
from whet.passes.graph.spec import CleanGraph, FuseTransformer, OptimizeGraph
from whet.passes.quantize.spec import DynamicInt8
from whet.recipe.presets import preset
from whet.types import Format, Skipped


def fuse(made, **settings):
    return graphs.apply(FuseTransformer(**settings), graphs.model(made))


def batch(count=3, length=5, mask=True):
    given = {"x": graphs.floats(count, length, 8, seed=9)}
    if mask:
        given["mask"] = (np.arange(length) < np.arange(2, 2 + count)[:, None]).astype(np.float32)
    return given


def by_numpy(made, given, heads):
    """Attention by the book: softmax(Q K^T / sqrt(size) + mask) V, averaged over positions."""
    held = {name: array.astype(np.float64) for name, array in graphs.constants(made).items()}
    x = given["x"].astype(np.float64)
    n, s, width = x.shape
    q, k, v = (
        (x @ held[f"{name}.weight"] + held[f"{name}.bias"]).reshape(n, s, heads, width // heads) for name in "qkv"
    )
    scores = np.einsum("nshd,nthd->nhst", q, k) / np.sqrt(width / heads)
    if "mask" in given:
        scores = np.where(given["mask"][:, None, None, :] > 0, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    context = np.einsum("nhst,nthd->nshd", weights, v).reshape(n, s, width)
    return context.mean(1) @ held["fc.weight"].T


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("keys", ["turned", "twice", "flat"])
def test_a_fused_attention_is_the_books(keys, mask, heads):
    made = graphs.attention(keys, mask, heads)
    if keys == "flat":  # whose file fixes the positions
        for value in made.graph.input:
            value.type.tensor_type.shape.dim[1].dim_value = 5
    outcome = fuse(made)
    kinds = graphs.kinds(outcome.model.payload)
    assert kinds.count("MultiHeadAttention") == 1
    assert not {"Softmax", "Transpose", "Div"} & set(kinds)
    assert outcome.notes["attentions_fused"] == 1
    assert outcome.notes["heads"] == [heads]
    given = batch(mask=mask)
    np.testing.assert_allclose(
        graphs.run(outcome.model.payload, given)[0], by_numpy(made, given, heads), rtol=1e-4, atol=1e-5
    )


def test_samples_and_positions_stay_free():
    made = graphs.attention()
    fused = fuse(made).model.payload
    for count, length in ((1, 1), (1, 9), (4, 3), (7, 16)):
        given = batch(count, length)
        np.testing.assert_allclose(
            graphs.run(fused, given)[0], by_numpy(made, given, 2), rtol=1e-4, atol=1e-5, err_msg=f"{count} {length}"
        )


def test_a_sample_of_padding_alone_stays_finite():
    given = batch()
    given["mask"][:] = 0
    assert np.isfinite(graphs.run(fuse(graphs.attention()).model.payload, given)[0]).all()


def test_the_weights_keep_their_names_for_what_comes_after():
    made = graphs.attention()
    fused = fuse(made).model
    held, before = graphs.constants(fused.payload), graphs.constants(made)
    for name in (f"{one}.{part}" for one in "qkv" for part in ("weight", "bias")):
        np.testing.assert_array_equal(held[name], before[name])
    outcome = graphs.apply(DynamicInt8(reduce_range="on"), fused)
    assert set(outcome.changed) == {"q", "k", "v", "fc"}
    assert graphs.kinds(outcome.model.payload).count("MatMulInteger") == 4
    given = batch()
    want, have = graphs.run(made, given)[0], graphs.run(outcome.model.payload, given)[0]
    assert 10 * np.log10((want**2).sum() / ((want - have) ** 2).sum()) > 20


def test_a_fused_graph_can_be_cleaned():
    fused = fuse(graphs.attention()).model
    cleaned = graphs.apply(CleanGraph(), fused).model
    given = batch()
    np.testing.assert_array_equal(graphs.run(cleaned.payload, given)[0], graphs.run(fused.payload, given)[0])


def change(made, kind, at=0, **how):
    node = [node for node in made.graph.node if node.op_type == kind][at]
    for name, value in how.items():
        if name == "perm":
            node.attribute[0].ints[:] = value
        else:
            getattr(node, name)[0] = value
    return made


def shown_weights():
    made = graphs.attention()
    made.graph.output.append(graphs.onnx.helper.make_tensor_value_info("weights", 1, ["N", 2, "S", "S"]))
    return made


def other_heads():
    made = graphs.attention()
    made.graph.initializer.append(graphs.numpy_helper.from_array(np.array([0, 0, 4, 2]), "other"))
    for node in made.graph.node:
        if node.op_type == "Reshape" and node.output[0] == "v3":
            node.input[1] = "other"
    return made


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: change(graphs.attention(), "Transpose", perm=[2, 0, 1, 3]), "are in another order than"),
        (shown_weights, "its weights are read by more than the product with the values"),
        (other_heads, "its query has 2 heads, its key 2, its value 4"),
    ],
)
def test_an_attention_that_is_not_fused_says_why(make, why):
    with pytest.raises(NothingChanged, match=f"no attention that can be fused: .*{why}"):
        fuse(make())
    outcome = fuse(make(), allow_unchanged=True)
    assert outcome.changed == ()
    assert len(outcome.skipped) == 1


def test_a_graph_without_attention_is_unchanged_and_says_so():
    model = graphs.model(graphs.conv_net())
    outcome = graphs.apply(FuseTransformer(allow_unchanged=True), model)
    assert outcome.model is model
    assert outcome.skipped == (Skipped("graph", "it has no Softmax, and so no attention"),)


def test_what_a_classifier_ends_in_is_not_taken_for_attention():
    made = graphs.conv_net()
    made.graph.node[-1].output[0] = "logits"
    made.graph.node.append(graphs.node("Softmax", "logits", "y", axis=-1))
    with pytest.raises(NothingChanged, match="logits comes of Gemm, not of a MatMul"):
        fuse(made)


@pytest.mark.parametrize(
    ("change", "why"),
    [({"scale": 9.0}, r"output 'y' is off by .* \(allowed: 0.0001\)"), ({"heads": 3}, "fused, it cannot be run")],
)
def test_a_graph_that_is_not_the_same_any_more_is_left_as_it_was(monkeypatch, change, why):
    from whet.passes.graph import onnx_attention

    found = onnx_attention.find

    def wrong(proto):
        attentions, missed = found(proto)
        return [dataclasses.replace(each, **change) for each in attentions], missed

    monkeypatch.setattr(onnx_attention, "find", wrong)
    model, data = graphs.model(graphs.attention()), Splits({Part.CALIBRATE: ArraySamples(batch())})
    with pytest.raises(NothingChanged, match=why):
        graphs.apply(FuseTransformer(), model, data=data)
    assert graphs.apply(FuseTransformer(allow_unchanged=True), model, data=data).model is model


def test_it_is_compared_on_the_users_own_data():
    class Watched(ArraySamples):
        read = 0

        def rows(self, indices):
            Watched.read += len(indices)
            return super().rows(indices)

    data = Splits({Part.CALIBRATE: Watched(batch(4))})
    graphs.apply(FuseTransformer(), graphs.model(graphs.attention()), data=data)
    assert Watched.read == 5  # one sample, then four


# --- as torch exports it --------------------------------------------------------------------------------------


class Layer(nn.Module):
    """Attention as transformers write it: with torch's own product or with their own."""

    def __init__(self, form):
        super().__init__()
        self.form = form
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x, mask):
        n, s, _ = x.shape
        q, k, v = (
            part(x).view(n, s, 4, 4).transpose(1, 2) for part in (self.query, self.key, self.value)
        )  # (n, 4, s, 4)
        if self.form == "eager":
            scores = q @ k.transpose(-1, -2) / 2 + torch.where(mask, 0.0, -1e4)
            context = scores.softmax(-1) @ v
        elif self.form == "causal":
            context = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            context = nn.functional.scaled_dot_product_attention(q, k, v, mask)
        return self.out(context.transpose(1, 2).reshape(n, s, 16))


class Encoder(nn.Module):
    """ids (N, S) and mask (N, S) to (N, 3), by two layers."""

    def __init__(self, form):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.layers = nn.ModuleList([Layer(form), Layer(form)])
        self.norm, self.fc = nn.LayerNorm(16), nn.Linear(16, 3)

    def forward(self, ids, mask):
        x, seen = self.embed(ids), mask.bool()[:, None, None, :]
        for layer in self.layers:
            x = self.norm(x + layer(x, seen))
        return self.fc((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))


@pytest.mark.parametrize("form", ["sdpa", "eager", "causal"])
def test_every_layer_of_a_transformer_that_torch_exported_is_fused(form):
    torch.manual_seed(0)
    inputs = (parse_input("ids=int64[1,?12]:0..49"), parse_input("mask=float32[1,?12]:1..1"))
    model = TorchAdapter().open(source_of(Encoder(form).eval(), inputs=inputs), None)
    exported = graphs.apply(OptimizeGraph(), graphs.apply(ExportOnnx(), model).model).model
    outcome = graphs.apply(FuseTransformer(), exported)
    assert outcome.notes["attentions_fused"] == 2
    assert outcome.skipped == ()
    assert outcome.notes["nodes_after"] < outcome.notes["nodes_before"]
    for count, length in ((1, 12), (5, 7)):
        given = {
            "ids": np.random.default_rng(1).integers(0, 50, (count, length)),
            "mask": (np.arange(length) < length - np.arange(count)[:, None] % 3).astype(np.float32),
        }
        np.testing.assert_allclose(
            graphs.forward(outcome.model, given)["output"],
            graphs.forward(model, given)["output"],
            rtol=1e-4,
            atol=1e-5,
        )


def test_the_preset_fuses_before_it_quantizes():
    steps = [step.name for step in preset("dynamic-int8", Format.TORCH).steps]
    assert steps == ["export-onnx", "optimize-graph", "fuse-transformer", "dynamic-int8", "clean-graph"]
