"""What distillation wins over labels alone: the same student, samples, steps and rates, seed by seed.

    python benchmarks/distillation.py fashion --seeds 8 --out DIR
    python benchmarks/distillation.py sst2 --seeds 8 --out DIR

Prints the test accuracy of both for every seed, and Student's interval of the mean paired difference.
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import nn

import whet
from whet.data.data import Data, Part, split
from whet.data.preprocess import Preprocess
from whet.data.samples import Subset, samples_of
from whet.machine import this_machine
from whet.models.source import source_of
from whet.models.torch.adapter import TorchAdapter
from whet.passes.base import PassContext
from whet.train.runner import Runner
from whet.train.spec import Recovery
from whet.train.torch import recover

sys.path.insert(0, str(Path(__file__).parent))
import models


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


class SmallText(nn.Module):
    """ids and mask (N, 40) to (N, 2): words and pairs of words, the greatest of each over the sentence."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(models.VOCABULARY, 16)
        self.conv, self.fc = nn.Conv1d(16, 24, 2, padding=1), nn.Linear(24, 2)

    def forward(self, ids, mask):
        x = self.embed(ids) * mask.unsqueeze(-1)
        return self.fc(torch.relu(self.conv(x.mT)).amax(2))


def fashion(work, samples):
    """Fashion-MNIST: the CNN of the zoo teaches a twentieth of it, on some of the training samples."""
    weights = models.ASSETS / "models" / "fashion" / "fashion_cnn.safetensors"
    teacher = source_of(f"{models.ASSETS}/models/zoo.py:fashion_cnn", weights)
    parts = whet.dataset(models.ASSETS / "images" / "fashion-mnist").parts
    ready = Preprocess(scale=1 / 255, mean=(0.2860,), std=(0.3530,), layout="CHW")
    data = Data(train=parts[Part.TRAIN], test=parts[Part.TEST].base, task="classification", preprocess=ready)
    return teacher, few(data, samples), SmallCNN


def sst2(work, samples):
    """SST-2: a GRU of 560,000 parameters teaches a convolution of words."""
    weights = work / "gru.safetensors"
    if not weights.exists():
        models.train("gru", weights)
    from whet.data.tokens import Tokens

    tokens = Tokens(str(work / "tokenizer.json"), 40)

    def part(name):
        texts, labels = models.sentences(name)
        found = tokens({"text": texts})
        return {"ids": found["input_ids"], "mask": found["attention_mask"]}, labels

    teacher = source_of(f"{Path(models.__file__)}:sentiment", weights)
    return teacher, few(Data(train=part("train"), test=part("dev"), task="classification"), samples), SmallText


def few(data, samples):
    """Leave so many training samples, drawn once."""
    train = samples_of(data.train)
    chosen = np.random.default_rng(0).permutation(len(train))[:samples]
    return replace(data, train=Subset(train, np.sort(chosen)))


def trained(student, teacher, splits, settings, seed, test):
    """Train a fresh student; return its accuracy on test, and the rate that was found."""
    torch.manual_seed(seed)
    sample = splits.inputs(Part.TRAIN, range(2))
    model = TorchAdapter().open(source_of(student().eval(), inputs=()), sample)
    with tempfile.TemporaryDirectory() as folder:
        machine = replace(this_machine(), cores=int(os.environ.get("OMP_NUM_THREADS", "1")))
        context = PassContext(Path(folder), seed, splits, machine)
        told = recover(model, teacher, settings, context)
    return accuracy(model, test), told.notes["learning_rate"]


class Everything:
    """A part of the data as the runner reads it: all of it, in order."""

    sides = 1

    def __init__(self, splits, part):
        self.splits, self.part = splits, part

    def batch(self, numbers):
        return self.splits.inputs(self.part, numbers)


def accuracy(model, test):
    samples, labels = test
    outputs = Runner(model, torch.device("cpu")).outputs(samples, np.arange(len(labels)))
    return float((outputs[model.signature.answer].argmax(1).numpy() == labels).mean())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["fashion", "sst2"])
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--samples", type=int, default=6000)
    parser.add_argument("--epochs", type=float, default=10)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    source, data, student = globals()[asked.name](asked.out, asked.samples)
    parts = {"train": data.train, "test": data.test, "select": data.test}  # nothing is carved out, nothing selected
    splits = split(replace(data, **parts))
    test = Everything(splits, Part.TEST), splits.labels(Part.TEST)
    teacher = TorchAdapter().open(source, splits.inputs(Part.TRAIN, range(2)))
    print(f"teacher: {accuracy(teacher, test):.4f} of {len(test[1])}, "
          f"{sum(each.numel() for each in teacher.payload.module.parameters()):,} parameters; "
          f"student: {sum(each.numel() for each in student().parameters()):,}", flush=True)  # fmt: skip
    same = {"epochs": asked.epochs, "batch_size": 32}
    taught, alone = Recovery(**same, temperature=4.0), Recovery(**same, alpha=0.0)
    differences = []
    for seed in range(asked.seeds):
        began = time.monotonic()
        by_teacher, rate = trained(student, teacher, splits, taught, seed, test)
        by_labels, other = trained(student, None, splits, alone, seed, test)
        differences.append(by_teacher - by_labels)
        print(f"seed {seed}: distilled {by_teacher:.4f} (rate {rate:g}), labels alone {by_labels:.4f} "
              f"(rate {other:g}), difference {differences[-1]:+.4f}, {time.monotonic() - began:.0f} s",
              flush=True)  # fmt: skip
    mean, error = np.mean(differences), stats.sem(differences)
    low, high = stats.t.interval(0.95, len(differences) - 1, mean, error)
    print(f"mean difference {mean:+.4f}, 95 % interval {low:+.4f} to {high:+.4f} over {len(differences)} seeds")


if __name__ == "__main__":
    main()
