"""Training: losses against SciPy, repeatability, resumption, what is awkward in models, data and time."""

import math
from dataclasses import replace

import graphs
import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from torch import nn

from whet.data.data import Data, Part, Splits, split
from whet.data.samples import ArraySamples
from whet.data.tasks import Classification, Regression, Similarity
from whet.errors import DataError, PassError, RecipeError
from whet.machine import this_machine
from whet.models.source import source_of
from whet.models.torch.adapter import TorchAdapter
from whet.passes.base import PassContext
from whet.train import rate as rates
from whet.train import torch as loop
from whet.train.constraints import Constraints
from whet.train.objectives import Objective, as_logits, soft_classes, variance
from whet.train.spec import Recovery
from whet.train.torch import recover

MACHINE = replace(this_machine(), cores=1)
QUICK = {"epochs": 2, "learning_rate": 3e-3, "batch_size": 32}


def context(folder, x, y=None, **more):
    inputs = x if isinstance(x, dict) else {"x": x}
    splits = Splits({Part.TRAIN: ArraySamples(inputs, y)}, task=more.pop("task", None))
    return PassContext(folder, data=splits, machine=MACHINE, **more)


def opened(module, *shape, dtype=np.float32):
    """A module in memory as a Model."""
    return TorchAdapter().open(source_of(module.eval()), {"x": np.ones((2, *shape), dtype)})


def damaged(model, seed=5):
    """A copy whose weights are a little off."""
    torch.manual_seed(seed)
    copy = TorchAdapter().clone(model)
    for parameter in copy.payload.module.parameters():
        parameter.data += 0.2 * parameter.data.std().nan_to_num(1.0) * torch.randn_like(parameter)
    return copy


def state(model):
    return {name: value.clone() for name, value in model.payload.module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


# --- losses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_soft_classes_is_scipys_kl_times_the_squared_temperature(temperature):
    ours, theirs = graphs.floats(20, 5, seed=1) * 3, graphs.floats(20, 5, seed=2) * 3
    p = softmax(theirs / temperature, axis=1)
    want = (p * (np.log(p) - log_softmax(ours / temperature, axis=1))).sum(1).mean() * temperature**2
    found = soft_classes(torch.from_numpy(ours), torch.from_numpy(theirs), temperature)
    assert float(found) == pytest.approx(want, rel=1e-4)


def test_probabilities_and_two_classes_in_one_column_are_the_same_loss():
    logits = torch.from_numpy(graphs.floats(20, 1, seed=1))
    two = as_logits(logits, logits=True)
    np.testing.assert_allclose(two.softmax(1)[:, 1], logits.sigmoid()[:, 0], rtol=1e-6)
    for given in (logits.sigmoid(), logits.sigmoid()[:, 0]):
        np.testing.assert_allclose(as_logits(given, logits=False).softmax(1), two.softmax(1), rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_loss_mixes_outputs_and_labels_as_alpha_says(alpha):
    ours, theirs = torch.from_numpy(graphs.floats(20, 5, seed=1)), torch.from_numpy(graphs.floats(20, 5, seed=2))
    labels = torch.arange(20) % 5
    loss = Objective(Classification(5), "output", Recovery(alpha=alpha))
    hard = -log_softmax(ours.numpy(), axis=1)[np.arange(20), labels.numpy()].mean()
    want = alpha * float(soft_classes(ours, theirs, 2.0)) + (1 - alpha) * hard
    assert float(loss({"output": ours}, {"output": theirs}, labels)) == pytest.approx(want, rel=1e-5)


def test_numbers_are_measured_by_the_variance_of_the_original():
    ours, theirs = graphs.floats(50, 3, seed=1), 100 * graphs.floats(50, 3, seed=2)
    spread = {"output": variance(torch.from_numpy(theirs)), "": 4.0}
    assert spread["output"] == pytest.approx(theirs.var(axis=0).mean(), rel=1e-5)
    loss = Objective(Regression(), "output", Recovery(alpha=0.5), spread)
    labels = graphs.floats(50, 3, seed=3)
    want = 0.5 * ((ours - theirs) ** 2).mean() / spread["output"] + 0.5 * ((ours - labels) ** 2).mean() / 4
    found = loss(*({"output": torch.from_numpy(each)} for each in (ours, theirs)), torch.from_numpy(labels))
    assert float(found) == pytest.approx(want, rel=1e-4)
    assert variance(torch.ones(4, 2)) == 1.0


def test_sides_of_pairs_follow_the_angle():
    ours, theirs = graphs.floats(8, 3, seed=1), graphs.floats(8, 3, seed=2)
    labels = np.array([0, 5, 2.5, 1])

    def cosine(a, b):
        return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)

    soft = (1 - cosine(ours, theirs)).mean()
    hard = ((cosine(ours[0::2], ours[1::2]) - labels / 5) ** 2).mean()
    loss = Objective(Similarity(), "output", Recovery(alpha=0.25), {}, (0.0, 5.0))
    found = loss(*({"output": torch.from_numpy(each)} for each in (ours, theirs)), torch.from_numpy(labels))
    assert float(found) == pytest.approx(0.25 * soft + 0.75 * hard, rel=1e-4)


# --- the loop -------------------------------------------------------------------------------------------------


def test_the_same_seed_trains_the_same_weights_and_another_does_not(tmp_path):
    found = []
    for number, seed in enumerate((0, 0, 1)):
        model = damaged(graphs.opened("tiny"))
        torch.rand(number)  # what was drawn before is of no matter
        recover(model, graphs.opened("tiny"), Recovery(**QUICK),
                context(tmp_path / str(number), graphs.floats(100, 1, 8, 8), seed=seed))  # fmt: skip
        found.append(state(model))
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_it_leaves_dice_and_threads_as_they_were_and_modes_as_in_inference(tmp_path):
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    model, teacher = damaged(graphs.opened("tiny")), graphs.opened("tiny")
    before, was = torch.get_rng_state(), state(teacher)
    recover(model, teacher, Recovery(**QUICK), context(tmp_path, graphs.floats(100, 1, 8, 8)))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert not any(part.training for part in model.payload.module.modules())
    assert all(each.grad is None for each in model.payload.module.parameters())
    assert same(was, state(teacher))


class Watched(nn.Module):
    """A convolution that tells how what it gives lies in memory; ``view`` cannot flatten channels that are last."""

    def __init__(self, views):
        super().__init__()
        torch.manual_seed(0)
        self.views, self.last = views, []
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 3)

    def forward(self, x):
        found = self.conv(x)
        self.last.append(found.is_contiguous(memory_format=torch.channels_last))
        return self.fc(found.view(len(x), -1) if self.views else found.flatten(1))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("views", [False, True])
def test_channels_lie_last_in_training_where_the_module_takes_it_and_as_before_afterwards(
    tmp_path, views, precision
):
    teacher, x = opened(Watched(views), 3, 8, 8), graphs.floats(100, 3, 8, 8)
    model = damaged(teacher)
    modules = [model.payload.module, teacher.payload.module]
    for module in modules:
        module.last.clear()
    settings = Recovery(**QUICK, precision=precision, augment=("flip",))
    told = recover(model, teacher, settings, context(tmp_path, x))
    assert told.losses[-1] < told.first_loss
    assert all(module.last[-1] != views for module in modules)
    assert all(each.is_contiguous() for module in modules for each in module.parameters())
    assert modules[0](torch.from_numpy(x)).shape == (100, 3)


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("settings", [{}, {"features": ("fc",)}, {"augment": ("flip", "crop")}])
@pytest.mark.parametrize("after", [3, 5, 7])
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path, after, settings):
    class Drops(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.bn = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
            self.drop, self.fc = nn.Dropout(0.3), nn.Linear(4, 3)

        def forward(self, x):
            return self.fc(self.drop(torch.relu(self.bn(self.conv(x)))).mean((2, 3)))

    teacher, x = opened(Drops(), 1, 8, 8), graphs.floats(100, 1, 8, 8)
    asked = Recovery(**{**QUICK, "epochs": 3}, **settings)

    def train(folder, stop=None):
        calls = []

        def on_step(step, steps):
            calls.append(step)
            if step == stop:
                raise Killed

        model = damaged(teacher)
        told = recover(model, TorchAdapter().clone(teacher), asked, context(folder, x), on_step=on_step)
        return state(model), told, calls

    whole, told, calls = train(tmp_path / "whole")
    assert calls == list(range(9))
    with pytest.raises(Killed):
        train(tmp_path / "killed", after)
    resumed, again, later = train(tmp_path / "killed")
    assert later == list(range(after // 3 * 3, 9))
    assert same(whole, resumed)
    assert again.losses == told.losses
    assert again.notes == told.notes
    _, _, none = train(tmp_path / "killed")  # what has ended is not begun again
    assert none == []


def test_a_broken_checkpoint_is_no_checkpoint(tmp_path):
    def train():
        model = damaged(graphs.opened("tiny"))
        recover(model, graphs.opened("tiny"), Recovery(**QUICK), context(tmp_path, graphs.floats(60, 1, 8, 8)))
        return state(model)

    first = train()
    (file,) = (tmp_path / "checkpoints").iterdir()
    assert file.suffix == ".safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert same(first, train())


def test_the_best_weights_are_kept_those_of_the_start_included(tmp_path):
    model = graphs.opened("tiny")
    start = state(model)
    told = recover(model, graphs.opened("tiny"), Recovery(epochs=2, learning_rate=0.5, batch_size=32),
                   context(tmp_path, graphs.floats(100, 1, 8, 8)))  # fmt: skip
    assert same(start, state(model))
    assert not told.improved
    assert told.first_loss == told.best_loss == pytest.approx(0, abs=1e-6)
    assert len(told.losses) == 2


def test_patience_stops_early(tmp_path):
    model = graphs.opened("tiny")
    told = recover(model, graphs.opened("tiny"), Recovery(epochs=50, learning_rate=0.3, patience=2),
                   context(tmp_path, graphs.floats(60, 1, 8, 8)))  # fmt: skip
    assert (told.stopped, len(told.losses)) == ("patience", 2)


def test_time_is_kept_and_no_time_trains_nothing(tmp_path):
    model, x = damaged(graphs.opened("tiny")), graphs.floats(200, 1, 8, 8)
    start = state(model)
    none = recover(model, graphs.opened("tiny"), Recovery(minutes=0), context(tmp_path, x))
    assert (none.stopped, none.steps, none.improved) == ("no time", 0, False)
    assert same(start, state(model))
    told = recover(model, graphs.opened("tiny"), Recovery(epochs=10_000, minutes=2 / 60, batch_size=16),
                   context(tmp_path, x))  # fmt: skip
    assert told.stopped == "time"
    assert 1.9 < told.seconds < 8
    assert told.improved
    assert not same(start, state(model))


def test_a_loss_that_is_not_finite_stops_it_and_the_best_weights_are_back(tmp_path):
    model = damaged(graphs.opened("tiny"))

    def poison(step, steps):
        if step == 5:
            model.payload.module.fc.weight.data.fill_(float("nan"))

    told = recover(model, graphs.opened("tiny"), Recovery(**QUICK), context(tmp_path, graphs.floats(100, 1, 8, 8)),
                   on_step=poison)  # fmt: skip
    assert told.stopped == "not finite"
    assert told.improved
    assert "not finite at step 6" in told.notes["problem"]
    assert all(bool(value.isfinite().all()) for value in state(model).values())


def test_what_is_not_final_yet_is_never_the_best(tmp_path):
    model = graphs.opened("tiny")
    told = recover(model, graphs.opened("tiny"), Recovery(epochs=4, learning_rate=0.1, batch_size=32),
                   context(tmp_path, graphs.floats(100, 1, 8, 8)),
                   on_step=lambda step, steps: step >= steps // 2)  # fmt: skip
    assert told.improved  # though the start, which was perfect, was better than all that came after
    assert told.best_loss == min(told.losses[2:])


def test_the_rate_is_found_on_the_model_and_the_search_leaves_no_trace(tmp_path, monkeypatch):
    x, asked = graphs.floats(200, 1, 8, 8), {"epochs": 3, "batch_size": 32}
    found = damaged(graphs.opened("tiny"))
    told = recover(found, graphs.opened("tiny"), Recovery(**asked), context(tmp_path / "found", x))
    best = told.notes["learning_rate"]
    assert best in rates.RATES
    given = damaged(graphs.opened("tiny"))
    recover(given, graphs.opened("tiny"), Recovery(**asked, learning_rate=best), context(tmp_path / "given", x))
    assert same(state(found), state(given))
    losses = dict(zip(rates.RATES, (math.inf, 0.52, 0.509, 0.505, 0.5, 0.9), strict=True))
    monkeypatch.setattr(rates, "_miniature", lambda training, rate, *_: losses[rate])
    again = recover(damaged(graphs.opened("tiny")), graphs.opened("tiny"), Recovery(**asked),
                    context(tmp_path / "again", x))  # fmt: skip
    assert again.notes["learning_rate"] == 1e-3  # 0.509 is within 2 % of 0.5, and 1e-3 the greatest such


def test_the_rate_rises_then_falls_along_half_a_cosine(tmp_path, monkeypatch):
    seen = []
    step = loop.Training.step
    monkeypatch.setattr(
        loop.Training, "step", lambda self, n, rate, at: seen.append(rate) or step(self, n, rate, at)
    )
    recover(damaged(graphs.opened("tiny")), graphs.opened("tiny"),
            Recovery(epochs=10, learning_rate=1e-3, batch_size=30, warmup=0.2),
            context(tmp_path, graphs.floats(100, 1, 8, 8)))  # fmt: skip
    share = (np.arange(30) + 0.5) / 30
    want = np.where(share < 0.2, share / 0.2, 0.5 * (1 + np.cos(np.pi * (share - 0.2) / 0.8)))
    np.testing.assert_allclose(seen, 1e-3 * want, rtol=1e-6)


def test_bfloat16_is_as_asked_and_weights_stay_float32(tmp_path):
    model = damaged(graphs.opened("tiny"))
    told = recover(model, graphs.opened("tiny"), Recovery(**QUICK, precision="bfloat16"),
                   context(tmp_path, graphs.floats(100, 1, 8, 8)))  # fmt: skip
    assert told.notes["precision"] == "bfloat16"
    assert told.improved
    assert {value.dtype for value in model.payload.module.parameters()} == {torch.float32}


# --- labels, losses of one's own, features --------------------------------------------------------------------


def labelled(count=200):
    """Pictures and the class in which the tiny model is most above its mean."""
    x = graphs.floats(count, 1, 8, 8)
    found = graphs.forward(graphs.opened("tiny"), {"x": x})["output"]
    return x, ((found - found.mean(0)) / found.std(0)).argmax(1)


def test_labels_alone_are_learned_without_a_teacher(tmp_path):
    x, y = labelled()
    model = damaged(graphs.opened("tiny"))
    right = [(graphs.forward(model, {"x": x})["output"].argmax(1) == y).mean()]
    told = recover(model, None, Recovery(**{**QUICK, "epochs": 25}), context(tmp_path, x, y))
    right.append((graphs.forward(model, {"x": x})["output"].argmax(1) == y).mean())
    assert told.improved
    assert right[1] > max(0.5, right[0] + 0.2)


def test_labels_that_are_not_there_are_asked_for(tmp_path):
    x, y = labelled()
    with pytest.raises(DataError, match=r"alpha = 0.5 mixes in the labels' loss needs labels.*set alpha = 1"):
        recover(damaged(graphs.opened("tiny")), graphs.opened("tiny"), Recovery(alpha=0.5), context(tmp_path, x))
    with pytest.raises(DataError, match="training without an original needs labels"):
        recover(damaged(graphs.opened("tiny")), None, Recovery(), context(tmp_path, x))
    with pytest.raises(DataError, match="labels run from 0 to 7, the model has 3 classes"):
        recover(damaged(graphs.opened("tiny")), graphs.opened("tiny"), Recovery(alpha=0.5),
                context(tmp_path, x, np.where(y == 2, 7, y)))  # fmt: skip


def test_a_loss_of_ones_own_is_called_with_outputs_targets_and_labels(tmp_path):
    file = tmp_path / "losses.py"
    file.write_text(
        "from torch.nn import functional as F\n"
        "def mine(outputs, targets, labels):\n"
        "    assert labels is not None and set(outputs) == set(targets) == {'output'}\n"
        "    return F.l1_loss(outputs['output'], targets['output'])\n"
        "def vector(outputs, targets, labels):\n    return outputs['output']\n"
        "def breaks(outputs, targets, labels):\n    raise KeyError('logits')\n"
    )
    x, y = labelled()
    model = damaged(graphs.opened("tiny"))
    told = recover(model, graphs.opened("tiny"), Recovery(**QUICK, loss=f"{file}:mine"), context(tmp_path, x, y))
    gap = np.abs(
        graphs.forward(model, {"x": x})["output"] - graphs.forward(graphs.opened("tiny"), {"x": x})["output"]
    )
    assert told.best_loss == pytest.approx(gap.mean(), rel=0.5)
    for name, reason in (("vector", "not one number"), ("breaks", "raised KeyError: 'logits'")):
        with pytest.raises(RecipeError, match=reason):
            recover(model, graphs.opened("tiny"), Recovery(**QUICK, loss=f"{file}:{name}"), context(tmp_path, x, y))


def test_features_of_other_widths_are_learned_through_a_map(tmp_path):
    class Net(nn.Module):
        def __init__(self, width, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.body, self.head = nn.Conv2d(1, width, 3), nn.Linear(width, 3)

        def forward(self, x):
            return self.head(torch.relu(self.body(x)).mean((2, 3)))

    teacher, x = opened(Net(8, 0), 1, 8, 8), graphs.floats(200, 1, 8, 8)
    student = opened(Net(4, 1), 1, 8, 8)
    asked = {"epochs": 15, "learning_rate": 3e-3, "batch_size": 32}
    names = set(student.payload.module.state_dict())
    told = recover(student, teacher, Recovery(**asked, features=("body",)), context(tmp_path, x))
    assert told.improved
    assert set(student.payload.module.state_dict()) == names
    ours = student.payload.module.body(torch.from_numpy(x)).detach().movedim(1, -1).reshape(-1, 4).numpy()
    theirs = teacher.payload.module.body(torch.from_numpy(x)).detach().movedim(1, -1).reshape(-1, 8).numpy()

    def explained(inputs):
        left = theirs - inputs @ np.linalg.lstsq(inputs, theirs, rcond=None)[0]
        return 1 - (left**2).sum() / (theirs**2).sum()

    fresh = Net(4, 1).body(torch.from_numpy(x)).detach().movedim(1, -1).reshape(-1, 4).numpy()
    assert explained(ours) > explained(fresh) + 0.1
    assert not student.payload.module.body._forward_hooks
    assert not teacher.payload.module.body._forward_hooks
    with pytest.raises(RecipeError, match="the model has no layer 'bodi'; did you mean 'body'"):
        recover(student, teacher, Recovery(features=("bodi",)), context(tmp_path, x))
    with pytest.raises(RecipeError, match=r"body gives \[2, 4, 6, 6\], head of the original \[2, 3\]"):
        recover(student, teacher, Recovery(features=("body=head",)), context(tmp_path, x))


# --- awkward models -------------------------------------------------------------------------------------------


def recovers(model, x, tmp_path, y=None, **settings):
    """Train a damaged copy, and return what was told and by what factor the squared error fell."""
    copy, more = damaged(model), settings.pop("more", {})
    before = graphs.forward(copy, x)
    asked = {"epochs": 8, "learning_rate": 3e-3, "batch_size": 32, **settings}
    told = recover(copy, TorchAdapter().clone(model), Recovery(**asked), context(tmp_path, x, y, **more))
    want = graphs.forward(model, x)
    errors = [sum(((found[name] - want[name]) ** 2).mean() for name in want)
              for found in (before, graphs.forward(copy, x))]  # fmt: skip
    return told, errors[1] / errors[0], copy


@pytest.mark.parametrize("factory", ["regressor", "gru", "lstm", "root_linear"])
def test_every_kind_of_output_is_recovered(tmp_path, factory):
    model = graphs.opened(factory)
    x = dict(model.signature.synthetic(200))
    told, factor, _ = recovers(model, x, tmp_path)
    assert told.improved
    assert factor < 0.7


def test_pairs_are_recovered_by_both_sides(tmp_path):
    model = opened(nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)), 6)
    a, b = graphs.floats(120, 6, seed=1), graphs.floats(120, 6, seed=2)
    part = ({"a": a, "b": b}, graphs.floats(120, seed=3))
    data = split(Data(train=part, test=part, task="similarity"))
    copy = damaged(model)
    where = PassContext(tmp_path, data=data, machine=MACHINE)
    told = recover(copy, TorchAdapter().clone(model), Recovery(epochs=8, learning_rate=3e-3, alpha=0.9), where)
    assert told.notes["loss"] == "similarity"
    assert told.best_loss < told.first_loss


def test_shared_weights_and_modules_used_twice_stay_shared(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.inner, self.embed, self.out = nn.Linear(4, 4), nn.Embedding(10, 4), nn.Linear(4, 10)
            self.out.weight = self.embed.weight

        def forward(self, x):
            return self.out(torch.tanh(self.inner(torch.tanh(self.inner(self.embed(x).mean(1))))))

    model = opened(Tied(), 5, dtype=np.int64)
    ids = np.random.default_rng(0).integers(0, 10, (200, 5))
    told, factor, copy = recovers(model, {"x": ids}, tmp_path, more={"seed": 1})
    module = copy.payload.module
    assert module.out.weight is module.embed.weight
    assert told.improved
    assert factor < 0.5


def test_batches_of_one_keep_the_statistics_of_batchnorm(tmp_path):
    model = opened(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)), 4)
    told, _, copy = recovers(model, {"input": graphs.floats(40, 4)}, tmp_path, batch_size=1, epochs=1)
    assert told.steps == 36
    assert int(copy.payload.module[1].num_batches_tracked) == 0
    # of 37 samples and steps of 12 the last would be of one: it is left out
    told, _, copy = recovers(model, {"input": graphs.floats(41, 4)}, tmp_path, batch_size=12, epochs=1)
    assert told.steps == 3
    assert int(copy.payload.module[1].num_batches_tracked) == 3


def test_a_model_of_a_fixed_batch_is_fed_that_many(tmp_path):
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.fc = nn.Linear(6, 3)

        def forward(self, x):
            assert len(x) == 4, "made for four"
            return self.fc(x.reshape(4, 6))

    program = tmp_path / "fixed.pt2"
    torch.export.save(torch.export.export(Fixed().eval(), (torch.zeros(4, 6),)), program)
    model = TorchAdapter().open(source_of(program), {"x": graphs.floats(4, 6)})
    assert model.signature.batch == 4
    copy = damaged(model)
    told = recover(copy, TorchAdapter().clone(model), Recovery(epochs=20, learning_rate=1e-2),
                   context(tmp_path, graphs.floats(50, 6)))  # fmt: skip
    assert told.notes["batch_size"] == 4
    assert told.best_loss < 0.2 * told.first_loss
    with pytest.raises(PassError, match="takes 4 rows at once, there are 3 samples"):
        recover(copy, TorchAdapter().clone(model), Recovery(), context(tmp_path, graphs.floats(3, 6)))


def test_outputs_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(PassError, match=r"it gives output \[2\] a sample, the original output \[3\]"):
        recover(opened(nn.Linear(4, 2), 4), opened(nn.Linear(4, 3), 4), Recovery(),
                context(tmp_path, graphs.floats(50, 4)))  # fmt: skip


def test_all_frozen_cannot_be_trained(tmp_path):
    model = opened(nn.Linear(4, 2).requires_grad_(False), 4)
    with pytest.raises(PassError, match="no parameter that can be trained"):
        recover(model, TorchAdapter().clone(model), Recovery(), context(tmp_path, graphs.floats(50, 4)))


def test_progress_is_told(tmp_path):
    events = []
    recover(damaged(graphs.opened("tiny")), graphs.opened("tiny"), Recovery(**QUICK),
            context(tmp_path, graphs.floats(100, 1, 8, 8), on_event=events.append),
            constraints=Constraints())  # fmt: skip
    steps = [(event.done, event.total) for event in events if event.stage.startswith("train") and event.total == 6]
    assert steps == [(number, 6) for number in range(1, 7)]
    assert "train: read samples" in {event.stage for event in events}
