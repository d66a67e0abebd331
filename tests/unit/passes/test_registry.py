"""The table of passes, ours and others'."""

from dataclasses import fields, is_dataclass
from importlib import metadata

import pytest

from whet.errors import RecipeError
from whet.passes import registry
from whet.passes.base import Pass


@pytest.mark.parametrize("name", registry.names())
def test_every_pass_is_found_under_its_own_name_and_says_what_it_is(name):
    kind = registry.pass_class(name)
    assert issubclass(kind, Pass)
    assert is_dataclass(kind)
    assert kind.name == name
    assert kind.realised_by
    assert kind.__doc__ not in (None, Pass.__doc__)
    assert kind() == kind(**{field.name: field.default for field in fields(kind)})  # every setting has a default


def test_an_unknown_pass_is_refused_with_the_nearest_name():
    with pytest.raises(RecipeError, match="no pass 'static-int-8'; did you mean 'static-int8'"):
        registry.pass_class("static-int-8")


def test_a_name_like_no_other_lists_what_there_is():
    with pytest.raises(RecipeError, match="known: clean-graph, cluster"):
        registry.pass_class("xyzzy")


def test_another_package_adds_a_pass_but_cannot_take_the_place_of_one(monkeypatch):
    """Entry points as the packaging metadata gives them; ``Outcome`` stands for a class of another package."""
    points = [
        metadata.EntryPoint("sharpen", "whet.passes.base:Outcome", "whet.passes"),
        metadata.EntryPoint("half", "whet.passes.base:Outcome", "whet.passes"),
    ]
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: points if group == "whet.passes" else [])
    assert registry.names().count("half") == 1
    assert registry.pass_class("half").__name__ == "Half"
    assert registry.pass_class("sharpen").__name__ == "Outcome"
