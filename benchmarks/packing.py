"""Pack real models, and print what packing takes and gives: size, speed, load time, equal outputs in two runtimes.

python benchmarks/packing.py [names]
"""

import argparse
import statistics
import time
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import models
import numpy as np
import onnxruntime
import openvino

import whet
from whet import isolate
from whet.data.data import Part
from whet.measure import latency
from whet.models.adapter import adapter_for
from whet.models.model import Stored
from whet.passes.base import PassContext
from whet.passes.cluster.spec import Cluster
from whet.passes.export.spec import ExportOnnx
from whet.passes.graph.spec import CleanGraph, FuseTransformer, OptimizeGraph
from whet.passes.pack.spec import Pack
from whet.passes.prune.spec import MagnitudePrune
from whet.passes.quantize.spec import DynamicInt8, StaticInt8
from whet.runtimes.base import Deployment
from whet.trials.opened import Contestant, raced

WEIGHTS, IMAGES = models.ASSETS / "models", models.ASSETS / "images"
GREY = "scale=1/255; mean=0.2860; std=0.3530"
RGB = "scale=1/255; mean=imagenet; std=imagenet; layout=CHW"
FASHION = IMAGES / "fashion-mnist"
CASES = {
    "fashion_cnn, static INT8 of 4 bits": (
        "fashion_cnn", "fashion/fashion_cnn.safetensors", FASHION, f"{GREY}; layout=CHW",
        [StaticInt8(weight_bits=4)]),
    "fashion_lstm, dynamic INT8 of 4 bits": (
        "fashion_lstm", "fashion/fashion_lstm.safetensors", FASHION, GREY, [DynamicInt8(weight_bits=4)]),
    "resnet20, static INT8 of 4 bits": (
        "resnet20", "resnet20-cifar10/resnet20.safetensors", IMAGES / "cifar10", RGB, [StaticInt8(weight_bits=4)]),
    "resnet20, static INT8 of 6 bits": (
        "resnet20", "resnet20-cifar10/resnet20.safetensors", IMAGES / "cifar10", RGB, [StaticInt8(weight_bits=6)]),
    "resnet20, float of 16 values": (
        "resnet20", "resnet20-cifar10/resnet20.safetensors", IMAGES / "cifar10", RGB, [Cluster(clusters=16)]),
    "resnet20, 80 % zeros, 16 values, static INT8": (
        "resnet20", "resnet20-cifar10/resnet20.safetensors", IMAGES / "cifar10", RGB,
        [MagnitudePrune(sparsity=0.8), Cluster(clusters=16, grid=True), StaticInt8(calibration="percentile")]),
    "sentence_encoder, 16 values, dynamic INT8": (
        "sentence_encoder", None, None, None,
        [FuseTransformer(), Cluster(clusters=16), DynamicInt8()]),
}  # fmt: skip
TOKENS = tuple(f"{name}=int64[1,64]:0..{most}" for name, most in (("input_ids", 30000), ("attention_mask", 1)))


def applied(request, model, data=None):
    with TemporaryDirectory() as folder:
        return request.apply(model, PassContext(Path(folder), data=data)).model


def pair(case, folder):
    """Return the unpacked and the packed file of a case as contestants, and four bytes a parameter of the model."""
    factory, weights, images, preprocess, passes = CASES[case]
    data = None if images is None else whet.dataset(images, preprocess=preprocess)
    if data is None:
        shown = {"input": TOKENS}
    else:
        shape = next(iter(data.batch(Part.TEST, range(1)).values())).shape
        shown = {"input": f"x=float32[{','.join(map(str, shape))}]"}
    model = whet.load(f"{WEIGHTS}/zoo.py:{factory}", weights=weights and WEIGHTS / weights, **shown)
    given = 4 * sum(array.size for array in adapter_for(model.format).weights(model).values())
    for step in (ExportOnnx(), OptimizeGraph(), *passes):
        model = applied(step, model, data)
    found = {}
    for name, steps in (("unpacked", [CleanGraph()]), ("packed", [Pack(), CleanGraph()])):
        each = model
        for step in steps:
            each = applied(step, each)
        path = adapter_for(each.format).save(each, folder / name)
        found[name] = Contestant(Stored(each.format, path), each.signature, Deployment())
    return found, given


def race(contestants, count, on_event):
    timings, _ = raced(contestants, contestants["packed"].signature.synthetic(count), latency.USUAL, on_event)
    return latency.speedup(timings, "packed", "unpacked", count)


def seconds(action):
    """Return the least processor time of five."""
    found = []
    for _ in range(5):
        start = time.process_time()
        action()
        found.append(time.process_time() - start)
    return min(found)


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def compiled(path):
    return openvino.Core().compile_model(
        str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    )


def in_openvino(files, batch):
    """Return how far outputs differ, as a share of the greatest, and how many times as fast the packed file is.

    Both are opened anew for each of 7 blocks of calls in turns; the ratio is the median of those of the blocks.
    """
    ratios = []
    for block in range(7):
        order = sorted(files, reverse=bool(block % 2))
        opened = {name: compiled(files[name]) for name in order}
        wanted, have = (opened[name](dict(batch))[0] for name in ("unpacked", "packed"))
        times = {name: [] for name in order}
        for _ in range(40):
            for name, model in opened.items():
                start = time.perf_counter()
                model(dict(batch))
                times[name].append(time.perf_counter() - start)
        ratios.append(statistics.median(times["unpacked"]) / statistics.median(times["packed"]))
    return float(np.abs(have - wanted).max() / np.abs(wanted).max()), statistics.median(ratios)


def show(case):
    with TemporaryDirectory() as folder:
        contestants, given = pair(case, Path(folder))
        files = {name: each.stored.path for name, each in contestants.items()}
        batch = dict(contestants["packed"].signature.synthetic(4))
        outputs = [session(path).run(None, batch) for path in files.values()]
        equal = all(np.array_equal(one, other) for one, other in zip(*outputs, strict=True))
        print(f"\n{case}: outputs in ONNX Runtime {'equal' if equal else 'DIFFER'}")
        for name, path in files.items():
            content = path.read_bytes()
            print(
                f"   {name:<9} {len(content):>10,} bytes, {given / len(content):.2f}x smaller, deflated "
                f"{given / len(zlib.compress(content, 9)):.2f}x; opens in "
                f"{1e3 * seconds(lambda path=path: session(path)):.1f} ms, in OpenVINO "
                f"{1e3 * seconds(lambda path=path: compiled(path)):.1f} ms"
            )
        for count in (1, 32):
            found = isolate.call(race, contestants, count)
            print(
                f"   batch {count}: packed is {found.value:.3f}x as fast "
                f"({found.interval.low:.3f} to {found.interval.high:.3f})"
            )
        for count in (1, 32):
            try:
                off, ratio = in_openvino(files, contestants["packed"].signature.synthetic(count))
            except RuntimeError as error:  # operators of ONNX Runtime's own
                print(f"   OpenVINO: {str(error).strip().splitlines()[-1][:150]}")
                break
            print(
                f"   OpenVINO, batch {count}: outputs differ by {off:.1e} of the greatest, packed is {ratio:.3f}x "
                "as fast"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of cases' names")
    asked = parser.parse_args()
    for case in CASES:
        if not asked.names or any(name in case for name in asked.names):
            show(case)


if __name__ == "__main__":
    main()
