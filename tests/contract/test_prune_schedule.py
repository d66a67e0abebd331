"""Magnitude pruning along a schedule, in patterns and by sensitivity."""

from dataclasses import replace

import graphs
import numpy as np
import pytest
import torch

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.errors import PassError, RecipeError
from whet.machine import this_machine
from whet.models.torch.adapter import TorchAdapter
from whet.passes.base import PassContext
from whet.passes.export.spec import ExportOnnx
from whet.passes.prune import torch_schedule
from whet.passes.prune.spec import MagnitudePrune
from whet.testing import PassContract
from whet.train import course, training
from whet.train.spec import Recovery
from whet.types import Format, TraitKind

MACHINE = replace(this_machine(), cores=1)
QUICK = Recovery(epochs=4, learning_rate=3e-3, batch_size=32)
WEIGHTS = ("conv1.weight", "conv2.weight", "fc.weight")


def context(folder):
    samples = ArraySamples({"x": graphs.floats(200, 1, 8, 8, seed=1)})
    data = Splits({Part.TRAIN: samples, Part.CALIBRATE: samples})
    return PassContext(folder, data=data, machine=MACHINE, original=lambda: graphs.opened("tiny"))


def zeros(model):
    return {name: float((model.payload.module.get_parameter(name) == 0).float().mean()) for name in WEIGHTS}


class TestScheduled(PassContract):
    def make_pass(self):
        return MagnitudePrune(sparsity=0.75, schedule="polynomial", frequency=3, recovery=QUICK)

    def make_model(self):
        return graphs.opened("tiny")

    def make_context(self, folder):
        return context(folder)


def followed(monkeypatch, tmp_path, **settings):
    """Run a schedule; the share of zeros that was chosen at each step of its choices, and the outcome."""
    seen = []
    choose = torch_schedule._Schedule.choose
    monkeypatch.setattr(
        torch_schedule._Schedule, "choose", lambda self, share: seen.append(share) or choose(self, share)
    )
    request = MagnitudePrune(sparsity=0.75, recovery=QUICK, **settings)
    return seen, request.apply(graphs.opened("tiny"), context(tmp_path))


def test_a_polynomial_schedule_is_tensorflows(monkeypatch, tmp_path):
    """PolynomialDecay: final + (initial - final) * (1 - (step - begin) / (end - begin)) ** 3."""
    seen, outcome = followed(
        monkeypatch, tmp_path, schedule="polynomial", initial_sparsity=0.25, begin_step=2, end_step=12, frequency=4
    )
    want = [0.75 + (0.25 - 0.75) * (1 - (step - 2) / 10) ** 3 for step in (2, 6, 10, 12)]
    assert seen == pytest.approx(want)
    for name, share in zeros(outcome.model).items():
        assert share == pytest.approx(0.75, abs=0.02), name
    assert outcome.notes["steps"] == 24


def test_a_constant_schedule_prunes_as_much_from_the_start(monkeypatch, tmp_path):
    seen, outcome = followed(monkeypatch, tmp_path, schedule="constant", begin_step=3, end_step=9, frequency=4)
    assert seen == [0.75, 0.75, 0.75]  # at 3, 7 and 9
    assert outcome.notes["sparsity"] == pytest.approx(0.75, abs=0.01)
    assert outcome.notes["losses"][-1] < outcome.notes["losses"][0]


def test_recovery_on_the_way_beats_pruning_at_once(tmp_path):
    batch = {"x": graphs.floats(200, 1, 8, 8, seed=9)}
    whole = graphs.forward(graphs.opened("tiny"), batch)["output"]
    at_once = graphs.apply(MagnitudePrune(sparsity=0.75), graphs.opened("tiny")).model
    scheduled = MagnitudePrune(sparsity=0.75, schedule="polynomial", frequency=2, recovery=QUICK)
    trained = scheduled.apply(graphs.opened("tiny"), context(tmp_path)).model
    errors = [float(((graphs.forward(one, batch)["output"] - whole) ** 2).mean()) for one in (trained, at_once)]
    assert errors[0] < 0.7 * errors[1]


def test_patience_is_not_lost_while_zeros_are_still_chosen(tmp_path):
    """Of eight epochs the first six lead to the zeros: their losses are not those of what was asked for."""
    settings = replace(QUICK, epochs=8, patience=2)
    request = MagnitudePrune(sparsity=0.75, schedule="polynomial", frequency=3, recovery=settings)
    notes = request.apply(graphs.opened("tiny"), context(tmp_path)).notes
    assert notes["epochs"] > 6
    assert notes["loss_after"] == min(notes["losses"][6:])


def test_the_learning_rate_is_found_on_the_pruned_model(monkeypatch, tmp_path):
    """On the model as given, which answers as the original does, the least rate would always be the best."""
    seen = []
    monkeypatch.setattr(course, "find_rate", lambda training, steps: seen.append(training.snapshot()) or 1e-3)
    settings = replace(QUICK, epochs=1, learning_rate=None)
    request = MagnitudePrune(sparsity=0.75, schedule="polynomial", begin_step=2, frequency=1, recovery=settings)
    whole, started = graphs.opened("tiny").payload.module, []
    step = training.Training.step
    monkeypatch.setattr(
        training.Training, "step", lambda self, *given: started.append(self.snapshot()) or step(self, *given)
    )
    request.apply(graphs.opened("tiny"), context(tmp_path))
    for name in WEIGHTS:
        assert float((seen[0]["model"][name] == 0).float().mean()) == pytest.approx(0.75, abs=0.02), name
        assert torch.equal(started[0]["model"][name], whole.get_parameter(name)), name  # and back again


def test_a_schedule_without_time_prunes_as_asked(tmp_path):
    request = MagnitudePrune(schedule="polynomial", recovery=Recovery(minutes=0))
    outcome = request.apply(graphs.opened("tiny"), context(tmp_path))
    assert zeros(outcome.model) == dict.fromkeys(WEIGHTS, 0.5)
    assert "0 minutes" in outcome.notes["training"]


@pytest.mark.parametrize(("pattern", "kept", "of"), [("2:4", 2, 4), ("1:4", 1, 4), ("4:8", 4, 8)])
def test_a_pattern_is_exact_along_the_inputs_in_the_exported_file_too(pattern, kept, of):
    outcome = graphs.apply(MagnitudePrune(pattern=pattern), graphs.opened("tiny"))
    whole = graphs.opened("tiny").payload.module
    module = outcome.model.payload.module
    for name in ("conv2.weight", "fc.weight"):
        had, has = (part.get_parameter(name).detach().movedim(1, -1).reshape(-1, of) for part in (whole, module))
        least = had.abs().sort(1).values[:, of - kept - 1 : of - kept]
        assert torch.equal(has, torch.where(had.abs() > least, had, 0.0)), name
    assert [(item.layer, item.reason) for item in outcome.skipped if item.layer == "conv1"] == [
        ("conv1", f"conv1.weight has 1 inputs, which are not divided by {of}")
    ]
    exported = graphs.apply(ExportOnnx(), outcome.model).model
    found = [array for array in graphs.constants(exported.payload).values() if array.shape == (16, 8, 3, 3)]
    counts = (np.moveaxis(found[0], 1, -1).reshape(-1, of) != 0).sum(1)
    assert set(counts.tolist()) == {kept}


def test_a_pattern_runs_along_the_inputs_of_an_onnx_graph():
    outcome = graphs.apply(MagnitudePrune(pattern="2:4"), graphs.exported("regressor"))
    changed = [array for array in graphs.constants(outcome.model.payload).values()
               if array.ndim == 2 and 32 in array.shape and 2 in array.shape]  # fmt: skip
    axis = changed[0].shape.index(32)  # the second layer reads 32
    assert set((np.moveaxis(changed[0], axis, -1).reshape(-1, 4) != 0).sum(1).tolist()) == {2}


def test_the_pattern_is_held_in_training(tmp_path):
    request = MagnitudePrune(pattern="2:4", schedule="constant", frequency=5, recovery=QUICK)
    module = request.apply(graphs.opened("tiny"), context(tmp_path)).model.payload.module
    counts = (module.conv2.weight.detach().movedim(1, -1).reshape(-1, 4) != 0).sum(1)
    assert set(counts.tolist()) == {2}


@pytest.mark.parametrize("format_", [Format.TORCH, Format.ONNX])
def test_by_sensitivity_the_layers_that_matter_keep_more(format_, tmp_path):
    given = graphs.opened("tiny")
    module = given.payload.module
    with torch.no_grad():
        module.conv2.weight[8:] = 0.001 * module.conv2.weight[8:]  # half of it hardly matters
        module.fc.weight[:, 8:] = 0.0
    if format_ is Format.ONNX:
        given = graphs.apply(ExportOnnx(), given).model
    outcome = MagnitudePrune(sparsity=0.5, scope="sensitivity").apply(given, context(tmp_path))
    shares = outcome.notes["sparsity_by_layer"]
    assert outcome.notes["sparsity"] == pytest.approx(0.5, abs=0.01)
    least = [share for name, share in shares.items() if "conv1" in name]
    most = [share for name, share in shares.items() if "conv2" in name]
    assert most[0] > least[0]
    assert outcome.model.has(TraitKind.SPARSE)


def test_what_contradicts_itself_is_refused_before_any_work(tmp_path):
    with pytest.raises(RecipeError, match="before export-onnx"):
        MagnitudePrune(schedule="constant").check(Format.ONNX)
    with pytest.raises(RecipeError, match="write 2:4"):
        MagnitudePrune(pattern="4:4").check(Format.TORCH)
    with pytest.raises(RecipeError, match="leave one of them out"):
        MagnitudePrune(pattern="2:4", scope="global").check(Format.TORCH)
    with pytest.raises(RecipeError, match="begin earlier"):
        MagnitudePrune(schedule="constant", begin_step=9, end_step=3).check(Format.TORCH)
    with pytest.raises(RecipeError, match="train longer"):
        MagnitudePrune(schedule="constant", begin_step=900, recovery=QUICK).apply(
            graphs.opened("tiny"), context(tmp_path)
        )
    with pytest.raises(PassError, match="run it in a recipe"):
        graphs.apply(MagnitudePrune(schedule="constant"), graphs.opened("tiny"))


def test_reading_data_is_part_of_what_is_cached():
    assert MagnitudePrune().reads == ()
    assert MagnitudePrune(schedule="constant").reads == ("train", "calibrate")
    assert MagnitudePrune(scope="sensitivity").reads == ("train", "calibrate")
    assert MagnitudePrune(schedule="constant").realised_by.keys() == {Format.TORCH, Format.KERAS}


def test_layers_and_weights_of_the_given_model_stay(tmp_path):
    given = graphs.opened("tiny")
    before = TorchAdapter().weights(given)
    MagnitudePrune(schedule="constant", recovery=QUICK).apply(given, context(tmp_path))
    for name, array in TorchAdapter().weights(given).items():
        np.testing.assert_array_equal(array, before[name])
