"""Structural edits: what was done to a module that its class and weights do not tell.

A stored torch model is its origin, the list of edits, and a state dict; loading replays the edits on a fresh
module and fills it. This file imports torch alone, so that a bundle can carry it and load without whet.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

Edit = Mapping[str, Any]
"""``{"edit": name, ...}``: plain data, as it lies in ``model.json``."""


def replay(module: nn.Module, edits: list[Edit]) -> nn.Module:
    """Apply edits in order and return the module (a new one if its root was replaced)."""
    for edit in edits:
        module = _EDITS[edit["edit"]](module, edit)
    return module


def cast_edit(dtype: str) -> Edit:
    """Hold all floating weights in ``dtype``; inputs are cast on the way in, outputs back to float32."""
    return {"edit": "cast", "dtype": dtype}


def dynamic_int8_edit(layers: list[str]) -> Edit:
    """Replace Linear, LSTM and GRU layers by ones with INT8 weights that quantize activations as they come."""
    return {"edit": "dynamic-int8", "layers": layers}


def student_edit(origin: Edit) -> Edit:
    """Begin with another model than the original: one that learned from it. Always the first edit.

    Args:
        origin: Where that model comes from, as plain data; it is built from there, so that replaying does nothing.
    """
    return {"edit": "student", "origin": origin}


def student_origin(edits: Sequence[Edit]) -> Edit | None:
    """Return where the module comes from if it is not from the original's source."""
    return edits[0]["origin"] if edits and edits[0]["edit"] == "student" else None


def factorize_edit(layers: Mapping[str, list[Edit]]) -> Edit:
    """Replace Linear layers and convolutions by chains of thinner ones, which are not filled.

    Args:
        layers: For each, its parts in order: ``shape`` of the weight, and for each axis of the window in ``axes``
            whether it takes the layer's stride, padding and dilation. The last part has the layer's bias.
    """
    return {"edit": "factorize", "layers": {name: [dict(part) for part in parts] for name, parts in layers.items()}}


def channels_edit(layers: Mapping[str, Edit]) -> Edit:
    """Keep some channels of layers, in their order, and drop the others.

    Args:
        layers: For each layer what it keeps, by number: channels that go ``in`` and come ``out``; of a norm those
            that go in; of a recurrent layer ``hidden`` units, a list for each layer and direction as torch orders
            its states. What is not named stays whole.
    """
    return {"edit": "channels", "layers": {name: dict(kept) for name, kept in layers.items()}}


def blocks_edit(blocks: Mapping[str, int]) -> Edit:
    """Take blocks out: in the place of each, what goes in goes on.

    Args:
        blocks: Their names, each with the form of what it gave: 0 a tensor, else a tuple so long, the tensor first.
    """
    return {"edit": "blocks", "blocks": dict(blocks)}


class Through(nn.Module):
    """Stands where a block was, and gives on what comes in first, in the form in which the block gave it."""

    def __init__(self, form: int) -> None:
        super().__init__()
        self.form = form

    def forward(self, *given: Any, **named: Any) -> Any:
        """Return the first input."""
        first = given[0] if given else next(iter(named.values()))
        return (first, *(None,) * (self.form - 1)) if self.form else first


class Int8Linear(nn.Module):
    """A Linear with INT8 weights, one scale a row; activations are quantized per call.

    Attributes:
        weight_int8: (out, in) int8. scale: (out,) float32. bias: (out,) float32 or None.
    """

    weight_int8: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, float_layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = float_layer.in_features, float_layer.out_features
        values, scale = _per_row(float_layer.weight.detach())
        self.register_buffer("weight_int8", values)
        self.register_buffer("scale", scale)
        bias = float_layer.bias
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self._packed: Any = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        if self._packed is None:
            self._packed = _prepack(self.weight_int8, self.scale, self.bias)
        # Activations keep 7 bits: fbgemm sums pairs of products in 16 bits where there is no VNNI.
        return torch.ops.quantized.linear_dynamic(x, self._packed, True)  # type: ignore[no-any-return]


class Int8Recurrent(nn.Module):
    """An LSTM or GRU with INT8 weights, one scale a matrix; activations are quantized per call."""

    def __init__(self, float_layer: nn.RNNBase) -> None:
        super().__init__()
        self.mode = float_layer.mode
        self.settings = {
            "num_layers": float_layer.num_layers,
            "bidirectional": float_layer.bidirectional,
            "batch_first": float_layer.batch_first,
            "bias": True,
        }
        self.hidden_size, self.batch_first = float_layer.hidden_size, float_layer.batch_first
        self.directions = 2 if float_layer.bidirectional else 1
        self.names: list[str] = []
        for names in float_layer._all_weights:
            for name in names[:2]:
                scale = getattr(float_layer, name).detach().abs().max().clamp(min=1e-12) / 127
                values = (getattr(float_layer, name).detach() / scale).round().clamp(-127, 127)
                self.register_buffer(f"{name}_int8", values.to(torch.int8))
                self.register_buffer(f"{name}_scale", scale.reshape(1).clone())
            rows = getattr(float_layer, names[0]).shape[0]
            for kind in ("ih", "hh"):
                name = names[0].replace("weight_ih", f"bias_{kind}")
                bias = getattr(float_layer, name).detach().clone() if float_layer.bias else torch.zeros(rows)
                self.register_buffer(name, bias)
            self.names.append(names[0].removeprefix("weight_ih"))
        self._cells: Any = None

    def _pack_cells(self) -> list[Any]:
        cells = []
        for end in self.names:
            packed = []
            for kind in ("ih", "hh"):
                values, scale = (getattr(self, f"weight_{kind}{end}_{part}") for part in ("int8", "scale"))
                packed.append(_prepack(values, scale, getattr(self, f"bias_{kind}{end}")))
            biases = (getattr(self, f"bias_ih{end}"), getattr(self, f"bias_hh{end}"))
            cells.append(torch.ops.quantized.make_quantized_cell_params_dynamic(*packed, *biases, True))
        return cells

    def forward(self, x: Any, state: Any = None) -> tuple[Any, Any]:
        """Map (batch, time, in) (time first unless ``batch_first``) to all outputs and the last state.

        One sequence (time, in) and packed sequences are taken too, as the float layer takes them.
        """
        if isinstance(x, PackedSequence):
            order, back = x.sorted_indices, x.unsorted_indices
            out, last = self._run((x.data, x.batch_sizes), int(x.batch_sizes[0]), _in_order(state, order))
            return PackedSequence(out, x.batch_sizes, order, back), _in_order(last, back)
        axis = 0 if self.batch_first else 1
        if x.ndim == 2:
            out, last = self.forward(x.unsqueeze(axis), _each(state, lambda part: part.unsqueeze(1)))
            return out.squeeze(axis), _each(last, lambda part: part.squeeze(1))
        return self._run((x,), x.shape[axis], state, self.batch_first)

    def _run(self, inputs: tuple[Tensor, ...], batch: int, state: Any, *layout: bool) -> tuple[Tensor, Any]:
        """Call the kernel that takes these inputs: one tensor and its layout, or packed data and batch sizes."""
        if self._cells is None:
            self._cells = self._pack_cells()
        layers, both_ways = self.settings["num_layers"], self.settings["bidirectional"]
        zeros = torch.zeros(layers * self.directions, batch, self.hidden_size)
        how = (self._cells, True, layers, 0.0, False, both_ways, *layout)
        if self.mode == "LSTM":
            hidden = [zeros, zeros] if state is None else list(state)
            out, h, c = torch.quantized_lstm(*inputs, hidden, *how, dtype=torch.qint8, use_dynamic=True)
            return out, (h, c)
        out, h = torch.quantized_gru(*inputs, zeros if state is None else state, *how)
        return out, h


def _each(state: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change the parts of a state: one tensor, two of an LSTM, or None."""
    if isinstance(state, tuple | list):
        return tuple(change(part) for part in state)
    return None if state is None else change(state)


def _in_order(state: Any, order: Tensor | None) -> Any:
    """Bring the sequences of a state (layers, batch, hidden) into another order."""
    return state if order is None else _each(state, lambda part: part.index_select(1, order))


def _per_row(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantize (out, in) symmetrically, one scale a row; returns int8 values and (out,) scales."""
    scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
    values = (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    return values, scale


def _prepack(values: Tensor, scale: Tensor, bias: Tensor | None) -> Any:
    """Bring (out, in) INT8 weights into the layout of the kernels; one scale, or one a row."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the tensor type, not the kernel, is deprecated
        if scale.numel() == 1:
            weight = torch._make_per_tensor_quantized_tensor(values, float(scale), 0)
        else:
            zeros = torch.zeros(len(scale), dtype=torch.int64)
            weight = torch._make_per_channel_quantized_tensor(values, scale.double(), zeros, 0)
        return torch.ops.quantized.linear_prepack(weight, bias)


def _cast(module: nn.Module, edit: Edit) -> nn.Module:
    dtype = getattr(torch, edit["dtype"])
    most = torch.finfo(dtype).max
    for value in [*module.parameters(), *module.buffers()]:
        if value.is_floating_point():  # infinities are meant; what would become infinite is not
            value.data = torch.where(value.isinf(), value.data, value.data.clamp(-most, most))
    module = module.to(dtype)
    module.register_forward_pre_hook(lambda _, args, kw: _floats((args, kw), dtype), with_kwargs=True)
    module.register_forward_hook(lambda _, args, out: _floats(out, torch.float32))
    return module


def _floats(value: Any, dtype: torch.dtype) -> Any:
    """Cast every floating tensor of a nest of tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        cast = {key: _floats(item, dtype) for key, item in value.items()}
        return type(value)(**cast) if is_dataclass(value) else type(value)(cast)
    if isinstance(value, tuple | list):
        items = [_floats(item, dtype) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)  # named or not
    return value


def _dynamic_int8(module: nn.Module, edit: Edit) -> nn.Module:
    for name in edit["layers"]:
        layer = module.get_submodule(name)
        new = Int8Linear(layer) if isinstance(layer, nn.Linear) else Int8Recurrent(layer)  # type: ignore[arg-type]
        module = _put(module, layer, new.eval())
    return _unfused(module)


def _put(module: nn.Module, layer: nn.Module, new: nn.Module) -> nn.Module:
    """Put a module in the place, or the places, of another; returns the new one if that was the root."""
    if layer is module:
        return new
    for alias in [key for key, part in module.named_modules(remove_duplicate=False) if part is layer]:
        parent, _, last = alias.rpartition(".")
        setattr(module.get_submodule(parent), last, new)
    return module


def _unfused(module: nn.Module) -> nn.Module:
    """Switch off the fused form of transformer layers, which reads the float weights of their own layers."""
    for part in module.modules():
        if isinstance(part, nn.TransformerEncoderLayer):
            part.activation_relu_or_gelu = 0
        elif isinstance(part, nn.TransformerEncoder):
            part.use_nested_tensor = False
    return module


def _factorize(module: nn.Module, edit: Edit) -> nn.Module:
    for name, parts in edit["layers"].items():
        layer = module.get_submodule(name)
        chain = nn.Sequential(*(_part(layer, part, at == len(parts) - 1) for at, part in enumerate(parts)))
        module = _put(module, layer, chain.train(layer.training))
    return _unfused(module)


def _part(layer: Any, part: Edit, last: bool) -> nn.Module:
    """Return one layer of a chain; where the original was frozen it is too."""
    out, inner, *window = part["shape"]
    settings = {"bias": last and layer.bias is not None, "dtype": layer.weight.dtype, "device": layer.weight.device}
    if window:
        settings["padding_mode"] = layer.padding_mode
        settings["padding"] = layer.padding if isinstance(layer.padding, str) else _where(part, layer.padding, 0)
        settings |= {key: _where(part, getattr(layer, key), 1) for key in ("stride", "dilation")}
        window = [tuple(window)]
    new: nn.Module = nn.utils.skip_init(type(layer), inner, out, *window, **settings)  # type: ignore[no-untyped-call]
    for name, parameter in new.named_parameters():
        parameter.requires_grad_(getattr(layer, name).requires_grad)
    return new


def _where(part: Edit, values: tuple[int, ...], neutral: int) -> tuple[int, ...]:
    return tuple(value if takes else neutral for value, takes in zip(values, part["axes"], strict=True))


def _channels(module: nn.Module, edit: Edit) -> nn.Module:
    for name, kept in edit["layers"].items():
        layer = module.get_submodule(name)
        if isinstance(layer, nn.RNNBase):
            _thin_recurrent(layer, kept)
        else:
            _thin(layer, kept)
    return module


def _thin(layer: Any, kept: Edit) -> None:
    """Keep channels of a layer. Of a depthwise convolution and of a norm they are the same on both sides."""
    numbers = {side: torch.tensor(each) for side, each in kept.items()}
    axes = _axes(layer)
    for name, value in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
        sides = axes if value.ndim > 1 else {min(axes, key=lambda side: side != "out"): 0}
        for side, axis in sides.items() if value.ndim else ():
            if side in numbers:
                _take(layer, name, axis, numbers[side])
    for attribute, side in _WIDTHS.items():
        if side in numbers and isinstance(getattr(layer, attribute, None), int):
            setattr(layer, attribute, len(numbers[side]))
    if "in" in numbers and isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = (len(numbers["in"]),)
    if "in" in numbers and isinstance(layer, nn.GroupNorm):
        layer.num_groups = layer.num_groups * len(numbers["in"]) // layer.num_channels
        layer.num_channels = len(numbers["in"])
    if "in" in numbers and getattr(layer, "groups", 1) > 1:
        layer.groups = len(numbers["in"])


def _axes(layer: nn.Module) -> dict[str, int]:
    """Return the axis of a layer's weight for the channels that go in and come out."""
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):
        return {"in": 0, "out": 1}
    if isinstance(layer, nn.modules.conv._ConvNd):
        return {"out": 0} if layer.groups > 1 else {"in": 1, "out": 0}
    if isinstance(layer, nn.Linear):
        return {"in": 1, "out": 0}
    return {"out": 1} if isinstance(layer, nn.Embedding) else {"in": 0}


def _thin_recurrent(layer: nn.RNNBase, kept: Edit) -> None:
    """Keep hidden units of a recurrent layer: its rows of every gate, and its columns wherever it is read."""
    hidden, ways = layer.hidden_size, 2 if layer.bidirectional else 1
    units = [torch.tensor(each) for each in kept.get("hidden", [])]
    gates = {"LSTM": 4, "GRU": 3}.get(layer.mode, 1)
    for at, names in enumerate(layer._all_weights):
        for name in names:
            inner = name.startswith("weight_ih")
            if units:
                _take(layer, name, 0, torch.cat([units[at] + hidden * gate for gate in range(gates)]))
            if inner and at < ways and "in" in kept:
                _take(layer, name, 1, torch.tensor(kept["in"]))
            elif inner and at >= ways and units:
                below = range(at // ways * ways - ways, at // ways * ways)
                _take(layer, name, 1, torch.cat([units[one] + hidden * way for way, one in enumerate(below)]))
            elif name.startswith("weight_hh") and units:
                _take(layer, name, 1, units[at])
    layer.hidden_size = len(units[0]) if units else hidden
    layer.input_size = len(kept.get("in", range(layer.input_size)))


def _take(layer: Any, name: str, axis: int, numbers: Tensor) -> Tensor:
    """Keep some entries along an axis of a parameter or buffer of a layer."""
    value: Tensor = getattr(layer, name)
    taken = value.detach().index_select(axis, numbers.to(value.device))
    setattr(layer, name, nn.Parameter(taken, value.requires_grad) if isinstance(value, nn.Parameter) else taken)
    return taken


def _blocks(module: nn.Module, edit: Edit) -> nn.Module:
    for name, form in edit["blocks"].items():
        module = _put(module, module.get_submodule(name), Through(form).train(module.training))
    return module


def _student(module: nn.Module, edit: Edit) -> nn.Module:
    return module  # it was built from its own origin


_WIDTHS = {
    "in_channels": "in", "in_features": "in", "num_features": "in", "num_parameters": "in",
    "out_channels": "out", "out_features": "out", "embedding_dim": "out",
}  # fmt: skip
_EDITS: dict[str, Callable[[nn.Module, Edit], nn.Module]] = {
    "blocks": _blocks,
    "cast": _cast,
    "channels": _channels,
    "dynamic-int8": _dynamic_int8,
    "factorize": _factorize,
    "student": _student,
}
