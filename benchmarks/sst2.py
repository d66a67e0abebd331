"""SST-2 for distillation: MiniLM as the teacher, a small student, and sentences made from those that are there."""

from dataclasses import replace

import models
import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from whet.data.data import Data, split
from whet.data.tokens import Tokens
from whet.machine import this_machine
from whet.models.source import source_of
from whet.models.torch.adapter import TorchAdapter
from whet.passes.base import PassContext
from whet.train.spec import Recovery
from whet.train.torch import recover

LENGTH = 40
_DROPPED, _REPLACED, _CUT = 0.1, 0.1, 0.5


class SmallText(nn.Module):
    """ids and mask (N, 40) to (N, 2): words and pairs of words, the greatest of each over the sentence."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30_522, 16)
        nn.init.normal_(self.embed.weight, std=0.1)
        self.drop = nn.Dropout(0.3)
        self.conv, self.fc = nn.Conv1d(16, 32, 2, padding=1), nn.Linear(32, 2)

    def forward(self, ids, mask):
        x = self.drop(self.embed(ids)) * mask.unsqueeze(-1)
        return self.fc(self.drop(torch.relu(self.conv(x.mT)).amax(2)))


class Remembering(nn.Module):
    """A teacher that answers a sentence once, however many students ask; in ``file``, for the next command too."""

    def __init__(self, module, file):
        super().__init__()
        self.module, self.file, self.known = module, file, {}
        if file.exists():
            with np.load(file) as kept:
                rows = zip(kept["ids"], kept["logits"].tolist(), strict=True)
                self.known = {key.tobytes(): answer for key, answer in rows}

    def forward(self, ids, mask):
        keys = [row.tobytes() for row in ids.numpy()]
        new = [at for at, key in enumerate(keys) if key not in self.known]
        if new:
            answers = self.module(ids[new], mask[new]).tolist()
            self.known.update((keys[at], answer) for at, answer in zip(new, answers, strict=True))
        return torch.tensor([self.known[key] for key in keys])

    @torch.no_grad()
    def ask(self, inputs):
        """Answer all of these, and write down what is new."""
        before = len(self.known)
        for some in torch.arange(len(inputs["ids"])).split(256):
            self(torch.from_numpy(inputs["ids"])[some], torch.from_numpy(inputs["mask"])[some])
        if len(self.known) > before:
            ids = np.stack([np.frombuffer(key, np.int64) for key in self.known])
            np.savez(self.file, ids=ids, logits=np.array(list(self.known.values()), np.float32))


def tokenized(texts):
    """Return ids and mask (N, 40), by the teacher's tokenizer."""
    found = Tokens(str(models.minilm() / "tokenizer.json"), LENGTH)({"text": texts})
    return {"ids": found["input_ids"], "mask": found["attention_mask"]}


def parts(samples):
    """Return the sentences and labels that are learned, those of the rest of train, and those of dev."""
    texts, labels = models.sentences("train")
    order = np.random.default_rng(0).permutation(len(texts))
    fit, rest = np.sort(order[:samples]), np.sort(order[samples:])
    chosen = [([texts[at] for at in numbers], labels[numbers]) for numbers in (fit, rest)]
    return (*chosen, models.sentences("dev"))


def made(texts, times, seed=0):
    """Make sentences: some words left out, some put in from elsewhere, half of them cut to a span.

    Returns:
        ``times`` sentences of each, and the number of the sentence that each is made of.

    Source: Tang et al. 2019, "Distilling task-specific knowledge from BERT into simple neural networks".
    """
    rng = np.random.default_rng(seed)
    everything = np.array([word for text in texts for word in text.split()])
    found, origins = [], []
    for at in np.tile(np.arange(len(texts)), times):
        words = np.array(texts[at].split())
        if rng.random() < _CUT:
            length = rng.integers(1, len(words), endpoint=True)
            start = rng.integers(0, len(words) - length, endpoint=True)
            words = words[start : start + length]
        words = np.where(rng.random(len(words)) < _REPLACED, rng.choice(everything, len(words)), words)
        words = words[rng.random(len(words)) >= _DROPPED]
        if len(words):
            found.append(" ".join(words))
            origins.append(at)
    return found, np.array(origins)


def teacher(work, train, asked):
    """Return MiniLM fine-tuned on the labels, by whet's own training, which has answered what it will be asked.

    Its weights and answers stay in ``work``.
    """
    weights = work / "encoder.safetensors"
    name, sample = f"{models.__file__}:sentiment_encoder", {key: value[:2] for key, value in train[0].items()}
    if not weights.exists():
        torch.manual_seed(0)
        model = TorchAdapter().open(source_of(name), sample)
        splits = split(Data(train=train, test=train, select=train, task="classification"))
        settings = Recovery(epochs=1, batch_size=16, learning_rate=1e-4, warmup=0.1, alpha=0.0)
        context = PassContext(work / "encoder", 0, splits, replace(this_machine(), cores=1))
        print(f"teacher: {recover(model, None, settings, context)}", flush=True)
        save_file(model.payload.module.state_dict(), str(weights))
    module = TorchAdapter().open(source_of(name, weights), sample).payload.module
    remembering = Remembering(module, work / "answers.npz").eval()
    remembering.ask(asked)
    return TorchAdapter().open(source_of(remembering, inputs=()), sample)
