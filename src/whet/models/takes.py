"""What a model takes, as far as it tells before it is run: so that data of many columns can be fitted to it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from whet.models.model import Model
from whet.types import TensorSpec


def takes(model: Model, declared: Sequence[TensorSpec] = ()) -> tuple[TensorSpec, ...]:
    """Return the inputs that data may bring; type and shape are empty where they are unknown.

    A model with a signature tells all; of a module, names are the parameters of its ``forward``, and ``declared``
    (what the user said with ``--input``) tells the rest. Nothing is returned where any name goes. Inputs that are
    held at a value are among them: data that has them takes precedence, as a tokenizer's mask of padding must.
    """
    if model.signature is not None:
        return model.signature.inputs
    forward = getattr(getattr(model.payload, "module", None), "forward", None)
    if forward is None:
        return ()
    parameters = inspect.signature(forward).parameters.values()
    if any(item.kind is item.VAR_KEYWORD for item in parameters) and len(parameters) == 1:
        return ()
    names = [item.name for item in parameters if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)]
    known = {spec.name: spec for spec in declared}
    return tuple(known.get(name, TensorSpec(name, "", ())) for name in names)


def embedded(model: Model) -> int:
    """Return how many words the largest embedding of a model has; 0 where it has none that can be seen."""
    module = getattr(model.payload, "module", None)
    if module is not None:
        return max((getattr(part, "num_embeddings", 0) for part in module.modules()), default=0)
    graph = getattr(model.payload, "graph", None)
    if graph is None:
        return 0
    sizes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    looked_up = (sizes.get(node.input[0], []) for node in graph.node if node.op_type == "Gather")
    return max((size[0] for size in looked_up if len(size) == 2), default=0)
