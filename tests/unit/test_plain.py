"""Plain data to JSON and back."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet import plain
from whet.types import Format, Trait, TraitKind


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    shape: tuple[int | None, ...]
    colour: Colour = Colour.RED


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner
    share: float | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    traits: frozenset[Trait] = frozenset()


VALUE = Outer("a", Inner((None, 3)), 0.5, {"z": 1.0, "a": 2.0}, frozenset({Trait(TraitKind.SPARSE, 0.4)}))


def test_dataclasses_survive_json():
    assert plain.loads(plain.dumps(VALUE), Outer) == VALUE
    assert plain.loads(plain.dumps(VALUE).encode(), Outer) == VALUE


def test_json_keeps_the_order_of_keys_and_other_alphabets():
    text = plain.dumps({"z": 1, "a": "é"})
    assert text == '{\n  "z": 1,\n  "a": "é"\n}\n'


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.int64(-3), -3),
        (np.bool_(True), True),
        (np.arange(3), [0, 1, 2]),
        (np.array([[1.5, np.nan]]), [[1.5, None]]),
        (float("nan"), None),
        (-np.inf, None),
        ({"a": [float("inf"), 1.0]}, {"a": [None, 1.0]}),
        ((1, 2), [1, 2]),
        ({3: "x"}, {"3": "x"}),
        (Path("a/b"), "a/b"),
        (Format.ONNX, "onnx"),
        (Inner((None, 2)), {"shape": [None, 2], "colour": "red"}),
        (None, None),
    ],
)
def test_values_become_what_json_has(value, expected):
    found = plain.builtins(value)
    assert found == expected
    assert json.loads(json.dumps(found, allow_nan=False)) == expected


@pytest.mark.parametrize("value", [object(), {"a": lambda: 1}, [1j]])
def test_what_is_not_plain_is_refused(value):
    with pytest.raises(TypeError, match="is not plain data"):
        plain.dumps(value)


def test_numbers_that_were_keys_or_text_are_read_as_numbers():
    assert plain.convert({"1": "2.5"}, dict[int, float]) == {1: 2.5}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"name": "a"}', "missing required field `inner`"),
        ('{"name": "a", "inner": {"shape": ["x"]}}', r"\$.inner.shape"),
        (
            '{"name": "a", "inner": {"shape": [1], "colour": "blue"}}',
            r"Invalid enum value 'blue' - at `\$.inner.colour`",
        ),
    ],
)
def test_json_of_another_shape_says_where(text, told):
    with pytest.raises(msgspec.ValidationError, match=told):
        plain.loads(text, Outer)


def test_a_file_of_a_later_version_is_read():
    assert plain.loads('{"shape": [1], "later": true}', Inner) == Inner((1,))


def test_a_fingerprint_does_not_depend_on_the_order_of_keys_or_elements():
    assert plain.fingerprint({"a": 1, "b": {"c": 2, "d": 3}}) == plain.fingerprint({"b": {"d": 3, "c": 2}, "a": 1})
    traits = [Trait(TraitKind.SPARSE, 0.4), Trait(TraitKind.HALF, 16), Trait(TraitKind.SPARSE, 0.2)]
    assert plain.fingerprint(frozenset(traits)) == plain.fingerprint(frozenset(reversed(traits)))
    assert len(plain.fingerprint()) == 24


def test_a_fingerprint_is_the_same_in_every_process():
    code = "from whet import plain; print(plain.fingerprint({'b', 'a', 'c', 'd'}, {'k': frozenset('xyz')}))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {plain.fingerprint({"a", "b", "c", "d"}, {"k": frozenset("xyz")}).encode() + b"\n"}


values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=50, deadline=None)
@given(values, values)
def test_fingerprints_are_equal_where_json_is(first, second):
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (plain.fingerprint(first) == plain.fingerprint(second)) is same


def test_parts_of_a_fingerprint_do_not_run_into_each_other():
    assert plain.fingerprint("ab", "c") != plain.fingerprint("a", "bc")
    assert plain.fingerprint(["a"], "b") != plain.fingerprint("a", ["b"])


HOSTILE_JSON = {
    "another encoding": ('{"shape": [1]}'.encode("utf-16"), "not UTF-8"),
    "latin-1": (b'{"name": "caf\xe9"}', "not UTF-8 text: byte 13"),
    "nothing": (b"", "not JSON"),
    "cut short": (b'{"shape": [1', "not JSON"),
    "two values": (b"{} {}", "not JSON"),
    "lists 100,000 deep": (b"[" * 100_000 + b"]" * 100_000, "nested more than 100 deep"),
    "objects 200 deep": (b'{"a":' * 200 + b"1" + b"}" * 200, "nested more than 100 deep"),
    "open lists 100,000 deep": (b"[" * 100_000, "nested more than 100 deep"),
    "NaN": (b'{"shape": [NaN]}', "NaN is no number of JSON"),
    "minus infinity": (b'{"shape": [-Infinity]}', "-Infinity is no number"),
    "a number beyond floats": (b'{"shape": [1e999]}', "too large for a float"),
    "a number of 5,000 digits": (b'{"shape": [' + b"9" * 5000 + b"]}", "limit"),
    "a key twice": (b'{"shape": [1], "shape": [2]}', "the key 'shape' twice"),
    "half a surrogate pair": (b'{"shape": [1], "colour": "\\ud800"}', "half of a surrogate pair"),
    "a list where an object should be": (b"[1]", "Expected `object`, got `array`"),
    "text where a number should be": (b'{"shape": ["x"]}', "$.shape[0]"),
    "a colour that is none": (b'{"shape": [1], "colour": "blue"}', "Invalid enum value 'blue'"),
    "null": (b"null", "Expected `object`, got `null`"),
}


@pytest.mark.parametrize("case", HOSTILE_JSON)
def test_hostile_json_is_refused_in_one_line(case, tmp_path):
    content, says = HOSTILE_JSON[case]
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        plain.read_json(tmp_path / "a.json", Inner)
    assert "\n" not in str(caught.value)


def test_json_is_read_from_regular_files_of_limited_size_alone(tmp_path):
    (tmp_path / "a.json").write_text('{"shape": [1, null]}')
    assert plain.read_json(tmp_path / "a.json", Inner) == Inner((1, None))
    assert plain.read_json(tmp_path / "a.json", dict) == {"shape": [1, None]}
    with pytest.raises(ValueError, match="larger than 10 bytes"):
        plain.read_json(tmp_path / "a.json", Inner, max_bytes=10)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a regular file"):
        plain.read_json(tmp_path / "pipe", Inner)
    with pytest.raises(ValueError, match="not a regular file"):
        plain.read_json(Path(os.devnull), Inner)
    with pytest.raises(ValueError, match="not a regular file"):
        plain.read_json(tmp_path, Inner)
    with pytest.raises(FileNotFoundError):
        plain.read_json(tmp_path / "absent.json", Inner)
