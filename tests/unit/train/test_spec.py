"""Settings of training: what is accepted, how they lie in TOML, flat and as a table."""

from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from whet.errors import RecipeError
from whet.passes import registry
from whet.passes.base import Pass
from whet.passes.distill.spec import Distill
from whet.recipe.recipe import Recipe
from whet.recipe.schema import schema
from whet.train.spec import Recovery
from whet.types import Format


@dataclass(frozen=True, kw_only=True)
class Nested(Pass):
    """A pass that recovers in between."""

    name: ClassVar[str] = "nested"
    realised_by: ClassVar = {Format.TORCH: "nowhere:nothing"}
    recovery: Recovery = field(default_factory=Recovery)


@pytest.fixture
def nested(monkeypatch):
    known = registry.pass_class
    monkeypatch.setattr("whet.recipe.recipe.pass_class", lambda name: Nested if name == "nested" else known(name))


def load(tmp_path, text):
    file = tmp_path / "r.toml"
    file.write_text(text)
    return Recipe.load(file)


@pytest.mark.parametrize("changes", [{}, {"learning_rate": 1e-3, "minutes": 2.5, "features": ("a", "b=c")}])
def test_settings_go_to_toml_and_back_flat_and_as_a_table(tmp_path, nested, changes):
    recipe = Recipe("r", (Distill(**changes), Nested(recovery=Recovery(**changes))))
    assert load(tmp_path, recipe.dumps()) == recipe
    assert "None" not in recipe.dumps()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("epochs = 0", r"epochs = 0: expected `float` > 0.0"),
        ("alpha = 1.5", r"alpha = 1.5: expected `float` <= 1.0"),
        ("temperature = 0", "temperature = 0: expected `float` > 0.0"),
        ("batch_size = 0", "batch_size = 0: expected `int` >= 1"),
        ("patience = -1", "patience = -1: expected `int` >= 0"),
        ("minutes = -1", "minutes = -1: expected `float` >= 0.0"),
        ("warmup = 1", "warmup = 1: expected `float` < 1.0"),
        ("precision = 'bfloat'", "precision = 'bfloat' is not known; did you mean 'bfloat16'"),
        ("epoch = 3", "has no setting 'epoch'; did you mean 'epochs'"),
    ],
)
def test_what_a_setting_does_not_take_is_named_flat_and_in_a_table(tmp_path, nested, line, told):
    with pytest.raises(RecipeError, match=rf"step 1: distill.*{told}"):
        load(tmp_path, f"[[steps]]\npass = 'distill'\n{line}\n")
    with pytest.raises(RecipeError, match=rf"step 1: nested.*recovery.*{told}"):
        load(tmp_path, f"[[steps]]\npass = 'nested'\n[steps.recovery]\n{line}\n")


def test_the_schema_knows_every_setting():
    body = schema()["$defs"]["distill"]["properties"]
    assert {"epochs", "learning_rate", "alpha", "temperature", "student", "pass"} <= set(body)
    assert body["alpha"]["maximum"] == 1
