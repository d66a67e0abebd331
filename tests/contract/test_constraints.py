"""Weight constraints: against NumPy, alone and together, held through training."""

import itertools
from dataclasses import replace

import graphs
import numpy as np
import pytest
import torch
from torch import nn

from whet.data.data import Part, Splits
from whet.data.samples import ArraySamples
from whet.machine import this_machine
from whet.models.torch.adapter import TorchAdapter
from whet.passes.base import PassContext
from whet.train.constraints import Clustered, Constraints, FakeQuant, Sparse, constraints_of
from whet.train.spec import Recovery
from whet.train.torch import recover
from whet.types import Trait, TraitKind

BITS = (2, 3, 4, 5, 8)


def weight(*shape, seed=0):
    return torch.from_numpy(graphs.floats(*shape, seed=seed))


def palette(array, levels):
    """The nearest of evenly spaced values: at most ``levels`` distinct ones."""
    low, high = array.min(), array.max()
    step = (high - low) / (levels - 1)
    return ((array - low) / step).round() * step + low


def test_a_mask_keeps_zeros_and_their_gradients_out():
    given = weight(4, 5)
    given[given.abs() < 0.5] = 0
    kept = Sparse.of(given)
    moved = given + 1
    np.testing.assert_array_equal(kept.hold(moved), np.where(given == 0, 0, moved))
    np.testing.assert_array_equal(kept.gradient(torch.ones(4, 5), given), (given != 0).float())


@pytest.mark.parametrize(
    ("shape", "group", "levels"),
    [((6, 10), None, 7), ((4, 3, 3, 3), 27, 5), ((5, 64), 16, 6), ((3, 96), 32, 4)],
)
def test_clusters_are_found_of_a_tensor_a_channel_or_a_group(shape, group, levels):
    array = weight(*shape)
    parts = array.reshape(1, -1) if group is None else array.reshape(-1, group)
    given = torch.stack([palette(part, levels) for part in parts]).reshape(shape)
    found = Clustered.of(given, levels)
    assert found.clusters == sum(len(np.unique(part)) for part in given.reshape(parts.shape).numpy())
    np.testing.assert_allclose(found.hold(given), given, rtol=1e-6)
    moved = given + 0.1 * weight(*shape, seed=1)
    held, spread = found.hold(moved), found.gradient(moved, given)
    for code in range(found.clusters):
        mask = (found.codes == code).numpy()
        np.testing.assert_allclose(held.numpy()[mask], moved.numpy()[mask].mean(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(spread.numpy()[mask], moved.numpy()[mask].sum(), rtol=1e-4, atol=1e-5)


def test_more_values_than_asked_for_are_no_clusters():
    assert Clustered.of(weight(6, 10), 7) is None


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("axis", [0, 1, None])
def test_fake_quantization_is_numpys_rounding_on_a_symmetric_grid(bits, axis):
    given = weight(6, 20)
    given[:, ::4] = 0
    made = FakeQuant(given, bits, axis)
    scale, most = made.scale.numpy(), 2 ** (bits - 1) - 1
    np.testing.assert_allclose(made.seen(given), np.clip(np.rint(given.numpy() / scale), -most, most) * scale)
    assert scale.size == {0: 6, 1: 20, None: 1}[axis]
    assert bool((made.seen(given)[:, ::4] == 0).all())
    if bits > 4:
        axes = tuple(at for at in (0, 1) if at != axis)
        np.testing.assert_allclose(scale, np.abs(given.numpy()).max(axes, keepdims=True) / most, 1e-6, 1e-12)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_grid_of_few_values_is_no_worse_than_one_over_the_extremes(bits):
    given = torch.from_numpy(np.random.default_rng(0).standard_t(4, (8, 100)).astype(np.float32))
    most = 2 ** (bits - 1) - 1
    scale = given.abs().amax(1, keepdim=True) / most
    plain = ((given / scale).round() * scale - given).square().sum(1)
    ours = (FakeQuant(given, bits).seen(given) - given).square().sum(1)
    assert bool((ours <= plain + 1e-6).all())
    assert float(ours.sum()) < 0.95 * float(plain.sum())


def test_gradients_pass_straight_through_as_torchs_own_fake_quantization_has_them():
    given = (3 * weight(4, 6)).requires_grad_()
    made = FakeQuant(given, 4, 0)
    made.scale = made.scale * 0.6  # so that some lie beyond the end
    out = torch.fake_quantize_per_channel_affine(
        given, made.scale.reshape(-1), torch.zeros(4, dtype=torch.int32), 0, -7, 7
    )
    upstream = weight(4, 6, seed=2)
    out.backward(upstream)
    np.testing.assert_allclose(made.seen(given.detach()), out.detach(), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(made.gradient(upstream, given.detach()), given.grad)


def test_they_are_rederived_from_arrays_and_traits():
    module = graphs.opened("tiny").payload.module
    with torch.no_grad():
        module.conv1.weight[module.conv1.weight.abs() < 0.1] = 0
        module.fc.weight.copy_(palette(module.fc.weight, 8))
    sparse, clustered = Trait(TraitKind.SPARSE, 0.3), Trait(TraitKind.CLUSTERED, 8)
    assert not constraints_of(module, [])
    assert list(constraints_of(module, [sparse]).kept) == ["conv1.weight"]
    both = constraints_of(module, [sparse, clustered])
    assert both.of("conv1.weight", Sparse) is not None
    assert isinstance(both.of("fc.weight", Clustered), Clustered)
    assert both.of("conv2.weight", Clustered) is None  # of more values: it was left alone


def test_a_clustered_table_is_kept_and_never_takes_a_mask():
    module = nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 4))
    with torch.no_grad():
        module[0].weight.copy_(palette(weight(30, 8), 4))
        module[0].weight[0] = 0
        module[1].weight.copy_(palette(weight(4, 8, seed=1), 4))
    found = constraints_of(module, [Trait(TraitKind.CLUSTERED, 5), Trait(TraitKind.SPARSE, 0.1)])
    assert found.of("0.weight", Clustered) is not None
    assert found.of("0.weight", Sparse) is None
    assert found.of("1.weight", Clustered) is not None


def test_one_scale_serves_clusters_that_span_channels():
    module = nn.Linear(16, 8)
    with torch.no_grad():
        module.weight.copy_(palette(module.weight, 5))
    kept = constraints_of(module, [Trait(TraitKind.CLUSTERED, 5)])
    kept.quantize(module, "weight", 4)
    assert kept.of("weight", FakeQuant).scale.numel() == 1
    rows = nn.Linear(16, 8)
    with torch.no_grad():
        rows.weight.copy_(torch.stack([palette(row, 5) for row in rows.weight]))
    apart = constraints_of(rows, [Trait(TraitKind.CLUSTERED, 5)])
    apart.quantize(rows, "weight", 4)
    assert apart.of("weight", FakeQuant).scale.numel() == 8


KINDS = ("sparse", "clustered", "quantized")
MIXES = [mix for count in (1, 2, 3) for mix in itertools.combinations(KINDS, count)]


def mixed(module, names, mix):
    """Give weights the properties of a mix; return the constraints that are re-derived from them."""
    with torch.no_grad():
        for name in names:
            each = module.get_parameter(name)
            if "clustered" in mix:
                each.copy_(palette(each, 6))
            if "sparse" in mix:
                each[each.abs() < each.abs().median()] = 0
        for each in module.parameters():  # something to recover whatever the mix
            each.add_(0.2 if each.ndim == 1 else 0)
    amounts = {"sparse": Trait(TraitKind.SPARSE, 0.5), "clustered": Trait(TraitKind.CLUSTERED, 7)}
    kept = constraints_of(module, [trait for kind, trait in amounts.items() if kind in mix])
    if "quantized" in mix:
        for name in names:
            kept.quantize(module, name, 4)
    return kept


@pytest.mark.parametrize("mix", MIXES, ids="+".join)
@pytest.mark.parametrize("factory", ["tiny", "lstm"])
def test_every_mix_is_kept_through_training_and_in_the_weights_that_stay(tmp_path, mix, factory):
    model = TorchAdapter().clone(graphs.opened(factory))
    module = model.payload.module
    names = [name for name, each in module.named_parameters() if each.ndim > 1 and "embed" not in name]
    kept = mixed(module, names, mix)
    before = {name: module.get_parameter(name).detach().clone() for name in names}
    data = Splits({Part.TRAIN: ArraySamples(dict(model.signature.synthetic(120)))})
    context = PassContext(tmp_path, data=data, machine=replace(this_machine(), cores=1))
    told = recover(
        model,
        graphs.opened(factory),
        Recovery(epochs=10, learning_rate=3e-3, batch_size=32),
        context,
        constraints=kept,
    )
    assert told.improved
    assert told.best_loss < told.first_loss
    for name in names:
        now = module.get_parameter(name).detach()
        assert not torch.equal(now, before[name]), name
        if "sparse" in mix:
            assert bool((now[before[name] == 0] == 0).all()), name
        if "clustered" in mix:
            assert len(np.unique(now.numpy())) <= 7, name
        if "quantized" in mix:
            scale = kept.of(name, FakeQuant).scale
            steps = (now / scale).numpy()
            np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4, err_msg=name)
            assert np.abs(np.rint(steps)).max() <= 7, name
    assert set(module.state_dict()) == set(graphs.opened(factory).payload.module.state_dict())


def test_the_state_of_constraints_goes_into_a_checkpoint_and_back():
    module = nn.Linear(6, 4)
    kept = Constraints({"weight": [Sparse.of(module.weight), FakeQuant(module.weight.detach(), 3)]})
    state = {name: value.clone() for name, value in kept.state().items()}
    kept.of("weight", Sparse).mask = torch.zeros(4, 6)
    kept.load(state)
    assert {name: value.tolist() for name, value in kept.state().items()} == {
        name: value.tolist() for name, value in state.items()
    }
