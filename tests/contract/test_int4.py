"""Weights in blocks of 4 bits: the integers in the file, what is left alone and why, and which methods err less."""

import graphs
import numpy as np
import pytest

from whet.errors import NothingChanged, RecipeError
from whet.passes.quantize.spec import Int4Weights
from whet.types import Trait, TraitKind

IDS = np.random.default_rng(0).integers(0, 100, (50, 7))


def text_net(opset=21):
    """A table, a product by a matrix, another as a Gemm with a bias, one too narrow for a block, a convolution."""
    return graphs.proto(
        [
            graphs.node("Gather", "table ids", "x"),
            graphs.node("MatMul", "x wide", "a"),
            graphs.node("Relu", "a", "b"),
            graphs.node("Transpose", "b", "bt", perm=[0, 2, 1]),
            graphs.node("Conv", "bt kernel", "c"),
            graphs.node("ReduceMean", "c axis", "d", keepdims=0),
            graphs.node("Gemm", "d last bias", "e", transB=1),
            graphs.node("MatMul", "e narrow", "y"),
        ],
        {"ids": ("int64", ["N", 7])},
        {"y": ("float32", ["N", 5])},
        {
            "table": graphs.floats(100, 64, seed=1),
            "wide": graphs.floats(64, 96, seed=2) / 8,
            "kernel": graphs.floats(96, 96, 1, seed=6) / 9,
            "last": graphs.floats(8, 96, seed=3) / 9,
            "bias": graphs.floats(8, seed=4),
            "narrow": graphs.floats(8, 5, seed=5),
            "axis": np.array([2]),
        },
        opset=opset,
    )


def opened(node, found):
    """The matrix (K, N) that a MatMulNBits multiplies by, made of its nibbles by NumPy."""
    given = {each.name: each.i for each in node.attribute}
    blocks, scales, *zeros = (found[name] for name in node.input[1:])
    codes = np.stack([blocks & 15, blocks >> 4], axis=-1).reshape(given["N"], -1, given["block_size"])
    middle = np.full(codes.shape[:2], 8.0)
    if zeros and zeros[0].dtype == np.uint8:
        packed = zeros[0].reshape(given["N"], -1)
        middle = np.stack([packed & 15, packed >> 4], axis=-1).reshape(given["N"], -1)[:, : codes.shape[1]]
    elif zeros:
        middle = zeros[0].reshape(codes.shape[:2])
    whole = (codes.astype(np.float64) - middle[..., None]) * scales.reshape(codes.shape[:2])[..., None]
    return whole.reshape(given["N"], -1)[:, : given["K"]].T


@pytest.mark.parametrize(("method", "symmetric"), [("rtn", False), ("rtn", True), ("hqq", False)])
def test_the_file_multiplies_by_what_its_nibbles_say(method, symmetric):
    before = text_net()
    outcome = graphs.apply(Int4Weights(method=method, symmetric=symmetric), graphs.model(before))
    after = outcome.model.payload
    found, floats = graphs.constants(after), graphs.constants(before)
    products = [node for node in after.graph.node if node.op_type == "MatMulNBits"]
    assert len(products) == outcome.notes["products"] == 2
    for node, wanted in zip(products, (floats["wide"], floats["last"].T), strict=True):
        matrix = opened(node, found)
        step = np.abs(wanted).max() / 7
        assert np.abs(matrix - wanted).max() < 1.01 * step
        assert len(np.unique(matrix[:32, 0])) <= 16
        floats["wide" if wanted is floats["wide"] else "last"] = np.float32(
            matrix if wanted is floats["wide"] else matrix.T
        )
    same = text_net()
    for tensor in same.graph.initializer:
        tensor.CopyFrom(graphs.numpy_helper.from_array(floats[tensor.name], tensor.name))
    want = graphs.forward(graphs.model(same), {"ids": IDS})["y"]
    np.testing.assert_allclose(graphs.forward(outcome.model, {"ids": IDS})["y"], want, rtol=1e-3, atol=1e-3)


def error(outcome):
    want = graphs.forward(graphs.model(text_net()), {"ids": IDS})["y"]
    return float(((graphs.forward(outcome.model, {"ids": IDS})["y"] - want) ** 2).sum() / (want**2).sum())


def test_least_error_errs_less_than_rounding():
    wanted, errors = text_net(), {}
    floats = graphs.constants(wanted)
    for method in ("rtn", "hqq"):
        after = graphs.apply(Int4Weights(method=method), graphs.model(wanted)).model.payload
        (node,) = [each for each in after.graph.node if each.op_type == "MatMulNBits" and each.input[0] == "x"]
        errors[method] = ((opened(node, graphs.constants(after)) - floats["wide"]) ** 2).sum()
    assert errors["hqq"] < 0.95 * errors["rtn"] < 0.01 * (floats["wide"] ** 2).sum()


def test_what_is_left_alone_is_said():
    outcome = graphs.apply(Int4Weights(exclude=("MatMul_1",)), graphs.model(text_net()))
    reasons = {item.layer: item.reason for item in outcome.skipped}
    assert reasons["MatMul_1"] == "excluded by the recipe (MatMul_1)"
    assert any("no convolution of 4-bit" in reason for reason in reasons.values())
    assert any("8 inputs make no whole blocks of 32" in reason for reason in reasons.values())
    assert any("embeddings = true" in reason for reason in reasons.values())
    assert len(outcome.changed) == 1


def test_an_older_file_is_brought_to_the_opset_of_four_bits():
    outcome = graphs.apply(Int4Weights(method="rtn", embeddings=True), graphs.model(text_net(opset=18)))
    assert outcome.notes["embeddings"] == 1
    assert error(outcome) < 0.02
    assert outcome.notes["bytes_after"] < 0.7 * outcome.notes["bytes_before"]


def test_a_model_without_such_products_is_refused():
    with pytest.raises(NothingChanged, match="int4-weights changed nothing"):
        graphs.apply(Int4Weights(), graphs.model(graphs.conv_net()))
    with pytest.raises(RecipeError, match="integers already"):
        graphs.apply(Int4Weights(), graphs.model(text_net()).with_traits(Trait(TraitKind.QUANTIZED, 8)))
