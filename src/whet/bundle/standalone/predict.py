"""Answer from this bundle with NumPy and the runtime alone.

    python predict.py picture.png other.jpg      one answer a picture
    python predict.py samples.npy                one sample, or a stack of them
    python predict.py samples.npz                named inputs, stacked
    python predict.py rows.csv                   one sample a line, numbers only
    python predict.py --golden                   check this machine against the outputs recorded in the bundle

Each answer is one line of JSON. In Python: ``Predictor(folder).predict(raw)``.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent


class Predictor:
    """The model of a bundle, with what turns raw inputs into tensors and outputs into answers."""

    def __init__(self, folder: Any = HERE, threads: int = 1, module: Any = None) -> None:
        """Open a bundle; ``module`` is the torch module to fill where its class cannot be had from a file."""
        self.folder = Path(folder)
        self.manifest = json.loads((self.folder / "manifest.json").read_text())
        code = _load("whet_preprocess", self.folder / "preprocess" / "preprocess.py")
        settings = (self.folder / "preprocess" / "preprocess.json").read_text()
        self.preprocess, self.postprocess = code.from_json(settings)
        self.read_raw = code.read_raw
        self.inputs = self.manifest["signature"]["inputs"]
        run = {"onnx": _onnx, "torch": _torch}[self.manifest["format"]]
        self._run = run(self.folder, self.manifest, threads, module)

    def outputs(self, raw: Any) -> Any:
        """Map raw inputs, an array (N, ...) or a dict of such, to the model's named outputs."""
        if not isinstance(raw, dict):
            raw = {"": raw}
        if len(raw) == len(self.inputs) == 1:  # one array fits a model of one input, whatever its name
            raw = {self.inputs[0]["name"]: next(iter(raw.values()))}
        tensors = {}
        for spec in self.inputs:
            if spec["name"] not in raw:
                names, given = (", ".join(some) for some in ([item["name"] for item in self.inputs], raw))
                raise ValueError(f"the model's inputs are {names}, these are {given}; name them as the model does")
            tensors[spec["name"]] = _fit(self.preprocess(raw[spec["name"]]), spec)
        return self._run(tensors)

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
        if path.suffix == ".csv":
            return {name: np.loadtxt(path, delimiter=",", ndmin=2).astype(self.inputs[0]["dtype"])}
        raw = self.read_raw(path)
        alone = path.suffix != ".npy" or raw.ndim < self.manifest["raw_axes"][name]
        return {name: raw[None] if alone else raw}

    def check_golden(self) -> float:
        """Return the greatest deviation from the recorded outputs, as a share of what is tolerated."""
        shares = []
        with np.load(self.folder / "golden.npz", allow_pickle=False) as golden:
            tensors = {spec["name"]: golden["input." + spec["name"]] for spec in self.inputs}
            for name, found in self._run(tensors).items():
                off = np.abs(found.astype(np.float64) - golden["output." + name]).max(initial=0.0)
                shares.append(float(off) / self.manifest["golden"]["tolerance"][name])
        return float(np.max(shares))  # NaN if any is


def _fit(array: Any, spec: Any) -> Any:
    """Return an input in the model's type; refuse one of another shape."""
    want, have = spec["shape"][1:], array.shape[1:]
    if len(want) != len(have) or any(size not in (None, given) for size, given in zip(want, have, strict=True)):
        shown = ["?" if size is None else size for size in want]
        raise ValueError(f"the model's input {spec['name']} is {shown} a sample, this is {list(have)}")
    return array.astype(spec["dtype"], copy=False)


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
    fixed = manifest["signature"]["inputs"][0]["shape"][0]

    def run(tensors: Any) -> Any:
        if not fixed:
            return dict(zip(names, session.run(names, tensors), strict=True))
        count = len(next(iter(tensors.values())))
        parts = []
        for start in range(0, count, fixed):
            numbers = np.minimum(np.arange(start, start + fixed), count - 1)
            parts.append(session.run(names, {key: value[numbers] for key, value in tensors.items()}))
        return {name: np.concatenate([part[at] for part in parts])[:count] for at, name in enumerate(names)}

    return run


def _torch(folder: Path, manifest: Any, threads: int, module: Any) -> Any:
    """Rebuild a torch module: its class from the factory's file, then the edits, then the weights."""
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(threads)
    model = folder / manifest["file"]
    structure = json.loads((model / "model.json").read_text())
    source = folder / "source.py"
    if module is None:
        if not source.exists():
            raise SystemExit("this model's class lived in another program's memory: give Predictor(module=...)")
        module = getattr(_load("whet_source", source), structure["origin"]["factory"])()
    edits = _load("whet_edits", folder / "torch_edits.py")
    module = edits.replay(module.eval(), structure["edits"])
    module.load_state_dict(load_file(str(model / "weights.safetensors")))
    module.eval()
    names = [spec["name"] for spec in manifest["signature"]["outputs"]]

    def run(tensors: Any) -> Any:
        with torch.inference_mode():
            found = module(**{key: torch.from_numpy(np.array(value)) for key, value in tensors.items()})
        return {name: value.numpy() for name, value in zip(names, _tensors(found, torch.Tensor), strict=True)}

    return run


def _tensors(found: Any, kind: Any) -> list[Any]:
    """Return the tensors in what a module returned, in order."""
    if isinstance(found, kind):
        return [found]
    parts = found.values() if hasattr(found, "values") else found if isinstance(found, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part, kind)]


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
    predictor = Predictor()
    if arguments[0] == "--golden":
        worst = predictor.check_golden()
        share = worst if np.isfinite(worst) else None
        print(json.dumps({"golden": "ok" if worst <= 1 else "off", "share_of_tolerance": share}))
        return 0 if worst <= 1 else 1
    for path in arguments:
        try:
            answers = predictor.predict(predictor.read(path))
        except (OSError, ValueError, ImportError) as error:
            print(f"error: {path}: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        for answer in answers:
            print(json.dumps({"input": path, "answer": answer}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
