"""From raw inputs to tensors, and from outputs to answers.

This file needs NumPy alone (and Pillow where pictures are resized or read), so that a bundle can carry it:
training, measuring, serving and ``predict.py`` all run this one implementation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4}


@dataclass(frozen=True)
class Preprocess:
    """What turns one raw sample into one input, in this order: colour, resize, crop, scale, normalise, layout.

    Attributes:
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

    @property
    def identity(self) -> bool:
        """Whether this changes nothing: the input is model-ready."""
        return self == Preprocess()

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
            image = image.resize(self._size(*image.size), _FILTERS[self.interpolation])
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
    """

    kind: str = "values"
    softmax: bool = False
    labels: tuple[str, ...] = ()
    top_k: int = 5

    def __call__(self, outputs: Array) -> list[Any]:
        """Map (N, classes) or any (N, ...) to N answers of plain data."""
        if self.kind != "classification":
            return [row.tolist() for row in outputs]
        shares = probabilities(outputs, softmax=self.softmax)
        answers = []
        for row in shares:
            order = np.argsort(-row, kind="stable")[: self.top_k]
            answers.append([{"label": self._name(int(k)), "probability": float(row[k])} for k in order])
        return answers

    def _name(self, index: int) -> str:
        return self.labels[index] if index < len(self.labels) else str(index)


def probabilities(outputs: Array, *, softmax: bool) -> Array:
    """Return (N, classes) shares of one; a single column is the second of two classes."""
    values = outputs.reshape(len(outputs), -1).astype(np.float64)
    if values.shape[1] == 1:
        positive = np.exp(-np.logaddexp(0, -values)) if softmax else values
        return np.concatenate([1 - positive, positive], axis=1)
    if not softmax:
        return values
    values = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def read_raw(path: Path) -> Array:
    """Read one raw sample, or a stack of them: ``.npy``, or a picture as (H, W, C) bytes."""
    if path.suffix == ".npy":
        return np.asarray(np.load(path, allow_pickle=False))
    from PIL import Image

    with Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"it has more than 8 bits a channel (mode {image.mode}); save it as 8-bit, or as .npy")
        return np.asarray(image.convert("RGB") if image.mode not in ("L", "RGB") else image)


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


def from_json(text: str) -> tuple[Preprocess, Postprocess]:
    """Read both from JSON."""
    content = json.loads(text)
    return Preprocess(**_known(Preprocess, content["preprocess"])), Postprocess(
        **_known(Postprocess, content["postprocess"])
    )


def _known(kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in names
    }
