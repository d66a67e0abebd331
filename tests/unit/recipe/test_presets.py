"""Recipes by name."""

import pytest

from whet.errors import RecipeError
from whet.recipe.presets import IN_TORCH, NAMES, preset, recipe
from whet.recipe.recipe import Recipe
from whet.types import Format


@pytest.mark.parametrize("name", [name for name in NAMES if name not in IN_TORCH])
def test_a_torch_source_is_exported_and_an_onnx_source_is_not(name):
    steps = [step.name for step in preset(name, Format.TORCH).steps]
    assert steps.count("export-onnx") == 1
    assert [step for step in steps if step != "export-onnx"] == [
        step.name for step in preset(name, Format.ONNX).steps
    ]
    assert steps[-1] == "clean-graph"


def test_every_preset_says_what_it_is_and_no_two_do_the_same():
    found = [preset(name, Format.TORCH) for name in NAMES]
    assert all(one.description.endswith(".") for one in found)
    assert [one.name for one in found] == list(NAMES)
    assert len({one.fingerprint() for one in found}) == len(NAMES)


def test_an_unknown_name_is_refused_with_the_nearest_one():
    with pytest.raises(RecipeError, match=r"no preset 'static-int', .*\.toml; did you mean 'static-int8'\?$"):
        preset("static-int", Format.ONNX)


def test_a_recipe_is_given_as_itself_by_file_or_by_name(tmp_path):
    mine = Recipe.of("mine", [{"pass": "half"}])
    (tmp_path / "mine.toml").write_text(mine.dumps())
    assert recipe(mine, Format.ONNX) is mine
    assert recipe(tmp_path / "mine.toml", Format.ONNX) == mine
    assert recipe(str(tmp_path / "mine.toml"), Format.ONNX) == mine
    assert recipe("half", Format.ONNX) == preset("half", Format.ONNX)
