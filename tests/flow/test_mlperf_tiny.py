"""The models of MLPerf Tiny, pruned, clustered and quantized as Keras models: no layer is left out in silence."""

import numpy as np
import pytest
from PIL import Image

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.models.keras import describe
from whet.models.keras.adapter import KerasAdapter
from whet.models.source import source_of
from whet.models.tflite import constants
from whet.models.tflite.adapter import TfliteAdapter
from whet.models.tflite.flatbuffer import parse
from whet.passes.base import PassContext
from whet.passes.cluster.spec import Cluster
from whet.passes.export.spec import ExportTflite
from whet.passes.prune.spec import MagnitudePrune
from whet.passes.quantize.spec import StaticInt8

KERNELS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}  # axis of the channels
COUNT = 100


def cifar(assets):
    return np.load(next((assets / "images" / "cifar10").glob("*test*.npz")))["x"][:COUNT].astype(np.float32)


def pets(assets):
    """Pictures of 96 by 96 pixels, 0 to 1. Their breeds are no labels of the model: what counts is agreement."""
    files = sorted((assets / "images" / "pets").glob("*/*.jpg"))[:: 300 // COUNT][:COUNT]
    return np.stack(
        [np.asarray(Image.open(file).convert("RGB").resize((96, 96)), np.float32) / 255 for file in files]
    )


def drawn(assets):
    """Numbers as large as log-mel energies; there is no recording in the assets."""
    return np.random.default_rng(0).normal(-20, 10, (COUNT, 640)).astype(np.float32)


CASES = {"pretrainedResnet": (cifar, 10, 0), "vww_96": (pets, 28, 13), "ad01": (drawn, 10, 0)}


@pytest.fixture(params=CASES, scope="module")
def case(request, assets):
    """A model, samples for it, and how many layers of it multiply, how many of these by depth."""
    samples, weighted, deep = CASES[request.param]
    model = KerasAdapter().open(source_of(assets / "models" / "mlperf-tiny" / f"{request.param}.h5"), None)
    return model, samples(assets), weighted, deep


def account(outcome, model):
    """Every layer with weights is changed, or left with a reason."""
    named = {*outcome.changed, *(item.layer for item in outcome.skipped)}
    assert named == set(describe.layers(model.payload))
    assert all(item.reason for item in outcome.skipped)
    return {layer.name: layer for layer in KerasAdapter().layers(model) if layer.weights}


@pytest.mark.assets
@pytest.mark.slow
def test_no_layer_is_left_out_in_silence_and_the_file_has_what_was_made(case, tmp_path):
    model, x, count, deep = case
    samples = ArraySamples({model.signature.inputs[0].name: x})
    where = PassContext(tmp_path, data=Splits({Part.CALIBRATE: samples}))
    pruned = MagnitudePrune(sparsity=0.5).apply(model, where)
    weighted = account(pruned, model)
    assert (len(weighted), sum(layer.kind == "DepthwiseConv2D" for layer in weighted.values())) == (count, deep)
    assert set(pruned.changed) == set(weighted)
    for name, share in pruned.notes["sparsity_by_layer"].items():
        assert share == pytest.approx(0.5, abs=0.01), name
    clustered = Cluster(clusters=16).apply(pruned.model, where)
    account(clustered, model)
    assert set(clustered.changed) == set(weighted)
    for name, array in KerasAdapter().matrices(clustered.model).items():
        assert len(np.unique(array)) <= 16, name
        assert np.mean(array == 0) >= 0.49, name
    lite = ExportTflite().apply(clustered.model, where).model
    quantized = StaticInt8(samples=50).apply(lite, where)
    owners = {layer.name for layer in TfliteAdapter().layers(lite) if layer.weights}
    assert {*quantized.changed, *(item.layer for item in quantized.skipped)} >= owners
    assert len(kernels(quantized.model)) == count
    for kind, stored, integers in kernels(quantized.model):
        assert stored == "INT8"
        assert np.mean(integers == 0) >= 0.45, kind
        assert max(len(np.unique(row)) for row in integers) <= 16, kind
    whole, small = answers(clustered.model, x), answers(quantized.model, x)
    error = ((whole - small) ** 2).sum() / ((whole - whole.mean(axis=0)) ** 2).sum()
    assert error < 0.25, f"the INT8 file is off the model that it was made of: {error:.3f} of its variance"


def kernels(lite):
    """Return the kind, the type and the integers (channels, numbers) of every kernel of a file."""
    graph = parse(lite.payload)[0]
    found = []
    for one in graph.operators:
        if one.kind in KERNELS:
            weight = graph.tensors[one.inputs[1]]
            axis, stored = KERNELS[one.kind], constants.stored(weight)
            found.append((one.kind, weight.type, np.moveaxis(stored, axis, 0).reshape(stored.shape[axis], -1)))
    return found


def answers(model, x):
    from whet.models.adapter import adapter_for

    batch = model.signature.bind({model.signature.inputs[0].name: x})
    (found,) = adapter_for(model.format).forward(model, batch).values()
    return found.astype(np.float64)
