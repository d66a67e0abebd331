"""The tree of errors is as it is drawn, and words are suggested."""

import re

import pytest

from whet import errors
from whet.errors import MissingDependency, UserError, WhetError, did_you_mean


def drawn():
    """Return (name, name of the parent) as the docstring draws them; three columns are one step down."""
    parents, pairs = {}, set()
    for line in errors.__doc__.splitlines():
        match = re.match(r"^ {4}((?:[│ ] {3})*(?:[├└]── )?)([A-Z]\w+)  ", line)
        if match:
            depth = len(match[1]) // 4
            parents[depth] = match[2]
            pairs.add((match[2], parents.get(depth - 1, "Exception")))
    return pairs


def test_the_tree_is_as_it_is_drawn():
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert {(kind.__name__, kind.__base__.__name__) for kind in classes} == drawn()
    assert len(classes) == len(drawn()) > 10


def test_the_exit_code_tells_a_mistake_from_a_failed_bundle_and_from_an_error_of_whets_own():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, WhetError)]
    codes = {kind.__name__: kind.exit_code for kind in kinds if not issubclass(kind, UserError)}
    assert codes == {
        "WhetError": 70, "PassError": 2, "NothingChanged": 2, "UnsupportedOperator": 2, "ChildError": 70,
        "ChildCrashed": 70, "TimeLimit": 2, "MemoryLimit": 2, "RuntimeFailure": 2, "BundleError": 1,
    }  # fmt: skip
    assert {kind.exit_code for kind in kinds if issubclass(kind, UserError)} == {2}


def test_a_missing_library_names_the_install():
    told = str(MissingDependency.of("onnx", "onnx"))
    assert told == "This needs onnx, which is not installed; run: pip install 'whet[onnx]'"


@pytest.mark.parametrize(
    ("word", "known", "told"),
    [
        ("digts", ["digits", "faces"], "; did you mean 'digits'?"),
        ("zebra", ["digits", "faces"], "; known: digits, faces"),
        ("zebra", ["b", "a"], "; known: a, b"),
        ("digits", [], ""),
        ("quantise", {"quantize": 1, "prune": 2}, "; did you mean 'quantize'?"),
    ],
)
def test_the_closest_word_is_suggested_else_all_are_told(word, known, told):
    assert did_you_mean(word, known) == told
