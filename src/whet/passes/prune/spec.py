"""What can be asked of pruning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from whet.passes.base import Exclude, ExcludeTypes, Pass
from whet.types import Format, TraitKind


@dataclass(frozen=True, kw_only=True)
class MagnitudePrune(Pass):
    """Set the weights of least magnitude to zero (unstructured, L1).

    Matrices and kernels are pruned; biases, norms and embeddings are left alone. It keeps shapes, and the file's
    length on disk: zeros shrink a model only where it is deflated. **It makes no CPU runtime here faster**: dense
    kernels multiply zeros too. Without recovery 40 % costs a small network many points.

    Source: Han et al. 2015, "Learning both weights and connections for efficient neural networks".
    """

    name: ClassVar[str] = "magnitude-prune"
    realised_by: ClassVar = dict.fromkeys((Format.TORCH, Format.ONNX), "whet.passes.prune.weights:magnitude_prune")
    establishes: ClassVar = frozenset({TraitKind.SPARSE})
    erases: ClassVar = frozenset({TraitKind.CLUSTERED, TraitKind.PACKED})
    refuses: ClassVar = {TraitKind.QUANTIZED: "its weights are integers already; prune before quantizing"}

    sparsity: Annotated[float, Meta(gt=0, lt=1, description="Share of weights that become zero.")] = 0.5
    scope: Annotated[
        Literal["layer", "global"],
        Meta(description="layer: the same share of every layer; global: the least weights of the whole model."),
    ] = "layer"
    exclude: Exclude = ()
    exclude_types: ExcludeTypes = ()
