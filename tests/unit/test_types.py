"""The words every floor shares: shapes filled, data drawn, batches bound to a signature."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import SignatureError
from whet.types import Signature, TensorSpec, Trait, TraitKind, elements, itemsize

IMAGE = TensorSpec("x", "float32", (None, 3, 8, 8))
IDS = TensorSpec("ids", "int64", (None, None), (1, 12), 0, 29)
MASK = TensorSpec("mask", "bool", (None, None), (1, 12))


def test_a_spec_is_written_with_question_marks_for_free_axes():
    assert str(IMAGE) == "x=float32[?,3,8,8]"
    assert str(TensorSpec("y", "int8", ())) == "y=int8[]"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (IMAGE, (5, 3, 8, 8)),
        (IDS, (5, 12)),
        (TensorSpec("x", "float32", (None, None, 4)), (5, 1, 4)),
        (TensorSpec("x", "float32", (2, None), (9, 7)), (2, 7)),
        (TensorSpec("x", "float32", ()), ()),
    ],
)
def test_free_axes_are_filled_by_the_batch_and_the_example(spec, expected):
    assert spec.concrete(5) == expected


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 3, 8, 8), (0, 3, 8, 8)])
def test_data_that_fits_is_let_through(shape):
    assert IMAGE.check(np.zeros(shape, np.float32)) is None


def test_the_sample_axis_may_have_any_length_even_where_the_model_fixes_it():
    assert TensorSpec("x", "float32", (4, 2)).check(np.zeros((7, 2), np.float32)) is None


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((2, 3, 8, 8)), "input 'x' takes float32, the data has float64; convert the data, or normalise"),
        (np.zeros((2, 3, 8, 8), np.uint8), "takes float32, the data has uint8"),
        (np.zeros((2, 8, 8, 3), np.float32), r"x=float32\[\?,3,8,8\] .* shape \[\?,8,8,3\]; reshape the data, or"),
        (np.zeros((2, 3, 8), np.float32), r"does not take the data's shape \[\?,3,8\]"),
        (np.zeros((), np.float32), r"does not take the data's shape \[\]"),
    ],
)
def test_data_that_does_not_fit_is_refused_with_a_cure(array, told):
    with pytest.raises(SignatureError, match=told):
        IMAGE.check(array)


@pytest.mark.parametrize(
    ("dtype", "low", "high", "least", "most"),
    [
        ("int64", 3, 5, 3, 5),
        ("uint8", 0, 255, 0, 255),
        ("int8", -128, 127, -128, 127),
        ("int64", None, None, 0, 1),
        ("bool", None, None, 0, 1),
        ("float32", -2.0, 3.0, -2, 3),
        ("float64", 0.5, 0.5, 0.5, 0.5),
        ("float16", None, 4.0, 0, 4),
    ],
)
def test_synthetic_values_lie_between_their_bounds_and_reach_them(dtype, low, high, least, most):
    drawn = TensorSpec("x", dtype, (None, 50), (1, 50), low, high).synthetic(100, np.random.default_rng(0))
    assert drawn.dtype == dtype
    assert drawn.shape == (100, 50)
    assert drawn.min() >= least
    assert drawn.max() <= most
    slack = 0 if drawn.dtype.kind in "biu" else 0.05 * (most - least)
    assert drawn.min() <= least + slack
    assert drawn.max() >= most - slack


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_synthetic_values_without_bounds_are_standard_normal(dtype):
    drawn = TensorSpec("x", dtype, (None, 50)).synthetic(200, np.random.default_rng(0)).astype(np.float64)
    assert drawn.mean() == pytest.approx(0, abs=0.05)
    assert drawn.std() == pytest.approx(1, abs=0.05)


def test_a_synthetic_batch_fits_its_own_signature_and_repeats_with_its_seed():
    signature = Signature((IMAGE, IDS, MASK), ())
    batch = signature.synthetic(4, seed=1)
    assert signature.bind(batch) == batch
    again, other = signature.synthetic(4, seed=1), signature.synthetic(4, seed=2)
    np.testing.assert_array_equal(batch["x"], again["x"])
    assert not np.array_equal(batch["x"], other["x"])


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [((None, None), None), ((4, 4), 4), ((4, None), 4), ((4, 2), None), ((), None)],
)
def test_the_fixed_batch_is_what_the_inputs_agree_on(sizes, expected):
    specs = tuple(TensorSpec(str(at), "float32", (size, 2)) for at, size in enumerate(sizes))
    assert Signature(specs, ()).batch == expected


def test_a_fixed_batch_is_what_synthetic_data_has():
    assert Signature((TensorSpec("x", "float32", (4, 2)),), ()).synthetic(9)["x"].shape == (4, 2)


def test_one_array_fits_one_input_whatever_its_name():
    array = np.zeros((2, 3, 8, 8), np.float32)
    bound = Signature((IMAGE,), ()).bind({"input": array})
    assert list(bound) == ["x"]
    assert bound["x"] is array


def test_arrays_are_bound_in_the_models_order():
    ids, mask = np.zeros((2, 5), np.int64), np.ones((2, 5), bool)
    assert list(Signature((IDS, MASK), ()).bind({"mask": mask, "ids": ids})) == ["ids", "mask"]


@pytest.mark.parametrize("names", [("ids",), ("ids", "msk"), ("ids", "mask", "more"), ("a", "b")])
def test_names_that_do_not_fit_are_refused(names):
    batch = {name: np.zeros((2, 5), np.int64) for name in names}
    told = f"the model's inputs are ids, mask; the data has {', '.join(names)}; name the arrays"
    with pytest.raises(SignatureError, match=told):
        Signature((IDS, MASK), ()).bind(batch)


def test_arrays_are_checked_as_they_are_bound():
    with pytest.raises(SignatureError, match="takes float32, the data has float64"):
        Signature((IMAGE,), ()).bind({"x": np.zeros((2, 3, 8, 8))})


@settings(max_examples=50, deadline=None)
@given(st.lists(st.none() | st.integers(1, 9), min_size=1, max_size=5).map(tuple))
def test_elements_count_one_sample_with_free_axes_as_one(shape):
    spec = TensorSpec("x", "float32", shape)
    assert elements(shape) == int(np.prod(spec.concrete(1)[1:]))


@pytest.mark.parametrize(
    ("dtype", "size"), [("float32", 4), ("int8", 1), ("int64", 8), ("bool", 1), ("float16", 2)]
)
def test_itemsize_is_in_bytes(dtype, size):
    assert itemsize(dtype) == size


def test_traits_are_values():
    assert {Trait(TraitKind.SPARSE, 0.5), Trait(TraitKind.SPARSE, 0.5)} == {Trait(TraitKind.SPARSE, 0.5)}
    assert Trait(TraitKind.HALF, 16) != Trait(TraitKind.HALF, 8)


# --- quantized inputs -----------------------------------------------------------------------------------------

CODED = TensorSpec("x", "float32", (None, 4), low=-2.0, high=3.1, coded="int8")


def test_a_quantized_input_takes_numbers_or_the_integers_of_its_file():
    signature = Signature((CODED,), ())
    for kind in ("float32", "int8"):
        array = np.ones((3, 4), kind)
        assert signature.bind({"x": array})["x"] is array
    for kind in ("int16", "uint8", "float64"):
        with pytest.raises(
            SignatureError, match=rf"takes float32 \(or int8, as the file holds it\), .* has {kind}"
        ):
            signature.bind({"x": np.ones((3, 4), kind)})
    with pytest.raises(SignatureError, match="does not take the data's shape"):
        signature.bind({"x": np.ones((3, 5), np.int8)})


def test_the_step_of_a_quantized_input_is_that_of_its_integers():
    assert CODED.step == pytest.approx(5.1 / 255)
    assert TensorSpec("x", "float32", (None,), low=0.0, high=1.0).step == 0
    drawn = CODED.synthetic(50, np.random.default_rng(0))
    assert drawn.dtype == np.float32
    assert -2 <= drawn.min() < -1.5
    assert 2.5 < drawn.max() <= 3.1
