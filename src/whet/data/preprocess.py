"""From raw inputs to tensors, and from outputs to answers.

This file and those it imports, which lie beside it in a bundle too, need NumPy alone (Pillow where pictures are
resized, tokenizers where text is cut): training, measuring, serving and ``predict.py`` run this one implementation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from .columns import Column, TableInput, shared_out
from .tokens import Tokens, chosen_for

Array = NDArray[Any]

MAX_PIXELS = 89_478_485
"""A picture is resized to no more pixels than Pillow opens one with: a narrow one can grow without bound."""
_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4}


@dataclass(frozen=True)
class Preprocess:
    """What turns raw samples into inputs.

    Columns become inputs first (``tokens`` for text, ``table`` for others); then each input, in this order: colour,
    resize, crop, scale, normalise, layout.

    Attributes:
        tokens: How text is cut into tokens.
        table: How columns become inputs; found from the data.
        window: Rows of a table that make one sample of a time series; 0 where each row is a sample.
        fill: ``median`` puts a column's median (of words, the most frequent) where a value is missing.
        drop: Columns that are left out.
        color: ``RGB`` or ``L`` (grey): what a picture is converted to; None leaves it.
        resize: Length of the short side in pixels, or (height, width); sizes are rounded as by torchvision.
        crop: Side of the centre square in pixels, or (height, width); placed as by torchvision.
        interpolation: How Pillow resamples.
        scale: Factor on the raw values, before the mean is taken off: 1/255 for bytes.
        mean: Taken off, by channel (the last axis of a raw sample); one number serves all.
        std: Divided by, likewise.
        layout: ``CHW`` moves channels to the front (and adds that axis to grey pictures), ``HWC`` keeps them last.
        dtype: Of the input.
    """

    color: str | None = None
    resize: int | tuple[int, int] | None = None
    crop: int | tuple[int, int] | None = None
    interpolation: str = "bilinear"
    scale: float = 1.0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: str | None = None
    dtype: str = "float32"
    tokens: Tokens | None = None
    table: tuple[TableInput, ...] = ()
    window: int = 0
    fill: str = ""
    drop: tuple[str, ...] = ()

    @property
    def identity(self) -> bool:
        """Whether an input is left as it is, once it is one."""
        return replace(self, tokens=None, table=(), window=0, fill="", drop=()) == Preprocess()

    @property
    def gathers(self) -> bool:
        """Whether raw samples are columns, of which inputs are made."""
        return self.tokens is not None or (bool(self.table) and not self.window)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that are read; none where raw samples are inputs already."""
        if self.tokens is not None:
            return self.tokens.columns
        return tuple(column.name for one in self.table for column in one.columns)

    def inputs(self, rows: Mapping[str, Any]) -> dict[str, Array]:
        """Map raw samples by name, columns or inputs, to the model's inputs (N, ...) by name.

        Raises:
            ValueError: A column is missing, or a raw sample cannot be used.
        """
        if self.tokens is not None:
            return self.tokens(rows)
        if self.gathers:
            rows = self.gather(rows)
        return {name: self(values) for name, values in rows.items()}

    def gather(self, rows: Mapping[str, Any]) -> dict[str, Any]:
        """Make inputs of the columns of a table; arrays stay as they are, other columns are left out."""
        others = {name: values for name, values in rows.items() if np.ndim(values[0]) and name not in self.drop}
        return {one.name: one(rows) for one in self.table} | others

    def fitted(self, takes: Sequence[Any]) -> Preprocess:
        """Return this with the inputs that a model takes, as far as that is known.

        Of a tokenizer's fields, those that the model takes by that name. Of a table, an input called like a column
        takes that column alone, one called like the beginning of several (``size`` of ``size_x``, ``size_y``)
        those, and one other input all the rest.

        Args:
            takes: Specs with ``name``, ``dtype``, ``shape`` and ``held``; type and shape may be empty if unknown.
                An input that is held at a value takes a tokenizer's field, but no columns.

        Raises:
            ValueError: The table has not as many columns as the model takes.
        """
        if self.tokens is not None and takes:
            return replace(self, tokens=chosen_for(self.tokens, takes))
        wanted = [one for one in takes if not one.held]
        return replace(self, table=shared_out(self.table, wanted)) if self.gathers and wanted else self

    def __call__(self, raw: Array | Sequence[Array]) -> Array:
        """Map raw samples, stacked (N, ...) or a list of differing sizes, to one input (N, ...).

        Raises:
            ValueError: The samples still differ in size, are no pictures, or have other channels.
        """
        if self.identity and isinstance(raw, np.ndarray):
            return raw
        samples: Array | list[Array] = raw if isinstance(raw, np.ndarray) else list(raw)
        if self.color or self.resize or self.crop:
            samples = [self._picture(np.asarray(sample)) for sample in samples]
        if not isinstance(samples, np.ndarray):
            shapes = sorted({sample.shape for sample in samples})
            if len(shapes) > 1:
                cure = "resize=...; crop=..." if len({len(shape) for shape in shapes}) == 1 else "color=RGB"
                raise ValueError(
                    f"samples differ in size ({shapes[0]} and {shapes[1]}); give --preprocess '{cure}', or pad them"
                )
            samples = np.stack(samples)
        return samples if self.identity else self._numbers(samples)

    def _picture(self, sample: Array) -> Array:
        """Colour, resize and crop one (H, W) or (H, W, C) array of bytes."""
        image = _open(sample)
        if self.color and image.mode != self.color:
            if sample.dtype != np.uint8:
                raise ValueError(f"color={self.color} converts pictures of bytes, these are {sample.dtype}")
            image = image.convert(self.color)
        if self.resize:
            wide, high = self._size(*image.size)
            if min(wide, high) < 1 or wide * high > MAX_PIXELS:
                raise ValueError(
                    f"a {image.width}x{image.height} picture would be resized to {wide}x{high}, the limit is "
                    f"{MAX_PIXELS:,} pixels; crop it first"
                )
            image = image.resize((wide, high), _FILTERS[self.interpolation])
        if self.crop:
            high, wide = (self.crop, self.crop) if isinstance(self.crop, int) else self.crop
            left, top = round((image.width - wide) / 2), round((image.height - high) / 2)
            if wide > image.width or high > image.height:
                raise ValueError(
                    f"a {image.width}x{image.height} picture cannot be cropped to {wide}x{high}; resize it first"
                )
            image = image.crop((left, top, left + wide, top + high))
        return np.asarray(image)

    def _size(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) to resize to; a short side's length decides the long side's, rounded down."""
        if not isinstance(self.resize, int):
            high, wide = self.resize or (height, width)
            return wide, high
        if width <= height:
            return self.resize, int(self.resize * height / width)
        return int(self.resize * width / height), self.resize

    def _numbers(self, samples: Array) -> Array:
        """Scale, normalise and lay out (N, ...) samples; the arithmetic is in float32 at least."""
        values = samples[..., None] if samples.ndim == 3 and self.layout is not None else samples  # (N, H, W)
        if self.scale != 1.0 or self.mean or self.std:
            kind = np.result_type(self.dtype, np.float32)
            values = values.astype(kind) * self.scale
            if self.mean:
                values = values - self._channels("mean", self.mean, values).astype(kind)
            if self.std:
                values = values / self._channels("std", self.std, values).astype(kind)
        if self.layout == "CHW":
            values = np.moveaxis(values, -1, 1)
        return np.ascontiguousarray(values, dtype=self.dtype)

    def _channels(self, name: str, numbers: tuple[float, ...], values: Array) -> Array:
        """Return one number a channel, or one for all."""
        if len(numbers) not in (1, values.shape[-1]):
            raise ValueError(
                f"{name} has {len(numbers)} numbers, the samples have {values.shape[-1]} channels "
                f"(their last axis); give one number a channel, or one for all"
            )
        return np.asarray(numbers)


@dataclass(frozen=True)
class Postprocess:
    """What turns one row of outputs into an answer.

    Attributes:
        kind: ``classification``, or ``values`` for outputs as they are.
        softmax: Whether the outputs are logits, to be turned into probabilities.
        labels: Names of the classes, in the order of the outputs; numbers where there are none.
        top_k: How many classes an answer names.
        mean, std: Of values, by their last axis: answers are ``outputs * std + mean``, in the units of the data.
    """

    kind: str = "values"
    softmax: bool = False
    labels: tuple[str, ...] = ()
    top_k: int = 5
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __call__(self, outputs: Array) -> list[Any]:
        """Map (N, classes) or any (N, ...) to N answers of plain data."""
        if self.kind != "classification":
            return [row.tolist() for row in self._in_units(outputs)]
        shares = probabilities(outputs, softmax=self.softmax)
        answers = []
        for row in shares:
            order = np.argsort(-row, kind="stable")[: self.top_k]
            answers.append([{"label": self._name(int(k)), "probability": float(row[k])} for k in order])
        return answers

    def _in_units(self, outputs: Array) -> Array:
        """Undo what labels were standardised by; outputs may be laid flat, (N, steps * targets)."""
        if not self.std:
            return outputs
        values = outputs.reshape(len(outputs), -1, len(self.std)).astype(np.float64)
        return np.asarray(values * self.std + self.mean).reshape(outputs.shape)

    def _name(self, index: int) -> str:
        return self.labels[index] if index < len(self.labels) else str(index)


def probabilities(outputs: Array, *, softmax: bool) -> Array:
    """Return (N, classes) shares of one; a single column is the second of two classes."""
    values = outputs.reshape(len(outputs), -1).astype(np.float64)
    with np.errstate(all="ignore"):  # NaN and infinity stay what they are, without a warning
        if values.shape[1] == 1:
            positive = np.exp(-np.logaddexp(0, -values)) if softmax else values
            return np.concatenate([1 - positive, positive], axis=1)
        if not softmax:
            return values
        values = np.exp(values - values.max(axis=1, keepdims=True))
        return np.asarray(values / values.sum(axis=1, keepdims=True))


def _open(sample: Array) -> Any:
    """Return an array (H, W), (H, W, 1) or (H, W, 3) as a picture."""
    from PIL import Image

    try:
        return Image.fromarray(sample.squeeze(-1) if sample.ndim == 3 and sample.shape[-1] == 1 else sample)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"colour, resize and crop take pictures of bytes, (H, W) or (H, W, 3); a sample is "
            f"{sample.dtype} {sample.shape}"
        ) from error


def to_json(preprocess: Preprocess, postprocess: Postprocess) -> str:
    """Return both as JSON."""
    return json.dumps({"preprocess": asdict(preprocess), "postprocess": asdict(postprocess)}, indent=2) + "\n"


def from_json(text: str, folder: Path = Path()) -> tuple[Preprocess, Postprocess]:
    """Read both from JSON; a tokenizer's file is looked for in ``folder``.

    Raises:
        ValueError: It is no JSON, or a value is missing or of a wrong type.
    """
    try:
        content = json.loads(text)
        values = _known(Preprocess, content["preprocess"])
        if tokens := values.get("tokens"):
            place = folder / Path(tokens["file"]).name  # no other folder's
            values["tokens"] = _made(Tokens, {**tokens, "file": str(place)})
        values["table"] = tuple(
            _made(
                TableInput, {**_known(TableInput, one), "columns": tuple(_made(Column, c) for c in one["columns"])}
            )
            for one in values.get("table", ())
        )
        pre, post = _made(Preprocess, values), _made(Postprocess, content["postprocess"])
    except (KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ValueError(f"a setting is missing or wrong ({type(error).__name__}: {error})") from error
    _check(pre)
    return pre, post


def _check(pre: Preprocess) -> None:
    """Refuse settings of the right type that mean nothing."""
    sizes = [size for value in (pre.resize, pre.crop) for size in (value if isinstance(value, tuple) else (value,))]
    for name, ok in (
        ("interpolation", pre.interpolation in _FILTERS),
        ("layout", pre.layout in (None, "CHW", "HWC")),
        ("color", pre.color in (None, "L", "RGB")),
        ("resize or crop", all(size is None or 1 <= size <= MAX_PIXELS for size in sizes)),
        ("window", pre.window >= 0),
    ):
        if not ok:
            raise ValueError(f"the setting {name} has a value that is not known")


def _made(kind: Any, values: Mapping[str, Any]) -> Any:
    """Make a dataclass of values out of JSON, each of the type that its field has."""
    known, types = _known(kind, values), get_type_hints(kind)
    for name, value in known.items():
        if not _is(value, types[name]):
            raise ValueError(f"the setting {name} of {kind.__name__} is {str(value)[:60]!r}, not {types[name]}")
    return kind(**known)


def _is(value: Any, kind: Any) -> bool:
    """Tell whether a value is of an annotated type: classes, unions, and tuples of such."""
    parts = get_args(kind)
    if get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = parts[:1] * len(value) if parts[-1] is Ellipsis else parts
        return len(kinds) == len(value) and all(map(_is, value, kinds))
    if parts:
        return any(_is(value, one) for one in parts)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind)


def _known(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {name: _frozen(value) for name, value in values.items() if name in names}


def _frozen(value: Any) -> Any:
    """Return lists of JSON as tuples."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
