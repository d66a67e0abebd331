"""Verify a bundle, anywhere: is every byte as it was, does it run here, and does it answer as it did."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from whet import isolate, markup, plain
from whet.bundle import card, golden, manifest
from whet.bundle.manifest import CARD, METRICS, Manifest
from whet.errors import BundleError, ChildError, ModelError, WhetError, in_one_line
from whet.isolate import Limits
from whet.lazy import resolve
from whet.machine import Machine, this_machine, versions
from whet.measure.measurement import Measurement, find
from whet.measure.verdict import SIZE_CLAIM
from whet.models.adapter import adapter_for
from whet.models.model import Stored
from whet.models.source import BundleSource, Source, bundle_source
from whet.progress import OnEvent
from whet.runtimes.base import Deployment
from whet.storage import sha256
from whet.types import Format, TensorSpec

Kind = Literal["manifest", "digest", "files", "processor", "figures", "code", "signature", "golden"]
_SECONDS = 1800.0  # that the recorded samples may take to be answered
_MEMORY_SHARE = 0.8  # of the machine's, that they may take
_MAX_THREADS = 1024
# What reads the signature that a model of a format declares itself.
_SIGNATURES = {
    Format.ONNX: ("whet.models.onnx.signature:graph_signature", "onnx"),
    Format.TFLITE: ("whet.models.tflite.signature:file_signature", "litert"),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked: what, whether it is right, and in a sentence why (not)."""

    kind: Kind
    ok: bool
    detail: str


class Checks(list[Check]):
    """Checks in the order they were made; a notebook shows them as a table.

    Attributes:
        digest: ``sha256:`` and the digest of the manifest, for pinning the bundle; empty where there is none.
    """

    digest: str = ""

    def _repr_html_(self) -> str:
        rows = [("PASS" if check.ok else "FAIL", check.kind, check.detail) for check in self]
        return markup.table(("answer", "check", "detail"), rows)


def verify(
    bundle: Path,
    machine: Machine | None = None,
    source: Source | None = None,
    *,
    trust_code: bool = False,
    digest: str = "",
) -> Checks:
    """Check a bundle; nothing of it is opened before its bytes are known to be the right ones.

    Its model is opened and run in a child process, with limits; a check that does not end there has failed.

    Args:
        bundle: The folder.
        machine: The one it shall run on; this one by default.
        source: The model's class, for bundles that do not bring it.
        trust_code: Whether the code that a torch bundle brings (``source.py``) may be run.
        digest: What the digest of its manifest has to be, as ``sha256:...``; anything if empty.
    """
    checks = Checks()
    try:
        made = manifest.read(bundle)
        checks.digest = manifest.digest(bundle)
    except (BundleError, OSError) as error:
        checks.append(Check("manifest", False, in_one_line(error, 400)))
        return checks
    checks.append(Check("manifest", True, f"{made.name}, schema {made.schema}"))
    if digest:
        same = digest == checks.digest
        checks.append(Check("digest", same, "as pinned" if same else f"it is {checks.digest}, pinned is {digest}"))
        if not same:
            return checks
    files = _files(bundle, made)
    checks += [files, _processor(made, machine or this_machine())]
    if not files.ok:
        return checks
    checks.append(_figures(bundle, made))
    if all(check.ok for check in checks):
        checks += _opened_here(bundle, made, source, trust_code=trust_code)
    return checks


def opened(bundle: Path, source: Source | None = None, *, trust_code: bool = False) -> tuple[Manifest, Stored]:
    """Return a bundle's manifest and its model, once its bytes are known to be the right ones.

    Raises:
        BundleError: It is no bundle, or not as it was sealed.
        ModelError: It brings code, which is not trusted, or does not bring its class.
    """
    made = manifest.read(bundle)
    for check in (_files(bundle, made), _figures(bundle, made)):
        if not check.ok:
            raise BundleError(f"{bundle} is not as it was sealed ({check.detail}); restore it, or make it anew")
    stored = stored_of(bundle, made, source)
    refused = _refused(stored, made, trust_code=trust_code)
    if refused:
        raise ModelError(f"{bundle}: {refused}")
    return made, stored


def stored_of(bundle: Path, made: Manifest, source: Source | None = None) -> Stored:
    """Return the model of a bundle; without a source, a torch module is built from the bundle's own files."""
    folder = bundle.resolve()
    if source is None and made.format is Format.TORCH:
        name = str(made.source.get("factory", ""))
        own = bundle_source(folder / made.file, folder / manifest.SOURCE, name)
    else:
        own = None if source is None else BundleSource.of_user(source)
    return Stored(made.format, folder / made.file, own)


def stored_in_run(bundle: Path, made: Manifest, source: Source) -> Stored:
    """Return the model of a bundle that this program has made itself, in its RUN folder.

    Args:
        bundle: The folder.
        made: Its manifest.
        source: The original. A student that has replaced it is built by the bundle's own copy of its file.
    """
    stored = Stored(made.format, bundle / made.file, source)
    if made.format is not Format.TORCH:
        return stored
    from whet.models.torch.adapter import stored_student

    return stored if stored_student(stored.path) is None else stored_of(bundle, made)


def deployment_of(made: Manifest) -> Deployment:
    """Return how a bundle was deployed.

    Raises:
        BundleError: The manifest does not say it in a form that can be used.
    """
    used = made.deployment
    runtime, options, threads = used.get("runtime"), used.get("options", {}), used.get("threads", 1)
    if not isinstance(runtime, str) or not isinstance(options, Mapping):
        raise BundleError("the manifest does not say in which runtime the model runs; make the bundle anew")
    if not isinstance(threads, int) or not 1 <= threads <= _MAX_THREADS:
        raise BundleError(f"the manifest asks for {str(threads)[:20]} threads; make the bundle anew")
    return Deployment(runtime, dict(options), threads)


def _files(bundle: Path, made: Manifest) -> Check:
    """Check that the bundle is the files of the manifest, each with its checksum, and nothing besides."""
    try:
        odd, found = _inventory(bundle)
        if odd:
            return Check("files", False, odd[0])
        missing, extra = sorted(set(made.files) - found), sorted(found - set(made.files))
        if missing:
            return Check("files", False, f"missing: {_names(missing)}")
        if not any(name == made.file or name.startswith(f"{made.file}/") for name in made.files):
            return Check("files", False, f"the manifest has no checksum of the model, {made.file}")
        changed = [name for name, digest in made.files.items() if sha256(bundle / name) != digest]
        if changed:
            return Check("files", False, f"changed since the bundle was sealed: {_names(changed)}")
    except OSError as error:
        return Check("files", False, f"cannot be read: {in_one_line(error)}")
    if extra:
        return Check("files", False, f"not of this bundle: {_names(extra)}")
    return Check("files", True, f"{len(made.files)} files as sealed")


def _inventory(bundle: Path) -> tuple[list[str], set[str]]:
    """Return what no bundle has, in sentences, and the names of its files but for the manifest."""
    odd, names = [], set()
    for entry in _entries(str(bundle)):
        name = Path(entry.path).relative_to(bundle).as_posix()
        shown = ascii(name)[1:-1]
        mode = entry.stat(follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            odd.append(f"{shown} is a link; a bundle has no links: copy the file itself")
        elif "__pycache__" in name.split("/") or name.endswith((".pyc", ".pyo")):
            odd.append(f"{shown} is bytecode of Python, which no bundle has; remove it")
        elif stat.S_ISREG(mode):
            names.add(name)
        elif not stat.S_ISDIR(mode):
            odd.append(f"{shown} is no regular file; remove it")
    return sorted(odd), names - {manifest.FILE}


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    """Yield everything below a folder; links are not followed."""
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def _names(found: list[str]) -> str:
    shown = ", ".join(ascii(name)[1:-1] for name in found[:10])
    return shown if len(found) <= 10 else f"{shown} and {len(found) - 10} more"


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


def _figures(bundle: Path, made: Manifest) -> Check:
    """Check that what is stated follows from what is there: the size of the model, and the text of the card."""
    try:
        measurements = plain.read_json(bundle / METRICS, tuple[Measurement, ...])
        text = plain.read_regular(bundle / CARD, 2**24).decode()
    except (OSError, ValueError) as error:
        return Check("figures", False, f"{METRICS} or {CARD} cannot be read: {in_one_line(error)}")
    stated = find(measurements, "size_bytes")
    size = sum((bundle / name).stat().st_size for name in _model_files(bundle, made))
    sizes = [item.figures.high for item in made.verdicts if item.figures and item.claim.endswith(SIZE_CLAIM)]
    for value in ([] if stated is None else [stated.value]) + sizes:
        if value != size:
            return Check("figures", False, f"a size of {value} bytes is stated, the model has {size:,}")
    # The card is written from the manifest alone, by this version in these very words. An infinite number, which
    # JSON does not have, was written out in earlier cards.
    text = text.replace("| inf ", "| - ")
    if made.whet and made.whet == versions(["whet"]).get("whet") and text != card.render(made, measurements):
        return Check("figures", False, f"{CARD} does not say what the manifest and {METRICS} say")
    checked = [item for item in made.verdicts if item.figures is not None]
    return Check("figures", True, f"{len(checked)} of {len(made.verdicts)} verdicts follow from their figures")


def _model_files(bundle: Path, made: Manifest) -> list[str]:
    """Return the names of the model's files: of a folder all that is in it, of ONNX its external data too."""
    if (bundle / made.file).is_dir():
        return [name for name in made.files if name.startswith(f"{made.file}/")]
    stem = made.file if made.format is Format.ONNX else ""
    return [name for name in made.files if name == made.file or (stem and name == f"{stem}.data")]


def _refused(stored: Stored, made: Manifest, *, trust_code: bool) -> str:
    """Return why the model of a bundle may not be opened, or nothing."""
    if stored.format is not Format.TORCH:
        return ""
    if stored.source is None:
        return (
            "the model's class lived in the memory of another program; check it there: "
            "whet.verify(bundle, model=module)"
        )
    if isinstance(stored.source, BundleSource) and stored.source.is_foreign_code and not trust_code:
        return (
            f"its model is built by code that comes with it ({manifest.SOURCE}:{stored.source.factory}), which can "
            f"do all that you can; read it, then run it with --trust-code (trust_code=True)"
        )
    return ""


def _opened_here(bundle: Path, made: Manifest, source: Source | None, *, trust_code: bool) -> list[Check]:
    """Open and run the model in a child process; what does not end there with an answer is a failure."""
    stored = stored_of(bundle, made, source)
    refused = _refused(stored, made, trust_code=trust_code)
    if refused:
        return [Check("golden" if stored.source is None else "code", False, refused)]
    limits = Limits(_SECONDS, int(this_machine().memory_bytes * _MEMORY_SHARE))
    try:
        deployment = deployment_of(made)
        found: list[Check] = isolate.call(
            _answers, bundle, stored, deployment, made, limits=limits, threads=deployment.threads
        )
    except ChildError as error:
        return [
            Check("golden", False, f"the check did not end: the process of the model {in_one_line(error, 300)}")
        ]
    except WhetError as error:
        return [Check("golden", False, in_one_line(error, 400))]
    return found


def _answers(
    bundle: Path, stored: Stored, deployment: Deployment, made: Manifest, on_event: OnEvent
) -> list[Check]:
    """Compare the model's signature and its answers with the manifest's. Runs in a child process."""
    signature = _signature(stored, made)
    if not signature.ok:
        return [signature]
    try:
        return [signature, Check("golden", *golden.check(bundle, stored, deployment, made))]
    except WhetError as error:
        return [signature, Check("golden", False, in_one_line(error, 400))]


def _signature(stored: Stored, made: Manifest) -> Check:
    """Compare the model's own signature with the manifest's; torch modules show theirs only by running."""
    if stored.format not in _SIGNATURES:
        return Check("signature", True, "torch modules declare none; compared by the golden outputs")
    try:
        model = adapter_for(stored.format).load(stored.path, stored.source)
        own = resolve(*_SIGNATURES[stored.format])(model)
    except WhetError as error:
        return Check("signature", False, in_one_line(error, 400))
    for name, mine, stated in (
        ("input", own.inputs, made.signature.inputs),
        ("output", own.outputs, made.signature.outputs),
    ):
        if _plain(mine) != _plain(stated):
            have, want = ", ".join(map(str, mine)), ", ".join(map(str, stated))
            return Check("signature", False, f"the model's {name}s are {have}; the manifest says {want}")
    return Check("signature", True, ", ".join(map(str, made.signature.inputs)))


def _plain(specs: tuple[TensorSpec, ...]) -> list[tuple[str, str]]:
    return [(spec.name, spec.dtype) for spec in specs]
