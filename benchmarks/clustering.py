"""Cluster real models without training, and print what is left of them; time k-means on large arrays.

python benchmarks/clustering.py [names] [--times]
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import models
import numpy as np
import torch

import whet
from whet.data.data import Part
from whet.models.adapter import adapter_for
from whet.passes.base import PassContext
from whet.passes.cluster.math import Codebook, cluster, noise, sqnr_db
from whet.passes.cluster.spec import Cluster

WEIGHTS, IMAGES = models.ASSETS / "models", models.ASSETS / "images"
GREY = "scale=1/255; mean=0.2860; std=0.3530"
RGB = "scale=1/255; mean=imagenet; std=imagenet; layout=CHW"
CASES = {
    "fashion_lstm": (WEIGHTS / "fashion" / "fashion_lstm.safetensors", IMAGES / "fashion-mnist", GREY),
    "fashion_cnn": (
        WEIGHTS / "fashion" / "fashion_cnn.safetensors",
        IMAGES / "fashion-mnist",
        f"{GREY}; layout=CHW",
    ),
    "resnet20": (WEIGHTS / "resnet20-cifar10" / "resnet20-12fca82f.th", IMAGES / "cifar10", RGB),
}
REQUESTS = {
    "16 values a tensor": Cluster(),
    "64 values a tensor": Cluster(bits=6),
    "16 values a channel": Cluster(granularity="channel"),
    "16 integers on the INT8 grid": Cluster(grid=True),
    "64 integers on the INT8 grid": Cluster(bits=6, grid=True),
    "7x by sensitivity, a tensor": Cluster(ratio=7.0),
    "5x by sensitivity, a tensor": Cluster(ratio=5.0),
    "7x by sensitivity, on the grid": Cluster(ratio=7.0, grid=True),
}


def answers(model, splits):
    """Return the class that a model gives each sample of select and test."""
    found = [
        next(iter(adapter_for(model.format).forward(model, model.signature.bind(batch)).values())).argmax(1)
        for part in (Part.SELECT, Part.TEST)
        for batch in splits.batches(part, 250)
    ]
    return np.concatenate(found)


def show(name):
    """Print the accuracy of a model under each request."""
    weights, images, preprocess = CASES[name]
    splits = whet.dataset(images, preprocess=preprocess)
    shape = next(iter(splits.batch(Part.TEST, range(1)).values())).shape
    model = whet.load(f"{WEIGHTS}/zoo.py:{name}", weights=weights, input=f"x=float32[{','.join(map(str, shape))}]")
    labels = np.concatenate([splits.labels(Part.SELECT), splits.labels(Part.TEST)])
    before = answers(model, splits)
    print(f"\n{name}: {100 * (before == labels).mean():.2f} % of {len(labels):,}")
    for told, request in REQUESTS.items():
        start = time.perf_counter()
        with TemporaryDirectory() as folder:
            outcome = request.apply(model, PassContext(Path(folder), data=splits))
        seconds = time.perf_counter() - start
        after = answers(outcome.model, splits)
        drop, agree = 100 * ((before == labels).mean() - (after == labels).mean()), 100 * (after == before).mean()
        bits = sorted(set(outcome.notes["bits_by_weight"].values()))
        print(
            f"   {told:<32} drop {drop:6.2f} points, agrees on {agree:5.1f} %, "
            f"{outcome.notes['ratio_as_packed']:.2f}x as packed, bits {bits}, {seconds:.1f} s"
        )


def times():
    """Print how long ten million weights take, on one core."""
    array = np.random.default_rng(0).standard_t(5, 10_000_000).astype(np.float32)
    for k in (4, 16, 64, 256):
        for initial in ("optimal", "linear", "density", "k-means++"):
            start = time.process_time()
            found = cluster(array, 0, 0, Codebook(k, initial))
            seconds = time.process_time() - start
            print(f"{k:4} values, {initial:<10} {seconds:5.2f} s, {sqnr_db(noise(array, found)):6.2f} dB")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*CASES, []])
    parser.add_argument("--times", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    for name in asked.names or ([] if asked.times else CASES):
        show(name)
    if asked.times:
        times()


if __name__ == "__main__":
    main()
