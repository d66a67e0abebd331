"""Write a bundle: the model, what is needed to use it, and what is needed to trust it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whet import plain, userfile
from whet.bundle import card, manifest
from whet.bundle.folders import Folders
from whet.bundle.manifest import CARD, METRICS, Golden, Manifest
from whet.data import preprocess
from whet.data.data import Part, Splits
from whet.data.preprocess import Postprocess, to_json
from whet.data.samples import FileSamples, base_of
from whet.errors import RuntimeFailure
from whet.machine import this_machine, versions
from whet.measure.measurement import Measurement
from whet.measure.verdict import Verdict, overall
from whet.models.model import Facts, Stored
from whet.models.source import BundleSource, Origin, Source
from whet.recipe.recipe import Recipe
from whet.runtimes.base import Deployment, Session, open_session, predict
from whet.storage import files_below, new_folder, sha256, write_text
from whet.types import Format, Signature, Step

if TYPE_CHECKING:
    from whet.types import Array, Batch

_GOLDEN_SAMPLES = 4
_REFERENCE_SAMPLES = 512
_BINS = 32
_STANDALONE = Path(__file__).parent / "standalone"
_TOKENIZER = "tokenizer.json"
_RUNS_IN = {
    Format.TORCH: ("torch", "safetensors"),
    Format.ONNX: ("onnxruntime",),
    Format.TFLITE: ("ai-edge-litert",),
}
# The options by which each runtime runs the graph as it stands: a second opinion on what outputs may deviate by.
_PLAIN = {Format.ONNX: {"graph_level": "disabled"}, Format.TFLITE: {"kernels": "builtin"}}


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle.

    Attributes:
        stored, facts: The model.
        recipe: What made it.
        deployment: How it is run.
        splits: The data; golden inputs come from ``select``.
        output, task, metric: What it is for.
        postprocess: From outputs to answers.
        source: Where the original came from.
        data: What the manifest says of the data.
    """

    stored: Stored
    facts: Facts
    recipe: Recipe
    deployment: Deployment
    splits: Splits
    output: str
    task: str
    metric: str
    postprocess: Postprocess
    source: Source
    data: Mapping[str, Any]


def write(bundle: Path, contents: Contents) -> Manifest:
    """Write a bundle whole, in place of what was there."""
    signature = contents.facts.signature
    assert signature is not None
    contents = replace(contents, source=_built_from(contents))
    folders = Folders.of(contents.source, contents.stored.path)
    with new_folder(bundle) as folder:
        name = _copy_model(contents.stored, folder, folders)
        shipped = Stored(contents.stored.format, folder / name, BundleSource.of_user(contents.source))
        with open_session(shipped, contents.deployment) as session:
            golden, raw_axes = _golden(folder, contents, session, signature)
            _reference(folder, contents, session, signature)
            facts = dict(session.facts)
        write_text(folder / "recipe.toml", folders.taken_out(contents.recipe.dumps()))
        _copy_preprocess(folder / "preprocess", contents)
        _copy_code(folder, contents)
        made = Manifest(
            name=contents.recipe.name,
            format=contents.stored.format,
            file=name,
            signature=signature,
            output=contents.output,
            task=contents.task,
            metric=contents.metric,
            classes=contents.postprocess.labels,
            deployment={**folders.taken_out(facts), "options": dict(contents.deployment.options)},
            needs=contents.facts.needs,
            golden=golden,
            raw_axes=raw_axes,
            traits=contents.facts.traits,
            history=plain.convert(folders.taken_out(plain.builtins(contents.facts.history)), tuple[Step, ...]),
            machine=this_machine(),
            source=plain.builtins(contents.source.without_folders()),
            data=folders.taken_out(plain.builtins(contents.data)),
            whet=versions(["whet"]).get("whet", ""),
        )
        return seal(folder, made, ())


def seal(folder: Path, made: Manifest, measurements: Sequence[Measurement]) -> Manifest:
    """Write the measurements and the card, hash every file, and write the manifest last.

    The card says what is read again from the files, so that it can be compared with them later.
    """
    write_text(folder / METRICS, plain.dumps(measurements))
    made = plain.convert(plain.builtins(made), Manifest)
    stored = plain.convert(plain.builtins(measurements), tuple[Measurement, ...])
    write_text(folder / CARD, card.render(made, stored))
    hashes = {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in files_below(folder)
        if path.name != manifest.FILE
    }
    sealed = replace(made, files=hashes)
    write_text(folder / manifest.FILE, plain.dumps(sealed))
    return sealed


def amend(
    bundle: Path, measurements: Sequence[Measurement], verdicts: Sequence[Verdict] = (), test_opened: int = 0
) -> Manifest:
    """Seal a bundle again with what was measured of its files, and what it was judged to be."""
    made = manifest.read(bundle)
    answer = str(overall(verdicts)) if verdicts else ""
    data = {**made.data, "test_opened": test_opened}
    return seal(bundle, replace(made, verdicts=tuple(verdicts), answer=answer, data=data), measurements)


def copy(source: Path, bundle: Path) -> None:
    """Copy a bundle whole, in place of what was there."""
    with new_folder(bundle) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)


def _copy_model(stored: Stored, folder: Path, folders: Folders) -> str:
    """Copy the model's files, without what they say of this machine; return the path of the model in the bundle."""
    if stored.path.is_dir():
        from whet.models.torch.adapter import ship

        shutil.copytree(stored.path, folder / "model")
        ship(folder / "model")
        return "model"
    suffix = stored.path.suffix
    files = stored.files()
    for path in files:
        keep = path == stored.path and len(files) == 1
        shutil.copyfile(path, folder / (f"model{suffix}" if keep else path.name))
    name = f"model{suffix}" if len(files) == 1 else stored.path.name
    if stored.format is Format.ONNX:
        from whet.models.onnx.traces import strip_file

        strip_file(folder / name, folders.taken_out)
    return name


def _copy_preprocess(folder: Path, contents: Contents) -> None:
    """Write how raw inputs are made ready, the files that takes, and the very code that does it."""
    made = contents.splits.preprocess
    folder.mkdir()
    if made.tokens is not None:
        shutil.copyfile(made.tokens.file, folder / _TOKENIZER)
        made = replace(made, tokens=replace(made.tokens, file=_TOKENIZER))
    write_text(folder / "preprocess.json", to_json(made, contents.postprocess))
    for name in ("preprocess", "columns", "tokens", "raw", "arrays"):
        shutil.copyfile(Path(preprocess.__file__).with_name(f"{name}.py"), folder / f"{name}.py")


def _built_from(contents: Contents) -> Source:
    """Return where the shipped module comes from: a student is not built by the original's source."""
    if contents.stored.format is not Format.TORCH:
        return contents.source
    from whet.models.torch.adapter import stored_student

    return stored_student(contents.stored.path) or contents.source


def _copy_code(folder: Path, contents: Contents) -> None:
    """Copy what answers without whet, and say what it needs."""
    for name in ("predict.py", "inputs.py", "runtimes.py"):
        shutil.copyfile(_STANDALONE / name, folder / name)
    libraries = ["numpy"]
    if _takes_pictures(contents.splits):
        libraries.append("pillow")
    if contents.splits.preprocess.tokens is not None:
        libraries.append("tokenizers")
    libraries += _RUNS_IN[contents.stored.format]
    if contents.stored.format is Format.TORCH:
        shutil.copyfile(
            Path(preprocess.__file__).parent.parent / "models/torch/edits.py", folder / "torch_edits.py"
        )
        if contents.source.origin is Origin.FACTORY:
            _copy_source(Path(contents.source.path), folder / manifest.SOURCE)
        if contents.source.origin is Origin.HUB:
            libraries.append("transformers")
    found = versions(libraries)
    lines = [f"{name}=={found[name].partition('+')[0]}" if name in found else name for name in libraries]
    write_text(folder / "requirements.txt", "\n".join(lines) + "\n")


def _copy_source(path: Path, target: Path) -> None:
    """Copy a factory's file, and into a folder beside it the files that it imports."""
    own, *others = userfile.files(path)
    shutil.copyfile(own, target)
    for other in others:
        place = target.with_suffix("") / other.relative_to(own.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(other, place)


def _takes_pictures(splits: Splits) -> bool:
    """Tell whether raw inputs are pictures: such are read or changed by Pillow."""
    pre = splits.preprocess
    files = isinstance(base_of(splits.parts[Part.SELECT]), FileSamples)
    return files or bool(pre.color or pre.resize or pre.crop)


def _golden(
    folder: Path, contents: Contents, session: Session, signature: Signature
) -> tuple[Golden, dict[str, int]]:
    """Record a few inputs, raw and ready, with the outputs they must give and the deviation tolerated.

    What is tolerated is four times what the same machine deviates by when samples go in one by one and graphs are
    not optimized, between 1e-5 of the largest output and all of it: another processor adds up in another order.
    Of a quantized output it is a step at least, to which another sum may be rounded.
    """
    splits = contents.splits
    count = min(signature.batch or _GOLDEN_SAMPLES, splits.size(Part.SELECT))
    numbers = range(count)
    batch = signature.bind(splits.batch(Part.SELECT, numbers))
    outputs = predict(session, signature, [batch])
    others = _deviations(contents, folder, session, signature, batch)
    steps = {spec.name: spec.step for spec in signature.outputs}
    tolerance = {}
    for name, array in outputs.items():
        spread = max((float(np.abs(other[name] - array).max(initial=0.0)) for other in others), default=0.0)
        scale = float(np.abs(array).max(initial=0.0))
        tolerance[name] = max(min(4 * spread, scale), 1e-5 * scale, 1.001 * steps.get(name, 0.0), 1e-9)
    arrays: dict[str, Array] = {f"input.{name}": array for name, array in batch.items()}
    arrays |= {f"output.{name}": array for name, array in outputs.items()}
    rows = splits.rows(Part.SELECT, numbers)
    ready = splits.preprocess.identity and not splits.preprocess.gathers
    raw_axes = {}
    if not splits.preprocess.gathers and not set(rows) & set(batch):  # one array fits one input, whatever its name
        rows = {next(spec.name for spec in signature.inputs if not spec.held): next(iter(rows.values()))}
    for name, values in rows.items():
        raw_axes[name] = 1 + np.asarray(values[0]).ndim
        if not ready:
            arrays |= {f"raw.{name}.{at}": np.asarray(value) for at, value in enumerate(values)}
    np.savez_compressed(folder / "golden.npz", **arrays)  # type: ignore[arg-type]
    return Golden(count, tolerance), raw_axes


def _deviations(
    contents: Contents, folder: Path, session: Session, signature: Signature, batch: Batch
) -> list[dict[str, Array]]:
    """Run the golden inputs in other ways that should make no difference."""
    found = []
    if signature.batch is None:
        count = signature.count(batch)
        singles = [signature.take(batch, at, at + 1) for at in range(count)]
        found.append(predict(session, signature, singles))
    form = contents.stored.format
    if form in _PLAIN:
        plain_options = {**contents.deployment.options, **_PLAIN[form]}
        shipped = Stored(form, next(path for path in folder.iterdir() if path.suffix == f".{form}"))
        with (
            suppress(RuntimeFailure),  # some files are not to be run so
            open_session(shipped, replace(contents.deployment, options=plain_options)) as other,
        ):
            found.append(predict(other, signature, [batch]))
    return found


def _reference(folder: Path, contents: Contents, session: Session, signature: Signature) -> None:
    """Record histograms of inputs and outputs, which later traffic is compared with."""
    batches = list(contents.splits.batches(Part.SELECT, 64, limit=_REFERENCE_SAMPLES))
    values: dict[str, list[Array]] = {}
    for batch in batches:  # one by one: where texts are padded by the batch, outputs differ in length
        bound, outputs = signature.bind(batch), predict(session, signature, [batch])
        named = {f"input.{name}": array for name, array in bound.items()}
        for name, array in (named | {f"output.{name}": array for name, array in outputs.items()}).items():
            values.setdefault(name, []).append(array.ravel())
    found: dict[str, Array] = {}
    for name, arrays in values.items():
        counts, edges = np.histogram(np.concatenate(arrays).astype(np.float64), _BINS)
        found[f"{name}.counts"], found[f"{name}.edges"] = counts, edges
    np.savez_compressed(folder / "reference.npz", **found)  # type: ignore[arg-type]
