"""Factorize real layer sets: one where it pays in the time of the exported file, and one that is refused.

python benchmarks/factorization.py [names]
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import models
import numpy as np
import torch

import whet
from whet.data.data import Part
from whet.errors import NothingChanged
from whet.models.adapter import adapter_for
from whet.passes.base import PassContext
from whet.passes.export.spec import ExportOnnx
from whet.passes.factorize import onnx_time
from whet.passes.factorize.spec import Factorize
from whet.passes.graph.spec import OptimizeGraph

WEIGHTS, IMAGES = models.ASSETS / "models", models.ASSETS / "images"
GREY = "scale=1/255; mean=0.2860; std=0.3530; layout=CHW"
RGB = "scale=1/255; mean=imagenet; std=imagenet; layout=CHW"
CASES = {
    "fashion_cnn": (WEIGHTS / "fashion" / "fashion_cnn.safetensors", IMAGES / "fashion-mnist", GREY),
    "resnet20": (WEIGHTS / "resnet20-cifar10" / "resnet20-12fca82f.th", IMAGES / "cifar10", RGB),
}
REQUESTS = {
    "all, 95 % of the energy": Factorize(),
    "all, 80 % of the energy": Factorize(energy=0.8),
    "all, half of the MACs": Factorize(macs=0.5),
    "all, a third of the MACs": Factorize(macs=0.33),
}


def applied(step, model):
    with TemporaryDirectory() as folder:
        return step.apply(model, PassContext(Path(folder)))


def exported(model):
    """Return the graph of a model as whet ships it."""
    return applied(OptimizeGraph(allow_unchanged=True), applied(ExportOnnx(), model).model).model


def accuracy(model, splits):
    labels = splits.labels(Part.TEST)
    found = [
        next(iter(adapter_for(model.format).forward(model, model.signature.bind(batch)).values())).argmax(1)
        for batch in splits.batches(Part.TEST, 250)
    ]
    return float((np.concatenate(found) == labels).mean())


def show(name):
    weights, images, preprocess = CASES[name]
    splits = whet.dataset(images, preprocess=preprocess)
    shape = next(iter(splits.batch(Part.TEST, range(1)).values())).shape
    model = whet.load(f"{WEIGHTS}/zoo.py:{name}", weights=weights, input=f"x=float32[{','.join(map(str, shape))}]")
    plain = exported(model)
    print(f"\n{name}: {100 * accuracy(plain, splits):.2f} % of {splits.size(Part.TEST):,}")
    for told, request in REQUESTS.items():
        try:
            outcome = applied(request, model)
        except NothingChanged as error:
            print(f"   {told}: {error}")
            continue
        thin = exported(outcome.model)
        facts = outcome.notes
        print(
            f"   {told}: {facts['layers_factorized']} of {len(facts['by_layer']) or '?'} layers that got thinner, "
            f"{facts['energy_kept']:.1%} of their energy, {facts['weights_of_these']:,} weights to "
            f"{facts['weights_now']:,}; {100 * accuracy(thin, splits):.2f} % without recovery"
        )
        for batch in (1, 32):
            before, after = onnx_time.race([plain.payload, thin.payload], (batch, *shape[1:]))
            print(f"      batch {batch}: {before:.3f} ms, factorized {after:.3f} ms, {before / after:.2f}x")
        for item in outcome.skipped:
            print(f"      left alone: {item.layer}: {item.reason}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(CASES))
    torch.set_num_threads(1)
    for name in parser.parse_args().names:
        show(name)


if __name__ == "__main__":
    main()
