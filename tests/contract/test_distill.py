"""Distillation: recovery of compressed models, and students in the original's place."""

import json
import subprocess
import sys
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
from whet.models.adapter import adapter_for
from whet.models.model import Facts
from whet.models.source import source_of
from whet.models.torch.adapter import TorchAdapter, stored_student
from whet.passes.base import PassContext
from whet.passes.distill.spec import Distill
from whet.passes.prune.spec import MagnitudePrune
from whet.recipe.recipe import Recipe
from whet.testing import PassContract
from whet.types import Format, TraitKind

MACHINE = replace(this_machine(), cores=1)
QUICK = {"epochs": 2, "learning_rate": 3e-3, "batch_size": 32}
STUDENTS = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2)
        self.fc = nn.Linear(4, classes)

    def forward(self, x):
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

class Renamed(Small):
    def forward(self, pixels):
        return super().forward(pixels)

def small():
    return Small()

def wide():
    return Small(5)

def renamed():
    return Renamed()
"""


def images(count=200, labels=True, seed=1):
    """Pictures for the tiny model, with its own choices as labels."""
    x = graphs.floats(count, 1, 8, 8, seed=seed)
    y = graphs.forward(graphs.opened("tiny"), {"x": x})["output"].argmax(1)
    return ArraySamples({"x": x}, y if labels else None)


def context(folder, samples=None, part=Part.TRAIN, **more):
    original = more.pop("original", lambda: graphs.opened("tiny"))
    return PassContext(
        folder, data=Splits({part: samples or images(labels=False)}), machine=MACHINE, original=original, **more
    )


def pruned(sparsity=0.7):
    return graphs.apply(MagnitudePrune(sparsity=sparsity), graphs.opened("tiny")).model


@pytest.fixture
def students(tmp_path):
    file = tmp_path / "students.py"
    file.write_text(STUDENTS)
    return file


class TestRecovery(PassContract):
    def make_pass(self):
        return Distill(**QUICK)

    def make_model(self):
        return pruned()

    def make_context(self, folder):
        return context(folder)


class TestStudent(TestRecovery):
    @pytest.fixture(autouse=True)
    def _file(self, students):
        self.file = students

    def make_pass(self):
        return Distill(**QUICK, student=f"{self.file}:small")


def gap(model, part=None):
    """KL from the original on fresh pictures, as SciPy and NumPy have it."""
    from scipy.special import log_softmax

    batch = {"x": graphs.floats(300, 1, 8, 8, seed=9)}
    ours, theirs = (log_softmax(graphs.forward(each, batch)["output"], axis=1)
                    for each in (model, graphs.opened("tiny")))  # fmt: skip
    return float((np.exp(theirs) * (theirs - ours)).sum(1).mean())


def test_recovery_brings_a_pruned_model_back_and_keeps_its_zeros(tmp_path):
    model = pruned()
    outcome = Distill(epochs=10, learning_rate=3e-3, batch_size=32).apply(model, context(tmp_path))
    assert gap(outcome.model) < 0.3 * gap(model)
    assert outcome.model.traits == model.traits
    before, after = (adapter_for(Format.TORCH).matrices(each) for each in (model, outcome.model))
    for name, array in before.items():
        np.testing.assert_array_equal(array == 0, after[name] == 0, err_msg=name)
    assert outcome.notes["loss_after"] < outcome.notes["loss_before"]
    assert set(outcome.changed) == {"conv1", "bn1", "conv2", "fc"}


def test_a_student_reloads_in_a_fresh_process_without_the_teacher(tmp_path, students):
    outcome = Distill(**QUICK, student=f"{students}:small").apply(graphs.opened("tiny"), context(tmp_path))
    model, batch = outcome.model, {"x": graphs.floats(5, 1, 8, 8, seed=4)}
    assert not model.has(TraitKind.SPARSE)
    path = TorchAdapter().save(model, tmp_path / "stored")
    np.save(tmp_path / "x.npy", batch["x"])
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from whet.models.torch.adapter import TorchAdapter, run, stored_student\n"
        "path = Path(sys.argv[1])\n"
        "made = TorchAdapter().load(path, stored_student(path))\n"
        "np.save(sys.argv[3], run(made.module, {'x': np.load(sys.argv[2])})['output'])\n"
        "print('tiny' in str(list(sys.modules)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "x.npy", tmp_path / "y.npy"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), graphs.forward(model, batch)["output"])
    assert told.stdout.strip() == "False"
    structure = json.loads((path / "model.json").read_text())
    assert structure["origin"]["factory"] == "small"
    # and as the cache does
    again = Facts.of(model).model(TorchAdapter().load(path, stored_student(path)), model.source)
    np.testing.assert_array_equal(graphs.forward(again, batch)["output"], graphs.forward(model, batch)["output"])
    # a later step keeps what it is built from
    later = graphs.apply(MagnitudePrune(sparsity=0.5), again).model
    loaded = TorchAdapter().load(TorchAdapter().save(later, tmp_path / "later"), model.source)
    assert type(loaded.module).__name__ == "Small"


@pytest.mark.parametrize(
    ("factory", "told"),
    [
        ("wide", r"gives output=float32\[\?,5\], the original output=float32\[\?,3\]; have it give the same"),
        ("renamed", r"takes pixels=float32\[\?,1,8,8\], the original x=float32"),
    ],
)
def test_a_student_that_does_not_fit_is_refused_in_one_line(tmp_path, students, factory, told):
    with pytest.raises(PassError, match=told) as caught:
        Distill(**QUICK, student=f"{students}:{factory}").apply(graphs.opened("tiny"), context(tmp_path))
    assert "\n" not in str(caught.value)


def test_what_cannot_work_is_told_before_any_work(tmp_path, students):
    for request, format_, told in (
        (Distill(), Format.ONNX, "put it before export-onnx"),
        (Distill(student="nothing.py:small"), Format.TORCH, "student: the model file nothing.py does not exist"),
        (Distill(student=str(students)), Format.TORCH, "name the function in it"),
        (Distill(student_weights="w.safetensors"), Format.TORCH, "none is named"),
        (Distill(loss="mine"), Format.TORCH, "write file.py:function"),
    ):
        with pytest.raises(RecipeError, match=told):
            request.check(format_)
    with pytest.raises(RecipeError, match=r"would erase what an earlier step made \(sparse\)"):
        Recipe("late", (MagnitudePrune(), Distill(student=f"{students}:small"))).check(Format.TORCH)
    assert Recipe("after", (MagnitudePrune(), Distill())).check(Format.TORCH) is Format.TORCH


def test_what_stands_in_a_students_file_is_part_of_the_request(students):
    recipe = Recipe("student", (Distill(student=f"{students}:small"),))
    before = recipe.fingerprint()
    students.write_text(STUDENTS.replace("nn.Conv2d(1, 4", "nn.Conv2d(1, 6").replace("nn.Linear(4", "nn.Linear(6"))
    assert recipe.fingerprint() != before


def test_a_budget_of_no_time_changes_nothing_and_says_so(tmp_path):
    with pytest.raises(NothingChanged, match="time budget is 0 minutes"):
        Distill(minutes=0).apply(pruned(), context(tmp_path))
    model = pruned()
    allowed = Distill(minutes=0, allow_unchanged=True).apply(model, context(tmp_path))
    assert allowed.model is model


def test_frozen_layers_stay_and_are_told(tmp_path):
    model = TorchAdapter().clone(pruned())
    model.payload.module.conv1.requires_grad_(False)
    model.payload.module.bn1.requires_grad_(False)
    outcome = Distill(**QUICK).apply(model, context(tmp_path))
    assert set(outcome.changed) == {"conv2", "fc"}
    assert {item.layer: item.reason for item in outcome.skipped} == {
        "conv1": "its parameters are frozen", "bn1": "its parameters are frozen"
    }  # fmt: skip
    for name, value in model.payload.module.bn1.state_dict().items():
        assert torch.equal(value, outcome.model.payload.module.bn1.state_dict()[name]), name


def test_without_a_teacher_or_data_it_says_what_to_do(tmp_path):
    with pytest.raises(PassError, match="run it in a recipe"):
        Distill().apply(pruned(), context(tmp_path, original=None))
    with pytest.raises(DataError, match="give --data"):
        Distill().apply(pruned(), replace(context(tmp_path), data=None))
    bare = TorchAdapter().open(source_of(nn.Flatten()), {"input": graphs.floats(2, 1, 8, 8)})
    with pytest.raises(PassError, match="no parameter that can be trained"):
        Distill().apply(bare, context(tmp_path, original=lambda: bare))
