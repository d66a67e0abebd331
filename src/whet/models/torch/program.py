"""Exported programs (``.pt2``, of ``torch.export``): a graph of operators that knows what goes in."""

from __future__ import annotations

import io
import logging
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node
from torch.utils.flop_counter import FlopCounterMode

from whet.errors import ModelError, in_one_line
from whet.models.torch import archive
from whet.types import TensorSpec

_TRAINING = {"aten.dropout.default": 2, "aten.batch_norm.default": 5}  # where an operator says so


def build(path: Path) -> GraphModule:
    """Return the program of a file as a module, with its weights. The file is looked through before torch opens it.

    Raises:
        UnsafePickle: Opening it would run code from the file.
        ModelError: It is no archive of ``torch.export.save``, or holds a program that cannot be used as it is.
    """
    content = archive.clean(path)
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(io.BytesIO(content))
            module: Any = program.module()
    except Exception as error:  # torch raises whatever its stages do
        raise ModelError(
            f"torch cannot load {path}: {in_one_line(error)}; save it again with this torch"
        ) from error
    finally:
        logger.setLevel(level)
    _refuse_training(path, module)
    for name in ("train", "eval"):  # torch has them raise, since they would change nothing
        module.__dict__.pop(name, None)
    module.exported_inputs = _inputs(path, program, module)
    module.positional = len(program.example_inputs[0])
    module.register_forward_pre_hook(_placed, with_kwargs=True, prepend=True)
    parts = dict(module.named_modules())
    for name, kind in (owner for node in module.graph.nodes for owner in _stack(node)):
        if name in parts:
            parts[name].exported_as = kind  # for tables, in place of "Module"
    return cast("GraphModule", module)


def keep(path: Path, target: Path) -> None:
    """Write a program without the numbers of its weights, which are stored beside it."""
    target.write_bytes(archive.blanked(archive.clean(path)))


def inputs(module: nn.Module) -> tuple[TensorSpec, ...]:
    """Return what goes into a program, as it was exported."""
    return tuple(module.exported_inputs)  # type: ignore[arg-type]


def macs(module: GraphModule, sample: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the MACs by module (inner ones counted in outer ones too), as the program remembers its modules."""
    counter = FlopCounterMode(display=False)
    found: dict[str, int] = defaultdict(int)

    def count(name: str, call: Callable[[], Any]) -> Any:
        before = counter.get_total_flops()
        result = call()
        more = (counter.get_total_flops() - before) // 2
        parts = name.split(".") if name else []
        for depth in range(len(parts) + 1) if more else ():
            found[".".join(parts[:depth])] += more
        return result

    with counter:
        walk(module, sample.values(), count)
    return dict(found)


def walk(module: GraphModule, values: Iterable[Tensor], each: Callable[[str, Callable[[], Any]], Any]) -> None:
    """Run a program operator by operator; ``each`` is given the module it belongs to, and what computes it.

    An operator of a module that owns nothing belongs to the nearest module around it that does.
    """
    names = {name for name, _ in module.named_modules()}

    class Walker(Interpreter):
        def run_node(self, node: Node) -> Any:
            if node.op != "call_function":
                return super().run_node(node)
            return each(
                _nearest([name for name, _ in _stack(node)], names), lambda: super(Walker, self).run_node(node)
            )

    with torch.no_grad():
        Walker(module).run(*values)


def _stack(node: Node) -> list[tuple[str, str]]:
    """Return the paths and the types of the modules that an operator was exported from, the outermost first."""
    stack = (node.meta.get("nn_module_stack") or {}).values()
    return [(str(path).split("@")[0], str(kind).rpartition(".")[2]) for path, kind in stack]


def _nearest(stack: list[str], names: set[str]) -> str:
    return next((name for name in reversed(stack) if name in names), "")


def _placed(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
    """Give a program its inputs by place where it was exported so; it takes them in no other way."""
    places = [spec.name for spec in inputs(module)][: int(module.positional)]  # type: ignore[arg-type]
    if args or not all(name in named for name in places):
        return args, named
    return tuple(named[name] for name in places), {name: v for name, v in named.items() if name not in places}


def _refuse_training(path: Path, module: GraphModule) -> None:
    for node in module.graph.nodes:
        place = _TRAINING.get(str(node.target))
        if place is not None and len(node.args) > place and node.args[place] is True:
            raise ModelError(
                f"{path} was exported in training mode ({node.target} draws or adapts); "
                f"call model.eval() before torch.export.export"
            )


def _inputs(path: Path, program: Any, module: GraphModule) -> tuple[TensorSpec, ...]:
    """Return the inputs with the axes and bounds they were exported with; numbers are drawn as the examples are."""
    args, kwargs = program.example_inputs or ((), {})
    examples = [*args, *kwargs.values()]
    held = [node for node in module.graph.nodes if node.op == "placeholder"]
    names = program.module_call_graph[0].signature.forward_arg_names or [str(node.target) for node in held]
    tensors = all(isinstance(value, Tensor) for value in examples)
    if not tensors or not len(examples) == len(held) == len(names):
        raise ModelError(
            f"{path} takes {', '.join(names)}, of which some are no tensors but lists, numbers or nothing; "
            f"export a module whose forward takes tensors alone"
        )
    return tuple(
        _spec(name, node.meta["val"], example, program.range_constraints)
        for name, node, example in zip(names, held, examples, strict=True)
    )


def _spec(name: str, value: Any, example: Tensor, constraints: Mapping[Any, Any]) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    bounds = [None if isinstance(size, int) else constraints.get(size.node.expr) for size in value.shape]
    most = tuple(None if bound is None or not bound.upper.is_Integer else int(bound.upper) for bound in bounds)
    whole = not example.dtype.is_floating_point and example.numel() > 0
    low, high = (int(example.min()), int(example.max())) if whole and example.dtype != torch.bool else (None, None)
    dtype = str(value.dtype).removeprefix("torch.")
    return TensorSpec(name, dtype, shape, tuple(example.shape), low, high, 0 if shape else None, most)
