"""Small Keras models for every kind of layer that has an equal in torch; Keras is imported when one is built.

Each case is the shape of a sample and what stands on it; ``L`` is ``keras.layers``.
"""

import numpy as np

PICTURE, SERIES, VOLUME = (9, 8, 6), (12, 6), (5, 6, 7, 3)
ACTIVATIONS = (
    "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "sigmoid", "hard_sigmoid", "hard_silu",
    "tanh", "softplus", "softsign", "exponential", "softmax", "log_softmax", "linear",
)  # fmt: skip

STACKS = {
    "conv1d": (SERIES, lambda L: [L.Conv1D(5, 3, padding="causal", activation="relu"), L.Conv1D(4, 4, 2, "same")]),
    "conv2d": (PICTURE, lambda L: [L.Conv2D(8, 3, 2, "same"), L.Conv2D(4, 2, groups=2, use_bias=False)]),
    "conv2d-dilated": (PICTURE, lambda L: [L.Conv2D(4, 3, dilation_rate=2), L.Conv2D(4, (2, 1), padding="same")]),
    "conv3d": (VOLUME, lambda L: [L.Conv3D(4, 3, 2, "same", activation="tanh")]),
    "depthwise1d": (SERIES, lambda L: [L.DepthwiseConv1D(3, 2, "same", depth_multiplier=2)]),
    "depthwise2d": (PICTURE, lambda L: [L.DepthwiseConv2D(3, 2, "same", depth_multiplier=2, activation="relu6")]),
    "separable1d": (SERIES, lambda L: [L.SeparableConv1D(5, 3, padding="same", depth_multiplier=2)]),
    "separable2d": (PICTURE, lambda L: [L.SeparableConv2D(5, 3, 2, "same", activation="relu", use_bias=False)]),
    "transposed1d": (SERIES, lambda L: [L.Conv1DTranspose(5, 3, 2, "same")]),
    "transposed2d": (PICTURE, lambda L: [L.Conv2DTranspose(5, 4, 2, "same"), L.Conv2DTranspose(4, 2, 3, "same")]),
    "transposed2d-valid": (PICTURE, lambda L: [L.Conv2DTranspose(5, 5, 2), L.Conv2DTranspose(3, 2, 3)]),
    "transposed3d": (VOLUME, lambda L: [L.Conv3DTranspose(2, 3, 2, "same")]),
    "dense": (PICTURE, lambda L: [L.Dense(7, "gelu"), L.Dense(3, use_bias=False)]),
    "pool1d": (SERIES, lambda L: [L.MaxPooling1D(3, 2, "same"), L.AveragePooling1D(2, padding="same")]),
    "pool2d": (PICTURE, lambda L: [L.MaxPooling2D(3, 2, "same"), L.AveragePooling2D(3, 2, "same")]),
    "pool2d-valid": (PICTURE, lambda L: [L.MaxPooling2D(2), L.AveragePooling2D((2, 1))]),
    "pool3d": (VOLUME, lambda L: [L.MaxPooling3D(2, 1, "same"), L.AveragePooling3D(2, padding="same")]),
    "global1d": (SERIES, lambda L: [L.GlobalAveragePooling1D(keepdims=True), L.GlobalMaxPooling1D()]),
    "global2d": (PICTURE, lambda L: [L.GlobalAveragePooling2D(keepdims=True), L.GlobalMaxPooling2D()]),
    "global3d": (VOLUME, lambda L: [L.GlobalMaxPooling3D(keepdims=True), L.GlobalAveragePooling3D()]),
    "pads1d": (SERIES, lambda L: [L.ZeroPadding1D((2, 1)), L.Cropping1D((1, 2)), L.UpSampling1D(2)]),
    "pads2d": (PICTURE, lambda L: [L.ZeroPadding2D(((2, 0), (1, 3))), L.Cropping2D(((1, 0), (2, 1)))]),
    "upsampling": (PICTURE, lambda L: [L.UpSampling2D((3, 2)), L.Conv2D(2, 3)]),
    "pads3d": (VOLUME, lambda L: [L.ZeroPadding3D(1), L.Cropping3D(((1, 0), (0, 1), (1, 1))), L.UpSampling3D(2)]),
    "upsampling-bilinear": (PICTURE, lambda L: [L.UpSampling2D((2, 3), interpolation="bilinear")]),
    "batch-norm-rows": ((6,), lambda L: [L.BatchNormalization(), L.Dense(3)]),
    "batch-norm1d": (SERIES, lambda L: [L.BatchNormalization(scale=False)]),
    "batch-norm2d": (PICTURE, lambda L: [L.Conv2D(4, 3), L.BatchNormalization(epsilon=0.1), L.ReLU()]),
    "batch-norm3d": (VOLUME, lambda L: [L.BatchNormalization(center=False, scale=False)]),
    "layer-norm": (PICTURE, lambda L: [L.Conv2D(4, 3), L.LayerNormalization(), L.LayerNormalization(center=False)]),
    "rescaling": (PICTURE, lambda L: [L.Rescaling(1 / 127.5, offset=-1), L.Conv2D(3, 3)]),
    "rescaling-by-channel": (PICTURE, lambda L: [L.Rescaling([1.0, 2, 3, 4, 5, 6], offset=[1.0, 2, 3, 0, 0, 0])]),
    "normalization": (PICTURE, lambda L: [L.Normalization(mean=list(range(6)), variance=[1.0, 4, 9, 1, 2, 3])]),
    "flatten": (PICTURE, lambda L: [L.Conv2D(4, 3), L.Flatten(), L.Dense(2)]),
    "reshape": (PICTURE, lambda L: [L.Conv2D(4, 2), L.Permute((3, 1, 2)), L.Reshape((8, -1)), L.Dense(3)]),
    "repeat": ((6,), lambda L: [L.RepeatVector(3), L.Reshape((3, 2, 3)), L.Conv2D(2, 1)]),
    "lstm": (SERIES, lambda L: [L.LSTM(5, return_sequences=True), L.LSTM(4, go_backwards=True), L.Dense(3)]),
    "gru": (SERIES, lambda L: [L.GRU(5, return_sequences=True, go_backwards=True), L.GRU(4, use_bias=False)]),
    "simple-rnn": (SERIES, lambda L: [L.SimpleRNN(5, return_sequences=True), L.SimpleRNN(4)]),
    "bidirectional": (
        SERIES,
        lambda L: [L.Bidirectional(L.LSTM(5, return_sequences=True)), L.Bidirectional(L.GRU(4))],
    ),
    "prelu": (PICTURE, lambda L: [L.Conv2D(4, 3), L.PReLU(shared_axes=[1, 2])]),
    "relus": (PICTURE, lambda L: [L.LeakyReLU(0.1), L.ELU(0.7), L.ReLU(3, negative_slope=0.2), L.ReLU(2.5)]),
    "softmax": (PICTURE, lambda L: [L.Conv2D(4, 3), L.Softmax(), L.Softmax(1)]),
    "training-only": (
        PICTURE,
        lambda L: [
            L.RandomFlip(), L.RandomRotation(0.1), L.RandomZoom(0.1), L.RandomTranslation(0.1, 0.1),
            L.RandomContrast(0.1), L.GaussianNoise(1), L.SpatialDropout2D(0.5), L.GaussianDropout(0.5),
            L.AlphaDropout(0.5), L.ActivityRegularization(), L.Identity(), L.Conv2D(4, 3), L.Reshape((-1, 4)),
            L.SpatialDropout1D(0.5), L.Reshape((7, 6, 2, 2)), L.SpatialDropout3D(0.5), L.Dropout(0.5), L.Flatten(),
        ],
    ),
    "random-brightness": ((9, 8, 3), lambda L: [L.RandomBrightness(0.1), L.Conv2D(2, 3)]),
    **{
        f"activation-{name}": (
            PICTURE,
            lambda L, name=name: [L.Conv2D(4, 3, activation=name), L.LayerNormalization(), L.Activation(name)],
        )
        for name in ACTIVATIONS
    },
}  # fmt: skip


def embedded(keras, L):
    ids = keras.Input((7,), dtype="int32")
    return keras.Model(ids, L.LSTM(4)(L.Embedding(20, 6)(ids)))


def attention(keras, L):
    x = keras.Input(SERIES)
    y = L.Add()([L.MultiHeadAttention(3, 5)(x, x), x])
    y = y + 0.5 * L.Dense(6, "gelu")(L.LayerNormalization(epsilon=1e-6)(y))
    z = L.MultiHeadAttention(2, 4, value_dim=3, use_bias=False)(y, value=x, key=x)
    return keras.Model(x, [L.GlobalAveragePooling1D()(z), y])


def merges(keras, L):
    x, y = keras.Input(PICTURE, name="x"), keras.Input(PICTURE, name="y")
    a, b = L.Conv2D(4, 3)(x), L.Conv2D(4, 3)(y)
    parts = [L.Add()([a, b]), L.Subtract()([a, b]), L.Multiply()([a, b, a]), L.Maximum()([a, b]),
             L.Minimum()([a, b]), L.Average()([a, b, b])]  # fmt: skip
    return keras.Model(
        [x, y], [L.Concatenate()(parts), L.Concatenate(axis=1)([a, b]), L.Concatenate(axis=-2)([a, b])]
    )


def arithmetic(keras, L):
    x = keras.Input(PICTURE)
    a = L.Conv2D(4, 3)(x)
    b = 2.0 - a
    return keras.Model(x, [b, a / 3.0, keras.ops.divide(1.0, b * b + 1.0), (a - b) * 0.5 + 1.0])


def twice_and_nested(keras, L):
    inner = keras.Sequential(
        [keras.Input((6, 6, 3)), L.Conv2D(4, 3, name="conv"), L.BatchNormalization(), L.ReLU(6.0)], name="in"
    )
    middle = keras.Input((6, 6, 3))
    middle = keras.Model(middle, L.Dense(4)(inner(middle)), name="mid")
    x, shared = keras.Input((6, 6, 3)), L.Dense(3, name="shared")
    a, b = middle(x), middle(x * 2.0)
    return keras.Model(x, L.Add()([shared(L.Flatten()(a)), shared(L.Flatten()(b))]))


def by_name(keras, L):
    inputs = {"left": keras.Input((5,), name="left"), "right": keras.Input((4,), name="right")}
    both = L.Concatenate()([inputs["right"], inputs["left"]])
    return keras.Model(inputs, {"sum": L.Dense(2)(both), "first": L.Dense(3)(inputs["left"])})


GRAPHS = {
    "embedding": embedded, "attention": attention, "merges": merges, "arithmetic": arithmetic,
    "twice-and-nested": twice_and_nested, "by-name": by_name,
}  # fmt: skip
CASES = (*STACKS, *GRAPHS)


def build(name):
    """Return the model of a case, every weight drawn: statistics of norms too, so that none is left at 0 or 1."""
    import keras

    keras.utils.set_random_seed(0)
    if name in GRAPHS:
        model = GRAPHS[name](keras, keras.layers)
    else:
        shape, stack = STACKS[name]
        model = keras.Sequential([keras.Input(shape), *stack(keras.layers)])
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if "seed" not in variable.name and variable.name not in ("mean", "variance", "count"):
            low = 0.5 if "variance" in variable.name else -0.5
            variable.assign(rng.uniform(low, low + 1, variable.shape))
    return model
