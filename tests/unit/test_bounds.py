"""Bounds of options, and values in messages."""

import math
import re

import pytest

from whet import bounds
from whet.errors import UserError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_drop", math.nan),
        ("max_drop", math.inf), ("max_drop", -1e-9), ("max_drop", True), ("max_drop", "0.1"),
        ("min_speedup", 0.0), ("min_fidelity", 1.0000001), ("seed", -1), ("seed", 2**32), ("seed", 1.0),
        ("max_bytes", 10**400), ("batch_size", 0), ("batch_size", 65_537), ("within", 0), ("within", math.nan),
    ],
)  # fmt: skip
def test_a_value_outside_is_refused_by_its_name(name, value):
    with pytest.raises(UserError, match=f"the {name} is .*; give a (whole )?number (from|above)"):
        bounds.check(name, value, f"the {name}")


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_drop", 0), ("min_speedup", 1e-9), ("min_fidelity", 1), ("seed", 2**32 - 1), ("batch_size", 65_536)],
)
def test_a_bound_itself_is_allowed_unless_it_is_open(name, value):
    bounds.check(name, value)


@pytest.mark.parametrize("text", ["²", "٣", "1_0", "9" * 19, "", "1.5", "0x1f"])
def test_whole_numbers_are_ascii_digits(text):
    with pytest.raises(ValueError, match=re.escape(text) or "^$"):
        bounds.number(text, whole=True)


def test_shown_values_are_printable_and_short():
    assert bounds.shown("a\x1b[2J\udce9") == "'a\\x1b[2J\\udce9'"
    assert len(bounds.shown("x" * 10_000)) < 100
    assert "bits" in bounds.shown(10**5000)
    assert bounds.printable("a\n b\x07\udcff") == "a b\\x07\\udcff"
    assert bounds.listed([str(at) for at in range(25)], 2) == "0, 1 and 23 others"


def test_paths_that_cannot_be_followed_are_refused(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, text in ((tmp_path / "loop", "run in a circle"), ("x" * 300, "file name too long"), ("a\0b", "NUL")):
        with pytest.raises(UserError, match=text):
            bounds.check_path(path, "the data")
    bounds.check_path(tmp_path / "absent", "the data")
