"""The adapter to PyTorch."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from whet import plain
from whet.errors import ModelError, SignatureError, in_one_line
from whet.models.model import Model
from whet.models.source import BundleSource, Source
from whet.models.torch import counting, edits, origin
from whet.storage import storage_errors, write_text
from whet.types import Format, Layer, Signature, TensorSpec

if TYPE_CHECKING:
    from whet.types import Array, Batch

_STRUCTURE, _WEIGHTS = "model.json", "weights.safetensors"


@dataclass(frozen=True, slots=True)
class TorchPayload:
    """A module and the edits that made it out of its origin."""

    module: nn.Module
    edits: tuple[edits.Edit, ...] = ()


@dataclass(frozen=True, slots=True)
class Structure:
    """What ``model.json`` holds: where the module comes from, and what was done to it since."""

    origin: Source | None
    edits: list[edits.Edit]


class TorchAdapter:
    """Opens, stores and runs ``torch.nn.Module``."""

    format = Format.TORCH

    def open(self, source: Source, sample: Batch | None) -> Model:
        """Build the user's module; its signature is found by running it on a sample."""
        payload = TorchPayload(origin.build_trained(source))
        declared = origin.inputs(source, payload.module)
        if sample is None and declared:
            sample = _named(payload.module, declared, batch=2)
        elif sample is not None and not source.inputs:
            sample = _fitted(_bind(payload.module, sample), declared)
        signature = None if sample is None else find_signature(payload.module, sample, declared)
        return Model(self.format, payload, signature, source=source)

    def save(self, model: Model, folder: Path) -> Path:
        """Write ``model.json`` (origin and edits), ``weights.safetensors``, and what the origin is built from."""
        state = {
            name: tensor.detach().clone().contiguous()
            for name, tensor in model.payload.module.state_dict().items()
            if isinstance(tensor, Tensor)
        }
        source = student_source(model.payload.edits) or model.source
        structure = {
            "origin": None if source is None else plain.builtins(source.plain()),
            "edits": [dict(edit) for edit in model.payload.edits],
        }
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            save_file(state, str(folder / _WEIGHTS))
            if source is not None:
                origin.keep(source, folder)
        write_text(folder / _STRUCTURE, plain.dumps(structure))
        return folder

    def load(self, path: Path, source: Source | None) -> TorchPayload:
        """Replay the edits on a fresh module and fill it.

        Args:
            path: The folder of the stored model.
            source: Where the original comes from; a student that has replaced it is built as the edits say. They
                may be a stranger's, though, where the source is a BundleSource: then it alone is followed.

        Raises:
            ModelError: The structure cannot be read, or does not say where the class comes from.
        """
        structure = read_structure(path)
        if source is None:
            name = structure.origin.factory if structure.origin is not None else "unknown"
            raise ModelError(
                f"{path} does not bring its class: the class ({name}) lived in the memory of another program, or "
                f"in a file elsewhere; give the model's source"
            )
        if not isinstance(source, BundleSource):
            source = student_source(structure.edits) or source
        source, given = origin.kept(source, path), structure.edits
        if edits.student_origin(given) is not None:  # what it is built from lies here now, to be stored again from
            given = [edits.student_edit(plain.builtins(source.plain())), *given[1:]]
        module = edits.replay(origin.build(source), given)
        state = load_file(str(path / _WEIGHTS), device="cpu")
        module.load_state_dict(state, strict=True)
        return TorchPayload(module.eval(), tuple(given))

    def files(self, path: Path) -> list[Path]:
        """Return the structure and the weights."""
        return [path / _STRUCTURE, path / _WEIGHTS, *origin.kept_files(path)]

    def clone(self, model: Model) -> Model:
        """Copy the module."""
        payload: TorchPayload = model.payload
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch, about the trees of its own programs
            return model.with_payload(TorchPayload(copy.deepcopy(payload.module), payload.edits))

    def forward(self, model: Model, batch: Batch) -> dict[str, Array]:
        """Run the module in inference mode."""
        return run(model.payload.module, batch)

    def layers(self, model: Model) -> list[Layer]:
        """Return the modules that own parameters, with their MACs for one sample where a sample is known."""
        if model.signature is None:
            return counting.layers(model.payload.module, None)
        macs = counting.macs(model.payload.module, tensors(model.signature.synthetic(1)))
        return [layer.of_one(model.signature.batch or 1) for layer in counting.layers(model.payload.module, macs)]

    def weights(self, model: Model) -> dict[str, Array]:
        """Return a copy of every floating parameter."""
        return {
            name: parameter.detach().cpu().float().numpy().copy()
            for name, parameter in model.payload.module.named_parameters()
            if parameter.is_floating_point()
        }

    def matrices(self, model: Model) -> dict[str, Array]:
        """Return the parameters that a pass may prune, and INT8 weights."""
        module = model.payload.module
        names = {name for layer in counting.layers(module, None) for name in layer.weights}
        found = {name: value.detach().float() for name, value in module.named_parameters() if name in names}
        found |= {name: value for name, value in module.named_buffers() if value.dtype == torch.int8}
        return {name: value.cpu().numpy() for name, value in found.items()}

    def with_weights(self, model: Model, weights: Mapping[str, Array]) -> Model:
        """Return a copy of the model with some parameters replaced."""
        model = self.clone(model)
        parameters = dict(model.payload.module.named_parameters())
        with torch.no_grad():
            for name, value in weights.items():
                parameters[name].copy_(torch.from_numpy(np.ascontiguousarray(value)))
        return model


def read_structure(path: Path) -> Structure:
    """Read what a stored model says of itself; follow its origin only where you wrote the folder yourself.

    Raises:
        ModelError: It cannot be read.
    """
    try:
        return plain.read_json(path / _STRUCTURE, Structure)
    except (OSError, ValueError) as error:
        raise ModelError(f"{path / _STRUCTURE} cannot be read ({error}); restore it, or make it anew") from error


def ship(folder: Path) -> None:
    """Take the folders of this machine out of a stored model that is about to travel in a bundle."""
    structure = read_structure(folder)
    student = student_source(structure.edits)
    shipped = [dict(edit) for edit in structure.edits]
    if student is not None:
        shipped[0] = dict(edits.student_edit(plain.builtins(student.without_folders())))
    origin = None if structure.origin is None else plain.builtins(structure.origin.without_folders())
    write_text(folder / _STRUCTURE, plain.dumps({"origin": origin, "edits": shipped}))


def stored_student(path: Path) -> Source | None:
    """Return where a stored model of this program's own cache comes from if a student has replaced the original."""
    return student_source(read_structure(path).edits)


def student_source(given: Sequence[edits.Edit]) -> Source | None:
    """Return where a module comes from that has taken the original's place."""
    found = edits.student_origin(given)
    return None if found is None else plain.convert(found, Source)


def _fitted(sample: Batch, known: tuple[TensorSpec, ...]) -> Batch:
    """Return data in the types that an origin is known to take; what is too long for it is refused."""
    specs = {spec.name: spec for spec in known}
    fixed = Signature(known, ()).batch
    if fixed is not None:
        sample = {name: np.resize(array, (fixed, *array.shape[1:])) for name, array in sample.items()}
    return {name: specs[name].fit(array) if name in specs else array for name, array in sample.items()}


def find_signature(module: nn.Module, sample: Batch, declared: tuple[TensorSpec, ...] = ()) -> Signature:
    """Run a module on a sample and say what goes in and what comes out.

    Args:
        module: In evaluation mode.
        sample: Inputs by name; one array may have any name and is bound to the first parameter.
        declared: Input specs the user gave: free axes and ranges are taken from them.

    Raises:
        SignatureError: The module does not take the sample, or returns no tensor by the sample.
    """
    sample = _bind(module, sample)
    known = {spec.name: spec for spec in declared}
    if len(declared) == 1:
        known = {next(iter(sample)): declared[0]}
    inputs = []
    for name, array in sample.items():
        spec = known.get(name, TensorSpec(name, "", (None, *array.shape[1:])))
        inputs.append(replace(spec, name=name, dtype=str(array.dtype), example=tuple(array.shape)))
    try:
        outputs = run(module, sample)
    except Exception as error:
        shapes = ", ".join(f"{spec}" for spec in inputs)
        raise SignatureError(
            f"the model cannot be run on the inputs {shapes}: {type(error).__name__}: {in_one_line(error)}; "
            "give data of the shape and type it takes, or make it so with --preprocess"
        ) from error
    return Signature(tuple(inputs), _outputs(module, sample, inputs, outputs))


def _outputs(
    module: nn.Module, sample: Batch, inputs: Sequence[TensorSpec], outputs: Mapping[str, Array]
) -> tuple[TensorSpec, ...]:
    """Return what comes out: the axis of samples is the one that is 1 for the first sample alone.

    Raises:
        SignatureError: An output has no such axis.
    """
    size = len(next(iter(sample.values())))
    alone = _try(module, {name: array[:1] for name, array in sample.items()})
    shorter = _try(module, _shortened(sample, inputs))
    specs = []
    for name, array in outputs.items():
        axis = _sample_axis(array.shape, alone[name].shape if name in alone else (), size)
        if axis is None:
            shape, count = (alone[name].shape, 1) if name in alone and len(array) == size else (array.shape, size)
            raise SignatureError(
                f"output {name!r} has shape {list(shape)} for {count} sample{'s' * (count > 1)}; "
                f"an axis of every output must be the sample"
            )
        free = [axis == at or (name in shorter and shorter[name].shape[at] != length)
                for at, length in enumerate(array.shape)]  # fmt: skip
        shape = tuple(None if is_free else length for is_free, length in zip(free, array.shape, strict=True))
        specs.append(TensorSpec(name, str(array.dtype), shape, sample=axis))
    return tuple(specs)


def _sample_axis(shape: tuple[int, ...], alone: tuple[int, ...], size: int) -> int | None:
    """Return the axis as long as there are samples that is 1 with one sample alone, and no other axis another."""
    if not alone:
        return 0 if shape and shape[0] == size else None
    wanted = [axis for axis, length in enumerate(shape) if length == size]
    return next((axis for axis in wanted if alone == (*shape[:axis], 1, *shape[axis + 1 :])), None)


def _shortened(sample: Batch, inputs: Sequence[TensorSpec]) -> Batch:
    """Return a sample one shorter along every free axis but the samples'; nothing where none is free."""
    cut = {}
    for spec in inputs:
        free = [size is None and axis != spec.sample and sample[spec.name].shape[axis] > 1
                for axis, size in enumerate(spec.shape)]  # fmt: skip
        cut[spec.name] = tuple(slice(0, -1) if is_free else slice(None) for is_free in free)
    if not any(part.stop for parts in cut.values() for part in parts):
        return {}
    return {name: array[cut[name]] for name, array in sample.items()}


def _try(module: nn.Module, batch: Batch) -> dict[str, Array]:
    """Run a module; nothing comes of one that does not take such a batch, or of no batch."""
    try:
        return run(module, batch) if batch else {}
    except Exception:  # noqa: BLE001 - from the user's own forward, which did well with another batch
        return {}


def tensors(batch: Batch) -> dict[str, Tensor]:
    """Return a batch as tensors that share its memory where they can."""
    return {name: torch.from_numpy(np.require(array, requirements=["C", "W"])) for name, array in batch.items()}


def run(module: nn.Module, batch: Batch) -> dict[str, Array]:
    """Run a module on named arrays."""
    with torch.inference_mode():
        return {name: value.numpy() for name, value in flatten(module(**tensors(batch))).items()}


def flatten(value: Any) -> dict[str, Tensor]:
    """Name the tensors a module returned.

    One tensor is ``output``; those of a tuple are ``output_0``, ``output_1``; those of a mapping keep their keys.
    """
    if isinstance(value, Tensor):
        return {"output": value}
    flat: dict[str, Tensor] = {}
    _collect(value, "", flat)
    if not flat:
        raise SignatureError(f"the model returned a {type(value).__name__} without tensors")
    return flat


def _collect(value: Any, name: str, flat: dict[str, Tensor]) -> None:
    if isinstance(value, Tensor):
        flat[name] = value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _collect(item, f"{name}_{key}".lstrip("_"), flat)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _collect(item, f"{name or 'output'}_{index}", flat)


def _bind(module: nn.Module, batch: Batch) -> Batch:
    """Return a batch whose names are the parameters of ``module.forward``, in its order."""
    parameters = inspect.signature(module.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if all(name in names for name in batch):
        return {name: batch[name] for name in names if name in batch}
    if len(batch) == 1 and names:
        return {names[0]: next(iter(batch.values()))}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return {name: batch[name] for name in dict.fromkeys([*names, *batch]) if name in batch}
    raise SignatureError(
        f"the model's forward takes {', '.join(names)}; the inputs are named {', '.join(batch)}; "
        f"name them as forward does"
    )


def _named(module: nn.Module, specs: tuple[TensorSpec, ...], batch: int) -> Batch:
    """Draw a synthetic sample for declared inputs, which may come without names."""
    drawn = Signature(specs, ()).synthetic(batch)
    return _bind(module, drawn)
