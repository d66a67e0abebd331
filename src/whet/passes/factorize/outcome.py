"""What factorization leaves behind, in any format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from whet.models.model import Model
from whet.passes.base import Outcome
from whet.passes.factorize.choose import Choice, kept
from whet.passes.factorize.spec import Factorize
from whet.types import Skipped, Trait, TraitKind


def outcome(model: Model, payload: Any, choices: Mapping[str, Choice], skipped: Sequence[Skipped]) -> Outcome:
    """Return the changed model, with its traits and the numbers of every layer that was looked at."""
    taken = {name: choice for name, choice in choices.items() if choice.chain is not None}
    notes = {
        "layers_factorized": len(taken),
        "weights_of_these": sum(choice.facts["parameters"][0] for choice in taken.values()),
        "weights_now": sum(choice.facts["parameters"][1] for choice in taken.values()),
        "energy_kept": kept(list(taken.values())),
        "by_layer": {name: choice.facts for name, choice in choices.items() if choice.facts},
    }
    if not taken:
        return Outcome(model, (), tuple(skipped), notes)
    left = frozenset(trait for trait in model.traits if trait.kind not in Factorize.erases)
    changed = replace(model, payload=payload, traits=left)
    changed = changed.with_traits(Trait(TraitKind.LOW_RANK, notes["energy_kept"]))
    return Outcome(changed, tuple(taken), tuple(skipped), notes)
