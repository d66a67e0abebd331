"""Inputs as a user writes them, ``ids=int64[1,200]:0..30000``, and what they add to what a file says itself."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from whet.bounds import shown
from whet.errors import SignatureError, did_you_mean
from whet.types import Signature, TensorSpec

if TYPE_CHECKING:
    from whet.types import Batch

_LENGTHS = (1, 16, 128, 512, 1024, 4096, 16000)  # tried for free axes, the least that runs is taken
_VALUES = 2**24  # of one input at most: several free axes multiply
_DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
_MAX_AXES, _MAX_INPUTS = 32, 64
_MAX_LENGTH, _MAX_VALUES = 2**31 - 1, 2**28  # of one axis, and of one sample of an input
_NUMBER = r"-?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_FORM = re.compile(
    r"^(?:(?P<name>[^=\[\]]+)=)?(?P<dtype>\w+)\[(?P<shape>[^\]]*)\]"
    rf"(?::(?P<low>{_NUMBER})(?:\.\.(?P<high>{_NUMBER}))?)?$"
)


def parse_inputs(given: str | Iterable[str]) -> tuple[TensorSpec, ...]:
    """Read every ``--input``: one text, or several.

    Raises:
        SignatureError: A text cannot be read, a name stands twice, or there are more than a model has inputs.
    """
    texts = [given] if isinstance(given, str) else list(given)
    if len(texts) > _MAX_INPUTS:
        raise SignatureError(f"--input is given {len(texts)} times; give one for each input, {_MAX_INPUTS} at most")
    specs = tuple(parse_input(text) for text in texts)
    names = [spec.name for spec in specs if spec.name]
    for name in names:
        if names.count(name) > 1:
            raise SignatureError(f"--input describes {shown(name)} twice; give each input once")
    return specs


def parse_input(text: str) -> TensorSpec:
    """Read one ``--input``.

    The form is ``[name=]dtype[axes][:low..high]``. Axis 0 is the sample and always free in the model; any
    other axis written ``?128`` is free, with 128 as the length to measure at. ``low..high`` bounds synthetic
    values, both included: the range of token numbers, say. One value alone, as in ``sr=int64[]:16000``, holds an
    input that the data does not have; no axes at all make a single number, the same for all samples.

    Raises:
        SignatureError: The text has another form.
    """
    if not isinstance(text, str):
        raise SignatureError(f"an input is described by a text such as ids=int64[1,200], not by {shown(text)}")
    match = _FORM.match(text.strip())
    if match is None:
        raise SignatureError(
            f"cannot read the input {shown(text)}; write it as name=dtype[axes] or name=dtype[axes]:low..high, "
            f"for example ids=int64[1,200]:0..30000"
        )
    dtype = match["dtype"]
    if dtype not in _DTYPES:
        raise SignatureError(f"unknown type {shown(dtype)} in {shown(text)}{did_you_mean(dtype, _DTYPES)}")
    sizes, free = _axes(match["shape"], text)
    bounds: tuple[float | None, float | None] = None, None
    if match["low"] is not None:
        bounds = _bounds(float(match["low"]), float(match["high"] or match["low"]), dtype, text)
    shape = tuple(None if axis == 0 or axis in free else size for axis, size in enumerate(sizes))
    return TensorSpec(match["name"] or "", dtype, shape, tuple(sizes), *bounds, sample=0 if shape else None)


def _bounds(least: float, most: float, dtype: str, whole: str) -> tuple[float, float]:
    """Check the range of synthetic values, which the type must be able to hold."""
    import numpy as np

    if least > most:
        raise SignatureError(f"the range in {shown(whole)} runs backwards; write the least value first")
    holds: tuple[float, float] = (0, 1)
    if "int" in dtype:
        holds = np.iinfo(dtype).min, np.iinfo(dtype).max
    elif "float" in dtype:
        holds = float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    if least < holds[0] or most > holds[1] or not math.isfinite(most - least):
        raise SignatureError(f"{dtype} cannot hold the range in {shown(whole)}; it takes {holds[0]} to {holds[1]}")
    return least, most


def _axes(text: str, whole: str) -> tuple[list[int], set[int]]:
    sizes: list[int] = []
    free: set[int] = set()
    if not text.strip():
        return sizes, free
    for axis, word in enumerate(part.strip() for part in text.split(",")):
        if word.startswith("?"):
            free.add(axis)
            word = word[1:] or "1"  # noqa: PLW2901
        if not re.fullmatch("[0-9]{1,18}", word) or not 1 <= int(word) <= _MAX_LENGTH:
            raise SignatureError(
                f"cannot read axis {axis} of {shown(whole)}; an axis is 3, or ?128 where it is free, from 1 to "
                f"{_MAX_LENGTH:,}"
            )
        sizes.append(int(word))
    if len(sizes) > _MAX_AXES:
        raise SignatureError(f"{shown(whole)} has {len(sizes):,} axes; an input has {_MAX_AXES} at most")
    if (values := math.prod(sizes[1:])) > _MAX_VALUES:
        raise SignatureError(f"one sample of {shown(whole)} has {values:,} values; give {_MAX_VALUES:,} at most")
    return sizes, free


def refine(signature: Signature, declared: tuple[TensorSpec, ...]) -> Signature:
    """Give free axes the lengths, and synthetic values the ranges, that a user declared.

    An input of fixed axes that is held at one value is the same for all samples.
    """
    if not declared:
        return signature
    by_name = {spec.name: spec for spec in declared}
    if len(declared) == 1 and len(signature.inputs) == 1:
        by_name = {signature.inputs[0].name: declared[0]}
    unknown = [name for name in by_name if name not in {spec.name for spec in signature.inputs}]
    if unknown:
        names = ", ".join(str(spec) for spec in signature.inputs)
        raise SignatureError(f"the model has no input {unknown[0]!r}; its inputs are {names}")
    inputs = []
    for spec in signature.inputs:
        given = by_name.get(spec.name)
        if given is None:
            inputs.append(spec)
            continue
        if given.dtype != spec.dtype or not _fits(given, spec):
            raise SignatureError(f"--input {given} does not fit the model's input {spec}")
        constant = given.held and None not in spec.shape and len(signature.inputs) > 1
        sample = None if constant else spec.sample
        inputs.append(replace(spec, example=given.example, low=given.low, high=given.high, sample=sample))
    return Signature(tuple(inputs), signature.outputs)


def with_lengths(
    signature: Signature, sample: Batch | None, opened: Callable[[], Callable[[Batch], object]]
) -> Signature:
    """Give free axes that nobody declared a length to measure at: the data's, or the least at which the model runs.

    Where it runs at none that is tried, the signature is returned as it is.

    Args:
        signature: As far as it is known.
        sample: Of the data, where there is any.
        opened: Opens the model, and returns what runs it on a batch; both may raise.
    """
    if not any(_undeclared(spec) for spec in signature.inputs):
        return signature
    if sample is not None:
        bound = signature.bind(sample)
        return _examples(signature, {name: array.shape for name, array in bound.items()})
    try:
        run = opened()
    except Exception:  # noqa: BLE001 - what cannot be opened is told by the runtime that is to run it
        return signature
    for length in _LENGTHS:
        tried = _examples(signature, {spec.name: (length,) * len(spec.shape) for spec in signature.inputs})
        if max(math.prod(size or length for size in spec.shape) for spec in tried.inputs) > _VALUES:
            break
        try:
            run(tried.synthetic(2))
        except Exception:  # noqa: BLE001, S112 - as long as it takes
            continue
        return tried
    return signature


def _undeclared(spec: TensorSpec) -> bool:
    """Tell whether an input has a free axis, the sample's excepted, without a length to measure at."""
    return not spec.example and any(size is None and axis != spec.sample for axis, size in enumerate(spec.shape))


def _examples(signature: Signature, lengths: dict[str, tuple[int, ...]]) -> Signature:
    inputs = [replace(spec, example=lengths[spec.name]) if _undeclared(spec) else spec for spec in signature.inputs]
    return Signature(tuple(inputs), signature.outputs)


def _fits(given: TensorSpec, spec: TensorSpec) -> bool:
    """Tell whether declared lengths are those of a graph's fixed axes, but for the sample's."""
    return len(given.shape) == len(spec.shape) and all(
        axis == spec.sample or size in (None, length)
        for axis, (size, length) in enumerate(zip(spec.shape, given.example, strict=True))
    )
