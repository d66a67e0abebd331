"""Recipes: read, refused, written back, checked, told apart."""

import tomllib
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import ClassVar, Literal, get_args, get_origin, get_type_hints

import pytest

from whet.errors import RecipeError
from whet.passes import registry
from whet.passes.base import Pass
from whet.passes.quantize.spec import Half, StaticInt8
from whet.recipe import presets
from whet.recipe.recipe import Recipe, settings
from whet.types import Format, TraitKind

HALF = "[[steps]]\npass = 'half'\n"
PRUNE = "[[steps]]\npass = 'magnitude-prune'\n"
STATIC = "[[steps]]\npass = 'static-int8'\n"


@pytest.fixture
def load(tmp_path):
    def read(text, name="mine.toml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return Recipe.load(path)

    return read


def test_a_file_gives_its_head_and_its_steps_in_order(load):
    found = load(f"name = 'small'\nseed = 7\ndescription = 'Größe'\n{PRUNE}sparsity = 0.4\n{HALF}")
    assert (found.name, found.seed, found.description) == ("small", 7, "Größe")
    assert [step.name for step in found.steps] == ["magnitude-prune", "half"]
    assert settings(found.steps[0])["sparsity"] == 0.4
    assert settings(found.steps[0])["scope"] == "layer"


def test_a_file_without_a_name_is_named_after_itself(load):
    assert load(HALF, "my-half.v2.toml").name == "my-half.v2"


MISTAKES = {
    "unknown key": (f"sed = 3\n{HALF}", "unknown key 'sed'; did you mean 'seed'"),
    "steps misspelt": ("[[step]]\npass = 'half'", "unknown key 'step'; did you mean 'steps'"),
    "unknown pass": ("[[steps]]\npass = 'static-int-8'", "no pass 'static-int-8'; did you mean 'static-int8'"),
    "pass like no other": ("[[steps]]\npass = 'xyzzy'", "no pass 'xyzzy'; known: clean-graph"),
    "unknown setting": (f"{PRUNE}sparsty = 0.4", "has no setting 'sparsty'; did you mean 'sparsity'"),
    "wrong type": (f"{PRUNE}sparsity = 'half'", "step 1: magnitude-prune: sparsity = 'half': expected `float`"),
    "wrong type inside": (f"{PRUNE}exclude = [1]", r"exclude = \[1\]: expected `str`, got `int`"),
    "no list": (f"{PRUNE}exclude = 'fc'", "exclude = 'fc': expected `array`, got `str`"),
    "number for a switch": (f"{STATIC}per_channel = 1", "per_channel = 1: expected `bool`, got `int`"),
    "too large": (f"{PRUNE}sparsity = 1.5", "sparsity = 1.5: expected `float` < 1.0"),
    "too small": (f"{HALF}{STATIC}samples = -1", "step 2: static-int8: samples = -1: expected `int` >= 0"),
    "not a number": (f"{PRUNE}sparsity = nan", "sparsity = nan: expected `float` > 0.0"),
    "unknown choice": (f"{STATIC}calibration = 'entropie'", "'entropie' is not known; did you mean 'entropy'"),
    "choices are named": (f"{PRUNE}scope = 'world'", "scope = 'world' is not known; known: global, layer"),
    "seed of letters": (f"seed = 'x'\n{HALF}", "seed = 'x': expected `int`, got `str`"),
    "seed with a fraction": (f"seed = 1.5\n{HALF}", "seed = 1.5: expected `int`, got `float`"),
    "negative seed": (f"seed = -1\n{HALF}", "seed = -1: expected `int` >= 0"),
    "name of digits": (f"name = 3\n{HALF}", "name = 3: expected `str`, got `int`"),
    "name of another folder": (f"name = '../x'\n{HALF}", "'../x' cannot name a recipe; use 1 to 64 of the letters"),
    "empty name": (f"name = ''\n{HALF}", "'' cannot name a recipe"),
    "empty steps": ("steps = []", r"no steps; write \[\[steps\]\] with pass = 'name'"),
    "nothing at all": ("", "has no steps"),
    "steps no list": ("steps = 'half'", "has no steps"),
    "step no table": ("steps = ['half']", "step 1 does not name its pass; write pass = "),
    "step without a pass": ("[[steps]]\nsparsity = 0.4", "step 1 does not name its pass"),
    "no TOML": ("name = ", "is not valid TOML"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_named_with_the_file_and_what_would_do(load, kind):
    text, message = MISTAKES[kind]
    with pytest.raises(RecipeError, match=message) as caught:
        load(text)
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_a_folder_or_no_text_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"none\.toml: No such file or directory; check the path"):
        Recipe.load(tmp_path / "none.toml")
    with pytest.raises(RecipeError, match="Is a directory; check the path"):
        Recipe.load(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"binary\.toml is not valid TOML"):
        Recipe.load(tmp_path / "binary.toml")


@pytest.mark.parametrize("source", [Format.ONNX, Format.TORCH])
@pytest.mark.parametrize("name", presets.NAMES)
def test_a_resolved_recipe_reads_back_as_itself_with_every_setting_spelled_out(load, name, source):
    recipe = presets.preset(name, source)
    text = recipe.dumps()
    assert load(text) == recipe
    assert load(text).dumps() == text
    for step, written in zip(recipe.steps, tomllib.loads(text)["steps"], strict=True):
        assert set(written) == {"pass", *(field.name for field in fields(step))}


def changed(step: Pass, name: str):
    """Another value of a setting, of its own type."""
    value, kind = getattr(step, name), get_type_hints(type(step))[name]
    if get_origin(kind) is Literal:
        return next(choice for choice in get_args(kind) if choice != value)
    if is_dataclass(value):
        return replace(value, **{fields(value)[0].name: getattr(value, fields(value)[0].name) / 2})
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"another {value}"
    return ("fc",) if value == () else value / 2 if value else 1


@pytest.mark.parametrize(
    ("name", "setting"),
    [(name, field.name) for name in registry.names() for field in fields(registry.pass_class(name))],
)
def test_the_fingerprint_changes_with_any_setting(name, setting):
    step = registry.pass_class(name)()
    other = replace(step, **{setting: changed(step, setting)})
    assert Recipe("a", (step,)).fingerprint() != Recipe("a", (other,)).fingerprint()


def test_the_fingerprint_is_of_what_is_done_not_of_what_it_is_called():
    steps = (StaticInt8(), Half())
    first = Recipe("a", steps)
    assert first.fingerprint() == Recipe("b", steps, description="other words").fingerprint()
    assert first.fingerprint() != Recipe("a", steps[::-1]).fingerprint()
    assert first.fingerprint() != Recipe("a", steps, seed=1).fingerprint()
    assert first.fingerprint() != Recipe("a", steps[:1]).fingerprint()


@pytest.mark.parametrize(
    ("steps", "source", "end"),
    [
        (["export-onnx", "optimize-graph", "static-int8", "clean-graph"], Format.TORCH, Format.ONNX),
        (["magnitude-prune", "dynamic-int8"], Format.TORCH, Format.TORCH),
        (["magnitude-prune", "half"], Format.ONNX, Format.ONNX),
        ([], Format.TORCH, Format.TORCH),
    ],
)
def test_formats_are_folded_through_the_steps(steps, source, end):
    assert Recipe.of("a", [{"pass": name} for name in steps]).check(source) is end


@pytest.mark.parametrize("name", [name for name in presets.NAMES if name not in presets.IN_TORCH])
@pytest.mark.parametrize("source", [Format.ONNX, Format.TORCH])
def test_every_preset_ends_in_onnx(name, source):
    if name in presets.TRAINED and source is Format.ONNX:
        with pytest.raises(RecipeError, match="does not run on an onnx model, it runs on torch"):
            presets.preset(name, source).check(source)
        return
    assert presets.preset(name, source).check(source) is Format.ONNX


@pytest.mark.parametrize("name", presets.IN_TORCH)
def test_every_preset_for_torch_stays_in_torch(name):
    assert presets.preset(name, Format.TORCH).check(Format.TORCH) is Format.TORCH


@pytest.mark.parametrize(
    ("steps", "source", "message"),
    [
        (
            ["static-int8"],
            Format.TORCH,
            "step 1: static-int8 does not run on a torch model.*put an export-onnx step",
        ),
        (["optimize-graph"], Format.TORCH, "step 1: optimize-graph does not run on a torch model; it runs on onnx"),
        (["export-onnx"], Format.ONNX, "export-onnx does not run on an onnx model; it runs on torch"),
        (["static-int8", "optimize-graph"], Format.ONNX, "step 2: .*quantized model.*optimize before quantizing"),
        (["dynamic-int8", "export-onnx"], Format.TORCH, "step 2: export-onnx .*quantized model.*export first"),
        (["static-int8", "dynamic-int8"], Format.ONNX, "step 2: dynamic-int8 .*keep one quantization a recipe"),
        (
            ["half", "static-int8"],
            Format.ONNX,
            "step 2: static-int8 .*half model: its weights are in half precision",
        ),
        (["dynamic-int8", "magnitude-prune"], Format.ONNX, "step 2: magnitude-prune .*prune before quantizing"),
        (["export-onnx", "static-int8", "half"], Format.TORCH, "step 3: half does not run on a quantized model"),
    ],
)
def test_an_order_that_cannot_work_is_refused_before_any_work(steps, source, message):
    recipe = Recipe.of("mine", [{"pass": name} for name in steps])
    with pytest.raises(RecipeError, match=message) as caught:
        recipe.check(source)
    assert "recipe 'mine'" in str(caught.value)


def test_traits_that_the_source_has_count_too():
    with pytest.raises(RecipeError, match="quantized model"):
        Recipe("a", (Half(),)).check(Format.ONNX, {TraitKind.QUANTIZED})


@dataclass(frozen=True, kw_only=True)
class Pack(Pass):
    """Makes what pruning would erase."""

    name: ClassVar[str] = "pack"
    realised_by: ClassVar = {Format.ONNX: "no.such:thing"}
    establishes: ClassVar = frozenset({TraitKind.PACKED, TraitKind.CLUSTERED})


def test_a_step_that_would_erase_what_another_made_is_refused():
    prune = registry.pass_class("magnitude-prune")()
    with pytest.raises(RecipeError, match=r"step 2: .*erase .*\(clustered, packed\); put it before that step"):
        Recipe("a", (Pack(), prune)).check(Format.ONNX)
    assert Recipe("a", (prune, Pack())).check(Format.ONNX) is Format.ONNX
