"""A user's own Python file: named, imported once, called."""

import json
import sys
from pathlib import Path

import click
import numpy as np
import pytest

import whet
from whet import userfile
from whet.errors import DataError, ModelError, UserError

SOURCE = """
import functools
import helper_beside_it

calls = []

def build():
    calls.append(1)
    return "built", len(calls)

def optional(a=1, *args, b=2, **kwargs):
    return a + b

def needs(a, b=1, *, c):
    return a

def breaks():
    return 1 / 0

def leaves():
    raise SystemExit(3)

def complains():
    raise ModelError("as it is meant")

class Kind:
    def __init__(self, width=3):
        self.width = width

from whet.errors import ModelError
partial = functools.partial(needs, 1, c=2)
mapping = dict
text = "no function"
empty = None
helped = helper_beside_it.value
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    (tmp_path / "helper_beside_it.py").write_text("def value(): return 'beside'\n")
    yield path
    sys.modules.pop("helper_beside_it", None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.py:build", (Path("a.py"), "build")),
        ("/x y/a.py:build", (Path("/x y/a.py"), "build")),
        ("C:\\models\\a.py:build", (Path("C:\\models\\a.py"), "build")),
        ("a.py", None),
        ("a.py:", None),
        ("a.py:not a name", None),
        ("a.py:1", None),
        ("hf:name", None),
        (":build", None),
        ("model.onnx", None),
        ("", None),
    ],
)
def test_only_file_py_colon_name_is_a_factory(text, expected):
    assert userfile.split(text) == expected


@pytest.mark.parametrize(
    ("name", "expected"), [("optional", 3), ("helped", "beside"), ("partial", 1), ("mapping", {})]
)
def test_anything_that_can_be_called_without_arguments_is(file, name, expected):
    assert userfile.call(file, name, DataError) == expected


def test_a_class_is_built(file):
    assert userfile.call(file, "Kind", DataError).width == 3


def test_a_file_is_imported_once_whatever_path_leads_to_it(file, monkeypatch):
    assert userfile.call(file, "build", DataError) == ("built", 1)
    monkeypatch.chdir(file.parent)
    assert userfile.call(Path("mine.py"), "build", DataError) == ("built", 2)


def test_two_files_of_one_name_are_two_modules(file, tmp_path):
    other = tmp_path / "other" / "mine.py"
    other.parent.mkdir()
    other.write_text("def build(): return 'other'\n")
    assert userfile.call(file, "build", DataError) == ("built", 1)
    assert userfile.call(other, "build", DataError) == "other"


@pytest.mark.parametrize("error", [DataError, ModelError])
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("biuld", r"mine.py has no function 'biuld'; did you mean 'build'"),
        ("empty", "mine.py has no function 'empty'"),
        ("text", "mine.py:text is a str, not a function; name a function"),
        ("needs", r"mine.py:needs needs arguments \(a, c\); write a function without any that calls it"),
        ("breaks", "mine.py:breaks raised ZeroDivisionError: division by zero"),
        ("leaves", "mine.py:leaves raised SystemExit: 3"),
    ],
)
def test_what_goes_wrong_is_told_as_the_error_that_was_asked_for(file, name, told, error):
    with pytest.raises(error, match=told):
        userfile.call(file, name, error)


def test_a_users_error_is_passed_on_as_it_is(file):
    with pytest.raises(ModelError, match=r"^as it is meant$"):
        userfile.call(file, "complains", DataError)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("def (", "importing .*broken.py raised SyntaxError"),
        ("import no_such_library_at_all", "raised ModuleNotFoundError: No module named 'no_such_library_at_all'"),
        ("raise ValueError('no weights')", "raised ValueError: no weights"),
        ("import sys; sys.exit('usage: train.py DATA')", r"ended the program \(SystemExit: usage: .*__name__"),
    ],
)
def test_a_file_that_cannot_be_imported_says_why_and_may_be_mended(tmp_path, content, told):
    path = tmp_path / "broken.py"
    path.write_text(content)
    with pytest.raises(UserError, match=told):
        userfile.call(path, "build", UserError)
    path.write_text("def build(): return 'mended'  # longer than before, so that no cached code fits\n" + "#" * 80)
    assert userfile.call(path, "build", UserError) == "mended"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone.py does not exist; check the path before the colon"):
        userfile.find(tmp_path / "gone.py", "build", DataError)


def test_a_name_without_a_like_lists_what_there_is(file):
    with pytest.raises(DataError, match=r"no function 'zebra'; known: .*build, .*needs, optional"):
        userfile.find(file, "zebra", DataError)


def test_a_file_is_known_with_those_below_its_folder_that_it_imports(tmp_path):
    here = tmp_path / "mine"
    (here / "parts" / "deep").mkdir(parents=True)
    for name, text in {
        "model.py": "import json, numpy\nimport blocks as b\nfrom parts import heads\nimport gone\n",
        "blocks.py": "from model import build\nimport parts.deep.core\n",
        "parts/__init__.py": "",
        "parts/heads.py": "from .tail import end\nfrom ... import outside\n",
        "parts/tail.py": "def later():\n    from . import late\n",
        "parts/late.py": "",
        "parts/deep/__init__.py": "",
        "parts/deep/core.py": "def broken(:\n",
        "unused.py": "",
        "../outside.py": "",
    }.items():
        (here / name).write_text(text)
    found = [path.relative_to(here.resolve()).as_posix() for path in userfile.files(here / "model.py")]
    assert found == [
        "model.py", "blocks.py", "parts/__init__.py", "parts/deep/__init__.py", "parts/deep/core.py",
        "parts/heads.py", "parts/late.py", "parts/tail.py",
    ]  # fmt: skip
    assert userfile.files(here / "unused.py") == [(here / "unused.py").resolve()]


@pytest.mark.parametrize("place", ["m.py", "whet/m.py", "src/whet/m.py", "torch/m.py", "site-packages/m.py"])
def test_a_users_file_is_the_users_whatever_its_folder_is_called(place, tmp_path):
    assert userfile.is_users(str(tmp_path / place))


@pytest.mark.parametrize("module", [whet, userfile, json, click, np, np.linalg])
def test_a_file_of_whet_of_python_or_of_a_library_is_not_the_users(module):
    assert not userfile.is_users(module.__file__)


@pytest.mark.parametrize("name", ["<frozen importlib._bootstrap>", "<string>", "<eval_with_key>.1"])
def test_what_was_never_in_a_file_is_not_the_users(name):
    assert not userfile.is_users(name)
