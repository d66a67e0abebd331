"""Thin factors, against NumPy's SVD, the theorem of Eckart and Young, and tensorly."""

import numpy as np
import pytest
import tensorly
from scipy.signal import correlate2d
from tensorly.decomposition import partial_tucker

from whet.passes.factorize.math import Wish, decompose, rank_for, tucker


def kernel(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def composed(chain):
    """The kernel that a chain's parts make together, at stride 1: (out, in, *window)."""
    parts = chain.parts
    if chain.method == "spatial":
        return np.einsum("rih,orw->oihw", parts[0][..., 0], parts[1][:, :, 0])
    if chain.method == "tucker":
        left, right = parts[2].reshape(parts[2].shape[:2]), parts[0].reshape(parts[0].shape[:2])
        return np.einsum("or,rs...,si->oi...", left, parts[1], right)
    return np.einsum("or,ri...->oi...", parts[1].reshape(parts[1].shape[:2]), parts[0])


@pytest.mark.parametrize("shape", [(12, 20), (8, 6, 1, 1), (10, 4, 5), (6, 3, 2, 3, 2)])
@pytest.mark.parametrize("rank", [1, 3, 6])
def test_a_matrix_of_low_rank_is_the_nearest_there_is(shape, rank):
    weight = kernel(*shape)
    chain = decompose(weight, "svd", Wish(rank=rank))
    matrix = weight.reshape(shape[0], -1)
    values = np.linalg.svd(matrix, compute_uv=False)
    error = np.linalg.norm(composed(chain) - weight)
    assert error == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), abs=1e-9)  # Eckart and Young
    assert chain.energy == pytest.approx((values[:rank] ** 2).sum() / (values**2).sum())
    assert chain.ranks == (min(rank, len(values)),)
    assert [part.shape[1] for part in chain.parts] == [shape[1], chain.ranks[0]]


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_a_column_and_a_row_are_the_nearest_of_their_rank(rank):
    weight = kernel(6, 5, 3, 4)
    chain = decompose(weight, "spatial", Wish(rank=rank))
    matrix = weight.transpose(1, 2, 0, 3).reshape(15, 24)
    values = np.linalg.svd(matrix, compute_uv=False)
    assert np.linalg.norm(composed(chain) - weight) == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), abs=1e-9)
    assert [part.shape for part in chain.parts] == [(rank, 5, 3, 1), (6, rank, 1, 4)]


def test_a_separable_kernel_is_a_column_and_a_row_on_a_picture():
    column, row = kernel(3, seed=1), kernel(3, seed=2)
    weight = np.outer(column, row)[None, None]
    chain = decompose(weight, "spatial", Wish(energy=0.999))
    assert chain.ranks == (1,)
    picture = kernel(9, 9, seed=3)
    once = correlate2d(picture, chain.parts[0][0, 0], mode="valid")
    np.testing.assert_allclose(
        correlate2d(once, chain.parts[1][0, 0], mode="valid"), correlate2d(picture, weight[0, 0], mode="valid")
    )


@pytest.mark.parametrize("ranks", [(2, 2), (5, 3), (8, 6)])
@pytest.mark.parametrize("shape", [(8, 6, 3, 3), (8, 6, 3)])
def test_fewer_channels_lose_as_little_as_tensorly_does(ranks, shape):
    weight = kernel(*shape)
    core, left, right = tucker(weight, *ranks)
    found = np.einsum("rs...,or,is->oi...", core, left, right)
    (theirs, factors), _ = partial_tucker(tensorly.tensor(weight), rank=list(ranks), modes=[0, 1], n_iter_max=200)
    want = tensorly.tenalg.multi_mode_dot(theirs, factors, modes=[0, 1])
    assert np.linalg.norm(found - weight) <= np.linalg.norm(want - weight) * 1.005 + 1e-9
    for side in (left, right):
        np.testing.assert_allclose(side.T @ side, np.eye(side.shape[1]), atol=1e-12)
    chain = decompose(weight, "tucker", Wish(rank=max(ranks)))
    lost = ((composed(chain) - weight) ** 2).sum() / (weight**2).sum()
    assert chain.energy == pytest.approx(1 - lost)


@pytest.mark.parametrize(
    ("method", "shape"), [("svd", (9, 7)), ("spatial", (4, 3, 3, 5)), ("tucker", (6, 5, 3, 3))]
)
def test_all_of_the_energy_is_all_of_the_kernel_in_its_own_type(method, shape):
    weight = kernel(*shape).astype(np.float32)
    chain = decompose(weight, method, Wish(energy=1.0))
    np.testing.assert_allclose(composed(chain), weight, atol=1e-5)
    assert {part.dtype for part in chain.parts} == {np.dtype(np.float32)}
    assert chain.energy == pytest.approx(1.0)
    assert not composed(decompose(np.zeros(shape), method, Wish(energy=0.9))).any()


@pytest.mark.parametrize("method", ["svd", "spatial", "tucker"])
@pytest.mark.parametrize("energy", [0.3, 0.7, 0.95])
def test_so_much_energy_is_kept_at_the_least_rank(method, energy):
    weight = kernel(16, 12, 3, 3, seed=5)
    chain = decompose(weight, method, Wish(energy=energy))
    assert chain.energy >= energy
    if method != "tucker":  # of which each side is given half of what may be lost
        assert decompose(weight, method, Wish(rank=chain.ranks[0] - 1)).energy < energy


def test_ranks_are_counted_on_the_spectrum():
    squares = np.array([5.0, 3.0, 1.0, 1.0])
    assert [rank_for(squares, share) for share in (0.1, 0.5, 0.51, 0.8, 0.81, 0.9, 1.0)] == [1, 1, 2, 2, 3, 3, 4]
    assert rank_for(np.zeros(3), 0.9) == 1


@pytest.mark.parametrize("method", ["svd", "spatial", "tucker"])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("share", [0.5, 0.25])
def test_products_are_those_of_running_it_and_stay_within_the_share(method, stride, share):
    weight, size = kernel(32, 24, 3, 3), 48
    chain = decompose(weight, method, Wish(macs=share, multiple=2), stride)
    assert chain.macs(stride) <= share * weight.size
    assert all(rank % 2 == 0 for rank in chain.ranks)
    high = wide = size
    counted = 0
    for part, axes in zip(chain.parts, chain.axes, strict=True):  # of a picture whose edges are padded
        high, wide = (length // (step if takes else 1)
                      for length, step, takes in zip((high, wide), stride, axes, strict=True))  # fmt: skip
        counted += part.size * high * wide
    assert (high, wide) == (size // stride[0], size // stride[1])
    assert chain.macs(stride) * high * wide == counted


def test_ranks_by_energy_are_rounded_up_and_by_products_down():
    weight = kernel(64, 64)
    assert decompose(weight, "svd", Wish(energy=0.5, multiple=16)).ranks[0] % 16 == 0
    assert decompose(weight, "svd", Wish(energy=0.5, multiple=16)).energy >= 0.5
    assert decompose(weight, "svd", Wish(macs=0.9, multiple=16)).ranks == (16,)  # of at most 28
    assert decompose(weight, "svd", Wish(macs=0.01, multiple=16)).ranks == (16,)
    assert decompose(kernel(6, 5), "svd", Wish(energy=0.9, multiple=16)).ranks == (5,)
