"""Torch to TFLite: its contract, and its agreement with torch. Slow where litert-torch is needed."""

import importlib.util

import numpy as np
import pytest
import torch
from torch import nn

from whet.errors import MissingDependency
from whet.models.signature import parse_input
from whet.models.source import source_of
from whet.models.tflite.adapter import TfliteAdapter
from whet.models.tflite.flatbuffer import parse
from whet.models.torch.adapter import TorchAdapter
from whet.passes.base import PassContext
from whet.passes.export.spec import ExportTflite
from whet.testing import PassContract
from whet.types import Format

THERE = importlib.util.find_spec("litert_torch") is not None
needs = pytest.mark.skipif(not THERE, reason="litert-torch is not installed: pip install 'whet[litert-torch]'")


def opened(model, spec):
    return TorchAdapter().open(source_of(model.eval(), inputs=(parse_input(spec),)), None)


def folded():
    """A convolution with a BatchNorm behind it, whose statistics are not those of its beginning."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )
    net[1].running_mean.uniform_(-1, 1)
    net[1].running_var.uniform_(0.5, 2)
    return net


class TwoOfEach(nn.Module):
    """Named inputs, and outputs by name."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, first, second):
        both = self.left(first) + self.right(second)
        return {"sum": both, "mean": both.mean(1)}


@pytest.mark.slow
@needs
class TestExportTfliteOfTorch(PassContract):
    covers = ("export-tflite", Format.TORCH)

    def make_pass(self):
        return ExportTflite()

    def make_model(self):
        return opened(folded(), "x=float32[1,2,8,8]")


@pytest.mark.slow
@needs
def test_batch_norm_is_folded_and_inputs_stay_channels_first(tmp_path):
    model = opened(folded(), "x=float32[1,2,8,8]")
    outcome = ExportTflite().apply(model, PassContext(tmp_path))
    assert outcome.notes["samples_a_call"] == 1
    assert outcome.notes["max_rel_difference"] < 1e-5
    assert [spec.shape for spec in outcome.model.signature.inputs] == [(1, 2, 8, 8)]
    kinds = [operator.kind for operator in parse(outcome.model.payload)[0].operators]
    assert "CONV_2D" in kinds
    assert not {"SUB", "DIV", "RSQRT"} & set(kinds)


@pytest.mark.slow
@needs
def test_names_of_inputs_and_outputs_are_kept_and_several_samples_may_be_fixed(tmp_path):
    torch.manual_seed(0)
    source = source_of(
        TwoOfEach().eval(), inputs=(parse_input("first=float32[1,4]"), parse_input("second=float32[1,5]"))
    )
    model = TorchAdapter().open(source, None)
    made = ExportTflite(batch=3).apply(model, PassContext(tmp_path)).model
    batch = model.signature.synthetic(3)
    found = TfliteAdapter().forward(made, batch)
    for name, wanted in TorchAdapter().forward(model, batch).items():
        np.testing.assert_allclose(found[name], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@needs
@pytest.mark.assets
@pytest.mark.parametrize(
    ("name", "weights", "spec"),
    [
        ("fashion_cnn", "fashion/fashion_cnn", "x=float32[1,1,28,28]"),
        ("resnet20", "resnet20-cifar10/resnet20", "x=float32[1,3,32,32]"),
        ("fashion_lstm", "fashion/fashion_lstm", "x=float32[1,28,28]"),
    ],
)
def test_published_models_agree_with_torch(assets, tmp_path, name, weights, spec):
    models = assets / "models"
    (file,) = (models / weights).parent.glob(f"{(models / weights).name}*.safetensors")
    model = TorchAdapter().open(source_of(f"{models / 'zoo.py'}:{name}", file, (parse_input(spec),)), None)
    notes = ExportTflite().apply(model, PassContext(tmp_path)).notes
    assert notes["max_rel_difference"] < 1e-5


def test_without_litert_torch_the_message_says_what_to_install_or_do_instead(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None)
    model = opened(folded(), "x=float32[1,2,8,8]")
    with pytest.raises(MissingDependency, match=r"pip install 'whet\[litert-torch\]', or make ONNX of it"):
        ExportTflite().apply(model, PassContext(tmp_path))
