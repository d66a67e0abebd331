"""Train real models for integers of few bits, and print what is left of them in the file that ships.

python benchmarks/quantization.py resnet20 --bits 3 [--edge-bits 8] [--epochs 5] [--out FOLDER]
python benchmarks/quantization.py mobilenetv1_025 --bits 0 --equalize --bias-correction --max-error 0.003 --race

--bits 0 trains nothing; --weight-bits rounds without training; --race times the packed file in turns with the float
file and with plain static INT8. A run that was killed goes on in the same folder.
"""

import argparse
import time
from pathlib import Path

import models
import numpy as np
import onnx
import packing
import torch
from racing import race

import whet
from whet.data.data import Part
from whet.models.adapter import adapter_for
from whet.passes.base import PassContext
from whet.passes.export.spec import ExportOnnx
from whet.passes.graph.spec import CleanGraph, OptimizeGraph
from whet.passes.pack.spec import Pack
from whet.passes.quantize.spec import Equalize, StaticInt8
from whet.passes.quantize.trained import Qat
from whet.train.spec import Recovery

WEIGHTS, IMAGES = models.ASSETS / "models", models.ASSETS / "images"
GREY = "scale=1/255; mean=0.2860; std=0.3530; layout=CHW"
RGB = "scale=1/255; mean=imagenet; std=imagenet; layout=CHW"
PETS = f"{Path(__file__).parent / 'models.py'}:imagenet_like"
CASES = {
    "fashion_cnn": (WEIGHTS / "fashion" / "fashion_cnn.safetensors", IMAGES / "fashion-mnist", GREY),
    "resnet20": (WEIGHTS / "resnet20-cifar10" / "resnet20-12fca82f.th", IMAGES / "cifar10", RGB),
    "mobilenetv1_025": (WEIGHTS / "mobilenetv1-0.25-imagenet" / "mobilenetv1-0.25.safetensors", PETS, None),
}


class Case:
    """A model, its data, and what it answers as it is."""

    def __init__(self, name):
        weights, data, preprocess = CASES[name]
        self.splits = whet.dataset(data, preprocess=preprocess)
        shape = next(iter(self.splits.batch(Part.TEST, range(1)).values())).shape
        self.load = lambda: whet.load(
            f"{WEIGHTS}/zoo.py:{name}", weights=weights, input=f"x=float32[{','.join(map(str, shape))}]"
        )
        self.original = self.load()
        self.parts = [part for part in (Part.SELECT, Part.TEST) if self.splits.size(part)]
        self.labels = np.concatenate([self.splits.labels(part) for part in self.parts])
        self.answers = self.classes(self.original)
        self.bytes = 4 * sum(each.size for each in adapter_for("torch").weights(self.original).values())

    def classes(self, model):
        """Return the class that a model gives each sample of select and test."""
        adapter = adapter_for(model.format)
        lots = (lot for part in self.parts for lot in self.splits.batches(part, 100))
        found = [next(iter(adapter.forward(model, model.signature.bind(lot)).values())).argmax(1) for lot in lots]
        return np.concatenate(found)

    def tell(self, what, model, path=None):
        """Print how right a model is, how often it agrees with the original, and how much smaller its file is."""
        classes = self.classes(model)
        right, agreed = (classes == self.labels).mean(), (classes == self.answers).mean()
        size = ""
        if path is not None:
            onnx.save(model.payload, path)
            size = f", {path.stat().st_size:,} bytes, {self.bytes / path.stat().st_size:.2f}x smaller"
        print(f"   {what:<28} {100 * right:6.2f} %, agrees on {100 * agreed:6.2f} %{size}", flush=True)


def trained(model, asked, context):
    """Return a model trained for integers, and print what that took."""
    how = Recovery(epochs=asked.epochs, learning_rate=asked.learning_rate, batch_size=asked.batch_size)
    qat = Qat(weight_bits=asked.bits, edge_bits=asked.edge_bits, freeze=asked.freeze, recovery=how)
    start = time.perf_counter()
    outcome = qat.apply(model, context)
    losses = ", ".join(f"{loss:.3g}" for loss in outcome.notes["losses"])
    before = outcome.notes["loss_before"]
    print(f"   trained {time.perf_counter() - start:.0f} s: loss {before:.3g}, then {losses}", flush=True)
    return outcome.model


def quantized(model, asked, context):
    """Return a float graph in INT8, and print how it was done."""
    static = StaticInt8(
        calibration=asked.calibration,
        weight_bits=asked.weight_bits,
        bias_correction=asked.bias_correction,
        max_error=asked.max_error,
    )
    start = time.perf_counter()
    for step in (Equalize(), static) if asked.equalize else (static,):
        outcome = step.apply(model, context)
        model = outcome.model
    error = outcome.notes.get("output_error", "not measured")
    print(f"   quantized in {time.perf_counter() - start:.0f} s, error on calibration samples {error}")
    print(f"   given back: {outcome.notes.get('given_back', 'none asked for')}", flush=True)
    return model


def twins(out, data):
    """Print how far the packed file's outputs are from the unpacked one's, in both runtimes, and its speed."""
    files = {name: out / f"{file}.onnx" for name, file in (("unpacked", "static"), ("packed", "packed"))}
    batch = {"x": next(iter(data.batch(Part.TEST, range(4)).values()))}
    one, other = (packing.session(path).run(None, batch)[0] for path in files.values())
    off, ratio = packing.in_openvino(files, batch)
    equal = "equal" if np.array_equal(one, other) else "DIFFERENT"
    print(
        f"   packed: outputs {equal} in ONNX Runtime; in OpenVINO off by {off:.1e}, {ratio:.2f}x as fast",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(CASES))
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--edge-bits", type=int, default=8)
    parser.add_argument("--weight-bits", type=int, default=8)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--freeze", type=float, default=0.3)
    parser.add_argument("--equalize", action="store_true")
    parser.add_argument("--bias-correction", action="store_true")
    parser.add_argument("--max-error", type=float, default=0.0)
    parser.add_argument("--calibration", default="percentile")
    parser.add_argument("--race", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/quantization"))
    show(parser.parse_args())


def show(asked):
    """Train, quantize and pack; print what is left at every step."""
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    case = Case(asked.name)
    context = PassContext(asked.out, data=case.splits, original=case.load)
    print(f"{asked.name}, {len(case.labels):,} samples")
    case.tell("original", case.original)
    model = trained(case.original, asked, context) if asked.bits else case.original
    for step in (ExportOnnx(), OptimizeGraph()):
        model = step.apply(model, context).model
    case.tell("float, exported", model, asked.out / "float.onnx")
    if asked.race:
        case.tell("static INT8 by default", StaticInt8().apply(model, context).model, asked.out / "plain.onnx")
    model = quantized(model, asked, context)
    case.tell("static INT8", model, asked.out / "static.onnx")
    for step in (CleanGraph(), Pack()):
        model = step.apply(model, context).model
    case.tell("packed", model, asked.out / "packed.onnx")
    twins(asked.out, case.splits)
    for size in (1, 32) if asked.race else ():
        for name in ("float", "plain"):
            race(asked.out / f"{name}.onnx", asked.out / "packed.onnx", f"packed against {name}", size)


if __name__ == "__main__":
    main()
