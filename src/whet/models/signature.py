"""Inputs as a user writes them: ``ids=int64[1,200]:0..30000``."""

from __future__ import annotations

import re

from whet.errors import SignatureError, did_you_mean
from whet.types import TensorSpec

_DTYPES = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
_FORM = re.compile(
    r"^(?:(?P<name>[^=\[\]]+)=)?(?P<dtype>\w+)\[(?P<shape>[^\]]*)\]"
    r"(?::(?P<low>-?[\d.]+(?:e-?\d+)?)\.\.(?P<high>-?[\d.]+(?:e-?\d+)?))?$"
)


def parse_input(text: str) -> TensorSpec:
    """Read one ``--input``.

    The form is ``[name=]dtype[axes][:low..high]``. Axis 0 is the sample and always free in the model; any
    other axis written ``?128`` is free, with 128 as the length to measure at. ``low..high`` bounds synthetic
    values, both included: the range of token numbers, say.

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
    low, high = match["low"], match["high"]
    bounds = (float(low), float(high)) if low is not None else (None, None)
    if bounds[0] is not None and bounds[1] is not None and bounds[0] > bounds[1]:
        raise SignatureError(f"the range in {text!r} runs backwards; write the least value first")
    shape = tuple(None if axis == 0 or axis in free else size for axis, size in enumerate(sizes))
    return TensorSpec(match["name"] or "", dtype, shape, tuple(sizes), *bounds)


def _axes(text: str, whole: str) -> tuple[list[int], set[int]]:
    sizes: list[int] = []
    free: set[int] = set()
    for axis, word in enumerate(part.strip() for part in text.split(",")):
        if word.startswith("?"):
            free.add(axis)
            word = word[1:] or "1"  # noqa: PLW2901
        if not word.isdigit() or int(word) < 1:
            raise SignatureError(f"cannot read axis {axis} of {whole!r}; an axis is 3, or ?128 where it is free")
        sizes.append(int(word))
    return sizes, free
