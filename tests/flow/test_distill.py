"""Distillation in a recipe: recovered after pruning, taken up after a kill, a student shipped by itself."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from whet.data.data import Data, split
from whet.models.adapter import adapter_for
from whet.models.source import source_of
from whet.recipe.cache import Cache, root_key
from whet.recipe.execute import execute
from whet.recipe.recipe import Recipe
from whet.types import Format

STUDENT = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

def small():
    return Small()
"""
STEPS = [
    {"pass": "magnitude-prune", "sparsity": 0.8},
    {"pass": "distill", "epochs": 4, "learning_rate": 3e-3, "batch_size": 32},
]


class Kill(BaseException):
    """Stands for a kill: nothing that catches errors catches it."""


def carried_out(files, tiny, folder, steps, on_event=lambda event: None):
    """Run a recipe through the executor; return the model at its end, and what was trained of it."""
    (train, test) = tiny.images()
    source = source_of(f"{files}/tiny.py:tiny")
    data = split(Data(train=train, test=test))
    cache = Cache(folder, source)
    key = root_key(source.fingerprint(), "sample")
    model = adapter_for(Format.TORCH).open(source, {"x": train[0][:2]})
    root = cache.get(key) or cache.put(key, model, None, 0.0)
    entries = execute(Recipe.of("r", steps), root, cache, data, lambda entry: {"seen": 1}, on_event)
    return cache.load(entries[-1]), entries[-1]


@pytest.fixture(scope="module")
def whole(files, tiny, tmp_path_factory):
    return carried_out(files, tiny, tmp_path_factory.mktemp("whole"), STEPS)


def test_a_pruned_model_is_recovered_from_the_recipes_own_beginning(tiny, whole):
    model, entry = whole
    x = torch.from_numpy(tiny.images()[1][0])
    with torch.no_grad():
        want = tiny.tiny().eval()(x).softmax(1)
        gap = (model.payload.module(x).softmax(1) - want).abs().mean()
    assert float(gap) < 0.05
    assert entry.step.notes["loss_after"] < 0.5 * entry.step.notes["loss_before"]
    weight = model.payload.module.conv2.weight
    assert float((weight == 0).float().mean()) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("at", [10, pytest.param(23, marks=pytest.mark.slow)])
def test_a_killed_step_goes_on_from_its_last_epoch_and_ends_the_same(files, tiny, whole, tmp_path, at):
    def kill(event):
        if event.stage.startswith("train") and event.total == 36 and event.done == at:
            raise Kill

    with pytest.raises(Kill):
        carried_out(files, tiny, tmp_path, STEPS, kill)
    assert list((tmp_path / "working").rglob("*.safetensors"))
    seen = []
    model, entry = carried_out(files, tiny, tmp_path, STEPS, seen.append)
    made = [event.done for event in seen if event.stage.startswith("train") and event.total == 36]
    assert made == list(range(at // 9 * 9 + 1, 37))
    for name, value in whole[0].payload.module.state_dict().items():
        assert torch.equal(value, model.payload.module.state_dict()[name]), name
    assert entry.step.notes["losses"] == whole[1].step.notes["losses"]
    assert not list((tmp_path / "working").iterdir())


@pytest.mark.slow
def test_a_students_bundle_answers_without_the_teacher_and_without_whet(whet, files, tmp_path):
    (tmp_path / "student.py").write_text(STUDENT)
    (tmp_path / "student.toml").write_text(
        f'[[steps]]\npass = "distill"\nepochs = 2\nlearning_rate = 3e-3\nstudent = "{tmp_path}/student.py:small"\n'
    )
    run = tmp_path / "run"
    ran = whet(
        "run", tmp_path / "student.toml", "--model", f"{files}/tiny.py:tiny", "--data", f"{files}/tiny.py:images",
        "--out", run, "--runtime", "torch", "--batch-sizes", "1", "--max-drop", "1", "--min-speedup", "0.01",
    )  # fmt: skip
    assert (run / "results.json").exists(), ran.err
    bundle = tmp_path / "moved"
    shutil.move(run / "candidates" / "student", bundle)
    shutil.rmtree(run)
    (tmp_path / "student.py").unlink()
    made = json.loads((bundle / "manifest.json").read_text())
    assert made["source"]["factory"] == "small"
    checked = whet("verify", bundle.name, "--trust-code", cwd=bundle.parent)  # a relative path opens the same code
    assert checked.code == 0, checked.out + checked.err
    alone = subprocess.run(
        [sys.executable, "-I", bundle / "predict.py", "--golden"], capture_output=True, text=True, check=False
    )
    assert json.loads(alone.stdout)["golden"] == "ok", alone.stderr
    assert np.load(bundle / "golden.npz")["output.output"].shape[1] == 3
