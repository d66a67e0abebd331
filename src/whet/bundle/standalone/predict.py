"""Answer from this bundle with NumPy and the runtime alone.

    python predict.py picture.png other.jpg      one answer a picture
    python predict.py samples.npy                one sample, or a stack of them
    python predict.py samples.npz                named inputs, stacked
    python predict.py rows.csv                   one sample a line: columns as the header names them, in any order,
                                                 or without a header in the order they were recorded in
    python predict.py sentences.txt              one text a line
    python predict.py series.csv                 of a time series, the last rows: what comes next
    python predict.py --golden                   check this machine against the outputs recorded in the bundle
    python predict.py --eager ...                a torch model that was deployed compiled, without compiling it

Each answer is one line of JSON. In Python: ``Predictor(folder).predict(raw)``.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent


class Predictor:
    """The model of a bundle, with what turns raw inputs into tensors and outputs into answers."""

    def __init__(self, folder: Any = HERE, threads: int = 1, module: Any = None, compiled: bool = True) -> None:
        """Open a bundle.

        ``module`` is the torch module to fill where its class cannot be had from a file. A torch model that was
        deployed compiled is compiled at its first answer (seconds to minutes), unless ``compiled`` is False.
        """
        self.folder = Path(folder)
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        code = _package(self.folder / "preprocess")
        settings = (self.folder / "preprocess" / "preprocess.json").read_text()
        self.preprocess, self.postprocess = code("preprocess").from_json(settings, self.folder / "preprocess")
        self.files = code("raw")
        self.inputs = self.manifest["signature"]["inputs"]
        run = {"onnx": _onnx, "torch": _torch, "tflite": _tflite}[self.manifest["format"]]
        if not compiled:
            self.manifest["deployment"].pop("compile", None)
        self._model = run(self.folder, self.manifest, threads, module)

    def outputs(self, raw: Any) -> Any:
        """Map raw inputs, an array (N, ...), texts, or a dict of such by name, to the model's named outputs."""
        raw = self.preprocess.inputs(raw if isinstance(raw, dict) else {"": raw})
        held = {spec["name"] for spec in self.inputs if spec["low"] is not None and spec["low"] == spec["high"]}
        asked = [spec["name"] for spec in self.inputs if spec["name"] not in held] or list(held)
        if len(raw) == len(asked) == 1 and not set(raw) & held:  # one array fits one input, whatever its name
            raw = {asked[0]: next(iter(raw.values()))}
        tensors = {}
        for spec in self.inputs:
            if spec["name"] not in raw and spec["name"] in held:
                tensors[spec["name"]] = _held(spec, len(next(iter(raw.values()))))
                continue
            if spec["name"] not in raw:
                names, given = (", ".join(some) for some in ([item["name"] for item in self.inputs], raw))
                raise ValueError(f"the model's inputs are {names}, these are {given}; name them as the model does")
            tensors[spec["name"]] = _fit(raw[spec["name"]], spec)
        return self._run(tensors)

    def _run(self, tensors: Any) -> Any:
        """Return the outputs by name, their axis of samples first; what is the same for all is left out."""
        found = self._model(tensors)
        axes = _axes(self.manifest["signature"]["outputs"])
        return {name: np.moveaxis(array, axes[name], 0) for name, array in found.items() if axes[name] is not None}

    def predict(self, raw: Any) -> Any:
        """Map raw inputs (N, ...) to N answers of plain data."""
        return self.postprocess(self.outputs(raw)[self.manifest["output"]])

    def read(self, path: Any) -> Any:
        """Read raw inputs from a file; a single sample gets its axis of samples."""
        path = Path(path)
        name = self.inputs[0]["name"]
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {key: archive[key] for key in archive.files}
        if path.suffix in self.files.TABLES:
            return self._table(path)
        raw = self.files.read_raw(path)
        alone = path.suffix != ".npy" or raw.ndim < self.manifest["raw_axes"][name]
        return {name: raw[None] if alone else raw}

    def _table(self, path: Path) -> Any:
        """Read a table: columns of cells; of a time series its last rows, as one sample; else rows of numbers."""
        wanted = self.preprocess.columns
        cells, _ = self.files.read_table(path, wanted or ("",))
        if wanted and not self.preprocess.window:
            return cells
        name = self.inputs[0]["name"]
        if not wanted:
            return {name: np.array(list(cells.values()), float).T.astype(self.inputs[0]["dtype"])}
        length, values = self.preprocess.window, self.preprocess.table[0](cells)
        if len(values) < length:
            raise ValueError(f"it has {len(values)} rows, the model looks at {length}; give as many or more")
        return {name: values[None, -length:]}

    def check_golden(self) -> float:
        """Return the greatest deviation from the recorded outputs, as a share of what is tolerated."""
        shares = []
        with np.load(self.folder / "golden.npz", allow_pickle=False) as golden:
            tensors = {spec["name"]: golden["input." + spec["name"]] for spec in self.inputs}
            for name, found in self._run(tensors).items():
                off = np.abs(found.astype(np.float64) - golden["output." + name]).max(initial=0.0)
                shares.append(float(off) / self.manifest["golden"]["tolerance"][name])
        return float(np.max(shares))  # NaN if any is


def _axes(specs: Any) -> Any:
    """Return which axis is the sample, by name; None of what is the same for all samples."""
    return {spec["name"]: spec.get("sample", 0) for spec in specs}


def _held(spec: Any, count: int) -> Any:
    """Return an input that has one value, for so many samples."""
    shape = [
        size or (count if axis == spec.get("sample", 0) else spec["example"][axis])
        for axis, size in enumerate(spec["shape"])
    ]
    return np.full(shape, spec["low"]).astype(spec["dtype"])


def _fit(array: Any, spec: Any) -> Any:
    """Return an input in the model's type, or in the integers that a quantized one holds; refuse another shape."""
    want, have = spec["shape"][1:], array.shape[1:]
    if len(want) != len(have) or any(size not in (None, given) for size, given in zip(want, have, strict=True)):
        shown = ["?" if size is None else size for size in want]
        raise ValueError(f"the model's input {spec['name']} is {shown} a sample, this is {list(have)}")
    return array.astype(array.dtype if array.dtype == spec.get("coded") else spec["dtype"], copy=False)


def _onnx(folder: Path, manifest: Any, threads: int, module: Any) -> Any:
    """Open an ONNX file in ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    providers = [manifest["deployment"]["provider"]] if manifest["deployment"].get("provider") else None
    available = onnxruntime.get_available_providers()
    if not providers or providers[0] not in available:
        providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(str(folder / manifest["file"]), options, providers=providers)
    names = [output.name for output in session.get_outputs()]
    return _in_lots(lambda tensors: dict(zip(names, session.run(names, tensors), strict=True)), manifest)


def _tflite(folder: Path, manifest: Any, threads: int, module: Any) -> Any:
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
    coded = {spec["name"] for key in ("inputs", "outputs") for spec in manifest["signature"][key] if spec["coded"]}

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

    return _in_lots(run, manifest)


def _coded(array: Any, details: Any) -> Any:
    """Return an input in the integers by which a quantized tensor holds numbers, cut off at their ends."""
    kind, (scale, zero) = details["dtype"], details["quantization"]
    if array.dtype == kind:
        return np.ascontiguousarray(array)
    holds = np.iinfo(kind)
    if np.isnan(array).any():
        raise ValueError(f"an input has values that are no numbers (NaN), which {np.dtype(kind)} cannot hold")
    return np.ascontiguousarray(np.clip(np.rint(array / np.float32(scale)) + zero, holds.min, holds.max), kind)


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep LiteRT from telling on standard error, past Python, that it made its delegate."""
    sys.stderr.flush()
    told, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(told, 2)
        os.close(told)
        os.close(nowhere)


def _in_lots(call: Any, manifest: Any) -> Any:
    """Return what runs a model on any number of samples, one of a fixed number so many at a time."""
    inputs = manifest["signature"]["inputs"]
    axes, out = _axes(inputs), _axes(manifest["signature"]["outputs"])
    first = next(spec for spec in inputs if axes[spec["name"]] is not None)
    name, fixed = first["name"], first["shape"][axes[first["name"]]]

    def run(tensors: Any) -> Any:
        if not fixed:
            return call(tensors)
        count = tensors[name].shape[axes[name]]
        parts = []
        for start in range(0, count, fixed):
            numbers = np.minimum(np.arange(start, start + fixed), count - 1)
            lot = {key: value if axes[key] is None else value.take(numbers, axes[key])
                   for key, value in tensors.items()}  # fmt: skip
            parts.append(call(lot))
        kept = [key for key in parts[0] if out[key] is not None]
        whole = {key: np.concatenate([part[key] for part in parts], out[key]) for key in kept}
        return {key: value.take(np.arange(count), out[key]) for key, value in whole.items()}

    return run


def _torch(folder: Path, manifest: Any, threads: int, module: Any) -> Any:
    """Rebuild a torch module: its class from the factory's file, then the edits, then the weights."""
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    model = folder / manifest["file"]
    structure = json.loads((model / "model.json").read_text())
    if module is None:
        module = _built(folder / "source.py", model, structure["origin"]["factory"])
    edits = _load("whet_edits", folder / "torch_edits.py")
    module = edits.replay(module.eval(), structure["edits"])
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
            told = (str(error).splitlines() or [""])[0]
            raise ValueError(f"torch.compile fails here ({type(error).__name__}: {told}); {cure}") from error

    return call


def _built(source: Path, model: Path, name: str) -> Any:
    """Return a new module: from a config of transformers, or from the user's file."""
    if (model / "config.json").exists():
        import transformers

        config = transformers.AutoConfig.from_pretrained(str(model), trust_remote_code=False)
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
        raise SystemExit("this model's class lived in another program's memory: give Predictor(module=...)")
    sys.path.insert(0, str(source.with_suffix("")))  # what it imports of its own
    return getattr(_load("whet_source", source), name)()


def _tensors(found: Any, kind: Any) -> list[Any]:
    """Return the tensors in what a module returned, in order."""
    if isinstance(found, kind):
        return [found]
    parts = found.values() if hasattr(found, "values") else found if isinstance(found, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part, kind)]


def _package(folder: Path) -> Any:
    """Return what imports the modules of a folder of the bundle, which know each other, by name."""
    sys.dont_write_bytecode = True
    name = f"whet_bundle_{hashlib.sha256(bytes(folder.resolve())).hexdigest()[:12]}"
    package: Any = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package
    return lambda module: importlib.import_module(f"{name}.{module}")


def _load(name: str, path: Path) -> Any:
    """Import one of the bundle's own files, and leave nothing behind in it."""
    sys.dont_write_bytecode = True
    spec: Any = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def main(arguments: list[str]) -> int:
    """Answer for each file named."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    eager = arguments[0] == "--eager"
    predictor, arguments = Predictor(compiled=not eager), arguments[eager:]
    if arguments[:1] == ["--golden"]:
        try:
            worst = predictor.check_golden()
        except ValueError as error:
            return _refuse("--golden", error)
        share = worst if np.isfinite(worst) else None
        print(json.dumps({"golden": "ok" if worst <= 1 else "off", "share_of_tolerance": share}))
        return 0 if worst <= 1 else 1
    for path in arguments:
        try:
            answers = predictor.predict(predictor.read(path))
        except (OSError, ValueError, ImportError) as error:
            return _refuse(path, error)
        for answer in answers:
            print(json.dumps({"input": path, "answer": answer}))
    return 0


def _refuse(what: str, error: Exception) -> int:
    """Tell in one line what cannot be answered, and why."""
    print(f"error: {what}: {' '.join(str(error).split())}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
