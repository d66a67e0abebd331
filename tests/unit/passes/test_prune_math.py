"""Which weights go, against sorting."""

import numpy as np
import pytest

from whet.passes.prune.math import prune_global, prune_layers, sparsity, sqnr_by_kind, zero_least


@pytest.mark.parametrize("shape", [(1,), (7,), (4, 6), (3, 1, 5), (0, 2)])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.77, 1.0])
def test_the_zeroed_are_exactly_as_many_and_none_is_larger_than_a_kept_one(shape, share):
    array = np.random.default_rng(len(shape)).integers(-5, 6, shape).astype(np.float32)  # with ties and with zeros
    count = round(share * array.size)
    pruned = zero_least(array, count)
    order = np.sort(np.abs(array), axis=None)
    assert pruned.shape == array.shape
    np.testing.assert_array_equal(np.sort(np.abs(pruned), axis=None), [*[0.0] * count, *order[count:]])
    assert ((pruned == array) | (pruned == 0)).all()


def test_of_equals_the_first_go_first():
    array = np.array([[2.0, -1.0], [1.0, 1.0]])
    np.testing.assert_array_equal(zero_least(array, 2), [[2.0, 0.0], [0.0, 1.0]])
    many = np.random.default_rng(0).integers(1, 4, 1000) * 1.0
    first = sorted(range(1000), key=lambda at: many[at])[:500]  # Python's sort keeps the order of equals
    assert np.flatnonzero(zero_least(many, 500) == 0).tolist() == sorted(first)


def test_the_given_array_is_left_as_it_is_whatever_its_memory_order():
    array = np.asfortranarray(np.arange(6.0).reshape(2, 3) - 2)
    kept = array.copy()
    pruned = zero_least(array.T, 3)
    np.testing.assert_array_equal(array, kept)
    np.testing.assert_array_equal(pruned, [[-2, 0], [0, 2], [0, 3]])


WEIGHTS = {
    "small": np.array([[0.1, -0.2], [0.3, 0.4]], np.float32),
    "large": np.array([5.0, -6.0, 7.0, 8.0, 9.0], np.float32),
}


@pytest.mark.parametrize(("share", "zeros"), [(0.0, (0, 0)), (0.5, (2, 2)), (0.7, (3, 4)), (1.0, (4, 5))])
def test_layers_lose_the_same_share_each(share, zeros):
    pruned = prune_layers(WEIGHTS, share)
    assert tuple(int((array == 0).sum()) for array in pruned.values()) == zeros


@pytest.mark.parametrize(("share", "zeros"), [(0.2, (2, 0)), (0.5, (4, 0)), (0.7, (4, 2)), (1.0, (4, 5))])
def test_globally_the_least_of_all_layers_go_first(share, zeros):
    pruned = prune_global(WEIGHTS, share)
    assert tuple(int((array == 0).sum()) for array in pruned.values()) == zeros
    assert [array.shape for array in pruned.values()] == [(2, 2), (5,)]


def test_global_pruning_keeps_the_type_of_every_array():
    mixed = {"half": np.ones(4, np.float16), "single": np.full(3, 2.0, np.float32), "double": np.full(2, 3.0)}
    pruned = prune_global(mixed, 0.5)
    assert [array.dtype for array in pruned.values()] == [np.float16, np.float32, np.float64]
    np.testing.assert_array_equal(pruned["half"], 0)
    np.testing.assert_array_equal(pruned["double"], 3.0)


def test_sparsity_is_the_share_of_zeros_over_all_arrays():
    assert sparsity({"a": np.array([0.0, 1.0]), "b": np.array([0.0, 0.0, -0.0, 3.0, 4.0, 5.0])}) == 0.5
    assert sparsity({}) == 0.0
    assert sparsity({"empty": np.zeros((0, 3))}) == 0.0


def test_signal_over_noise_is_summed_over_the_layers_of_a_kind():
    before = {"a": np.array([3.0, 1.0]), "b": np.array([9.0, 3.0]), "c": np.array([1.0])}
    after = {"a": np.array([3.0, 0.0]), "b": np.array([9.0, 0.0]), "c": np.array([1.0])}
    found = sqnr_by_kind(before, after, {"a": "Conv", "b": "Conv", "c": "Gemm"})
    assert found["Conv"] == pytest.approx(10.0)  # an energy of 100 over a noise of 10
    assert found["Gemm"] == 200.0  # nothing was taken away
