"""What every pass promises, on every format it claims."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from whet import plain
from whet.errors import NothingChanged, RecipeError
from whet.models.adapter import adapter_for
from whet.models.model import Facts, Model
from whet.passes.base import Outcome, Pass, PassContext
from whet.recipe.recipe import Recipe
from whet.types import Format


class PassContract:
    """Subclass and give ``make_pass`` and ``make_model``; ``make_context`` where the pass reads data."""

    def make_pass(self) -> Pass:
        """Return the pass, configured to change the model."""
        raise NotImplementedError("give make_pass")

    def make_model(self) -> Model:
        """Return a model with a signature, of a format the pass runs on."""
        raise NotImplementedError("give make_model")

    def make_context(self, folder: Path) -> PassContext:
        """Return what the pass may use."""
        return PassContext(folder)

    def apply(self, model: Model) -> Outcome:
        """Apply the pass with an empty folder of its own."""
        with tempfile.TemporaryDirectory() as folder:
            return self.make_pass().apply(model, self.make_context(Path(folder)))

    def test_its_name_is_registered_or_its_own(self) -> None:
        """A pass has a name a recipe can hold, and realisations that exist."""
        request = self.make_pass()
        assert request.name
        assert request.realised_by
        assert all(":" in realisation for realisation in request.realised_by.values())

    def test_it_says_what_it_changed(self) -> None:
        """Something was changed, and every layer left alone has a reason."""
        outcome = self.apply(self.make_model())
        assert outcome.changed
        assert all(item.layer and item.reason for item in outcome.skipped)
        assert plain.builtins(outcome.notes) is not None

    def test_it_has_the_traits_it_establishes(self) -> None:
        """What a pass claims to establish is there afterwards; what it erases is not."""
        request, outcome = self.make_pass(), self.apply(self.make_model())
        assert {trait.kind for trait in outcome.model.traits} >= request.establishes
        assert not {trait.kind for trait in outcome.model.traits} & (request.erases - request.establishes)

    def test_it_yields_the_format_it_promises(self) -> None:
        """``output_format`` is what comes out."""
        model = self.make_model()
        assert self.apply(model).model.format is self.make_pass().output_format(model.format)

    def test_it_keeps_the_signature(self) -> None:
        """Names and types of inputs and outputs stay."""
        model = self.make_model()
        after = self.apply(model).model
        assert model.signature is not None
        assert after.signature is not None
        for before, now in ((model.signature.inputs, after.signature.inputs),
                            (model.signature.outputs, after.signature.outputs)):  # fmt: skip
            assert [(spec.name, spec.dtype) for spec in before] == [(spec.name, spec.dtype) for spec in now]

    def test_it_leaves_the_model_it_was_given_alone(self) -> None:
        """The input model computes the same afterwards."""
        model = self.make_model()
        assert model.signature is not None
        batch, adapter = model.signature.synthetic(4), adapter_for(model.format)
        before = adapter.forward(model, batch)
        self.apply(model)
        for name, array in adapter.forward(model, batch).items():
            np.testing.assert_array_equal(array, before[name])

    def test_it_does_the_same_twice(self) -> None:
        """Equal seeds, equal models."""
        model = self.make_model()
        first, second = self.apply(model).model, self.apply(model).model
        assert first.signature is not None
        batch = first.signature.synthetic(4)
        wanted = adapter_for(first.format).forward(first, batch)
        for name, array in adapter_for(second.format).forward(second, batch).items():
            np.testing.assert_array_equal(array, wanted[name])

    def test_it_survives_the_disk(self, tmp_path: Path) -> None:
        """The changed model computes the same when it is stored and loaded afresh."""
        model = self.apply(self.make_model()).model
        adapter = adapter_for(model.format)
        path = adapter.save(model, tmp_path / "model")
        fresh = Facts.of(model).model(adapter.load(path, model.source), model.source)
        assert model.signature is not None
        batch = model.signature.synthetic(4)
        wanted = adapter.forward(model, batch)
        for name, array in adapter.forward(fresh, batch).items():
            np.testing.assert_allclose(array, wanted[name], rtol=1e-6, atol=1e-6)

    def test_it_stands_in_a_recipe(self, tmp_path: Path) -> None:
        """Its settings go to TOML and back."""
        recipe = Recipe("contract", (self.make_pass(),))
        file = tmp_path / "contract.toml"
        file.write_text(recipe.dumps())
        assert Recipe.load(file) == recipe

    def test_it_refuses_other_formats(self) -> None:
        """A format without a realisation is refused before any work, by a message that names those with one."""
        request = self.make_pass()
        for other in set(Format) - set(request.realised_by):
            try:
                request.check(other)
            except RecipeError as error:
                assert all(str(known) in str(error) for known in request.realised_by)  # noqa: PT017 - no pytest here
            else:
                raise AssertionError(f"{request.name} accepts {other} without a realisation")

    def test_it_refuses_what_it_must_not_touch(self) -> None:
        """A model with a trait it refuses is refused, with the reason."""
        from whet.types import Trait

        request, model = self.make_pass(), self.make_model()
        for kind, reason in request.refuses.items():
            try:
                self.apply(model.with_traits(Trait(kind, 1)))
            except RecipeError as error:
                assert reason in str(error)  # noqa: PT017
            else:
                raise AssertionError(f"{request.name} accepts a {kind} model")

    def nothing_changes(self, request: Pass, model: Model) -> None:
        """Assert that a request that changes nothing is an error, unless it is allowed."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                request.apply(model, self.make_context(Path(folder)))
            except NothingChanged as error:
                assert "allow_unchanged" in str(error)  # noqa: PT017
            else:
                raise AssertionError(f"{request.name} changed nothing and said nothing")
