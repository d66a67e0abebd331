"""Folders of the machine are taken out of what a bundle says; names that look alike stay."""

from pathlib import Path

import pytest

from whet.bundle.folders import Folders
from whet.models.source import Origin, Source
from whet.types import Format


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "elsewhere").mkdir()
    source = Source(Origin.FACTORY, Format.TORCH, str(tmp_path / "project/net.py"), "net")
    return Folders.of(source, tmp_path / "run/.cache/key/model")


def test_paths_become_names(folders, tmp_path):
    said = {
        "student": f"{tmp_path}/project/student.py:small",
        "notes": [f"read from {tmp_path}/elsewhere/data.npz", f"in {tmp_path / 'project'}: 3 files"],
        "home": f"{Path.home()}/net.py",
        "count": 3,
    }
    assert folders.taken_out(said) == {
        "student": "student.py:small",
        "notes": ["read from elsewhere/data.npz", "in project: 3 files"],
        "home": "net.py",
        "count": 3,
    }


@pytest.mark.parametrize(
    "name", ["/layers/0/MatMul", "scale=1/255", "https://example.org/a/b", "/lib/Conv", "a/b", "/", "//", "~/x"]
)
def test_names_that_look_like_paths_stay(folders, name):
    assert folders.taken_out(name) == name
