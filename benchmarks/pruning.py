"""Prune real models, export them, and print what is left of them and how fast they are.

python benchmarks/pruning.py [names] [--epochs 5] [--out FOLDER] [--threads 1]
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import clustering
import numpy as np
import torch
from racing import race

import whet
from whet.data.data import Part
from whet.machine import this_machine
from whet.models.adapter import adapter_for
from whet.passes.base import PassContext
from whet.passes.export.spec import ExportOnnx
from whet.passes.graph.spec import CleanGraph, OptimizeGraph
from whet.passes.prune.spec import MagnitudePrune, PruneChannels
from whet.passes.quantize.spec import DynamicInt8
from whet.recipe.cost import latency_ms
from whet.train.spec import Recovery


def requests(epochs):
    """Return for each model what is asked: none is the float file that all are raced against."""
    short = Recovery(epochs=epochs)
    half = PruneChannels(importance="taylor", ratios="sensitivity", recovery=short)
    return {
        "fashion_cnn": {
            "float": (),
            "half the MACs, untrained": (replace(half, recovery=Recovery(minutes=0)),),
            "half the MACs": (half,),
            "half the MACs, by random": (replace(half, importance="random", ratios="layer"),),
            "half the MACs, 2:4 zeros": (half, MagnitudePrune(pattern="2:4", schedule="constant", recovery=short)),
        },
        "fashion_lstm": {
            "float": (),
            "dynamic INT8": (DynamicInt8(),),
            "hidden units, 45 % of MACs": (replace(half, keep=0.45),),
            "hidden units, then dynamic INT8": (replace(half, keep=0.45), DynamicInt8()),
        },
        "resnet20": {
            "float": (),
            "70 % of the MACs": (replace(half, keep=0.7),),
        },
    }


def make(model, splits, steps, folder):
    """Apply passes to a model as a recipe does, exported and folded before what quantizes; return all notes."""
    state, notes = model, {}
    before = [step for step in steps if not isinstance(step, DynamicInt8)]
    after = [step for step in steps if isinstance(step, DynamicInt8)]
    graph = (ExportOnnx(), OptimizeGraph(), *after, CleanGraph(allow_unchanged=True))
    for number, step in enumerate((*before, *graph)):
        place = folder / "-".join(each.name for each in before[: number + 1]) / step.name
        place.mkdir(parents=True, exist_ok=True)
        context = PassContext(
            place, data=splits, machine=replace(this_machine(), cores=1), cost=latency_ms, original=lambda: model
        )
        outcome = step.apply(state, context)
        state, notes = outcome.model, {**notes, step.name: outcome.notes}
    return state, notes


def told(notes):
    """Return the widths that were chosen, and what training came to."""
    found = notes.get("prune-channels", {})
    if not found:
        return ""
    widths = [f"{then[0]}>{now[0]}" for name, (then, now) in found["widths"].items() if len(then) > 1]
    recovery = found["recovery"][-1]
    spent = f", {recovery.get('epochs', 0):.1f} epochs in {recovery.get('seconds', 0):.0f} s"
    return f"{found['now'] / found['before']:.3f} of the {found['target']}{spent}, {' '.join(widths)}"


def show(name, epochs, out):
    """Print accuracy on all test samples and the speed of each file, raced in turns."""
    weights, images, preprocess = clustering.CASES[name]
    splits = whet.dataset(images, preprocess=preprocess)
    shape = next(iter(splits.batch(Part.TEST, range(1)).values())).shape
    axes = ",".join(map(str, ("?", *shape[1:])))
    model = whet.load(f"{clustering.WEIGHTS}/zoo.py:{name}", weights=weights, input=f"x=float32[{axes}]")
    labels = np.concatenate([splits.labels(Part.SELECT), splits.labels(Part.TEST)])
    files, before = [], None
    for what, steps in requests(epochs)[name].items():
        start = time.perf_counter()
        folder = out / name / what.replace(" ", "-").replace("%", "").replace(":", "").replace(",", "")
        made, notes = make(model, splits, steps, out / name)  # steps that were trained are not trained again
        file = adapter_for(made.format).save(made, folder / "model")
        files.append(file)
        right = clustering.answers(made, splits) == labels
        before = right if before is None else before
        lost, won = (before & ~right).sum(), (right & ~before).sum()
        error = 100 * np.sqrt(lost + won) / len(labels)
        drop, seconds = 100 * (lost - won) / len(labels), time.perf_counter() - start
        print(
            f"{name}, {what}: {100 * right.mean():.2f} % of {len(labels):,}, drop {drop:.2f} +- {error:.2f}; "
            f"{file.stat().st_size:,} bytes; {seconds:.0f} s; {told(notes)}",
            flush=True,
        )
    for size in (1, 32):
        for at in range(1, len(files)):
            race(files[0], files[at], list(requests(epochs)[name])[at], size)
        if "dynamic INT8" in requests(epochs)[name]:
            race(files[1], files[2], "hidden units against dynamic INT8", size)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.names or requests(asked.epochs):
        show(name, asked.epochs, asked.out)


if __name__ == "__main__":
    main()
