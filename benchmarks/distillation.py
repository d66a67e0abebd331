"""What distillation wins over labels alone: the same student and samples, rates found for each, seed by seed.

    python benchmarks/distillation.py fashion --seeds 8 --out DIR
    python benchmarks/distillation.py sst2 --seeds 12 --out DIR

Prints the accuracy of every way of training for every seed, and Student's interval of the mean paired difference of
the first from each other. Settings were chosen with ``--judge select``, on samples of train that nothing learns.
``--first 100`` takes seeds that no choice has seen.
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

import whet
from whet.data.data import Data, Part, Splits, split
from whet.data.preprocess import Preprocess
from whet.data.samples import Subset, samples_of
from whet.machine import this_machine
from whet.models.model import Model
from whet.models.source import source_of
from whet.models.torch.adapter import TorchAdapter
from whet.passes.base import PassContext
from whet.train.runner import Runner
from whet.train.spec import Recovery
from whet.train.torch import recover

sys.path.insert(0, str(Path(__file__).parent))
import models
import sst2 as sentences


@dataclass(frozen=True)
class Way:
    """A way of training the student.

    Attributes:
        data: What it sees: a pair of inputs and labels, or inputs alone.
        settings: How.
        teacher: Whose outputs it learns; None for the labels.
    """

    data: Any
    settings: Recovery
    teacher: Model | None = None


@dataclass(frozen=True)
class Case:
    """A student, the ways of training it by name, and what judges them.

    The first way is held against each other.
    """

    student: type[nn.Module]
    ways: dict[str, Way]
    judge: Any
    preprocess: Preprocess | None = None

    def splits(self, seen: Any) -> Splits:
        """Return the data of one way; nothing is carved out of what judges, nothing is selected by it."""
        return split(Data(train=seen, test=self.judge, select=self.judge, task="classification",
                          preprocess=self.preprocess))  # fmt: skip


class SmallCNN(nn.Module):
    """(N, 1, 28, 28) to (N, 10): 6,274 parameters, a twentieth of its teacher; strides in place of pooling."""

    def __init__(self):
        super().__init__()
        widths, layers = (1, 8, 16, 32), []
        for inner, outer in pairwise(widths):
            layers += [nn.Conv2d(inner, outer, 3, 2, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]
        self.features, self.fc = nn.Sequential(*layers), nn.Linear(32, 10)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


def fashion(work, judge):
    """Fashion-MNIST: the CNN of the zoo teaches a twentieth of it, on 6,000 of the training samples."""
    data = whet.dataset(models.ASSETS / "images" / "fashion-mnist").parts
    ready = Preprocess(scale=1 / 255, mean=(0.2860,), std=(0.3530,), layout="CHW")
    train, order = samples_of(data[Part.TRAIN]), np.random.default_rng(0).permutation(60_000)
    seen, rest = (Subset(train, np.sort(chosen)) for chosen in (order[:6000], order[6000:10_000]))
    weights = models.ASSETS / "models" / "fashion" / "fashion_cnn.safetensors"
    sample = split(Data(train=seen, test=rest, preprocess=ready)).inputs(Part.TRAIN, range(2))
    teacher = TorchAdapter().open(source_of(f"{models.ASSETS}/models/zoo.py:fashion_cnn", weights), sample)
    same = {"epochs": 10, "batch_size": 32}
    ways = {
        "distilled": Way(seen, Recovery(**same, temperature=4.0), teacher),
        "labels": Way(seen, Recovery(**same, alpha=0.0)),
    }
    return Case(SmallCNN, ways, data[Part.TEST].base if judge == "test" else rest, ready)


def sst2(work, judge):
    """SST-2: MiniLM of 22.6 million parameters teaches a convolution of words, on sentences made for it too."""
    (texts, labels), rest, dev = sentences.parts(6000)
    seen = sentences.tokenized(texts), labels
    more, origins = sentences.made(texts, times=4)
    both = sentences.tokenized(texts + more), np.concatenate([labels, labels[origins]])
    teacher = sentences.teacher(work, seen, both[0])
    many = {"epochs": 3, "batch_size": 64}
    ways = {
        "distilled, made sentences too": Way(both[0], Recovery(**many), teacher),
        "labels": Way(seen, Recovery(epochs=4, batch_size=32, alpha=0.0)),  # more epochs do worse
        "labels, made sentences too": Way(both, Recovery(**many, alpha=0.0)),
    }
    judged, wanted = dev if judge == "test" else rest
    return Case(sentences.SmallText, ways, (sentences.tokenized(judged), wanted))


CASES = {"fashion": fashion, "sst2": sst2}


def trained(case, way, seed):
    """Train a fresh student; return its accuracy on what judges, the rate that was found, and the epochs kept."""
    splits = case.splits(way.data)
    torch.manual_seed(seed)
    model = TorchAdapter().open(source_of(case.student().eval(), inputs=()), splits.inputs(Part.TRAIN, range(2)))
    with tempfile.TemporaryDirectory() as folder:
        machine = replace(this_machine(), cores=int(os.environ.get("OMP_NUM_THREADS", "1")))
        told = recover(model, way.teacher, way.settings, PassContext(Path(folder), seed, splits, machine))
    return accuracy(model, splits), told.notes["learning_rate"], told.losses.index(min(told.losses)) + 1


class Everything:
    """What judges, as the runner reads it."""

    sides = 1

    def __init__(self, splits):
        self.splits = splits

    def batch(self, numbers):
        return self.splits.inputs(Part.TEST, numbers)


def accuracy(model, splits):
    labels = splits.labels(Part.TEST)
    outputs = Runner(model, torch.device("cpu")).outputs(Everything(splits), np.arange(len(labels)))
    return float((outputs[model.signature.answer].argmax(1).numpy() == labels).mean())


def describe(case):
    """Print how good and how large the teacher is, how large the student, and what each way learns from."""
    teacher = next(way.teacher for way in case.ways.values() if way.teacher)
    splits = case.splits(next(iter(case.ways.values())).data)
    sizes = [
        sum(each.numel() for each in module.parameters()) for module in (teacher.payload.module, case.student())
    ]
    print(f"teacher: {accuracy(teacher, splits):.4f} of {splits.size(Part.TEST)}, {sizes[0]:,} parameters; "
          f"student: {sizes[1]:,}", flush=True)  # fmt: skip
    for name, way in case.ways.items():
        told = way.settings
        print(f"{name}: {case.splits(way.data).size(Part.TRAIN):,} samples, {told.epochs:g} epochs of batches of "
              f"{told.batch_size}, temperature {told.temperature:g}, alpha {told.alpha:g}", flush=True)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(CASES))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--judge", choices=["select", "test"], default="test")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    case = CASES[asked.name](asked.out, asked.judge)
    describe(case)
    found = {name: [] for name in case.ways}
    for seed in range(asked.first, asked.first + asked.seeds):
        for name, way in case.ways.items():
            began = time.monotonic()
            right, rate, kept = trained(case, way, seed)
            found[name].append(right)
            print(f"seed {seed}: {name} {right:.4f} (rate {rate:g}, epoch {kept} kept, "
                  f"{time.monotonic() - began:.0f} s)", flush=True)  # fmt: skip
    first, *others = found
    for name, values in found.items():
        print(f"{name}: mean {np.mean(values):.4f}, standard deviation {np.std(values, ddof=1):.4f}")
    for name in others:
        gains = np.subtract(found[first], found[name])
        low, high = stats.t.interval(0.95, len(gains) - 1, gains.mean(), stats.sem(gains))
        print(f"{first}, against {name}: {gains.mean():+.4f}, 95 % interval {low:+.4f} to {high:+.4f} "
              f"over {len(gains)} seeds")  # fmt: skip


if __name__ == "__main__":
    main()
