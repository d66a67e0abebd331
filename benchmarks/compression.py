"""Train real models smaller, prove what ships, and race it against the best that needs no training.

    python benchmarks/compression.py fashion_cnn --out runs/compression
    python benchmarks/compression.py resnet20 fashion_lstm --out runs/compression

Each model goes through ``whet run`` with the recipes of ``benchmarks/recipes``: all test samples judge (what ranks
is set apart from the training samples), each file is reloaded in a fresh process. Then files are raced in turns,
and packed ones held against their unpacked twins in ONNX Runtime and in OpenVINO. A run that was killed goes on.
"""

import argparse
import sys
from dataclasses import dataclass
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
import racing
import real_models

RECIPES = Path(__file__).parent / "recipes"
SET_APART = 1000  # training samples that rank, so that every test sample judges
GREY = {"scale": 1 / 255, "mean": (0.2860,), "std": (0.3530,)}


@dataclass(frozen=True)
class Case:
    """A model of the zoo, its recipes, and which of their files are raced: the second against the first."""

    data: str
    recipes: tuple[str, ...]
    races: tuple[tuple[str, str], ...]
    weights: str = ""
    model: str = ""  # a file of the zoo's folder, in place of a factory
    batch_sizes: tuple[int, ...] = (1, 32)
    task: str | None = None
    preprocess: str | None = None


CASES = {
    "fashion_cnn": Case(
        "fashion_mnist",
        ("graph-only", "static-int8", "pruned-half", "pruned-2to4", "pruned-qat", "pruned-qat-packed"),
        (
            ("graph-only", "pruned-half"), ("pruned-half", "pruned-2to4"), ("static-int8", "pruned-qat-packed"),
            ("pruned-qat", "pruned-qat-packed"),
        ),
        "fashion/fashion_cnn.safetensors",
    ),
    "resnet20": Case(
        "cifar10",
        (
            "graph-only", "static-int8", "qat-4", "qat-4-packed", "qat-3", "qat-3-packed", "sparse-clustered",
            "sparse-clustered-packed",
        ),
        (
            ("static-int8", "qat-4-packed"), ("qat-4", "qat-4-packed"), ("qat-3", "qat-3-packed"),
            ("sparse-clustered", "sparse-clustered-packed"),
        ),
        "resnet20-cifar10/resnet20.safetensors",
    ),
    "resnet8": Case(
        "cifar10_pixels",
        ("graph-only", "static-int8", "pruned-half", "int4", "sparse-int4", "pruned-int4"),
        (),
        model="mlperf-tiny/pretrainedResnet.h5",
    ),
    "fashion_lstm": Case(
        "fashion_rows",
        (
            "graph-only", "dynamic-int8", "dynamic-4", "dynamic-4-packed", "pruned-units", "pruned-units-int8",
            "pruned-units-4", "pruned-units-4-packed",
        ),
        (
            ("dynamic-int8", "dynamic-4-packed"), ("dynamic-4", "dynamic-4-packed"),
            ("dynamic-int8", "pruned-units-int8"), ("pruned-units-4", "pruned-units-4-packed"),
        ),
        "fashion/fashion_lstm.safetensors",
    ),
    "sentence_encoder": Case(
        "text/stsb",
        ("graph-only", "dynamic-int8", "dynamic-5", "dynamic-5-packed", "int4-rtn", "int4-hqq"),
        (
            ("graph-only", "int4-rtn"), ("graph-only", "int4-hqq"), ("dynamic-int8", "int4-rtn"),
            ("dynamic-5", "dynamic-5-packed"),
        ),
        batch_sizes=(1, 8),
        task="similarity",
        preprocess=f"tokenizer={real_models.minilm()}; max_length=64",
    ),
}  # fmt: skip


def fashion_mnist():
    return _apart(models.ASSETS / "images" / "fashion-mnist", whet.Preprocess(**GREY, layout="CHW"))


def fashion_rows():
    return _apart(models.ASSETS / "images" / "fashion-mnist", whet.Preprocess(**GREY))


def cifar10():
    return _apart(models.ASSETS / "images" / "cifar10", whet.Preprocess(**models.IMAGENET))


def cifar10_pixels():
    return _apart(models.ASSETS / "images" / "cifar10", whet.Preprocess(layout="HWC"))


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


def recipe(name, step):
    """Return a recipe's file of this model, or a preset's name."""
    path = RECIPES / name / f"{step}.toml"
    return path if path.exists() else step


def tell(result):
    """Print what came of one recipe."""
    if result.failure:
        print(f"   {result.name}: FAILED: {result.failure}", flush=True)
        return
    numbers = result.measurements
    answers = ", ".join(f"{verdict.answer} ({verdict.evidence})" for verdict in result.verdicts[:1])
    agreement = result.comparison.fidelity.get("agreement")
    agrees = "" if agreement is None else f"agrees on {agreement:.4f}; "
    print(
        f"   {result.name}: {value_of(numbers, 'size_bytes'):,.0f} bytes, {value_of(numbers, 'size_ratio'):.2f}x "
        f"smaller, {value_of(numbers, 'deflated_bytes'):,.0f} deflated, "
        f"{value_of(numbers, 'deflated_ratio'):.2f}x; {agrees}{answers}",
        flush=True,
    )
    for step in result.steps:
        recovery = step.notes.get("recovery", step.notes)
        for each in recovery if isinstance(recovery, list) else [recovery]:
            if isinstance(each, dict) and "epochs" in each:
                print(f"      {step.name}: {each['epochs']:.1f} epochs in {each['seconds']:.0f} s", flush=True)


def race(folder, first, second, sizes):
    """Print how many times as fast the second file is, in turns on one thread; twins in OpenVINO too."""
    files = [folder / "candidates" / name / "model.onnx" for name in (first, second)]
    if not all(file.exists() for file in files):
        print(f"   {second} against {first}: not there", flush=True)
        return
    for size in sizes:
        racing.race(files[0].parent, files[1].parent, f"{second} against {first}", size)
    if second == f"{first}-packed":
        twins(*files, sizes)


def twins(unpacked, packed, sizes):
    """Print whether outputs are equal, and how fast the packed file is in OpenVINO."""
    signature = adapter_for(Format.ONNX).open(source_of(str(packed)), None).signature
    for size in sizes:
        batch = dict(signature.synthetic(size))
        outputs = [packing.session(path).run(None, batch) for path in (unpacked, packed)]
        equal = all(np.array_equal(one, other) for one, other in zip(*outputs, strict=True))
        off, ratio = packing.in_openvino({"unpacked": unpacked, "packed": packed}, batch)
        print(
            f"   batch {size}: {packed.parent.name}: outputs in ONNX Runtime {'equal' if equal else 'DIFFER'} to "
            f"unpacked; in OpenVINO they differ by {off:.1e} of the greatest, {ratio:.2f}x as fast",
            flush=True,
        )


def show(name, out):
    """Run all recipes of a model, print what came of each, and race their files."""
    case, zoo = CASES[name], models.ASSETS / "models"
    own = f"{Path(__file__).resolve()}:{case.data}"
    with Show() as watch:
        outcome = api.run(
            zoo / case.model if case.model else f"{zoo}/zoo.py:{name}",
            models.ASSETS / case.data if "/" in case.data else own,
            out / name,
            weights=zoo / case.weights if case.weights else None,
            recipes=[recipe(name, step) for step in case.recipes],
            budget=Budget(max_drop=0.01),
            batch_sizes=case.batch_sizes,
            task=case.task,
            preprocess=case.preprocess,
            threads=1,
            on_event=watch,
        )
    print(f"\n== {name}: {outcome.seconds:.0f} s", flush=True)
    for result in outcome.results:
        tell(result)
    for first, second in case.races:
        race(out / name, first, second, case.batch_sizes)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, default=Path("runs/compression"))
    asked = parser.parse_args()
    for name in asked.names or CASES:
        show(name, asked.out)


if __name__ == "__main__":
    main()
