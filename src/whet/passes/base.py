"""What a pass is, what it is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

from msgspec import Meta

from whet.data.data import Part, Splits
from whet.errors import NothingChanged, RecipeError
from whet.lazy import resolve
from whet.machine import Machine, this_machine
from whet.models.model import Model
from whet.progress import OnEvent, silent
from whet.types import Format, Signature, Skipped, TraitKind

if TYPE_CHECKING:
    from whet.types import Batch


@dataclass(frozen=True)
class PassContext:
    """What a pass may use.

    Attributes:
        folder: For intermediate files. Checkpoints of training below it outlive a process that was killed.
        seed: For whatever is drawn.
        data: The user's samples; a pass reads ``calibrate`` and ``train`` and nothing else. None where a model is
            changed without data.
        machine: The machine that the artifact is made for.
        cost: Latency of a model in ms, where the recipe aims at it.
        score: Quality of a model on ``select``, where the recipe aims at it.
        on_event: Told of progress.
        original: Opens the model that the recipe began with: the teacher, where a model is trained.
    """

    folder: Path
    seed: int = 0
    data: Splits | None = None
    machine: Machine = field(default_factory=this_machine)
    cost: Callable[[Model], float] | None = None
    score: Callable[[Model], float] | None = None
    on_event: OnEvent = silent
    original: Callable[[], Model] | None = None

    def teacher(self) -> Model:
        """Open the original as a module of torch, whatever it was given as: what recovery learns from.

        Raises:
            PassError: It has no form in torch, or is not known.
        """
        assert self.original is not None
        found = self.original()
        if found.format is not Format.KERAS:
            return found
        return cast("Model", resolve("whet.models.keras.translate:to_torch", "keras")(found, self.folder))

    def sample(self, signature: Signature, most: int) -> Batch:
        """Return up to so many samples bound to a model (as many as it takes, where that is fixed), to compare by.

        Those are real ones where there are data, drawn ones else.
        """
        fixed = signature.batch
        there = 0 if self.data is None else min(most, self.data.size(Part.CALIBRATE))
        if self.data is None or not there:
            return signature.synthetic(fixed or most, self.seed)
        batch = signature.bind(self.data.batch(Part.CALIBRATE, range(there)))
        return batch if fixed is None else signature.fill(batch, fixed)


@dataclass(frozen=True)
class Outcome:
    """What became of a model.

    Attributes:
        model: The new one.
        changed: Names of the layers that were changed.
        skipped: Layers that were left alone, and why.
        notes: Facts worth a line in the report: ``{"zeros": 0.4}``.
    """

    model: Model
    changed: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)


AllowUnchanged = Annotated[bool, Meta(description="Go on where this step changes nothing, instead of failing.")]
Exclude = Annotated[
    tuple[str, ...], Meta(description="Layers to leave alone, by name; * and ? match: ['fc', 'layer1.*'].")
]
ExcludeTypes = Annotated[tuple[str, ...], Meta(description="Layers to leave alone, by type: ['Conv', 'Linear'].")]


@dataclass(frozen=True, kw_only=True)
class Pass:
    """A request to change a model in one way. Plain data; its realisation for a format does the work.

    Attributes:
        name: As it stands in a recipe.
        realised_by: For each format it works on, the function that does it, ``module:function``.
        extra: The extra of whet that the realisations need; ``extras`` names those of formats that need another.
        establishes: Traits that the model has afterwards.
        erases: Traits that the model has lost afterwards.
        refuses: Traits that a model must not have, each with the reason.
        reads: Parts of the data it looks at; it runs without data if there are none.
        allow_unchanged: Whether it is fine if nothing was to be done.
    """

    name: ClassVar[str]
    realised_by: ClassVar[Mapping[Format, str]]
    extra: ClassVar[str] = "all"
    extras: ClassVar[Mapping[Format, str]] = {}
    establishes: ClassVar[frozenset[TraitKind]] = frozenset()
    erases: ClassVar[frozenset[TraitKind]] = frozenset()
    refuses: ClassVar[Mapping[TraitKind, str]] = {}
    reads: ClassVar[tuple[str, ...]] = ()

    allow_unchanged: AllowUnchanged = False

    def output_format(self, source: Format) -> Format:
        """Return the format that a model of format ``source`` has afterwards."""
        return source

    def check(self, source: Format) -> None:
        """Raise RecipeError unless this can run on a model of this format."""
        if source not in self.realised_by:
            article = "an" if source[0] in "aeiou" else "a"
            raise RecipeError(
                f"{self.name} does not run on {article} {source} model; it runs on {', '.join(self.realised_by)}"
            )

    def files(self) -> tuple[Path, ...]:
        """Return the user's files that settings name: what stands in them is part of the request."""
        return ()

    def apply(self, model: Model, context: PassContext) -> Outcome:
        """Do it.

        Raises:
            RecipeError: The format has no realisation, or the model has a trait that is refused.
            NothingChanged: There was nothing to do, and that was not allowed for.
            PassError: It could not be done.
        """
        self.check(model.format)
        for kind, reason in self.refuses.items():
            if model.has(kind):
                raise RecipeError(f"{self.name} does not run on a {kind} model: {reason}")
        realisation = resolve(self.realised_by[model.format], self.extras.get(model.format, self.extra))
        outcome = cast("Outcome", realisation(self, model, context))
        if not outcome.changed and not self.allow_unchanged:
            reasons = "; ".join(f"{item.layer}: {item.reason}" for item in outcome.skipped[:3])
            raise NothingChanged(
                f"{self.name} changed nothing ({reasons or 'no layer it applies to'}); "
                f"leave the step out, or set allow_unchanged = true"
            )
        return outcome


def excluded(name: str, kind: str, exclude: tuple[str, ...], types: tuple[str, ...]) -> str | None:
    """Return why a layer is excluded by the recipe, or None if it is not."""
    if kind in types:
        return f"excluded by the recipe (type {kind})"
    for pattern in exclude:
        if fnmatch(name, pattern):
            return f"excluded by the recipe ({pattern})"
    return None
