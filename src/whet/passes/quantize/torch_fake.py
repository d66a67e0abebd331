"""Activations in 8 bits while a module is trained, where ONNX Runtime's quantizer will put them.

Which function is called on what is seen from outside, by a mode of torch: no module is changed, a model that adds
tensors in its own forward is as good as one of layers, and nothing is left in it afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from whet.errors import PassError

# What ONNX Runtime makes of torch's functions, by name, without the underscores around it. Held in integers, inputs
# and outputs; one with the function before them, so that nothing is rounded between; moving numbers only, so that
# what goes in rounded comes out rounded; computed in float, of rounded inputs.
_NAMES = """
conv1d conv2d conv3d linear addmm matmul bmm mm add iadd radd mul imul rmul cat concat concatenate leaky_relu
sigmoid softmax avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
interpolate where

relu relu6 clamp clip hardtanh batch_norm dropout dropout2d

flatten reshape view permute transpose squeeze unsqueeze getitem slice select pad max_pool1d max_pool2d max_pool3d
max_pool1d_with_indices max_pool2d_with_indices chunk split contiguous clone expand

mean sum sub rsub div truediv pow sqrt exp tanh gelu silu mish elu hardswish hardsigmoid softplus layer_norm
group_norm instance_norm prelu log_softmax amax max var scaled_dot_product_attention
"""
_WHOLE, _FUSED, _MOVES, _FLOAT = (frozenset(part.split()) for part in _NAMES.split("\n\n"))
_PRODUCTS = frozenset(["conv1d", "conv2d", "conv3d", "linear"])

_LEVELS = 255
_LOOKED_AT = 1 << 16  # numbers of an activation that its range is taken from
_EVERY, _MOMENTUM = 16, 0.1  # forward passes between two looks while it trains, and what a look weighs
_BUFFER = "whet_ranges"


class _Is(Enum):
    """What is known of a tensor."""

    DUE = 1  # ONNX Runtime will hold it in integers: whoever reads it gets it rounded
    ROUNDED = 2


class FakeActivations(TorchFunctionMode):
    """Rounds activations to 8 bits on their way from function to function, each in a range of its own.

    Ranges are seen by ``watch`` first, follow the training slowly, and stand still once ``frozen``. They lie in a
    buffer of the module, (activations, 2), until ``remove``, so that checkpoints have them.

    Attributes:
        products: Names of the parameters that were seen as weights of convolutions and products, in order.
        rounds: Whether anything is rounded; weights alone are noted where not.
        frozen: Whether ranges stand still.
    """

    def __init__(self, module: nn.Module, percentile: float, *, rounds: bool = True) -> None:
        super().__init__()
        self.module, self.rounds, self.frozen = module, rounds, False
        cut = (1 - percentile / 100) / 2
        self._cuts = torch.tensor([cut, 1 - cut])
        self._names = {id(each): name for name, each in module.named_parameters()}
        self.products: dict[str, None] = {}
        self._seen: list[Tensor] | None = None
        self._passes, self._at = 0, 0
        self._known: Any = WeakTensorKeyDictionary()
        self._copies: Any = WeakTensorKeyDictionary()
        self._hooks = [
            module.register_forward_pre_hook(self._enter),
            module.register_forward_hook(self._leave, always_call=True),
        ]

    @torch.no_grad()
    def watch(self, inputs: Mapping[str, Tensor]) -> None:
        """Run the module on samples, unrounded, and take the ranges from them."""
        self._seen = []
        self.module(**inputs)
        ranges = torch.stack(self._seen) if self._seen else torch.zeros(0, 2)
        self.module.register_buffer(_BUFFER, ranges)
        self._seen = None

    def remove(self) -> Tensor:
        """Stop rounding, and return the ranges."""
        for hook in self._hooks:
            hook.remove()
        found = self.module._buffers.pop(_BUFFER, None)
        return torch.zeros(0, 2) if found is None else found

    def _enter(self, module: nn.Module, args: object) -> None:
        self._at = 0
        self._passes += self._follows()
        self.__enter__()  # type: ignore[no-untyped-call]

    def _leave(self, module: nn.Module, args: object, outputs: Any) -> Any:
        self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        rounded = tree_map_only(Tensor, self._rounded, outputs)
        self._known.clear()
        self._copies.clear()
        return rounded

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Round what a function reads, as is due, and note what is due of what it gives."""
        kwargs = kwargs or {}
        called = getattr(func, "__name__", "").partition(".")[0]  # of add_.Tensor: add_
        name = called.strip("_")
        if name in _PRODUCTS:
            self._note(args[1] if len(args) > 1 else kwargs.get("weight"))
        if not self.rounds:
            return func(*args, **kwargs)
        if name in _FUSED:
            return self._fused(name, func, args, kwargs)
        if name not in _WHOLE | _MOVES | _FLOAT:
            return func(*args, **kwargs)
        every = name in _WHOLE
        if called.endswith("_") and not called.startswith("_"):
            args = (self._in_place(args[0], every), *args[1:])
        args, kwargs = tree_map_only(Tensor, lambda value: self._rounded(value, every=every), (args, kwargs))
        result = func(*args, **kwargs)
        if every:
            self._mark(result, _Is.DUE)
        elif name in _MOVES:
            self._mark(result, self._of(args[0]))
        return result

    def _fused(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
        """Call a function that becomes one with that before it; it gives what it was given, due or rounded."""
        before = self._of(args[0])
        result = func(*args, **kwargs)
        self._mark(result, None if name == "batch_norm" and before is _Is.ROUNDED else before)
        return result

    def _of(self, value: object) -> _Is | None:
        return self._known.get(value) if isinstance(value, Tensor) else None

    def _mark(self, result: Any, what: _Is | None) -> None:
        """Note what is known of the tensors that a function gave; an in-place one gave what it was given."""
        for value in result if isinstance(result, tuple | list) else (result,):
            if not isinstance(value, Tensor) or not value.is_floating_point():
                continue
            self._copies.pop(value, None)
            if what is None:
                self._known.pop(value, None)
            else:
                self._known[value] = what

    def _rounded(self, value: Tensor, *, every: bool = False) -> Tensor:
        """Return an activation rounded, if that is due or ``every`` one is read in integers."""
        if isinstance(value, nn.Parameter) or not value.is_floating_point() or not value.ndim:
            return value
        known = self._of(value)
        if known is _Is.ROUNDED or (known is None and not every):
            return value
        if value not in self._copies:
            copy = self._round(value)
            self._known[copy] = _Is.ROUNDED
            if copy is value:
                return value
            self._copies[value] = copy
        found: Tensor = self._copies[value]
        return found

    def _in_place(self, value: Tensor, every: bool) -> Tensor:
        """Round a tensor that a function is about to change, where it lies."""
        rounded = self._rounded(value, every=every)
        return value if rounded is value else value.copy_(rounded)

    def _round(self, value: Tensor) -> Tensor:
        at, self._at = self._at, self._at + 1
        if self._seen is not None:
            self._seen.append(self._range(value))
            return value
        ranges = self.module.get_buffer(_BUFFER)
        if at >= len(ranges):
            raise PassError(
                "the model's forward takes another way than it took on the first samples, so that its activations "
                "cannot be told apart; set activations = false to train weights alone"
            )
        if self._follows() and self._passes % _EVERY == 0:
            ranges[at] += _MOMENTUM * (self._range(value) - ranges[at])
        low, high = ranges[at]
        scale = ((high - low) / _LEVELS).clamp(min=1e-12)
        zero = (-low / scale).round().int()
        return torch.fake_quantize_per_tensor_affine(value, scale, zero, 0, _LEVELS)

    def _follows(self) -> bool:
        return not self.frozen and self.module.training and torch.is_grad_enabled()

    def _range(self, value: Tensor) -> Tensor:
        """Return the least and the greatest number (2,) but for outliers; zero is among them."""
        flat = value.detach().float().reshape(-1)
        some = flat[:: max(1, flat.numel() // _LOOKED_AT) | 1]  # an odd stride meets every column of a picture
        low, high = torch.quantile(some, self._cuts.to(some.device))
        return torch.stack([low.clamp(max=0.0), high.clamp(min=0.0)])

    def _note(self, weight: object) -> None:
        if isinstance(weight, nn.Parameter) and id(weight) in self._names:
            self.products[self._names[id(weight)]] = None
