"""Models on spoilt samples: the same for every model, the same again, as many as time allows."""

import time

import numpy as np
import pytest

from whet.data.data import Data, split
from whet.data.tasks import Classification, Fidelity
from whet.progress import silent
from whet.trials.spoil import SAMPLES, Asked, spoil

RNG = np.random.default_rng(0)
X = RNG.standard_normal((1400, 6)).astype(np.float32).round(3)
Y = (X[:, 0] > 0).astype(np.int64)
SPLITS = split(Data(test=(X, Y), select=(X[:200], Y[:200]), calibrate=(X[:100], None)))


def steady(batch):
    """Sees the first column alone."""
    return np.stack([-batch["input"][:, 0], batch["input"][:, 0]], axis=1)


def shaky(batch):
    """Right on clean inputs, which have three digits; a number of more turns its answer."""
    odd = (batch["input"] != batch["input"].round(3)).any(axis=1, keepdims=True)
    return np.where(odd, -steady(batch), steady(batch))


def test_the_model_that_corrupted_inputs_turn_is_found_out():
    seen = []

    def watched(batch):
        seen.append(batch["input"])
        return steady(batch)

    asked = Asked(Classification(2), Y)
    found = spoil({"original": watched, "shaky": shaky, "same": steady}, SPLITS, asked, silent)
    assert (found["shaky"].samples, found["shaky"].of) == (SAMPLES[0], 1400)
    assert len(found["shaky"].shifts) == 6
    assert len(found["shaky"].worse) == 6
    assert (found["shaky"].worse[0].corruption, found["shaky"].worse[0].severity) == ("noise", 1)
    assert found["same"].worse == []
    assert {item.extra for item in found["same"].shifts} == {0.0}
    noisy = next(item for item in found["shaky"].shifts if (item.corruption, item.severity) == ("noise", 1))
    assert noisy.after == pytest.approx(1 - noisy.before)
    assert noisy.before == pytest.approx(found["original"].shifts[3].before)
    assert 0.9 < noisy.before < 1
    assert max(len(batch) for batch in seen) <= 50


def test_the_same_seed_spoils_alike_and_another_does_not():
    def values(seed):
        found = spoil({"a": steady, "b": shaky}, SPLITS, Asked(Classification(2), Y, seed), silent)
        return [(item.before, item.after) for item in found["b"].shifts]

    assert values(1) == values(1)
    assert values(1) != values(2)


def test_where_time_is_short_fewer_samples_are_tried_but_each_class_as_often():
    def slow(batch):
        time.sleep(0.002)
        return steady(batch)

    few = spoil({"a": slow, "b": slow}, SPLITS, Asked(Classification(2), Y, seconds=0.0), silent)["b"]
    assert (few.samples, few.of) == (SAMPLES[-1], 1400)
    all_of_them = spoil({"a": steady, "b": steady}, SPLITS, Asked(Classification(2), Y, seconds=60.0), silent)["b"]
    assert all_of_them.samples == SAMPLES[0]


def test_inputs_that_are_nothing_known_are_left_alone():
    maps = np.zeros((20, 16, 8, 8), np.float32)
    splits = split(Data(test=(maps, None), select=(maps, None), calibrate=(maps, None)))
    assert spoil({"a": steady, "b": steady}, splits, Asked(Fidelity(2), None), silent) == {}
