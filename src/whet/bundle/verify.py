"""Verify a bundle, anywhere: is every byte as it was, does it run here, and does it answer as it did."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from whet import markup, plain
from whet.bundle import manifest
from whet.bundle.manifest import Manifest
from whet.errors import BundleError, WhetError
from whet.lazy import resolve
from whet.machine import Machine, this_machine
from whet.models.adapter import adapter_for
from whet.models.model import Stored
from whet.models.source import Origin, Source
from whet.runtimes.base import Deployment, Session, open_session, predict
from whet.storage import files_below, sha256
from whet.types import Format

if TYPE_CHECKING:
    from whet.types import Array

Kind = Literal["manifest", "files", "signature", "processor", "golden"]
_IGNORED = {manifest.FILE}
# What reads the signature that a model of a format declares itself.
_SIGNATURES = {
    Format.ONNX: ("whet.models.onnx.signature:graph_signature", "onnx"),
    Format.TFLITE: ("whet.models.tflite.signature:file_signature", "litert"),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: what, whether it holds, and in a sentence why (not)."""

    kind: Kind
    ok: bool
    detail: str


class Checks(list[Check]):
    """Checks in the order they were made; a notebook shows them as a table."""

    def _repr_html_(self) -> str:
        rows = [("PASS" if check.ok else "FAIL", check.kind, check.detail) for check in self]
        return markup.table(("answer", "check", "detail"), rows)


def verify(bundle: Path, machine: Machine | None = None, source: Source | None = None) -> Checks:
    """Check a bundle; nothing of it is opened before its bytes are known to be the right ones.

    Args:
        bundle: The folder.
        machine: The one it shall run on; this one by default.
        source: The model's class, for bundles that do not bring it.
    """
    try:
        made = manifest.read(bundle)
    except BundleError as error:
        return Checks([Check("manifest", False, str(error))])
    checks = Checks([Check("manifest", True, f"{made.name}, schema {made.schema}"), _files(bundle, made)])
    checks.append(_processor(made, machine or this_machine()))
    if not checks[1].ok:
        return checks
    stored = stored_of(bundle, made, source)
    checks.append(_signature(stored, made))
    if all(check.ok for check in checks):
        checks.append(_golden(bundle, stored, made))
    return checks


def opened(bundle: Path, source: Source | None = None) -> tuple[Manifest, Stored]:
    """Return a bundle's manifest and its model, once its bytes are known to be the right ones.

    Raises:
        BundleError: It is no bundle, or not as it was sealed.
    """
    made = manifest.read(bundle)
    check = _files(bundle, made)
    if not check.ok:
        raise BundleError(f"{bundle} is not as it was sealed ({check.detail}); restore it, or make it anew")
    return made, stored_of(bundle, made, source)


def stored_of(bundle: Path, made: Manifest, source: Source | None = None) -> Stored:
    """Return the model of a bundle; a torch class comes from the copy of its file that lies in the bundle."""
    own = bundle / manifest.SOURCE
    if source is None and made.format is Format.TORCH and own.is_file():
        source = Source(Origin.FACTORY, Format.TORCH, str(own.resolve()), str(made.source.get("factory", "")))
    elif source is None and made.format is Format.TORCH and made.source.get("origin") in (Origin.HUB, Origin.FILE):
        source = plain.convert(made.source, Source)  # what it is built from lies beside the weights
    return Stored(made.format, bundle / made.file, source)


def deployment_of(made: Manifest) -> Deployment:
    """Return how a bundle was deployed."""
    used = made.deployment
    return Deployment(str(used["runtime"]), dict(used.get("options", {})), int(used.get("threads", 1)))


def _files(bundle: Path, made: Manifest) -> Check:
    found = {path.relative_to(bundle).as_posix() for path in files_below(bundle)} - _IGNORED
    found = {name for name in found if "__pycache__" not in name}
    missing, extra = sorted(set(made.files) - found), sorted(found - set(made.files))
    if missing:
        return Check("files", False, f"missing: {', '.join(missing)}")
    if not any(name == made.file or name.startswith(f"{made.file}/") for name in made.files):
        return Check("files", False, f"the manifest has no checksum of the model, {made.file}")
    changed = [name for name, digest in made.files.items() if sha256(bundle / name) != digest]
    if changed:
        return Check("files", False, f"changed since the bundle was sealed: {', '.join(changed)}")
    if extra:
        return Check("files", False, f"not of this bundle: {', '.join(extra)}")
    return Check("files", True, f"{len(made.files)} files as sealed")


def _processor(made: Manifest, machine: Machine) -> Check:
    missing = machine.missing(made.needs)
    if missing:
        return Check(
            "processor",
            False,
            f"{machine.cpu} lacks {', '.join(missing)}, without which this model's results are wrong; "
            f"optimize again on this processor",
        )
    return Check(
        "processor", True, f"{machine.cpu} can all it needs ({', '.join(made.needs) or 'nothing special'})"
    )


def _signature(stored: Stored, made: Manifest) -> Check:
    """Compare the model's own signature with the manifest's; torch modules show theirs only by running."""
    if stored.format not in _SIGNATURES:
        return Check("signature", True, "torch modules declare none; compared by the golden outputs")
    try:
        model = adapter_for(stored.format).load(stored.path, stored.source)
        own = resolve(*_SIGNATURES[stored.format])(model)
    except WhetError as error:
        return Check("signature", False, str(error))
    for name, mine, told in (
        ("input", own.inputs, made.signature.inputs),
        ("output", own.outputs, made.signature.outputs),
    ):
        if _plain(mine) != _plain(told):
            have, want = ", ".join(map(str, mine)), ", ".join(map(str, told))
            return Check("signature", False, f"the model's {name}s are {have}; the manifest says {want}")
    return Check("signature", True, ", ".join(map(str, made.signature.inputs)))


def _plain(specs: tuple) -> list[tuple]:  # type: ignore[type-arg]
    return [(spec.name, spec.dtype) for spec in specs]


def _golden(bundle: Path, stored: Stored, made: Manifest) -> Check:
    if stored.format is Format.TORCH and stored.source is None:
        return Check(
            "golden",
            False,
            "the model's class lived in the memory of another program; check it there: "
            "whet.verify(bundle, model=module)",
        )
    try:
        with open_session(stored, deployment_of(made)) as session:
            return _compare(bundle, session, made)
    except (OSError, ValueError, KeyError) as error:
        return Check("golden", False, f"golden.npz cannot be read: {type(error).__name__}: {error}")
    except WhetError as error:
        return Check("golden", False, str(error))


def _compare(bundle: Path, session: Session, made: Manifest) -> Check:
    signature = made.signature
    with np.load(bundle / "golden.npz", allow_pickle=False) as golden:
        inputs = {spec.name: golden[f"input.{spec.name}"] for spec in signature.inputs}
        shown = [spec.name for spec in signature.outputs if spec.sample is not None]
        wanted: dict[str, Array] = {name: golden[f"output.{name}"] for name in shown}
    found = predict(session, signature, [inputs])
    worst, where = 0.0, ""
    for name, array in wanted.items():
        off = _deviation(found.get(name), array) / made.golden.tolerance.get(name, 1e-9)
        if not off <= worst:
            worst, where = off, name
    if not worst <= 1:
        return Check(
            "golden", False, f"output {where!r} is off the recorded one by {worst:.1f} times what is tolerated"
        )
    return Check(
        "golden", True, f"{made.golden.samples} recorded samples answered alike ({worst:.0%} of the tolerance)"
    )


def _deviation(found: Array | None, wanted: Array) -> float:
    """Return the greatest difference; infinite where there is no such output, or one of another shape."""
    if found is None or found.shape != wanted.shape:
        return math.inf
    return float(np.abs(found.astype(np.float64) - wanted).max(initial=0.0))
