"""What can be asked of distillation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from msgspec import Meta

from whet import userfile
from whet.errors import ModelError, RecipeError
from whet.models.source import Origin, Source, source_of
from whet.passes.base import Pass
from whet.train.spec import Recovery
from whet.types import Format, TraitKind

_ANOTHER = frozenset({TraitKind.SPARSE, TraitKind.CLUSTERED, TraitKind.LOW_RANK})


@dataclass(frozen=True, kw_only=True)
class Distill(Recovery, Pass):
    """Train towards the original's outputs on the user's own inputs; labels are not needed.

    Without ``student`` the model is trained as it stands, which gives back what pruning, clustering or
    factorization cost: zeros stay zero, weights that share a value go on sharing it, shapes stay. After a pass that
    thins a model out, this is distillation into a thinner copy of the original.

    With ``student`` the model is replaced by one that the user's ``file.py:factory`` builds, with
    ``student_weights`` or as the factory leaves it, whose inputs and outputs must be the original's. It starts
    anew: what earlier steps did to the model is not in it, so that it stands first in a recipe.

    **It makes no model faster by itself**; a student is as fast and as small as its layers are. Integer weights and
    weights in half precision cannot be trained. How it trains is said of ``whet.train.spec.Recovery``.

    Source: Hinton et al. 2015, "Distilling the knowledge in a neural network"; Romero et al. 2015, "FitNets".
    """

    name: ClassVar[str] = "distill"
    realised_by: ClassVar = {
        Format.TORCH: "whet.passes.distill.torch:distill",
        Format.KERAS: "whet.passes.distill.keras:distill",
    }
    extra: ClassVar[str] = "train"
    erases: ClassVar = frozenset({TraitKind.PACKED, TraitKind.GRID})
    refuses: ClassVar = {
        TraitKind.QUANTIZED: "its weights are integers, which have no gradient; distill before quantizing",
        TraitKind.HALF: "its weights are in half precision, in which small steps vanish; distill before halving",
    }
    reads: ClassVar = ("train", "calibrate")

    student: Annotated[
        str, Meta(description="file.py:factory of a smaller model; empty trains the model as it stands.")
    ] = ""
    student_weights: Annotated[str, Meta(description="A file of weights that the student starts with.")] = ""

    def __post_init__(self) -> None:
        """A student is another model, which has no trait of this one."""
        if self.student:
            object.__setattr__(self, "erases", type(self).erases | _ANOTHER)

    def check(self, source: Format) -> None:
        """Explain what cannot be trained, and look for the files that are named, before any work."""
        if source is Format.ONNX:
            raise RecipeError(
                "distill does not run on an onnx model, it runs on torch, keras: an ONNX graph has no gradients; "
                "put it before export-onnx"
            )
        super().check(source)
        self.check_training(self.name, source)
        student = self.student_source()
        if student is not None and student.format is not source:
            raise RecipeError(
                f"student = {self.student!r} builds a {student.format} model, the original is one of {source}; "
                f"have the factory build one of {source}"
            )

    def student_source(self) -> Source | None:
        """Return where the student comes from; None without one.

        Raises:
            RecipeError: It is no ``file.py:factory``, or a file is not there.
        """
        if not self.student:
            if self.student_weights:
                raise RecipeError("student_weights are a student's, and none is named; name it with student")
            return None
        try:
            found = source_of(self.student, self.student_weights or None)
        except ModelError as error:
            raise RecipeError(f"student: {error}") from error
        if found.origin is not Origin.FACTORY:
            raise RecipeError(f"student = {self.student!r} builds no model; write file.py:factory")
        return found

    def files(self) -> tuple[Path, ...]:
        """Return the files of the student, of the loss and of the training, with those they import."""
        parts = userfile.split(self.student)
        found = [*(userfile.files(parts[0]) if parts else []), *self.own_files()]
        return (*found, Path(self.student_weights)) if self.student_weights else tuple(found)
