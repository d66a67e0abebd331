"""The training of Keras models: constraints against TensorFlow's own gradients, losses against SciPy, the loop."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.data.tasks import Classification, Regression, Similarity
from whet.errors import DataError, PassError, RecipeError
from whet.machine import this_machine
from whet.models.keras.adapter import KerasAdapter
from whet.models.keras.axes import Axes
from whet.models.source import source_of
from whet.passes.base import PassContext
from whet.train.keras import recover
from whet.train.keras_constraints import Clustered, FakeQuant, Sparse, constraints_of
from whet.train.keras_objectives import Objective, as_logits, soft_classes, variance
from whet.train.spec import Recovery
from whet.types import Trait, TraitKind

import keras  # after the adapter, which chooses its backend  # isort: skip
import tensorflow as tf

L = keras.layers
MACHINE = replace(this_machine(), cores=1)
QUICK = {"epochs": 2, "learning_rate": 3e-3, "batch_size": 32}


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def net(classes=3):
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,), name="row"), L.Dense(8, "relu", name="first"), L.Dropout(0.3),
                             L.Dense(classes, name="last", kernel_initializer="random_normal")])  # fmt: skip


def opened(model, folder):
    folder.mkdir(exist_ok=True)
    model.save(folder / "model.keras")
    return KerasAdapter().open(source_of(folder / "model.keras"), None)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return opened(net(), tmp_path_factory.mktemp("teacher"))


def damaged(model):
    copy, rng = KerasAdapter().clone(model), np.random.default_rng(5)
    for variable in copy.payload.weights:
        variable.assign(variable.numpy() + 0.3 * rng.standard_normal(variable.shape))
    return copy


def context(folder, x=None, y=None, **more):
    inputs = x if isinstance(x, dict) else {"row": floats(100, 6) if x is None else x}
    splits = Splits({Part.TRAIN: ArraySamples(inputs, y)}, task=more.pop("task", None))
    return PassContext(folder, data=splits, machine=MACHINE, **more)


def state(model):
    return KerasAdapter().weights(model)


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(value, other[name]) for name, value in one.items())


# --- constraints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [(1,), (0,), (0, 1)])
@pytest.mark.parametrize("part", ["tensor", "channel"])
def test_the_gradient_of_a_cluster_is_tensorflows_of_its_centroid(outputs, part):
    """Centroids gathered by code, differentiated by TensorFlow: one step of each is the same step."""
    rng = np.random.default_rng(0)
    axes, values = Axes(outputs, None), np.array([-1.5, 0.25, 2.0], np.float32)
    codes = rng.integers(0, 3, (6, 4))
    weight = values[codes]
    if part == "channel":
        weight = axes.back(axes.rows(weight) * np.arange(1, len(axes.rows(weight)) + 1)[:, None], weight.shape)
    weight = weight.astype(np.float32)
    found = Clustered.of(weight, 3, axes)
    centroids = tf.Variable(np.array([weight[found.codes == code][0] for code in range(found.clusters)]))
    x = floats(5, 6, seed=1)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(x @ tf.gather(centroids, found.codes)))
    wanted = tf.convert_to_tensor(tape.gradient(loss, centroids)).numpy()[found.codes]
    direct = tf.Variable(weight)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(x @ direct))
    np.testing.assert_allclose(
        found.gradient(tape.gradient(loss, direct), direct).numpy(), wanted, rtol=1e-4, atol=1e-3
    )
    moved = found.hold(weight + floats(6, 4, seed=2)).numpy()
    assert all(len(np.unique(moved[found.codes == code])) == 1 for code in range(found.clusters))


def test_too_many_values_are_no_clusters_and_groups_are_found():
    assert Clustered.of(floats(8, 40), 4, Axes((0,), 1)) is None
    rows = np.repeat(np.arange(8 * 4).reshape(8, 4), 16, axis=1).astype(np.float32)  # a value a group of 16
    found = Clustered.of(rows + np.tile([0.0, 0.1], 32).astype(np.float32), 2, Axes((0,), 1))
    assert found.clusters == 64


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_grid_is_the_one_that_a_file_has_and_its_gradient_goes_straight_through(bits):
    weight, most = floats(3, 3, 5, 4), 2 ** (bits - 1) - 1
    grid = FakeQuant(bits, Axes((3,), 2), 4)
    seen = grid.seen(tf.constant(weight)).numpy()
    scale = np.abs(weight).max(axis=(0, 1, 2)) / most
    np.testing.assert_allclose(seen, np.rint(weight / scale) * scale, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.abs(seen).max(axis=(0, 1, 2)), scale * most, rtol=1e-6)  # a file finds it again
    direct = tf.Variable(weight)
    with tf.GradientTape() as tape:  # the estimator as TensorFlow writes it
        estimated = direct + tf.stop_gradient(grid.seen(direct) - direct)
        loss = tf.reduce_sum(tf.square(estimated))
    np.testing.assert_allclose(grid.gradient(2 * seen, direct), tape.gradient(loss, direct), rtol=1e-5)


def test_a_grid_of_few_bits_is_clipped_to_where_it_errs_least():
    weight = floats(64, 4)
    weight[0] = 20.0  # an outlier a channel
    grid = FakeQuant(4, Axes((1,), 0), 2)
    clipped = grid.clipped(weight)

    def error(end):
        step = end / 7
        return ((np.clip(np.rint(weight / step), -7, 7) * step - weight) ** 2).sum(axis=0)

    ends = np.abs(clipped).max(axis=0)
    for share in np.linspace(0.3, 1.0, 15):
        assert (error(ends) <= error(share * np.abs(weight).max(axis=0)) + 1e-3).all()
    np.testing.assert_array_equal(FakeQuant(8, Axes((1,), 0), 2).clipped(weight), weight)


def test_what_is_kept_is_found_in_the_arrays(tmp_path):
    model = opened(net(), tmp_path / "m")
    kernel = floats(6, 8, seed=3)
    kernel[0] = 0
    model.payload.get_layer("first").kernel.assign(kernel)
    last = np.where(floats(8, 3) > 0, 0.5, -0.25).astype(np.float32)
    model.payload.get_layer("last").kernel.assign(last)
    found = constraints_of(model.with_traits(Trait(TraitKind.SPARSE, 0.1), Trait(TraitKind.CLUSTERED, 2)))
    assert {name: [type(each) for each in kinds] for name, kinds in found.kept.items()} == {
        "first.kernel": [Sparse], "last.kernel": [Clustered],
    }  # fmt: skip
    model.payload.get_layer("first").kernel.assign_add(np.ones((6, 8)))
    assert found.broken() == ["first.kernel"]
    found.hold()
    assert not found.broken()
    assert not np.array(model.payload.get_layer("first").kernel)[0].any()


# --- losses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_classes_is_scipys_kl_times_the_squared_temperature(temperature):
    ours, theirs = floats(20, 5, seed=1) * 3, floats(20, 5, seed=2) * 3
    p = softmax(theirs / temperature, axis=1)
    want = (p * (np.log(p) - log_softmax(ours / temperature, axis=1))).sum(1).mean() * temperature**2
    assert float(soft_classes(tf.constant(ours), tf.constant(theirs), temperature)) == pytest.approx(want, rel=1e-4)


def test_probabilities_and_two_classes_in_one_column_are_the_same_loss():
    logits = tf.constant(floats(20, 1, seed=1))
    two = as_logits(logits, logits=True)
    np.testing.assert_allclose(tf.nn.softmax(two)[:, 1], tf.sigmoid(logits)[:, 0], rtol=1e-5)
    for given in (tf.sigmoid(logits), tf.sigmoid(logits)[:, 0]):
        np.testing.assert_allclose(tf.nn.softmax(as_logits(given, logits=False)), tf.nn.softmax(two), rtol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_loss_mixes_outputs_and_labels_as_alpha_says(alpha):
    ours, theirs, labels = floats(20, 5, seed=1), floats(20, 5, seed=2), np.arange(20) % 5
    loss = Objective(Classification(5), "output", Recovery(alpha=alpha))
    hard = -log_softmax(ours, axis=1)[np.arange(20), labels].mean()
    want = alpha * float(soft_classes(tf.constant(ours), tf.constant(theirs), 2.0)) + (1 - alpha) * hard
    found = loss({"output": tf.constant(ours)}, {"output": tf.constant(theirs)}, labels)
    assert float(found) == pytest.approx(want, rel=1e-4)


def test_numbers_are_measured_by_variance_and_sides_of_pairs_by_the_angle():
    ours, theirs, labels = floats(8, 3, seed=1), 50 * floats(8, 3, seed=2), floats(8, 3, seed=3)
    spread = {"output": variance(theirs), "": 4.0}
    assert spread["output"] == pytest.approx(theirs.var(axis=0).mean(), rel=1e-5)
    found = Objective(Regression(), "output", Recovery(alpha=0.5), spread)
    want = 0.5 * ((ours - theirs) ** 2).mean() / spread["output"] + 0.5 * ((ours - labels) ** 2).mean() / 4
    given = ({"output": tf.constant(each)} for each in (ours, theirs))
    assert float(found(*given, tf.constant(labels))) == pytest.approx(want, rel=1e-4)

    def cosine(a, b):
        return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)

    scores = np.array([0, 5, 2.5, 1])
    pairs = Objective(Similarity(), "output", Recovery(alpha=0.25), {}, (0.0, 5.0))
    want = (
        0.25 * (1 - cosine(ours, theirs)).mean() + 0.75 * ((cosine(ours[::2], ours[1::2]) - scores / 5) ** 2).mean()
    )
    given = ({"output": tf.constant(each)} for each in (ours, theirs))
    assert float(pairs(*given, scores)) == pytest.approx(want, rel=1e-4)
    assert variance(np.ones((4, 2))) == 1.0


# --- the loop -------------------------------------------------------------------------------------------------


class Killed(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("settings", [{}, {"features": ("first",)}])
def test_a_killed_training_goes_on_and_ends_with_the_same_weights_and_another_seed_does_not(
    teacher, tmp_path, settings
):
    asked = Recovery(**{**QUICK, "epochs": 3}, **settings)

    def train(folder, stop=None, seed=0):
        calls = []

        def on_step(step, steps):
            calls.append(step)
            if step == stop:
                raise Killed

        model = damaged(teacher)
        told = recover(model, teacher, asked, context(folder, seed=seed), on_step=on_step)
        return state(model), told, calls

    whole, told, calls = train(tmp_path / "whole")
    assert calls == list(range(9))
    with pytest.raises(Killed):
        train(tmp_path / "killed", 5)
    resumed, again, later = train(tmp_path / "killed")
    assert later == list(range(3, 9))
    assert same(whole, resumed)
    assert (again.losses, again.notes) == (told.losses, told.notes)
    assert train(tmp_path / "killed")[2] == []  # what has ended is not begun again
    assert told.losses[-1] < told.first_loss
    assert not same(whole, train(tmp_path / "other", seed=1)[0])


def test_the_best_weights_are_kept_those_of_the_start_included_and_patience_stops(teacher, tmp_path):
    model = KerasAdapter().clone(teacher)
    start = state(model)
    asked = Recovery(epochs=50, learning_rate=0.5, batch_size=32, patience=2)
    told = recover(model, teacher, asked, context(tmp_path))
    assert same(start, state(model))
    assert not told.improved
    assert told.first_loss == told.best_loss == pytest.approx(0, abs=1e-6)
    assert (told.stopped, len(told.losses)) == ("patience", 2)


def test_no_time_trains_nothing_and_a_found_rate_trains(teacher, tmp_path):
    model = damaged(teacher)
    start = state(model)
    told = recover(model, teacher, Recovery(minutes=0), context(tmp_path))
    assert (told.stopped, told.steps) == ("no time", 0)
    assert same(start, state(model))
    told = recover(model, teacher, Recovery(epochs=10_000, minutes=3 / 60, batch_size=16), context(tmp_path))
    assert told.stopped == "time"
    assert told.notes["learning_rate"] in (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
    assert told.improved


def test_a_loss_that_is_not_finite_stops_it_and_the_best_weights_are_back(teacher, tmp_path):
    model = damaged(teacher)

    def poison(step, steps):
        if step == 5:
            model.payload.get_layer("last").bias.assign(np.full(3, np.nan))

    told = recover(model, teacher, Recovery(**QUICK), context(tmp_path), on_step=poison)
    assert told.stopped == "not finite"
    assert "not finite at step 6" in told.notes["problem"]
    assert all(np.isfinite(array).all() for array in state(model).values())


def test_labels_alone_a_loss_of_ones_own_and_features_of_another_width(teacher, tmp_path):
    x = floats(100, 6)
    labels = np.asarray(teacher.payload(x)).argmax(1)
    (tmp_path / "mine.py").write_text(
        "import tensorflow as tf\n"
        "def mine(outputs, targets, labels):\n"
        "    return tf.reduce_mean(tf.abs(outputs['output'] - targets['output']))\n"
        "def wrong(outputs, targets, labels):\n"
        "    return outputs['output']\n"
    )  # fmt: skip
    kinds = [{"alpha": 0.0}, {"loss": f"{tmp_path / 'mine.py'}:mine"}]
    for number, kind in enumerate(kinds):
        folder = tmp_path / str(number)
        told = recover(damaged(teacher), teacher, Recovery(**QUICK, **kind), context(folder, x, labels))
        assert told.losses[-1] < told.first_loss, kind
    asked = Recovery(**QUICK, loss=f"{tmp_path / 'mine.py'}:wrong")
    with pytest.raises(RecipeError, match=r"returned \[.*, 3\], not one number"):
        recover(damaged(teacher), teacher, asked, context(tmp_path / "w", x))
    keras.utils.set_random_seed(3)
    narrow = opened(
        keras.Sequential([keras.Input((6,), name="row"), L.Dense(5, "relu", name="thin"), L.Dense(3)]),
        tmp_path / "n",
    )
    told = recover(narrow, teacher, Recovery(**QUICK, features=("thin=first",)), context(tmp_path / "f", x))
    assert told.losses[-1] < told.first_loss


def test_what_cannot_be_learned_is_refused_in_words(teacher, tmp_path):
    def tried(model=None, original=teacher, where=None, **settings):
        asked = Recovery(**{**QUICK, **settings})
        recover(model or damaged(teacher), original, asked, where or context(tmp_path))

    with pytest.raises(DataError, match=r"alpha = 0\.5 mixes in the labels' loss needs labels"):
        tried(alpha=0.5)
    with pytest.raises(RecipeError, match=r"the original has no layer 'frist'; did you mean 'first'"):
        tried(features=("first=frist",))
    with pytest.raises(RecipeError, match=r"features: .* differ in width alone"):
        tried(features=("first=last", "last=first"), model=opened(three_axes(), tmp_path / "m"))
    frozen = damaged(teacher)
    frozen.payload.trainable = False
    with pytest.raises(PassError, match="all are frozen"):
        tried(model=frozen)
    with pytest.raises(DataError, match=r"pictures \(N, H, W, C\)"):
        tried(augment=("flip",))


def three_axes():
    return keras.Sequential([keras.Input((6,), name="row"), L.Reshape((2, 3)), L.Dense(4, name="first"),
                             L.Flatten(), L.Dense(3, name="last")])  # fmt: skip


def test_pictures_are_mirrored_along_their_own_axes():
    from whet.train.samples import augmented

    batch = {"x": floats(6, 8, 8, 3)}
    found = augmented(batch, Recovery(augment=("flip", "crop")), 0, 1, channels=-1)["x"]
    moved = {"x": np.moveaxis(batch["x"], -1, 1)}
    wanted = augmented(moved, Recovery(augment=("flip", "crop")), 0, 1)["x"]
    np.testing.assert_array_equal(found, np.moveaxis(wanted, 1, -1))


@pytest.mark.slow
def test_torch_is_not_imported():
    modules = "whet.train.keras, whet.passes.distill.keras, whet.passes.prune.keras, whet.passes.quantize.keras_qat"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
