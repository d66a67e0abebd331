"""The candidates of an ``optimize``: a fixed set, made for the source at hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from whet.errors import RecipeError
from whet.passes import registry
from whet.recipe.presets import IN_TFLITE, IN_TORCH, becomes_tflite, preset
from whet.recipe.recipe import Recipe
from whet.runtimes.base import formats_of, runtime_for
from whet.trials.problem import Candidate, Problem
from whet.trials.trial import FLOAT, ORIGINAL
from whet.types import Format

# The likeliest first: where time is short, the rest are not tried.
_TRIED = (
    "graph-only",
    "static-int8",
    "dynamic-int8",
    "static-int8-edges",
    "half",
    "static-int8-minmax",
    "static-int8-entropy",
    "static-int8-packed",
    "dynamic-int8-packed",
    "static-int8-mixed",  # the dearest where plain INT8 errs, as every layer is tried alone
    "combined",
)


def candidates(problem: Problem) -> list[Candidate]:
    """Return what is tried, checked: recipes that cannot work never reach a child process."""
    source, runtime = problem.source.format, problem.deployment.runtime
    tried: tuple[str, ...]
    if source is Format.TFLITE:
        tried = IN_TFLITE
    elif becomes_tflite(source, runtime):
        tried = ("graph-only", *IN_TFLITE)
    else:
        tried = _TRIED if not runtime or Format.ONNX in formats_of(runtime) else IN_TORCH
    return deploy(problem, [preset(name, source, runtime) for name in tried])


def _check_free(name: str, names: Iterable[str]) -> None:
    """Refuse a recipe's name that another one has, or that stands for the model as given in every table.

    Raises:
        RecipeError: It is taken.
    """
    if name.lower() in (ORIGINAL, FLOAT):
        raise RecipeError(
            f"no recipe can be named {name!r}: it stands for the model as given in every table; choose another name"
        )
    for other in names:
        if other == name:
            raise RecipeError(f"two recipes are named {name!r}; give each a name of its own")
        if other.lower() == name.lower():  # one folder, where the system does not tell them apart
            raise RecipeError(
                f"the recipes {other!r} and {name!r} differ in case alone; give each a name of its own"
            )


def deploy(problem: Problem, recipes: Sequence[Recipe]) -> list[Candidate]:
    """Return a candidate for each recipe, in the problem's deployment.

    Raises:
        RecipeError: A recipe cannot work on the source, its end is not what the runtime runs, or two share a name.
    """
    source = problem.source.format
    if not any(source in registry.pass_class(name).realised_by for name in registry.names()):
        raise RecipeError(
            f"no pass changes {source} models; {problem.source.name} can be measured (whet profile, bench, "
            f"evaluate, compare): to make it smaller, start from the model that it was converted from"
        )
    found: list[Candidate] = []
    names: set[str] = set()
    for recipe in recipes:
        _check_free(recipe.name, names)
        names.add(recipe.name)
        end = recipe.check(source)
        try:
            runtime_for(problem.deployment, end)
        except RecipeError as error:
            raise RecipeError(f"recipe {recipe.name!r} cannot be run: {error}") from error
        found.append(Candidate(recipe, problem.deployment))
    return found
