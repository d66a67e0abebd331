"""Train real models smaller, prove what ships, and race it against the best that needs no training.

    python benchmarks/compression.py fashion_cnn --out runs/compression
    python benchmarks/compression.py resnet20 fashion_lstm --out runs/compression

Each model goes through ``whet run`` with the recipes of ``benchmarks/recipes``: all test samples judge (what ranks
is set apart from the training samples), each file is reloaded in a fresh process. Then files are raced in turns,
and packed ones held against their unpacked twins in ONNX Runtime and in OpenVINO. A run that was killed goes on.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import whet
from whet import api
from whet.cli.console import Show
from whet.data.samples import Subset, samples_of
from whet.measure.measurement import value_of
from whet.measure.verdict import Budget
from whet.models.adapter import adapter_for
from whet.models.source import source_of
from whet.types import Format

sys.path.insert(0, str(Path(__file__).parent))
import models
import packing

RECIPES = Path(__file__).parent / "recipes"
SET_APART = 1000  # training samples that rank, so that every test sample judges
WEIGHTS = {
    "fashion_cnn": "fashion/fashion_cnn.safetensors",
    "fashion_lstm": "fashion/fashion_lstm.safetensors",
    "resnet20": "resnet20-cifar10/resnet20.safetensors",
}
GREY = {"scale": 1 / 255, "mean": (0.2860,), "std": (0.3530,)}
STEPS = {
    "fashion_cnn": (
        "graph-only", "static-int8", "pruned-half", "pruned-2to4", "pruned-qat", "pruned-qat-packed"),
    "resnet20": ("graph-only", "static-int8", "qat-4", "qat-4-packed", "qat-3-packed", "sparse-clustered"),
    "fashion_lstm": ("graph-only", "dynamic-int8", "pruned-units", "pruned-units-int8", "pruned-units-packed"),
}  # fmt: skip
RACES = {  # the second is how many times as fast as the first
    "fashion_cnn": (
        ("graph-only", "pruned-half"), ("pruned-half", "pruned-2to4"), ("static-int8", "pruned-qat-packed"),
        ("pruned-qat", "pruned-qat-packed")),
    "resnet20": (
        ("static-int8", "qat-4-packed"), ("qat-4", "qat-4-packed"), ("static-int8", "qat-3-packed"),
        ("static-int8", "sparse-clustered")),
    "fashion_lstm": (
        ("dynamic-int8", "pruned-units-int8"), ("dynamic-int8", "pruned-units-packed"),
        ("pruned-units-int8", "pruned-units-packed")),
}  # fmt: skip


def fashion_mnist():
    return _apart(models.ASSETS / "images" / "fashion-mnist", whet.Preprocess(**GREY, layout="CHW"))


def fashion_rows():
    return _apart(models.ASSETS / "images" / "fashion-mnist", whet.Preprocess(**GREY))


def cifar10():
    return _apart(models.ASSETS / "images" / "cifar10", whet.Preprocess(**models.IMAGENET))


def _apart(folder, preprocess):
    """Return data whose candidates are ranked on training samples that no training sees."""
    parts = whet.dataset(folder).parts
    train, select, test = (samples_of(parts[part]) for part in ("train", "select", "test"))
    assert test.base is select.base
    ranking = np.random.default_rng(0).permutation(len(train))[:SET_APART]
    rest = np.setdiff1d(np.arange(len(train)), ranking)
    return whet.Data(
        train=Subset(train, rest),
        select=Subset(train, np.sort(ranking)),
        test=test.base,
        task="classification",
        preprocess=preprocess,
    )


DATA = {"fashion_cnn": fashion_mnist, "fashion_lstm": fashion_rows, "resnet20": cifar10}


def recipe(name, step):
    """Return a recipe's file of this model, or of any model, or a preset's name."""
    own, shared = RECIPES / name / f"{step}.toml", RECIPES / f"{step}.toml"
    return next((path for path in (own, shared) if path.exists()), step)


def tell(result):
    """Print what came of one recipe."""
    if result.failure:
        print(f"   {result.name}: FAILED: {result.failure}", flush=True)
        return
    numbers = result.measurements
    answers = ", ".join(f"{verdict.answer} ({verdict.evidence})" for verdict in result.verdicts[:1])
    agreement = (result.comparison.fidelity or {}).get("agreement")
    print(
        f"   {result.name}: {value_of(numbers, 'size_bytes'):,.0f} bytes, {value_of(numbers, 'size_ratio'):.2f}x "
        f"smaller, {value_of(numbers, 'deflated_ratio'):.2f}x deflated; agrees on {agreement:.4f}; {answers}",
        flush=True,
    )
    for step in result.steps:
        recovery = step.notes.get("recovery", step.notes)
        for each in recovery if isinstance(recovery, list) else [recovery]:
            if isinstance(each, dict) and "epochs" in each:
                print(f"      {step.name}: {each['epochs']:.1f} epochs in {each['seconds']:.0f} s", flush=True)


def race(folder, first, second):
    """Print how many times as fast the second file is, in turns on one thread; twins in OpenVINO too."""
    files = [folder / "candidates" / name / "model.onnx" for name in (first, second)]
    if not all(file.exists() for file in files):
        print(f"   {second} against {first}: not there")
        return
    standing = whet.bench(*(file.parent for file in files), batch_sizes=(1, 32), threads=1)[1]
    for item in standing.measurements:
        if item.metric == "speedup":
            limits = f"{item.interval.low:.2f} to {item.interval.high:.2f}"
            batch, noise = item.conditions["batch_size"], item.conditions.get("noise", "")
            print(f"   {second} against {first}, batch {batch}: {item.value:.2f}x ({limits}) {noise}", flush=True)
    if second == f"{first}-packed":
        twins(*files)


def twins(unpacked, packed):
    """Print whether outputs are equal, and how fast the packed file is in OpenVINO."""
    batch = dict(adapter_for(Format.ONNX).open(source_of(str(packed)), None).signature.synthetic(4))
    outputs = [packing.session(path).run(None, batch) for path in (unpacked, packed)]
    equal = all(np.array_equal(one, other) for one, other in zip(*outputs, strict=True))
    off, ratio = packing.in_openvino({"unpacked": unpacked, "packed": packed}, batch)
    print(
        f"   {packed.parent.name}: outputs in ONNX Runtime {'equal' if equal else 'DIFFER'} to unpacked; in "
        f"OpenVINO they differ by {off:.1e} of the greatest, {ratio:.2f}x as fast",
        flush=True,
    )


def show(name, out):
    """Run all recipes of a model, print what came of each, and race their files."""
    zoo = models.ASSETS / "models"
    with Show() as watch:
        outcome = api.run(
            f"{zoo}/zoo.py:{name}",
            f"{Path(__file__).resolve()}:{DATA[name].__name__}",
            out / name,
            weights=zoo / WEIGHTS[name],
            recipes=[recipe(name, step) for step in STEPS[name]],
            budget=Budget(max_drop=0.01),
            threads=1,
            on_event=watch,
        )
    print(f"\n== {name}: {outcome.seconds:.0f} s", flush=True)
    for result in outcome.results:
        tell(result)
    for first, second in RACES[name]:
        race(out / name, first, second)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*STEPS, []])
    parser.add_argument("--out", type=Path, default=Path("runs/compression"))
    asked = parser.parse_args()
    for name in asked.names or STEPS:
        show(name, asked.out)


if __name__ == "__main__":
    main()
