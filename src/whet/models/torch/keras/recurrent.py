"""Recurrent layers and attention."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from whet.models.torch.keras.graph import Call, Config, Layer, NotTranslated, Value, Writer

_CELLS: Mapping[str, Callable[..., nn.Module]] = {"LSTM": nn.LSTM, "GRU": nn.GRU, "SimpleRNN": nn.RNN}
_USUAL = {"LSTM": ("tanh", "sigmoid"), "GRU": ("tanh", "sigmoid"), "SimpleRNN": ("tanh", None)}


def _checked_cell(kind: str, config: Config) -> None:
    """Refuse settings that torch's kernels do not have."""
    if (config["activation"], config.get("recurrent_activation")) != _USUAL[kind]:
        raise NotTranslated(f"{kind} layers have a translation with their usual activations alone")
    if kind == "GRU" and not config.get("reset_after", True):
        raise NotTranslated("a GRU with reset_after=False has no translation")
    for name in ("return_state", "stateful"):
        if config.get(name):
            raise NotTranslated(f"a {kind} with {name} has no translation")


def _recurrent(kind: str) -> Layer:
    def write(writer: Writer, call: Call) -> Value:
        (value, *states), config = call.inputs, call.config
        _checked_cell(kind, config)
        if states:
            raise NotTranslated(f"a {kind} that is given a state has no translation")
        width, backwards = value.shape[-1], config.get("go_backwards")
        assert width is not None
        node = writer.last(value)
        node = writer.call(torch.flip, node, (1,)) if backwards else node
        build = partial(_CELLS[kind], width, config["units"], bias=config["use_bias"], batch_first=True)
        found = writer.call(_item, writer.layer(call.name, build, node), 0)
        if not config["return_sequences"]:
            found = writer.call(torch.select, found, 1, -1)
        return Value(found, call.shape)

    return write


def _item(given: Sequence[Any], at: int) -> Any:
    return given[at]


def _bidirectional(writer: Writer, call: Call) -> Value:
    config, (value,) = call.config, call.inputs
    inner, merge = config["layer"], config["merge_mode"]
    kind, settings = inner["class_name"], inner["config"]
    if kind not in _CELLS:
        raise NotTranslated(f"a Bidirectional of {kind} has no translation")
    _checked_cell(kind, settings)
    if merge != "concat":
        raise NotTranslated(f"a Bidirectional with merge_mode={merge!r} has no translation")
    width, units = value.shape[-1], settings["units"]
    assert width is not None
    build = partial(_CELLS[kind], width, units, bias=settings["use_bias"], batch_first=True, bidirectional=True)
    found = writer.call(_item, writer.layer(call.name, build, writer.last(value)), 0)
    if not settings["return_sequences"]:
        found = writer.call(_ends, found, units)
    return Value(found, call.shape)


def _ends(x: Tensor, units: int) -> Tensor:
    """Return the last states of both directions: (n, t, 2u) to (n, 2u)."""
    return torch.cat([x[:, -1, :units], x[:, 0, units:]], dim=-1)


class Attention(nn.Module):
    """Multi-head attention as Keras has it. (n, t, d), (n, s, d), (n, s, d) to (n, t, o)."""

    def __init__(self, widths: Sequence[int], heads: int, sizes: tuple[int, int], out: int, *, bias: bool) -> None:
        super().__init__()
        self.heads, (key, value) = heads, sizes
        self.query = nn.Linear(widths[0], heads * key, bias=bias)
        self.key = nn.Linear(widths[2], heads * key, bias=bias)
        self.value = nn.Linear(widths[1], heads * value, bias=bias)
        self.output = nn.Linear(heads * value, out, bias=bias)

    def forward(self, query: Tensor, value: Tensor, key: Tensor) -> Tensor:
        """Attend."""
        parts = [part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (n, h, t, d)
                 for part, x in ((self.query, query), (self.key, key), (self.value, value))]  # fmt: skip
        mixed: Tensor = self.output(functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        return mixed


def _attention(writer: Writer, call: Call) -> Value:
    config = call.config
    if config.get("attention_axes") not in (None, [1], (1,)) or config.get("output_shape") is not None:
        raise NotTranslated("attention along other axes, or to another shape, has no translation")
    query, value, *more = call.inputs
    values = (query, value, more[0] if more else value)
    widths = [each.shape[-1] or 0 for each in values]
    sizes = (config["key_dim"], config.get("value_dim") or config["key_dim"])
    build = partial(Attention, widths, config["num_heads"], sizes, widths[0], bias=config["use_bias"])
    return Value(writer.layer(call.name, build, *(writer.last(each) for each in values)), call.shape)


LAYERS: Mapping[str, Layer] = {
    **{kind: _recurrent(kind) for kind in _CELLS},
    "Bidirectional": _bidirectional,
    "MultiHeadAttention": _attention,
}
