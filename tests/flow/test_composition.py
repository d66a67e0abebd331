"""Pruned, clustered and trained for integers, each with each: what one pass made, the exported file still has."""

import itertools
from dataclasses import replace

import graphs
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.machine import this_machine
from whet.models.adapter import adapter_for
from whet.passes.base import PassContext
from whet.recipe.recipe import Recipe
from whet.types import Format

STEPS = {
    "prune": {"pass": "magnitude-prune", "sparsity": 0.5},
    "cluster": {"pass": "cluster", "clusters": 6},
    "qat": {"pass": "qat", "weight_bits": 4, "edge_bits": 4, "recovery": {"epochs": 1, "learning_rate": 1e-3}},
}
MIXES = [mix for count in (1, 2, 3) for mix in itertools.combinations(STEPS, count)]
TO_INTEGERS = [
    {"pass": "export-onnx"},
    {"pass": "optimize-graph"},
    {"pass": "static-int8"},
    {"pass": "clean-graph"},
    {"pass": "pack", "least_bytes": 32},
]


@pytest.fixture(scope="module", params=MIXES, ids="-".join)
def made(request, tmp_path_factory):
    """The name of what was done, the float model after that, the INT8 graph and the packed one."""
    folder = tmp_path_factory.mktemp("composed")
    samples = ArraySamples({"x": graphs.floats(100, 1, 8, 8, seed=1)})
    context = PassContext(
        folder,
        data=Splits(dict.fromkeys((Part.TRAIN, Part.CALIBRATE), samples)),
        machine=replace(this_machine(), cores=1, flags=("avx512_vnni",)),
        original=lambda: graphs.opened("tiny"),
    )
    recipe = Recipe.of("mix", [*(STEPS[name] for name in request.param), *TO_INTEGERS])
    assert recipe.check(Format.TORCH) is Format.ONNX
    model, kept = graphs.opened("tiny"), {}
    for step in recipe.steps:
        model = step.apply(model, context).model
        kept[step.name] = model
    trained = kept[{"prune": "magnitude-prune"}.get(request.param[-1], request.param[-1])]
    return request.param, trained, kept["static-int8"], kept["pack"]


def kernels(float_model, int8_model):
    """Pairs of a float matrix of torch and the integers that ONNX Runtime's quantizer made of it."""
    floats = adapter_for(Format.TORCH).matrices(float_model)
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8_model.payload.graph.initializer}
    for name, weight in floats.items():
        own = {key: each for key, each in found.items() if key.startswith(name.removesuffix(".weight"))}
        (integers,) = [each for each in own.values() if each.dtype == np.int8 and each.ndim > 1]
        yield name, weight, integers if integers.shape == weight.shape else integers.T


def test_zeros_are_zeros_in_the_file(made):
    mix, trained, int8, _ = made
    for _, weight, integers in kernels(trained, int8):
        if "prune" in mix:
            assert np.mean(weight == 0) >= 0.5 - 1 / weight.size
        np.testing.assert_array_equal(integers[weight == 0], 0)


def test_values_are_as_few_in_the_file(made):
    """Where a BatchNorm is folded in between, integers keep to the values of each channel."""
    mix, trained, int8, _ = made
    for name, weight, integers in kernels(trained, int8):
        if "cluster" in mix:
            assert len(np.unique(weight)) <= 6
            assert all(len(np.unique(channel)) <= 6 for channel in integers)
            assert len(np.unique(integers)) <= 6 or name == "conv1.weight" or "qat" not in mix
        if "qat" in mix:
            assert np.abs(integers).max() <= 7


def test_integers_are_the_weights(made):
    """Those of trained weights to float32's last digits, others to half a step."""
    mix, trained, int8, _ = made
    for _, weight, integers in kernels(trained, int8):
        for row, mine in zip(weight.astype(np.float64), integers.astype(np.float64), strict=True):
            if row.any():
                step = (row * mine).sum() / (mine * mine).sum()
                off = np.abs(mine * step - row).max() / abs(step)
                assert off < (1e-3 if "qat" in mix else 0.6)


def test_the_packed_file_computes_the_same_and_is_smaller_where_values_are_few(made):
    mix, _, int8, packed = made
    batch = {"x": graphs.floats(20, 1, 8, 8, seed=4)}
    want, have = (graphs.forward(each, batch)["output"] for each in (int8, packed))
    np.testing.assert_array_equal(have, want)
    onnx.checker.check_model(packed.payload)
    if mix != ("prune",):
        held = {tensor.name: tensor for tensor in packed.payload.graph.initializer}
        assert not any(tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4 and
                       tensor.dims[1] > 1 for tensor in held.values())  # fmt: skip
