"""Open the model of a bundle in its runtime: ONNX Runtime, LiteRT or torch.

This file travels in bundles beside ``predict.py``, which reads it once every checksum of the bundle is right.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

_JSON = {str: "text", dict: "an object", list: "a list"}
_KEYS = {
    "format": str, "file": str, "signature": dict, "output": str, "deployment": dict, "golden": dict,
    "raw_axes": dict, "files": dict,
}  # fmt: skip
_SPEC_KEYS = {"name": str, "dtype": str, "shape": list}


class ModelError(ValueError):
    """The model cannot be opened, or cannot answer."""


def open_model(folder: Path, manifest: Any, threads: int, module: Any, code: Any) -> Any:
    """Return a callable from named inputs to named outputs, both as the manifest's signature has them.

    Args:
        folder: The bundle.
        manifest: What its ``manifest.json`` says.
        threads: Of one call.
        module: The torch module to fill, or None to build it.
        code: Imports a file of the bundle by its name.

    Raises:
        ModelError: The model's file is damaged, or not what the manifest says.
        ImportError: The runtime is not installed.
    """
    with model_errors("the model cannot be opened"):
        model = _OPENERS[manifest["format"]](folder, manifest, threads, module, code)

    def run(tensors: Any) -> Any:
        with model_errors("the model cannot answer"):
            return model(tensors)

    return run


def check_manifest(manifest: Any) -> None:
    """Refuse a manifest that lacks what is needed here, or has it of a wrong type.

    Raises:
        ModelError: What is wrong, by its key.
    """
    _check_keys(manifest, _KEYS, "manifest.json")
    if manifest["format"] not in _OPENERS:
        known = ", ".join(_OPENERS)
        raise ModelError(f"manifest.json has format {manifest['format']!r}; this predict.py runs {known}")
    for side in ("inputs", "outputs"):
        specs = manifest["signature"].get(side)
        if not isinstance(specs, list) or not specs:
            raise ModelError(
                f"manifest.json is damaged (signature.{side} is no list of tensors); restore the bundle"
            )
        for spec in specs:
            _check_keys(spec, _SPEC_KEYS, f"manifest.json, signature.{side}")
            _check_spec(spec)
    if manifest["output"] not in {spec["name"] for spec in manifest["signature"]["outputs"]}:
        raise ModelError(
            f"manifest.json is damaged (there is no output {manifest['output']!r}); restore the bundle"
        )
    if all(spec["sample"] is None for spec in manifest["signature"]["inputs"]):
        raise ModelError("manifest.json is damaged (no input has samples); restore the bundle")
    file = manifest["file"]
    if not any(name == file or name.startswith(f"{file}/") for name in manifest["files"]):
        raise ModelError(f"manifest.json has no checksum of the model, {file!r}; restore the bundle")


def _check_keys(found: Any, keys: Any, where: str) -> None:
    for key, kind in keys.items():
        value = found.get(key) if isinstance(found, dict) else found
        if not isinstance(value, kind):
            was = "absent" if value is None else f"{str(value)[:40]!r}"
            raise ModelError(f"{where} is damaged ({key} is {was}, not {_JSON[kind]}); restore the bundle")


def _check_spec(spec: Any) -> None:
    """Refuse what is no shape, axis or bound; what may be left out gets its default."""
    shape, axis = spec["shape"], spec.setdefault("sample", 0)
    example = spec.setdefault("example", [])
    bounds = [spec.setdefault(key, None) for key in ("low", "high")]
    try:
        ok = np.dtype(spec["dtype"]).kind in "biuf"
    except TypeError:
        ok = False
    ok = ok and all(size is None or (type(size) is int and 0 <= size < 1 << 31) for size in shape)
    ok = ok and (axis is None or (type(axis) is int and 0 <= axis < len(shape)))
    ok = ok and isinstance(example, list) and all(type(size) is int for size in example)
    ok = ok and all(bound is None or type(bound) in (int, float) for bound in bounds)
    if bounds[0] is not None and bounds[0] == bounds[1]:  # a constant input needs a length for each free axis
        ok = ok and (len(example) == len(shape) or None not in shape[:axis] + shape[(axis or 0) + 1 :])
    if not ok:
        text = json.dumps(spec)[:200]
        raise ModelError(f"manifest.json is damaged (this is no tensor: {text}); restore the bundle")


@contextlib.contextmanager
def model_errors(what: str) -> Any:
    """Turn whatever a runtime, or a module's own code, raises in the block into one line."""
    try:
        yield
    except (ModelError, ImportError, MemoryError):
        raise
    except (Exception, SystemExit) as error:  # each runtime has errors of its own, with no common ancestor
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(f"{what} ({type(error).__name__}: {' '.join(lines[:2])[:300]})") from error


def _onnx(folder: Path, manifest: Any, threads: int, module: Any, code: Any) -> Any:
    """Open an ONNX file in ONNX Runtime."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what fails is raised, and said once
    providers = [manifest["deployment"]["provider"]] if manifest["deployment"].get("provider") else None
    available = onnxruntime.get_available_providers()
    if not providers or providers[0] not in available:
        providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(folder / manifest["file"]), options, providers=providers)
    names = [output.name for output in session.get_outputs()]
    return _in_batches(lambda tensors: dict(zip(names, session.run(names, tensors), strict=True)), manifest)


def _tflite(folder: Path, manifest: Any, threads: int, module: Any, code: Any) -> Any:
    """Open a TFLite file in LiteRT; numbers go in and come out, whatever integers the file holds."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kinds = OpResolverType
    kernels = {"builtin": kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES, "reference": kinds.BUILTIN_REF}
    kind = kernels.get(manifest["deployment"].get("kernels"), kinds.BUILTIN)
    with _quiet():
        interpreter = Interpreter(
            str(folder / manifest["file"]), num_threads=threads, experimental_op_resolver_type=kind
        )
        interpreter.allocate_tensors()
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    names = [[spec["name"] for spec in manifest["signature"][key]] for key in ("inputs", "outputs")]
    coded = {
        spec["name"] for key in ("inputs", "outputs") for spec in manifest["signature"][key] if spec.get("coded")
    }
    shapes: Any = []

    def run(tensors: Any) -> Any:
        wanted = [list(tensors[name].shape) for name in names[0]]
        if wanted != shapes:
            for shape, details in zip(wanted, inputs, strict=True):
                interpreter.resize_tensor_input(details["index"], shape)
            interpreter.allocate_tensors()
            shapes[:] = wanted
        interpreter.reset_all_variables()
        for name, details in zip(names[0], inputs, strict=True):
            interpreter.set_tensor(details["index"], _coded(tensors[name], details))
        interpreter.invoke()
        found = {}
        for name, details in zip(names[1], outputs, strict=True):
            array, (scale, zero) = interpreter.get_tensor(details["index"]), details["quantization"]
            number = (array.astype(np.float32) - np.float32(zero)) * np.float32(scale) if name in coded else array
            found[name] = number
        return found

    return _in_batches(run, manifest)


def _coded(array: Any, details: Any) -> Any:
    """Return an input in the integers by which a quantized tensor holds numbers, cut off at their ends."""
    kind, (scale, zero) = details["dtype"], details["quantization"]
    if array.dtype == kind:
        return np.ascontiguousarray(array)
    bounds = np.iinfo(kind)
    if np.isnan(array).any():
        raise ModelError(f"an input has values that are no numbers (NaN), which {np.dtype(kind)} cannot hold")
    return np.ascontiguousarray(np.clip(np.rint(array / np.float32(scale)) + zero, bounds.min, bounds.max), kind)


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep LiteRT from saying on standard error, past Python, that it made its delegate."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def batch_axes(specs: Any) -> Any:
    """Return which axis counts samples, by name; None of what is the same for all samples."""
    return {spec["name"]: spec.get("sample", 0) for spec in specs}


def _in_batches(call: Any, manifest: Any) -> Any:
    """Return what runs a model on any number of samples; one of a fixed batch size so many at a time."""
    inputs = manifest["signature"]["inputs"]
    axes, out = batch_axes(inputs), batch_axes(manifest["signature"]["outputs"])
    first = next(spec for spec in inputs if axes[spec["name"]] is not None)
    name, fixed = first["name"], first["shape"][axes[first["name"]]]

    def run(tensors: Any) -> Any:
        if not fixed:
            return call(tensors)
        count = tensors[name].shape[axes[name]]
        parts = []
        for start in range(0, count, fixed):
            numbers = np.minimum(np.arange(start, start + fixed), count - 1)
            batch = {key: value if axes[key] is None else value.take(numbers, axes[key])
                     for key, value in tensors.items()}  # fmt: skip
            parts.append(call(batch))
        kept = [key for key in parts[0] if out[key] is not None]
        whole = {key: np.concatenate([part[key] for part in parts], out[key]) for key in kept}
        return {key: value.take(np.arange(count), out[key]) for key, value in whole.items()}

    return run


def _torch(folder: Path, manifest: Any, threads: int, module: Any, code: Any) -> Any:
    """Rebuild a torch module: its class from the factory's file, then the edits, then the weights."""
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    model = folder / manifest["file"]
    structure = json.loads((model / "model.json").read_text(encoding="utf-8"))
    if module is None:
        module = _built(folder / "source.py", model, structure["origin"]["factory"], code)
    module = code("torch_edits").replay(module.eval(), structure["edits"])
    module.load_state_dict(load_file(str(model / "weights.safetensors")))
    module.eval()
    names = [spec["name"] for spec in manifest["signature"]["outputs"]]
    call = _compiled(module) if manifest["deployment"].get("compile") else module

    def run(tensors: Any) -> Any:
        with torch.inference_mode():
            found = call(**{key: torch.from_numpy(np.array(value)) for key, value in tensors.items()})
        return {name: value.numpy() for name, value in zip(names, _tensors(found, torch.Tensor), strict=True)}

    return run


def _compiled(module: Any) -> Any:
    """Have torch translate a module as it was measured; where it cannot here, the first answer says so."""
    import torch

    compiled: Any = torch.compile(module, options={"compile_threads": 1})  # no pool of processes for one module

    def call(**tensors: Any) -> Any:
        for tensor in tensors.values():
            torch._dynamo.maybe_mark_dynamic(tensor, 0)  # any number of samples, translated once
        try:
            return compiled(**tensors)
        except Exception as error:  # torch raises whatever its stages do
            cure = "install g++ or clang++, or run it eagerly, and slower: --eager, Predictor(compiled=False)"
            first = (str(error).splitlines() or [""])[0]
            raise ModelError(f"torch.compile fails here ({type(error).__name__}: {first}); {cure}") from error

    return call


def _built(source: Path, model: Path, name: str, code: Any) -> Any:
    """Return a new module: from a config of transformers, or from the user's file."""
    if (model / "config.json").exists():
        import transformers

        config = transformers.AutoConfig.from_pretrained(str(model), trust_remote_code=False, local_files_only=True)
        config.return_dict, config.use_cache = True, False
        kind = getattr(transformers, (config.architectures or [""])[0], None)
        return transformers.AutoModel.from_config(config) if kind is None else kind(config)
    if (model / "program.pt2").exists():
        import torch

        exported = torch.export.load(str(model / "program.pt2"))
        program, places = exported.module(), len(exported.example_inputs[0])

        def placed(_: Any, args: Any, named: Any) -> Any:
            return (*args, *list(named.values())[:places]), dict(list(named.items())[places:])

        program.register_forward_pre_hook(placed, with_kwargs=True, prepend=True)
        for word in ("train", "eval"):  # torch has them raise, since they would change nothing
            program.__dict__.pop(word, None)
        return program
    if not source.exists():
        raise ModelError("this model's class lived in another program's memory: give Predictor(module=...)")
    sys.path.insert(0, str(source.with_suffix("")))  # what it imports of its own
    return getattr(code("source"), name)()


def _tensors(found: Any, kind: Any) -> list[Any]:
    """Return the tensors in what a module returned, in order."""
    if isinstance(found, kind):
        return [found]
    parts = found.values() if hasattr(found, "values") else found if isinstance(found, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part, kind)]


_OPENERS = {"onnx": _onnx, "torch": _torch, "tflite": _tflite}
