"""The lock: exact releases for every Python that whet supports, within the ranges that the project declares."""

import importlib.util
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
VERSION = "Programming Language :: Python :: 3."
PYTHONS = [f"3.{name.removeprefix(VERSION)}" for name in PROJECT["classifiers"] if name.startswith(VERSION)]
ALONE = {"litert-torch"}  # extras that are installed in an environment of their own


def wanted():
    """Return the requirements of everything that `make test` installs."""
    extras = {name: texts for name, texts in PROJECT["optional-dependencies"].items() if name not in ALONE}
    found = [Requirement(text) for texts in (PROJECT["dependencies"], *extras.values()) for text in texts]
    return [requirement for requirement in found if requirement.name != "whet"]


def locked(python):
    """Return the locked version of every package."""
    lines = (ROOT / "constraints" / f"py{python.replace('.', '')}.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all([clause.operator for clause in pin.specifier] == ["=="] for pin in pins)
    return {canonicalize_name(pin.name): Version(next(iter(pin.specifier)).version) for pin in pins}


def newest():
    spec = importlib.util.spec_from_file_location("newest", ROOT / "constraints" / "newest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_is_a_lock_for_every_python_that_is_promised():
    assert {f"py{python.replace('.', '')}.txt" for python in PYTHONS} == {
        path.name for path in (ROOT / "constraints").glob("*.txt")
    }


@pytest.mark.parametrize("python", PYTHONS)
def test_all_that_is_asked_for_is_locked_within_its_range(python):
    versions = locked(python)
    wrong = [
        str(requirement) for requirement in wanted()
        if not requirement.specifier.contains(versions.get(canonicalize_name(requirement.name), Version("0a0")))
    ]  # fmt: skip
    assert wrong == [], "run `make lock`"


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_names_no_build_of_a_package(python):
    """``torch==2.13.0`` is met by every build; ``torch==2.13.0+cpu`` by one that few indexes offer."""
    assert [name for name, version in locked(python).items() if version.local] == []


def test_torch_is_locked_to_the_release_that_the_makefile_installs_first():
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("TORCH ?= ")]
    assert {locked(python)["torch"] for python in PYTHONS} == {Version(line.partition("==")[2])}


def test_the_newest_of_everything_is_asked_for_with_lower_bounds_alone():
    given = [*map(str, wanted()), "litert-torch==0.10.0", "whet[all]"]
    asked = [Requirement(line) for line in newest().overrides(given)]
    assert {clause.operator for requirement in asked for clause in requirement.specifier} == {">="}
    assert {requirement.name for requirement in asked} == {item.name for item in wanted()} | {"litert-torch"}


def test_of_a_range_the_lower_bound_is_left():
    given = ["a>=1,<2", "b<3", "c==1.5", "d[x]>=2", "whet[all]", "a>=1,<2"]
    assert newest().overrides(given) == ["a>=1", "b", "c>=1.5", "d[x]>=2"]
