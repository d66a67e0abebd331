"""Weights of Keras layers as those of torch, and back: transposed, split by gate, filled in where one has fewer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from whet.types import Array

Config = Mapping[str, Any]
State = dict[str, "Array"]

_CELLS = ("LSTM", "GRU", "SimpleRNN")


def to_torch(kind: str, config: Config, arrays: Sequence[Array]) -> State:
    """Return the weights of a layer by their names in torch.

    Args:
        kind: The layer's class in Keras.
        config: Its settings.
        arrays: Its weights in Keras' order.
    """
    if kind not in _FORMS:
        return {}
    return {name: np.ascontiguousarray(value) for name, value in _FORMS[kind][0](config, iter(arrays)).items()}


def known(kind: str) -> bool:
    """Tell whether layers of a kind have weights that are carried over."""
    return kind in _FORMS


def to_keras(kind: str, config: Config, state: Mapping[str, Array]) -> list[Array]:
    """Return the weights of a layer in Keras' order: the inverse of ``to_torch``."""
    if kind not in _FORMS:
        return []
    return [np.ascontiguousarray(value) for value in _FORMS[kind][1](config, state)]


def _kernel(axes: int) -> tuple[int, ...]:
    """Return how (window, in, out) becomes (out, in, window)."""
    return (axes + 1, axes, *range(axes))


def _conv_to(axes: int) -> Callable[[Config, Iterator[Array]], State]:
    def convert(config: Config, arrays: Iterator[Array]) -> State:
        return {"weight": next(arrays).transpose(_kernel(axes)), **_bias(config, arrays)}

    return convert


def _conv_from(axes: int) -> Callable[[Config, Mapping[str, Array]], list[Array]]:
    def convert(config: Config, state: Mapping[str, Array]) -> list[Array]:
        return [state["weight"].transpose((*range(2, axes + 2), 1, 0)), *_bias_back(config, state)]

    return convert


def _depthwise_to(axes: int) -> Callable[[Config, Iterator[Array]], State]:
    def convert(config: Config, arrays: Iterator[Array]) -> State:
        kernel = next(arrays)  # (window, in, multiplier)
        moved = kernel.transpose(axes, axes + 1, *range(axes))
        return {"weight": moved.reshape(-1, 1, *kernel.shape[:axes]), **_bias(config, arrays)}

    return convert


def _depthwise_from(axes: int) -> Callable[[Config, Mapping[str, Array]], list[Array]]:
    def convert(config: Config, state: Mapping[str, Array]) -> list[Array]:
        weight, multiplier = state["weight"], config["depth_multiplier"]
        split = weight.reshape(-1, multiplier, *weight.shape[2:])
        return [split.transpose((*range(2, axes + 2), 0, 1)), *_bias_back(config, state)]

    return convert


def _separable_to(axes: int) -> Callable[[Config, Iterator[Array]], State]:
    def convert(config: Config, arrays: Iterator[Array]) -> State:
        depth = _depthwise_to(axes)({"use_bias": False}, arrays)
        point = _conv_to(axes)(config, arrays)
        return {f"depthwise.{name}": value for name, value in depth.items()} | {
            f"pointwise.{name}": value for name, value in point.items()
        }

    return convert


def _separable_from(axes: int) -> Callable[[Config, Mapping[str, Array]], list[Array]]:
    def convert(config: Config, state: Mapping[str, Array]) -> list[Array]:
        depth = _depthwise_from(axes)({**config, "use_bias": False}, _below(state, "depthwise"))
        return [*depth, *_conv_from(axes)(config, _below(state, "pointwise"))]

    return convert


def _below(state: Mapping[str, Array], prefix: str) -> State:
    return {
        name.removeprefix(f"{prefix}."): value for name, value in state.items() if name.startswith(f"{prefix}.")
    }


def _bias(config: Config, arrays: Iterator[Array]) -> State:
    return {"bias": next(arrays)} if config["use_bias"] else {}


def _bias_back(config: Config, state: Mapping[str, Array]) -> list[Array]:
    return [state["bias"]] if config["use_bias"] else []


def _dense_to(config: Config, arrays: Iterator[Array]) -> State:
    return {"weight": next(arrays).T, **_bias(config, arrays)}


def _dense_from(config: Config, state: Mapping[str, Array]) -> list[Array]:
    return [state["weight"].T, *_bias_back(config, state)]


def _norm_to(config: Config, arrays: Iterator[Array]) -> State:
    found = {name: next(arrays) for name, has in (("weight", config["scale"]), ("bias", config["center"])) if has}
    rest = dict(zip(("running_mean", "running_var"), arrays, strict=False))
    return found | rest


def _norm_from(config: Config, state: Mapping[str, Array]) -> list[Array]:
    wanted = [
        ("weight", config["scale"]),
        ("bias", config["center"]),
        ("running_mean", True),
        ("running_var", True),
    ]
    return [state[name] for name, has in wanted if has and name in state]


def _gates(kind: str, array: Array) -> Array:
    """Bring gates along axis 0 into the other's order: Keras' GRU has z, r, h where torch has r, z, n."""
    if kind != "GRU":
        return array
    z, r, h = np.split(array, 3)
    return np.concatenate([r, z, h])


def _cell_to(kind: str, suffix: str = "") -> Callable[[Config, Iterator[Array]], State]:
    def convert(config: Config, arrays: Iterator[Array]) -> State:
        found = {f"weight_{which}_l0{suffix}": _gates(kind, next(arrays).T) for which in ("ih", "hh")}
        if config["use_bias"]:
            bias = next(arrays)
            both = bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)])
            found |= {f"bias_{which}_l0{suffix}": _gates(kind, part)
                      for which, part in zip(("ih", "hh"), both, strict=True)}  # fmt: skip
        return found

    return convert


def _cell_from(kind: str, suffix: str = "") -> Callable[[Config, Mapping[str, Array]], list[Array]]:
    def convert(config: Config, state: Mapping[str, Array]) -> list[Array]:
        found = [_gates(kind, state[f"weight_{which}_l0{suffix}"]).T for which in ("ih", "hh")]
        if config["use_bias"]:
            both = [_gates(kind, state[f"bias_{which}_l0{suffix}"]) for which in ("ih", "hh")]
            found.append(np.stack(both) if kind == "GRU" else both[0] + both[1])
        return found

    return convert


def _both_to(config: Config, arrays: Iterator[Array]) -> State:
    inner = config["layer"]
    kind, settings = inner["class_name"], inner["config"]
    return _cell_to(kind)(settings, arrays) | _cell_to(kind, "_reverse")(settings, arrays)


def _both_from(config: Config, state: Mapping[str, Array]) -> list[Array]:
    inner = config["layer"]
    kind, settings = inner["class_name"], inner["config"]
    return [*_cell_from(kind)(settings, state), *_cell_from(kind, "_reverse")(settings, state)]


_PROJECTIONS = ("query", "key", "value", "output")


def _attention_to(config: Config, arrays: Iterator[Array]) -> State:
    found: State = {}
    for name in _PROJECTIONS:
        kernel = next(arrays)  # (d, heads, size), of the output (heads, size, d)
        flat = kernel.reshape(-1, kernel.shape[-1]) if name == "output" else kernel.reshape(kernel.shape[0], -1)
        found[f"{name}.weight"] = flat.T
        if config["use_bias"]:
            found[f"{name}.bias"] = next(arrays).reshape(-1)
    return found


def _attention_from(config: Config, state: Mapping[str, Array]) -> list[Array]:
    heads, found = config["num_heads"], []
    for name in _PROJECTIONS:
        flat = state[f"{name}.weight"].T
        split = (heads, -1, flat.shape[1]) if name == "output" else (flat.shape[0], heads, -1)
        found.append(flat.reshape(split))
        if config["use_bias"]:
            bias = state[f"{name}.bias"]
            found.append(bias if name == "output" else bias.reshape(heads, -1))
    return found


def _slope_to(_config: Config, arrays: Iterator[Array]) -> State:
    return {"weight": next(arrays).reshape(-1)}


def _slope_from(config: Config, state: Mapping[str, Array]) -> list[Array]:
    return [state["weight"].reshape(*(1 for _ in config["shared_axes"] or ()), -1)]


def _plain_to(_config: Config, arrays: Iterator[Array]) -> State:
    return {"weight": next(arrays)}


def _plain_from(_config: Config, state: Mapping[str, Array]) -> list[Array]:
    return [state["weight"]]


_To = Callable[[Config, "Iterator[Array]"], State]
_From = Callable[[Config, "Mapping[str, Array]"], "list[Array]"]
_FORMS: Mapping[str, tuple[_To, _From]] = {
    **{f"Conv{axes}D": (_conv_to(axes), _conv_from(axes)) for axes in (1, 2, 3)},
    **{f"Conv{axes}DTranspose": (_conv_to(axes), _conv_from(axes)) for axes in (1, 2, 3)},
    **{f"DepthwiseConv{axes}D": (_depthwise_to(axes), _depthwise_from(axes)) for axes in (1, 2)},
    **{f"SeparableConv{axes}D": (_separable_to(axes), _separable_from(axes)) for axes in (1, 2)},
    **{kind: (_cell_to(kind), _cell_from(kind)) for kind in _CELLS},
    "Dense": (_dense_to, _dense_from),
    "Embedding": (_plain_to, _plain_from),
    "BatchNormalization": (_norm_to, _norm_from),
    "LayerNormalization": (_norm_to, _norm_from),
    "PReLU": (_slope_to, _slope_from),
    "Bidirectional": (_both_to, _both_from),
    "MultiHeadAttention": (_attention_to, _attention_from),
}

WIDTHS: Mapping[str, Callable[[Sequence[Array]], int]] = {
    **{f"Conv{axes}D": lambda arrays: int(arrays[0].shape[-1]) for axes in (1, 2, 3)},
    **{f"SeparableConv{axes}D": lambda arrays: int(arrays[1].shape[-1]) for axes in (1, 2)},
    **{f"Conv{axes}DTranspose": lambda arrays: int(arrays[0].shape[-2]) for axes in (1, 2, 3)},
    **{kind: lambda arrays: int(arrays[1].shape[0]) for kind in _CELLS},
    "Dense": lambda arrays: int(arrays[0].shape[-1]),
}
"""How wide a layer is, by its weights in Keras' order: filters or units."""
