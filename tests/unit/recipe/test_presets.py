"""Recipes by name."""

import pytest

from whet.errors import RecipeError
from whet.recipe.presets import ALL, IN_TFLITE, IN_TORCH, NAMES, preset, recipe
from whet.recipe.recipe import Recipe
from whet.types import Format

LITE = [name for name in ALL if name not in NAMES]  # for what becomes a TFLite file alone


@pytest.mark.parametrize("name", [name for name in NAMES if name not in IN_TORCH])
def test_a_torch_source_is_exported_and_an_onnx_source_is_not(name):
    steps = [step.name for step in preset(name, Format.TORCH).steps]
    assert steps.count("export-onnx") == 1
    assert [step for step in steps if step != "export-onnx"] == [
        step.name for step in preset(name, Format.ONNX).steps
    ]
    assert steps[-1] == "clean-graph"


def test_every_preset_says_what_it_is_and_no_two_do_the_same():
    found = [preset(name, Format.KERAS if name in LITE else Format.TORCH) for name in ALL]
    assert all(one.description.endswith(".") for one in found)
    assert [one.name for one in found] == list(ALL)
    assert len({one.fingerprint() for one in found}) == len(ALL)


@pytest.mark.parametrize("name", [*IN_TFLITE, "graph-only", "pruned", *LITE])
def test_a_keras_model_becomes_tflite_and_goes_through_torch_where_it_is_trained(name):
    steps = [step.name for step in preset(name, Format.KERAS).steps]
    assert steps.count("export-tflite") == 1
    assert steps[-1] == "clean-graph"
    assert ("to-torch" in steps) == ("to-keras" in steps) == (name in ("pruned", "pruned-static-int8"))
    assert preset(name, Format.KERAS, "litert") == preset(name, Format.KERAS)
    preset(name, Format.KERAS).check(Format.KERAS)


@pytest.mark.parametrize("name", [*IN_TFLITE, "graph-only", "pruned", *LITE])
def test_a_torch_model_for_litert_becomes_tflite_without_keras(name):
    steps = [step.name for step in preset(name, Format.TORCH, "litert").steps]
    assert steps == [
        step.name for step in preset(name, Format.KERAS).steps if step.name not in ("to-torch", "to-keras")
    ]
    assert preset(name, Format.TORCH, "litert").check(Format.TORCH) is Format.TFLITE
    with pytest.raises(RecipeError, match="'static-int8-packed' is not for torch models in litert"):
        preset("static-int8-packed", Format.TORCH, "litert")


@pytest.mark.parametrize("name", ["static-int8", "qat-packed"])
def test_a_keras_model_for_onnx_runtime_becomes_onnx(name):
    found = preset(name, Format.KERAS, "onnxruntime")
    assert found.check(Format.KERAS) is Format.ONNX


@pytest.mark.parametrize("name", IN_TFLITE)
def test_a_tflite_file_is_quantized_as_it_is(name):
    steps = [step.name for step in preset(name, Format.KERAS).steps]
    assert [step.name for step in preset(name, Format.TFLITE).steps] == steps[1:]


@pytest.mark.parametrize(
    ("name", "source"), [("int4-weights", Format.TORCH), ("combined", Format.TFLITE), ("pruned", Format.TFLITE)]
)
def test_a_preset_for_another_format_is_refused_with_those_there_are(name, source):
    with pytest.raises(RecipeError, match=rf"the preset '{name}' is not for {source} models; .* there are .*half"):
        preset(name, source)


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
