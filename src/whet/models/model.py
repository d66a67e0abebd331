"""The model: what flows through the house, from one pass to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from whet.models.source import Source
from whet.types import Format, Range, Signature, Step, Trait, TraitKind


@dataclass(frozen=True, slots=True)
class Model:
    """A model in one format, with all that is known of it.

    Attributes:
        format: Its representation.
        payload: The framework's object; only its adapter and the realisations of passes look inside.
        signature: Named inputs and outputs; None until it has been run on data or an ``--input``.
        traits: Properties that a later pass could erase.
        ranges: Activation ranges by tensor name, calibrated or trained, consumed on the way to INT8.
        history: What was done to it.
        needs: Capabilities of the processor that its results depend on (see ``whet.machine``).
        source: Where the original came from.
    """

    format: Format
    payload: Any
    signature: Signature | None = None
    traits: frozenset[Trait] = frozenset()
    ranges: Mapping[str, Range] = field(default_factory=dict)
    history: tuple[Step, ...] = ()
    needs: frozenset[str] = frozenset()
    source: Source | None = None

    def has(self, kind: TraitKind) -> bool:
        """Tell whether the model has a trait of this kind."""
        return any(trait.kind is kind for trait in self.traits)

    def with_payload(self, payload: Any, **changes: Any) -> Model:
        """Return this model with another payload (and other fields)."""
        return replace(self, payload=payload, **changes)

    def with_traits(self, *traits: Trait) -> Model:
        """Return this model with traits, each in place of one of its kind."""
        kinds = {trait.kind for trait in traits}
        kept = {trait for trait in self.traits if trait.kind not in kinds}
        return replace(self, traits=frozenset(kept | set(traits)))


@dataclass(frozen=True, slots=True)
class Stored:
    """A model as files: what a runtime opens and what a bundle ships.

    Attributes:
        format: Its representation.
        path: The model file, or the folder where a format takes several (torch).
        source: The original, for formats whose files need it to be opened (a torch class in memory).
    """

    format: Format
    path: Path
    source: Source | None = None

    def files(self) -> list[Path]:
        """Return every file that belongs to the model."""
        from whet.models.adapter import adapter_for

        return list(adapter_for(self.format).files(self.path))


@dataclass(frozen=True, slots=True)
class Facts:
    """What is stored beside a model's files: the model without its payload."""

    format: Format
    signature: Signature | None
    traits: tuple[Trait, ...] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)
    history: tuple[Step, ...] = ()
    needs: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Model) -> Facts:
        """Return a model's facts."""
        return cls(
            model.format,
            model.signature,
            tuple(sorted(model.traits, key=lambda trait: trait.kind)),
            model.ranges,
            model.history,
            tuple(sorted(model.needs)),
        )

    def model(self, payload: Any, source: Source | None) -> Model:
        """Return the model these facts and a payload make."""
        return Model(
            self.format,
            payload,
            self.signature,
            frozenset(self.traits),
            self.ranges,
            self.history,
            frozenset(self.needs),
            source,
        )
