"""Model and data files as a user writes them: small, fast, awkward."""

import numpy as np
import torch
from torch import nn


class Tiny(nn.Module):
    """(N, 1, 8, 8) to (N, 3): two convolutions, BatchNorm, a linear layer."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.relu(self.conv2(x)).mean((2, 3)))


def tiny():
    torch.manual_seed(0)
    return Tiny()


class Row(nn.Module):
    """(N, 6) to (N, 2): a regressor of rows."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, row):
        return self.net(row)


def regressor():
    torch.manual_seed(0)
    return Row()


class Tokens(nn.Module):
    """ids (N, 12) int64 and mask (N, 12) to a dict of two outputs, through an LSTM or a GRU."""

    def __init__(self, cell):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.cell = cell(16, 24, batch_first=True)
        self.fc = nn.Linear(24, 4)

    def forward(self, ids, mask):
        hidden, _ = self.cell(self.embed(ids) * mask.unsqueeze(-1))
        return {"logits": self.fc(hidden[:, -1]), "hidden": hidden[:, -1]}


def lstm():
    torch.manual_seed(0)
    return Tokens(nn.LSTM)


def gru():
    torch.manual_seed(0)
    return Tokens(nn.GRU)


def root_linear():
    torch.manual_seed(0)
    return nn.Linear(6, 3)


def needs_arguments(width):
    return nn.Linear(width, 3)


def not_a_model():
    return "a model"


def raises():
    raise RuntimeError("the weights are on another machine")


def _images(seed, count):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 1, 8, 8)).astype(np.float32)
    with torch.no_grad():
        y = tiny().eval()(torch.from_numpy(x)).argmax(1).numpy()
    flip = rng.random(count) < 0.1
    y[flip] = rng.integers(0, 3, flip.sum())
    return x, y


def images():
    """(train, test): labels are the untrained model's own choices, with a tenth of them wrong."""
    return _images(1, 300), _images(2, 400)


def rows():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((500, 6)).astype(np.float32)
    with torch.no_grad():
        y = regressor().eval()(torch.from_numpy(x)).numpy() + 0.1 * rng.standard_normal((500, 2)).astype(np.float32)
    return (x[:250], y[:250]), (x[250:], y[250:])


def tokens():
    """Unlabelled, two inputs."""
    rng = np.random.default_rng(0)

    def part(count):
        ids = rng.integers(0, 50, (count, 12))
        return {"ids": ids, "mask": np.ones((count, 12), np.float32)}, None

    return part(100), part(200)
