"""Read the inputs of a bundle's model from files, and make its tensors of them.

This file travels in bundles beside ``predict.py``, which reads it once every checksum of the bundle is right.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


class Inputs:
    """What the model of a bundle takes.

    Attributes:
        max_bytes: An input file may be so large, packed or unpacked.
        max_table_bytes: A table of text may be so large.
        rotated: How many pictures were read that carry an EXIF rotation, which is not applied.
    """

    def __init__(self, manifest: Any, preprocess: Any, code: Any) -> None:
        """Take what a bundle's manifest says, its preprocessing, and what imports its files by name."""
        self.specs, self.raw_axes = manifest["signature"]["inputs"], manifest["raw_axes"]
        self.preprocess, self.arrays = preprocess, code("preprocess.arrays")
        self.raw, self.columns = code("preprocess.raw"), code("preprocess.columns")
        self.max_bytes, self.max_table_bytes = self.arrays.MAX_BYTES, self.arrays.MAX_TABLE_BYTES
        self.rotated = 0

    def read(self, path: Path) -> Any:
        """Read raw inputs by name from a file; a single sample gets its axis of samples.

        Raises:
            ValueError: It is damaged, larger than the limit, or no input of this model.
            OSError: It cannot be opened.
        """
        suffix, name = path.suffix.lower(), self.specs[0]["name"]
        table = suffix in self.raw.TABLES
        self.arrays.check_file(path, self.max_table_bytes if table else self.max_bytes)
        if suffix == ".npz":
            return self.arrays.read_npz(path, self.max_bytes)
        if table:
            return self._table(path)
        if suffix != ".npy":
            return {name: self._picture(path)}
        raw, axes = self.arrays.read_npy(path, self.max_bytes), self.raw_axes.get(name, 0)
        if axes and raw.ndim not in (axes, axes - 1):
            shape = f"{list(raw.shape)}"
            raise ValueError(f"it has shape {shape}; one sample has rank {axes - 1}, a stack of them {axes}")
        return {name: raw[None] if raw.ndim < axes else raw}

    def _picture(self, path: Path) -> Any:
        """Read a picture as (1, H, W, C) or (1, H, W); its EXIF rotation is counted, not applied."""
        try:
            self.rotated += self.raw.exif_rotated(path)
            return self.raw.read_raw(path, self.max_bytes)[None]
        except ImportError as error:
            raise ValueError(
                f"it is none of .npy, .npz, .csv, .tsv and .txt, so that it is read as a picture, which needs "
                f"Pillow ({error})"
            ) from error
        except OSError as error:
            if error.errno is not None:
                raise
            text = self.arrays.short(error, 100)
            raise ValueError(
                f"it is no picture that Pillow reads, or a damaged one ({text}); save it as PNG"
            ) from error

    def _table(self, path: Path) -> Any:
        """Read a table: columns of cells; of a time series its last rows, as one sample; else rows of numbers."""
        wanted = self.preprocess.columns
        no_header = ("\n",)  # no cell is called so
        cells, _ = self.raw.read_table(path, wanted or no_header)
        if wanted and not self.preprocess.window:
            return cells
        name = self.specs[0]["name"]
        if not wanted:
            return {name: np.stack([self._numbers(*column) for column in cells.items()], axis=1)}
        length, values = self.preprocess.window, self.preprocess.table[0](cells)
        if len(values) < length:
            raise ValueError(f"it has {len(values)} rows, the model looks at {length}; give as many or more")
        return {name: values[None, -length:]}

    def _numbers(self, name: str, cells: Any) -> Any:
        """Return the cells of a column as (N,) float64."""
        values = self.columns.numbers(cells, name)
        missing = np.isnan(values)
        if missing.any():
            raise ValueError(f"{name} has no number in row {int(missing.argmax()) + 1}; fill it in")
        return values

    def tensors(self, raw: Any) -> Any:
        """Map raw inputs, an array (N, ...), texts, or a dict of such by name, to the model's tensors by name.

        Raises:
            ValueError: They are not what the model takes.
        """
        raw = raw if isinstance(raw, dict) else {"": raw}
        self._check_raw(raw)
        raw = self.preprocess.inputs(raw)
        constants = {one["name"] for one in self.specs if one["low"] is not None and one["low"] == one["high"]}
        asked = [one["name"] for one in self.specs if one["name"] not in constants] or list(constants)
        if len(raw) == len(asked) == 1 and not set(raw) & constants:  # one array fits one input, whatever its name
            raw = {asked[0]: next(iter(raw.values()))}
        names = [one["name"] for one in self.specs]
        if set(raw) - set(names) or set(asked) - set(raw):
            wanted, given = (self.arrays.short(", ".join(some), 200) for some in (names, raw))
            raise ValueError(f"the model's inputs are {wanted}, these are {given}; name them as the model does")
        made = {one["name"]: self._tensor(raw[one["name"]], one) for one in self.specs if one["name"] in raw}
        count = self._count(made)
        return {
            one["name"]: made[one["name"]] if one["name"] in made else _constant(one, count) for one in self.specs
        }

    def _check_raw(self, raw: Any) -> None:
        """Refuse what preprocessing would misread: no samples, no numbers, no texts."""
        if not raw:
            raise ValueError("there are no inputs; give an array (N, ...) for each input of the model")
        for name, values in raw.items():
            is_array = isinstance(values, np.ndarray)
            if (is_array and not values.ndim) or not len(values):
                raise ValueError(f"input {name!r} has no samples; give an array (N, ...) with N from 1 up")
            if is_array and not self.preprocess.columns and self.preprocess.tokens is None:
                self.arrays.check_numbers(values, name)
            if is_array and self.preprocess.tokens is not None and (values.ndim, values.dtype.kind) != (1, "U"):
                raise ValueError("the model reads text; give a .txt with one text a line, or a .csv with a header")

    def _tensor(self, array: Any, spec: Any) -> Any:
        """Return an input in the model's dtype, or in the integers that a quantized one holds."""
        array = np.asarray(array)
        want, have = spec["shape"][1:], array.shape[1:]
        if len(want) != len(have) or any(size not in (None, given) for size, given in zip(want, have, strict=True)):
            shown = ["?" if size is None else size for size in want]
            raise ValueError(f"the model's input {spec['name']} is {shown} a sample, this is {list(have)}")
        if array.dtype == spec.get("coded"):
            return array
        return self.arrays.cast(array, spec["dtype"], spec["name"])

    def _count(self, tensors: Any) -> int:
        """Return the number of samples, which all inputs have in common."""
        counts = {
            one["name"]: tensors[one["name"]].shape[one["sample"]]
            for one in self.specs
            if one["name"] in tensors and one["sample"] is not None
        }
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise ValueError(f"the inputs have differing numbers of samples ({shown}); give equally many")
        return next(iter(counts.values()), 1)


def _constant(spec: Any, count: int) -> Any:
    """Return an input that has one value, for so many samples."""
    shape = [
        size or (count if axis == spec["sample"] else spec["example"][axis])
        for axis, size in enumerate(spec["shape"])
    ]
    return np.full(shape, spec["low"]).astype(spec["dtype"])
