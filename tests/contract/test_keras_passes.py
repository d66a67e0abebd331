"""Pruning and clustering of Keras models: the contract; every kind of layer against NumPy, by its own axes."""

import keras_layers
import numpy as np
import pytest
from sklearn.cluster import KMeans

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.models.keras import axes as places
from whet.models.keras import counting, describe
from whet.models.keras.adapter import KerasAdapter
from whet.models.model import Model
from whet.passes.base import PassContext
from whet.passes.cluster.spec import Cluster
from whet.passes.prune.spec import MagnitudePrune
from whet.testing import PassContract
from whet.types import Format, TraitKind

import keras  # after the adapter, which chooses its backend  # isort: skip

L = keras.layers


def opened(model, folder):
    """A model as it is when a user's file was opened."""
    from whet.models.source import source_of

    path = folder / "model.keras"
    model.save(path)
    return KerasAdapter().open(source_of(path), None)


def net():
    """(N, 8, 8, 4) to (N, 3): a convolution, one by depth, a product."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 4), name="picture"), L.Conv2D(8, 3, name="conv"), L.BatchNormalization(name="norm"),
            L.ReLU(), L.DepthwiseConv2D(3, depth_multiplier=2, name="depth"), L.GlobalAveragePooling2D(),
            L.Dense(3, name="top"),
        ]
    )  # fmt: skip


class KerasPass(PassContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        self.tmp_path = tmp_path

    def make_model(self):
        return opened(net(), self.tmp_path)

    def make_context(self, folder):
        x = np.random.default_rng(0).standard_normal((20, 8, 8, 4)).astype(np.float32)
        return PassContext(folder, data=Splits({Part.CALIBRATE: ArraySamples({"picture": x})}))


class TestPrune(KerasPass):
    covers = ("magnitude-prune", Format.KERAS)

    def make_pass(self):
        return MagnitudePrune(sparsity=0.4, scope="global")


class TestCluster(KerasPass):
    covers = ("cluster", Format.KERAS)

    def make_pass(self):
        return Cluster(bits=3, granularity="channel")


@pytest.mark.slow
class TestClusterToASize(KerasPass):
    def make_pass(self):
        return Cluster(ratio=5.0, initial="k-means++")


def layers_of(case):
    """A model of one case, and its context: no data, no folder that is written to."""
    return Model(Format.KERAS, keras_layers.build(case))


def kernels(model):
    """Return what is multiplied, by name: variables of two axes and more, but for biases, norms and tables."""
    return {
        name: np.array(variable.value)
        for name, variable in counting.named_weights(model.payload).items()
        if variable.name in ("kernel", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel")
    }


WEIGHTED = [case for case in keras_layers.CASES if not case.startswith("activation-")]


@pytest.mark.parametrize("case", WEIGHTED)
def test_every_kernel_of_every_layer_is_pruned_and_clustered_and_the_rest_is_said(case, tmp_path):
    model = layers_of(case)
    had, before = kernels(model), KerasAdapter().weights(model)
    if not had:
        return
    outcomes = {
        "prune": MagnitudePrune(sparsity=0.5, allow_unchanged=True).apply(model, PassContext(tmp_path)),
        "cluster": Cluster(clusters=4, allow_unchanged=True).apply(model, PassContext(tmp_path)),
    }
    for what, outcome in outcomes.items():
        now = KerasAdapter().weights(outcome.model)
        assert list(now) == list(before)
        assert {*outcome.changed, *(item.layer for item in outcome.skipped)} == set(describe.layers(model.payload))
        for name, array in before.items():
            table = name in places.tables(model.payload).values()
            if what == "prune" and name in had:
                least = np.sort(np.abs(array), axis=None)[: round(0.5 * array.size)].max()
                np.testing.assert_array_equal(now[name], np.where(np.abs(array) <= least, 0, array))
            elif what == "cluster" and (name in had or table):
                small = any(name in item.reason for item in outcome.skipped)
                assert len(np.unique(now[name])) <= 4 or small
            else:
                np.testing.assert_array_equal(now[name], array)


def channel(name, array, at):
    """Return one output channel of a weight, by what Keras documents of each layer."""
    if "depthwise" in name or name.startswith("depth"):
        return array[..., at // array.shape[-1], at % array.shape[-1]]
    if "transpose" in name:
        return array[..., at, :]
    if any(part in name for part in ("query", "key", "value")):
        return array[:, at // array.shape[2], at % array.shape[2]]
    return array[..., at]


CHANNELS = {
    "conv2d": {"conv2d.kernel": 8},
    "depthwise2d": {"depthwise_conv2d.kernel": 12},
    "separable2d": {"separable_conv2d.depthwise_kernel": 6, "separable_conv2d.pointwise_kernel": 5},
    "transposed2d": {"conv2d_transpose.kernel": 5},
    "lstm": {"lstm.lstm_cell.kernel": 20, "lstm.lstm_cell.recurrent_kernel": 20},
    "attention": {"multi_head_attention.query.kernel": 15, "multi_head_attention.attention_output.kernel": 6},
    "dense": {"dense.kernel": 7},
}


def plain(model):
    """Weights under names without the numbers that Keras gives layers in one process."""
    found = {}
    for name, array in KerasAdapter().weights(model).items():
        layer, _, rest = name.partition(".")
        found.setdefault(f"{layer_name(layer)}.{rest}", array)
    return found


def layer_name(name):
    head, _, tail = name.rpartition("_")
    return head if tail.isdigit() else name


@pytest.mark.parametrize("case", CHANNELS)
def test_a_channel_has_a_codebook_of_its_own_no_worse_than_scikit_learns(case, tmp_path):
    model = layers_of(case)
    found = plain(Cluster(clusters=3, granularity="channel", allow_unchanged=True).apply(
        model, PassContext(tmp_path)).model)  # fmt: skip
    was = plain(model)
    for name, count in CHANNELS[case].items():
        changed = 0
        for at in range(count):
            now, before = channel(name, found[name], at), channel(name, was[name], at)
            if np.array_equal(now, before):
                continue  # a channel of so few weights that codes would be larger
            changed += 1
            assert len(np.unique(now)) <= 3
            means = KMeans(3, n_init=3, random_state=0).fit(before.reshape(-1, 1).astype(np.float64))
            assert ((now - before) ** 2).sum() <= means.inertia_ * (1 + 1e-3) + 1e-9
        assert changed in (0, count)


def test_few_weights_a_channel_are_left_and_more_are_clustered(tmp_path):
    outcome = Cluster(clusters=16, granularity="channel").apply(opened(net(), tmp_path), PassContext(tmp_path))
    assert outcome.changed == ("conv",)
    assert {item.layer for item in outcome.skipped} == {"norm", "depth", "top"}
    assert any("codes and codebook would take" in item.reason for item in outcome.skipped)


def test_on_the_grid_a_channel_is_its_scale_times_integers_that_all_channels_share(tmp_path):
    outcome = Cluster(clusters=16, grid=True).apply(opened(net(), tmp_path), PassContext(tmp_path))
    weights = KerasAdapter().weights(outcome.model)
    for name, count in (("conv.kernel", 8), ("depth.kernel", 16)):
        integers = set()
        for at in range(count):
            mine = channel(name, weights[name], at)
            steps = mine / (np.abs(mine).max() / 127)
            np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
            integers |= set(np.rint(steps).astype(int).ravel().tolist())
        assert len(integers) <= 16
    assert "depth" in outcome.changed


def test_zeros_of_a_pruned_model_stay_as_one_of_the_values(tmp_path):
    pruned = MagnitudePrune(sparsity=0.6).apply(opened(net(), tmp_path), PassContext(tmp_path)).model
    outcome = Cluster(clusters=4).apply(pruned, PassContext(tmp_path))
    for name, array in kernels(outcome.model).items():
        np.testing.assert_array_equal(array == 0, kernels(pruned)[name] == 0)
        assert len(np.unique(array)) <= 4
    traits = {trait.kind: trait.amount for trait in outcome.model.traits}
    assert traits[TraitKind.SPARSE] == pytest.approx(0.6, abs=0.01)
    assert traits[TraitKind.CLUSTERED] == 4


def test_a_size_is_kept(tmp_path):
    model = opened(net(), tmp_path)
    outcome = Cluster(size_bytes=700).apply(model, PassContext(tmp_path))
    assert outcome.notes["reached"]
    assert outcome.notes["bytes_as_packed"] <= 700


@pytest.mark.parametrize(
    ("build", "axis"),
    [
        (lambda: [keras.Input((6, 8)), L.Conv1D(3, 3, name="one")], 1),
        (lambda: [keras.Input((8, 8, 8)), L.Conv2D(3, 3, name="one")], 2),
        (lambda: [keras.Input((8, 8, 8)), L.Conv2DTranspose(3, 3, name="one")], 3),
        (lambda: [keras.Input((8,)), L.Dense(3, name="one")], 0),
        (lambda: [keras.Input((5, 8)), L.EinsumDense("abc,cd->abd", (None, 3), name="one")], 0),
        (lambda: [keras.Input((5, 3, 8)), L.EinsumDense("abcd,cde->abe", (None, 3), name="one")], 1),
        (lambda: [keras.Input((5, 8)), L.SimpleRNN(8, name="one")], 0),
    ],
)
def test_a_pattern_runs_along_the_inputs(build, axis, tmp_path):
    model = opened(keras.Sequential(build()), tmp_path)
    outcome = MagnitudePrune(pattern="2:4").apply(model, PassContext(tmp_path))
    before, after = kernels(model), kernels(outcome.model)
    for name in before:
        had, has = (np.moveaxis(each[name], axis, -1).reshape(-1, 4) for each in (before, after))
        second = np.sort(np.abs(had), axis=1)[:, 1:2]
        np.testing.assert_array_equal(has, np.where(np.abs(had) > second, had, 0))


def test_a_channel_that_reads_one_input_has_no_pattern_and_says_so(tmp_path):
    outcome = MagnitudePrune(pattern="2:4").apply(opened(net(), tmp_path), PassContext(tmp_path))
    assert {item.layer: item.reason for item in outcome.skipped}["depth"] == (
        "depth.kernel has 1 inputs, which are not divided by 4"
    )
    assert set(outcome.changed) == {"conv", "top"}


def test_by_sensitivity_the_shares_differ_and_add_up(tmp_path):
    keras.utils.set_random_seed(1)
    model = net()
    top = model.get_layer("top")
    kernel, bias = top.get_weights()
    top.set_weights([100 * kernel, bias])
    outcome = MagnitudePrune(sparsity=0.5, scope="sensitivity").apply(
        opened(model, tmp_path), PassContext(tmp_path)
    )
    assert outcome.notes["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert len(set(outcome.notes["sparsity_by_layer"].values())) > 1


def test_biases_of_two_axes_are_added_and_not_multiplied():
    found = {layer.name: layer for case in ("gru", "attention") for layer in KerasAdapter().layers(layers_of(case))}
    names = [name for layer in found.values() for name in layer.weights]
    assert names
    assert not [name for name in names if name.endswith("bias")]
