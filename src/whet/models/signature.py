"""Inputs as a user writes them: ``ids=int64[1,200]:0..30000``."""

from __future__ import annotations

import math
import re

from whet.errors import SignatureError, did_you_mean
from whet.types import TensorSpec

_DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
_NUMBER = r"-?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?"
_FORM = re.compile(
    r"^(?:(?P<name>[^=\[\]]+)=)?(?P<dtype>\w+)\[(?P<shape>[^\]]*)\]"
    rf"(?::(?P<low>{_NUMBER})(?:\.\.(?P<high>{_NUMBER}))?)?$"
)


def parse_input(text: str) -> TensorSpec:
    """Read one ``--input``.

    The form is ``[name=]dtype[axes][:low..high]``. Axis 0 is the sample and always free in the model; any
    other axis written ``?128`` is free, with 128 as the length to measure at. ``low..high`` bounds synthetic
    values, both included: the range of token numbers, say. One value alone, as in ``sr=int64[]:16000``, holds an
    input that the data does not have; no axes at all make a single number, the same for all samples.

    Raises:
        SignatureError: The text has another form.
    """
    match = _FORM.match(text.strip())
    if match is None:
        raise SignatureError(
            f"cannot read the input {text!r}; write it as name=dtype[axes] or name=dtype[axes]:low..high, "
            f"for example ids=int64[1,200]:0..30000"
        )
    dtype = match["dtype"]
    if dtype not in _DTYPES:
        raise SignatureError(f"unknown type {dtype!r} in {text!r}{did_you_mean(dtype, _DTYPES)}")
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
        raise SignatureError(f"the range in {whole!r} runs backwards; write the least value first")
    holds: tuple[float, float] = (0, 1)
    if "int" in dtype:
        holds = np.iinfo(dtype).min, np.iinfo(dtype).max
    elif "float" in dtype:
        holds = float(np.finfo(dtype).min), float(np.finfo(dtype).max)
    if least < holds[0] or most > holds[1] or not math.isfinite(most - least):
        raise SignatureError(f"{dtype} cannot hold the range in {whole!r}; it takes {holds[0]} to {holds[1]}")
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
        if not word.isdecimal() or int(word) < 1:
            raise SignatureError(f"cannot read axis {axis} of {whole!r}; an axis is 3, or ?128 where it is free")
        sizes.append(int(word))
    return sizes, free
