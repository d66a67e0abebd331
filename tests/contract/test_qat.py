"""Quantization-aware training: what it keeps, where it rounds, and that the file has the trained integers."""

from dataclasses import replace

import graphs
import numpy as np
import pytest
import torch
from torch import nn

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.errors import DataError, NothingChanged, PassError, RecipeError
from whet.machine import this_machine
from whet.models.model import Model
from whet.models.torch.adapter import TorchPayload, find_signature
from whet.passes.base import PassContext
from whet.passes.export.spec import ExportOnnx
from whet.passes.graph.spec import OptimizeGraph
from whet.passes.quantize.spec import StaticInt8
from whet.passes.quantize.torch_fake import FakeActivations
from whet.passes.quantize.trained import Qat
from whet.recipe.recipe import Recipe
from whet.train.spec import Recovery
from whet.types import Format, TraitKind

MACHINE = replace(this_machine(), cores=1, flags=("avx512_vnni",))
QUICK = Recovery(epochs=1, learning_rate=1e-3, batch_size=50)


def samples(seed=1, count=100):
    return ArraySamples({"x": graphs.floats(count, 1, 8, 8, seed=seed)})


def context(folder, original=lambda: graphs.opened("tiny")):
    data = Splits({part: samples() for part in (Part.TRAIN, Part.CALIBRATE)})
    return PassContext(folder, data=data, machine=MACHINE, original=original)


class Residual(nn.Module):
    """A sum, a concatenation, a pooling, a leaky and an in-place activation, numbers moved about."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.third = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 8, 1)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.first(x)))
        y = self.second(x)
        y += x
        y = nn.functional.leaky_relu(torch.cat([y, x], 1), 0.1)
        return self.fc(nn.functional.avg_pool2d(self.third(y), 8).flatten(1))


def opened(module):
    """A module in memory as a Model, with numbers that were used: variances other than one, logits that differ."""
    torch.manual_seed(0)
    x = graphs.floats(64, 1, 8, 8, seed=2)
    with torch.no_grad():
        module.train()(torch.from_numpy(x))
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.weight.copy_(torch.linspace(-0.5, 2, len(part.weight)))
    return Model(Format.TORCH, TorchPayload(module.eval()), find_signature(module, {"x": x[:4]}))


def test_weights_lie_on_their_grids(tmp_path):
    outcome = Qat(weight_bits=3, edge_bits=4, recovery=QUICK).apply(graphs.opened("tiny"), context(tmp_path))
    assert outcome.notes["bits_by_weight"] == {"conv1.weight": 4, "conv2.weight": 3, "fc.weight": 4}
    for name, bits in outcome.notes["bits_by_weight"].items():
        for channel in outcome.model.payload.module.get_parameter(name).detach():
            values = np.unique(np.round(channel.abs().numpy(), 6))
            values = values[values > 0]
            steps = values / min(np.diff(values, prepend=0).min(), values.min())
            assert len(values) <= 2 ** (bits - 1) - 1
            np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    assert not list(outcome.model.payload.module.buffers())[3:]  # those of the BatchNorm, and none of ours


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_the_file_has_the_integers_that_were_trained(bits, tmp_path):
    """A BatchNorm of other signs and sizes by channel is folded in between; integers follow its signs."""
    model = opened(Residual())
    where = context(tmp_path, lambda: model)
    request = Qat(weight_bits=bits, edge_bits=bits, recovery=replace(QUICK, learning_rate=1e-2))
    trained = request.apply(model, where).model
    exported = OptimizeGraph().apply(ExportOnnx().apply(trained, where).model, where).model
    assert exported.has(TraitKind.GRID)
    outcome = StaticInt8().apply(exported, where)
    assert outcome.notes["grids_kept"] == 4
    found = graphs.constants(outcome.model.payload)
    module = trained.payload.module
    for name, norm in {"first": module.norm.weight.detach().numpy(), "second": None, "third": None}.items():
        weight = getattr(module, name).weight.detach().numpy()
        kernels = {key: each for key, each in found.items() if key.startswith(name) and each.ndim == 4}
        (integers,) = kernels.values()
        assert np.abs(integers).max() <= 2 ** (bits - 1) - 1
        for at, (row, mine) in enumerate(zip(weight, integers.astype(np.float64), strict=True)):
            if row.any():
                step = (row * mine).sum() / (mine * mine).sum()
                np.testing.assert_allclose(mine * step, row, atol=1e-4 * np.abs(row).max())
                assert norm is None or np.sign(step) == np.sign(norm[at])


def test_activations_are_rounded_where_the_file_rounds_them(tmp_path):
    """Rounded in torch it is nearer to the INT8 file than unrounded, and rounded as often."""
    model = opened(Residual())
    where = context(tmp_path, lambda: model)
    exported = OptimizeGraph().apply(ExportOnnx().apply(model, where).model, where).model
    int8 = StaticInt8(calibration="minmax").apply(exported, where).model
    x = {"x": samples().inputs["x"]}
    module = model.payload.module
    fake = FakeActivations(module, 100.0)
    fake.watch({"x": torch.from_numpy(x["x"])})
    with torch.no_grad():
        rounded = module(torch.from_numpy(x["x"])).numpy()
    ranges = fake.remove()
    with torch.no_grad():
        plain = module(torch.from_numpy(x["x"])).numpy()
    file = graphs.forward(int8, x)["output"]
    makers = {name: node.op_type for node in int8.payload.graph.node for name in node.output}
    made = [makers.get(node.input[0]) for node in int8.payload.graph.node if node.op_type == "QuantizeLinear"]
    assert len(ranges) == len(made) - sum(kind in ("Flatten", "Reshape") for kind in made)
    weights_alone = np.abs(plain - file).mean()
    assert np.abs(rounded - file).mean() < weights_alone
    assert np.abs(rounded - plain).mean() > 0.2 * weights_alone


def test_its_gradients_go_straight_through_within_the_range():
    module = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.eye(4))
    fake = FakeActivations(module, 100.0)
    fake.watch({"input": torch.tensor([[-1.0, 0.5, 1.0, 2.0]])})
    fake.frozen = True
    x = torch.tensor([[-3.0, 0.5, 1.0, 5.0]], requires_grad=True)
    out = module(x)
    out.sum().backward()
    fake.remove()
    np.testing.assert_allclose(out.detach().numpy(), [[-1.0, 0.5, 1.0, 2.0]], atol=3 / 255)
    np.testing.assert_array_equal(x.grad.numpy(), [[0, 1, 1, 0]])
    torch.testing.assert_close(module(x), x)


def test_a_processor_that_saturates_has_seven_bits(tmp_path):
    old = replace(context(tmp_path), machine=replace(MACHINE, flags=("avx2",)))
    outcome = Qat(recovery=QUICK).apply(graphs.opened("tiny"), old)
    assert set(outcome.notes["bits_by_weight"].values()) == {7}


def test_what_it_cannot_quantize_is_said(tmp_path):
    model = graphs.opened("lstm")
    rng = np.random.default_rng(0)
    arrays = {"ids": rng.integers(0, 50, (40, 12)), "mask": np.ones((40, 12), np.float32)}
    data = Splits({part: ArraySamples(arrays) for part in (Part.TRAIN, Part.CALIBRATE)})
    where = PassContext(tmp_path, data=data, machine=MACHINE, original=lambda: graphs.opened("lstm"))
    outcome = Qat(weight_bits=4, recovery=QUICK).apply(model, where)
    assert outcome.changed == ("fc.weight",)
    assert {item.layer: item.reason for item in outcome.skipped}["cell"].startswith(
        "ONNX Runtime has no static INT8"
    )


def test_excluded_layers_and_no_time_are_said(tmp_path):
    outcome = Qat(recovery=QUICK, exclude=("conv*",)).apply(graphs.opened("tiny"), context(tmp_path))
    assert outcome.changed == ("fc.weight",)
    assert {item.layer for item in outcome.skipped} == {"conv1", "conv2"}
    with pytest.raises(NothingChanged, match="0 minutes"):
        Qat(recovery=replace(QUICK, minutes=0)).apply(graphs.opened("tiny"), context(tmp_path))


def test_what_it_needs_is_asked_for(tmp_path):
    with pytest.raises(RecipeError, match="put it before export-onnx"):
        Qat().check(Format.ONNX)
    with pytest.raises(DataError, match="none was given"):
        Qat().apply(graphs.opened("tiny"), replace(context(tmp_path), data=None))
    with pytest.raises(PassError, match="run it in a recipe"):
        Qat().apply(graphs.opened("tiny"), replace(context(tmp_path), original=None))


@pytest.mark.parametrize("after", ["distill", "cluster", "factorize"])
def test_what_would_take_weights_off_their_grids_is_refused(after):
    with pytest.raises(RecipeError, match="would erase what an earlier step made"):
        Recipe.of("late", [{"pass": "qat"}, {"pass": after}]).check(Format.TORCH)
