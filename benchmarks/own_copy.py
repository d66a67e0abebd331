"""Bench models against their own copies many times; count how often 1.0 lies inside the interval of the speed-up.

Each time is a fresh process, as `whet bench` has it.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import whet
from whet import isolate
from whet.measure import latency
from whet.models.adapter import adapter_for
from whet.models.model import Stored
from whet.passes.base import PassContext
from whet.passes.export.spec import ExportOnnx
from whet.runtimes.base import Deployment
from whet.trials.opened import Contestant, raced

ASSETS = Path(os.environ.get("WHET_ASSETS") or Path(__file__).parents[2] / "shared" / "assets") / "models"
MODELS = {
    "fashion_cnn": ("fashion/fashion_cnn.safetensors", "x=float32[1,1,28,28]"),
    "fashion_lstm": ("fashion/fashion_lstm.safetensors", "x=float32[1,28,28]"),
    "resnet20": ("resnet20-cifar10/resnet20.safetensors", "x=float32[1,3,32,32]"),
}
EFFORTS = {"usual": latency.USUAL, "careful": latency.CAREFUL}


def stored(name, form, folder):
    """Write a model of the zoo as ``onnx`` or ``torch``; return it and its copy, to be run."""
    weights, spec = MODELS[name]
    model = whet.load(f"{ASSETS}/zoo.py:{name}", weights=ASSETS / weights, input=spec)
    if form == "onnx":
        with TemporaryDirectory() as scratch:
            model = ExportOnnx().apply(model, PassContext(Path(scratch))).model
    path = adapter_for(model.format).save(model, folder / f"{name}-{form}")
    return copied(Contestant(Stored(model.format, path, model.source), model.signature, Deployment()))


def copied(given):
    """Copy what a contestant runs, byte by byte; return both."""
    path = given.stored.path
    copy = path.with_name(f"{path.stem}-copy{path.suffix}")
    (shutil.copytree if path.is_dir() else shutil.copy)(path, copy)
    twin = Contestant(Stored(given.stored.format, copy, given.stored.source), given.signature, given.deployment)
    return {"given": given, "copy": twin}


def bench(contestants, effort):
    """Return the copy's speed-up over the model, measured at batch 1 in a fresh process."""
    return isolate.call(_race, contestants, effort)


def _race(contestants, effort, on_event):
    timings, _ = raced(contestants, contestants["given"].signature.synthetic(1), effort, on_event)
    return latency.speedup(timings, "copy", "given", 1)


@contextmanager
def busy():
    """Keep every core but one busy meanwhile."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range((os.cpu_count() or 2) - 1)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def inside(found):
    """Tell whether 1.0 lies inside the interval of a speed-up."""
    return found.interval.low <= 1.0 <= found.interval.high


def told(found):
    """Sum up many benches: how often 1.0 lies inside, how wide intervals are, how many blocks they rest on."""
    widths = [100 * (one.interval.high - one.interval.low) for one in found]
    blocks = np.median([one.conditions["blocks"] for one in found])
    noisy = sum("noise" in one.conditions for one in found)
    return (
        f"1.0 inside {sum(map(inside, found))} of {len(found)}; width {np.median(widths):.1f} % "
        f"(9 of 10 below {np.percentile(widths, 90):.1f} %), {blocks:.0f} blocks, {noisy} said to be noisy"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "names", nargs="*", default=[f"{form}:{name}" for form in ("onnx", "torch") for name in MODELS]
    )
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--effort", choices=EFFORTS, default="usual")
    parser.add_argument("--busy", action="store_true", help="keep the other cores busy")
    asked = parser.parse_args()
    for name in asked.names:
        form, _, model = name.partition(":")
        with TemporaryDirectory() as folder:
            contestants = stored(model, form, Path(folder))
            started = time.perf_counter()
            if asked.busy:
                with busy():
                    found = [bench(contestants, EFFORTS[asked.effort]) for _ in range(asked.times)]
            else:
                found = [bench(contestants, EFFORTS[asked.effort]) for _ in range(asked.times)]
        each = (time.perf_counter() - started) / asked.times
        print(
            f"{name}, {asked.effort}{', busy' if asked.busy else ''}: {told(found)}; {each:.1f} s each", flush=True
        )


if __name__ == "__main__":
    main()
