"""The golden outputs of a bundle: read with care, and compared with what the model answers here."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from whet.bundle.manifest import Manifest
from whet.errors import BundleError, in_one_line
from whet.models.model import Stored
from whet.runtimes.base import Deployment, open_session, predict
from whet.types import TensorSpec

if TYPE_CHECKING:
    from whet.types import Array

FILE = "golden.npz"
_MAX_BYTES = 2**31  # of all arrays together, unpacked
_ROUNDING = 1e-6  # a tolerance may always be as large, whatever the scale of an output
_READ = (OSError, ValueError, KeyError, EOFError, TypeError, OverflowError, MemoryError, SyntaxError)
_UNPACK = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Golden:
    """Recorded inputs and outputs by name; the axis of samples of outputs is the first."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]


def read(bundle: Path, made: Manifest) -> Golden:
    """Read the recorded arrays that the manifest's signature names; each header is checked before its numbers.

    Raises:
        BundleError: They cannot be read, are of other shapes or types, or prove nothing.
    """
    try:
        with zipfile.ZipFile(bundle / FILE) as archive:
            total = sum(item.file_size for item in archive.infolist())
            if total > _MAX_BYTES:
                raise ValueError(f"it unpacks to {total:,} bytes, more than {_MAX_BYTES:,}")
            inputs = {spec.name: _array(archive, f"input.{spec.name}", spec) for spec in made.signature.inputs}
            shown = [spec.name for spec in made.signature.outputs if spec.sample is not None]
            outputs = {name: _array(archive, f"output.{name}") for name in shown}
    except (*_READ, *_UNPACK) as error:
        problem = in_one_line(error) if str(error) else "it is damaged"
        raise BundleError(f"{FILE} cannot be read: {type(error).__name__}: {problem}") from error
    _check_samples(made, inputs, outputs)
    _check_tolerances(made, outputs)
    return Golden(inputs, outputs)


def check(bundle: Path, stored: Stored, deployment: Deployment, made: Manifest) -> tuple[bool, str]:
    """Run the recorded inputs; return whether the outputs are the recorded ones, and in a sentence how far off.

    Raises:
        WhetError: The arrays cannot be read, or the model cannot be run.
    """
    golden = read(bundle, made)
    with open_session(stored, deployment) as session:
        found = predict(session, made.signature, [golden.inputs])
    worst, where = 0.0, ""
    for name, array in golden.outputs.items():
        off = _deviation(found.get(name), array) / made.golden.tolerance[name]
        if off > worst:
            worst, where = off, name
    if worst > 1:
        return False, f"output {where!r} is off the recorded one by {worst:.1f} times what is tolerated"
    count = made.golden.samples
    return True, f"{count} recorded samples answered alike ({worst:.0%} of the tolerance)"


def _array(archive: zipfile.ZipFile, name: str, spec: TensorSpec | None = None) -> Array:
    """Read one array of numbers; that of an input has a type and a shape that its spec allows."""
    with archive.open(f"{name}.npy") as file:
        shape, dtype = _header(file)
    if dtype.kind not in "biuf":
        raise ValueError(f"{name} is {dtype}, not numbers")
    if spec is not None:
        same = len(shape) == len(spec.shape) and all(
            want in (None, have) or axis == spec.sample
            for axis, (want, have) in enumerate(zip(spec.shape, shape, strict=True))
        )
        if not same or str(dtype) not in {spec.dtype, spec.coded}:
            raise ValueError(f"{name} is {dtype}{list(shape)}, the signature says {spec}")
    with archive.open(f"{name}.npy") as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def _header(file: IO[bytes]) -> tuple[Sequence[int], np.dtype]:
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"an array is of version {version} of NumPy's format")
    shape, _, dtype = readers[version](file)
    if any(size < 0 for size in shape) or np.prod(shape, dtype=float) * dtype.itemsize > _MAX_BYTES:
        raise ValueError(f"an array claims the shape {list(shape)}")
    return shape, dtype


def _check_samples(made: Manifest, inputs: dict[str, Array], outputs: dict[str, Array]) -> None:
    axes = {spec.name: spec.sample for spec in made.signature.inputs}
    counts = {f"input.{name}": array.shape[at] for name, array in inputs.items() if (at := axes[name]) is not None}
    counts |= {f"output.{name}": len(array) for name, array in outputs.items()}
    for name, count in counts.items():
        if count != made.golden.samples:
            raise BundleError(f"{FILE} has {count} samples of {name}, the manifest says {made.golden.samples}")


def _check_tolerances(made: Manifest, outputs: dict[str, Array]) -> None:
    """Refuse tolerances within which an output could be anything: larger than its largest number and its step."""
    steps = {spec.name: spec.step for spec in made.signature.outputs}
    for name, array in outputs.items():
        numbers = np.abs(array[np.isfinite(array)].astype(np.float64))
        if not numbers.size:
            continue  # nothing comes near these, whatever the tolerance
        largest = max(float(numbers.max(initial=0.0)), 1.01 * steps[name], _ROUNDING)
        tolerance = made.golden.tolerance[name]
        if tolerance > largest:
            raise BundleError(
                f"the tolerance {tolerance:g} of output {name!r} is larger than its largest number, {largest:g}: "
                f"recorded outputs of it prove nothing; make the bundle anew"
            )


def _deviation(found: Array | None, wanted: Array) -> float:
    """Return the largest difference; infinite where there is no such output, one of another shape, or a NaN."""
    if found is None or found.shape != wanted.shape:
        return float("inf")
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    off[found == wanted] = 0.0  # infinities that are the same
    return float(np.nan_to_num(off, nan=np.inf, posinf=np.inf).max(initial=0.0))
