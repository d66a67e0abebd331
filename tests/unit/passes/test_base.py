"""What every pass does before and after its realisation."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest

import whet
from whet.errors import MissingDependency, NothingChanged, RecipeError
from whet.models.model import Model
from whet.passes.base import Outcome, Pass, PassContext, excluded
from whet.types import Format, Signature, Skipped, TensorSpec, Trait, TraitKind

CONTEXT = PassContext(Path())
MODEL = Model(Format.ONNX, payload="weights")


@dataclass(frozen=True, kw_only=True)
class Whiten(Pass):
    """A pass whose realisation does as it is told."""

    name: ClassVar[str] = "whiten"
    realised_by: ClassVar = {
        Format.ONNX: "realisations_of_whiten:whiten",
        Format.TORCH: "a_framework_that_is_not_there:whiten",
    }
    extra: ClassVar[str] = "torch"
    refuses: ClassVar = {TraitKind.QUANTIZED: "its weights are integers"}

    layers: tuple[str, ...] = ("conv",)


@pytest.fixture(autouse=True)
def realisation(monkeypatch):
    module = ModuleType("realisations_of_whiten")

    def whiten(request, model, context):
        skipped = (Skipped("norm", "it has no matrix"), Skipped("fc", "excluded by the recipe (fc)"))
        return Outcome(model.with_payload("white"), request.layers, skipped)

    module.whiten = whiten
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_the_realisation_for_the_models_format_does_the_work():
    outcome = Whiten().apply(MODEL, CONTEXT)
    assert outcome.model.payload == "white"
    assert outcome.changed == ("conv",)


def test_a_format_without_realisation_is_refused_and_the_others_named():
    with pytest.raises(RecipeError, match="whiten does not run on a tflite model; it runs on onnx, torch"):
        Whiten().apply(Model(Format.TFLITE, payload=None), CONTEXT)


def test_a_trait_that_is_refused_is_named_with_its_reason():
    model = MODEL.with_traits(Trait(TraitKind.QUANTIZED, 8))
    with pytest.raises(RecipeError, match="does not run on a quantized model: its weights are integers"):
        Whiten().apply(model, CONTEXT)


def test_nothing_changed_is_an_error_that_names_layers_and_reasons():
    with pytest.raises(NothingChanged, match=r"norm: it has no matrix; fc: excluded.*allow_unchanged = true"):
        Whiten(layers=()).apply(MODEL, CONTEXT)


def test_nothing_changed_is_fine_where_the_recipe_allows_it():
    assert Whiten(layers=(), allow_unchanged=True).apply(MODEL, CONTEXT).changed == ()


def test_a_framework_that_is_not_installed_is_named_with_what_to_install():
    with pytest.raises(MissingDependency, match=r"a_framework_that_is_not_there.*pip install 'whet\[torch\]'"):
        Whiten().apply(Model(Format.TORCH, payload=None), CONTEXT)


@pytest.mark.parametrize(
    ("patterns", "types", "reason"),
    [
        ((), (), None),
        (("layer1.*",), (), "excluded by the recipe (layer1.*)"),
        (("layer?.conv",), (), "excluded by the recipe (layer?.conv)"),
        (("layer1",), (), None),  # a name is matched whole
        (("other",), ("Conv",), "excluded by the recipe (type Conv)"),
        ((), ("Con*",), None),  # types are names, not patterns
    ],
)
def test_layers_are_excluded_by_pattern_or_by_type(patterns, types, reason):
    assert excluded("layer1.conv", "Conv", patterns, types) == reason


@pytest.mark.parametrize(("fixed", "rows"), [(None, 3), (2, 2), (5, 5)])
def test_what_models_are_compared_by_is_real_where_there_are_data(fixed, rows):
    signature = Signature((TensorSpec("x", "float32", (fixed, 2)),), (TensorSpec("y", "float32", (fixed, 1)),))
    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    context = PassContext(Path(), data=whet.dataset(((x, np.arange(20) % 2), (x, np.arange(20) % 2))))
    found = context.sample(signature, 3)["x"]
    assert len(found) == rows
    assert all(row.tolist() in x.tolist() for row in found)
    assert len({tuple(row) for row in found.tolist()}) == min(3, rows)
    drawn = CONTEXT.sample(signature, 3)["x"]
    assert len(drawn) == rows
    np.testing.assert_array_equal(drawn, CONTEXT.sample(signature, 3)["x"])
