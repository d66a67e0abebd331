"""A Keras model and its pictures as a user writes them: small, fast."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

L = keras.layers


def tiny():
    """(N, 8, 8, 1) to (N, 3): two convolutions, BatchNorm, a dense layer."""
    keras.utils.set_random_seed(0)
    picture = keras.Input((8, 8, 1), name="picture")
    x = L.Conv2D(16, 3, padding="same", use_bias=False, name="conv1")(picture)
    x = L.ReLU()(L.BatchNormalization(name="bn1")(x))
    x = L.Conv2D(32, 3, 2, padding="same", activation="relu", name="conv2")(x)
    return keras.Model(picture, L.Dense(3, name="fc")(L.GlobalAveragePooling2D()(x)), name="tiny")


def pictures(model, seed, count):
    """Pictures, labelled as the model chooses, a tenth of them wrong."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 8, 8, 1)).astype(np.float32)
    y = np.asarray(model(x)).argmax(1)
    wrong = rng.random(count) < 0.1
    y[wrong] = rng.integers(0, 3, wrong.sum())
    return x, y
