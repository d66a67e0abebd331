"""Inputs as a user writes them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.bounds import shown
from whet.errors import SignatureError
from whet.models.signature import parse_input
from whet.types import TensorSpec


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x=float32[1,3,32,32]", TensorSpec("x", "float32", (None, 3, 32, 32), (1, 3, 32, 32))),
        ("float32[8,3]", TensorSpec("", "float32", (None, 3), (8, 3))),
        ("ids=int64[1,200]:0..30000", TensorSpec("ids", "int64", (None, 200), (1, 200), 0, 30000)),
        ("ids=int64[1,?128]", TensorSpec("ids", "int64", (None, None), (1, 128))),
        ("x=float16[?4, ? , 2]", TensorSpec("x", "float16", (None, None, 2), (4, 1, 2))),
        ("  x=bool[1]  ", TensorSpec("x", "bool", (None,), (1,))),
        ("input.1:0=int8[1,4]:-128..127", TensorSpec("input.1:0", "int8", (None, 4), (1, 4), -128, 127)),
        ("x=float32[1]:-1.5..2e3", TensorSpec("x", "float32", (None,), (1,), -1.5, 2000)),
        ("x=float32[1]:.5...75", TensorSpec("x", "float32", (None,), (1,), 0.5, 0.75)),
        ("x=float32[1]:1.25E+2..1e3", TensorSpec("x", "float32", (None,), (1,), 125, 1000)),
        ("x=float64[1]:3..3", TensorSpec("x", "float64", (None,), (1,), 3, 3)),
        ("x=float32[2,1,128]:0", TensorSpec("x", "float32", (None, 1, 128), (2, 1, 128), 0, 0)),
        ("sr=int64[]:16000", TensorSpec("sr", "int64", (), (), 16000, 16000, sample=None)),
        ("x=int64[1]:0..4611686018427387904", TensorSpec("x", "int64", (None,), (1,), 0, 4611686018427387904)),
    ],
)
def test_an_input_is_read(text, expected):
    assert parse_input(text) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "cannot read the input ''; write it as .*for example ids=int64"),
        ("x", "cannot read the input"),
        ("x=float32", "cannot read the input"),
        ("x=float32(1,3)", "cannot read the input"),
        ("x=float32[1,3]:0 1", "cannot read the input"),
        ("x=float32[1,3]:0..", "cannot read the input"),
        ("x=float32[1,3]:a..b", "cannot read the input"),
        ("=float32[1,3]", "cannot read the input"),
        ("x=flaot32[1,3]", "unknown type 'flaot32' in 'x=flaot32.*did you mean 'float32'"),
        ("x=complex64[1]", "unknown type 'complex64'"),
        ("x=float32[1,,3]", r"cannot read axis 1 of .*; an axis is 3, or \?128 where it is free"),
        ("x=float32[1,0]", "cannot read axis 1"),
        ("x=float32[1,-3]", "cannot read axis 1"),
        ("x=float32[1,N]", "cannot read axis 1"),
        ("x=float32[1,3.5]", "cannot read axis 1"),
        ("x=float32[1,²]", "cannot read axis 1"),
        ("x=float32[1]:5..3", "the range in 'x=float32.* runs backwards; write the least value first"),
        ("x=float32[1]:1.2.3..4", "cannot read the input"),
        ("x=float32[1]:..", "cannot read the input"),
        ("x=int8[1]:0..300", "int8 cannot hold the range in .*; it takes -128 to 127"),
        ("x=uint8[1]:-1..3", "uint8 cannot hold the range .*; it takes 0 to 255"),
        ("x=bool[1]:0..2", "bool cannot hold the range .*; it takes 0 to 1"),
        ("x=int64[1]:0..9223372036854775808", "int64 cannot hold the range"),
        ("x=float16[1]:0..70000", "float16 cannot hold the range .*; it takes -65504.0 to 65504.0"),
        ("x=float64[1]:0..1e999", "float64 cannot hold the range"),
        (f"x=float64[1]:-1{'0' * 308}..1{'0' * 308}", "float64 cannot hold the range"),
    ],
)
def test_an_input_that_cannot_be_read_says_what_it_should_be(text, told):
    with pytest.raises(SignatureError, match=told):
        parse_input(text)


names = st.text(st.characters(codec="ascii", categories=["L", "N"], include_characters="._:/-"), max_size=8)
axes = st.lists(st.tuples(st.booleans(), st.integers(1, 6)), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(
    names,
    st.sampled_from(["float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"]),
    axes,
    st.none() | st.tuples(st.integers(0, 127), st.integers(0, 127)).map(sorted),
)
def test_what_is_written_is_read_and_can_be_drawn(name, dtype, written, bounds):
    shape = ",".join(f"{'?' if free else ''}{size}" for free, size in written)
    if dtype == "bool":
        bounds = None
    text = f"{name + '=' if name else ''}{dtype}[{shape}]{':{}..{}'.format(*bounds) if bounds else ''}"
    spec = parse_input(text)
    assert spec.name == name
    assert spec.shape == (None, *(None if free else size for free, size in written[1:]))
    assert spec.concrete(7) == (7, *(size for _, size in written[1:]))
    drawn = spec.synthetic(2, np.random.default_rng(0))
    spec.check(drawn)
    if bounds:
        assert bounds[0] <= drawn.min() <= drawn.max() <= bounds[1]


@settings(max_examples=80, deadline=None)
@given(
    st.text(alphabet="x=float32[1,?]:0.5.e-²٣ ", max_size=24)
    | st.from_regex(r"x=int8\[[0-9?,]*\]:[-0-9.]+", fullmatch=True)
)
def test_any_text_is_read_or_refused_in_our_own_words(text):
    told = ""
    try:
        spec = parse_input(text)
        spec.check(spec.synthetic(1, np.random.default_rng(0)))
    except SignatureError as error:
        told = str(error)
    assert not told or shown(text) in told or shown(text.strip()) in told
