"""Train a small Keras classifier on a folder of pictures, for a laboratory that has none.

    python -m whet.lab.classifier DATASET_ROOT MODEL.keras [--size 96] [--epochs 30] [--weights imagenet]

The pictures it is tested on are those that ``whet lab`` measures on, and it never sees them before.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from whet.data import modes, pets
from whet.data.data import Data
from whet.data.preprocess import Preprocess
from whet.data.samples import Samples, looks, samples_of
from whet.errors import DataError, ModelError, StorageError, WhetError
from whet.lab.parts import parted, unreadable
from whet.progress import Event

if TYPE_CHECKING:
    from whet.types import Array

_FINEST, _WIDEST = 8, 128  # rows of the last maps of features at most; channels at most
_PATIENCE = 10
_MOMENTUM = 0.9  # of BatchNorm's averages: those of few steps an epoch must keep up with the weights


@dataclass(frozen=True)
class Wish:
    """What is to be trained.

    Attributes:
        size: Side of the square picture that goes in; 0 takes that of the pictures, 96 where they differ.
        width: Channels of the first convolution; each halving of the picture doubles them, up to 128.
        separable: Depthwise and pointwise convolutions in place of whole ones, but for the first.
        weights: ``imagenet`` for a MobileNetV2 with these weights under a new top; Keras downloads them.
        epochs: At most; training stops once the held-out loss has not fallen for ten.
        batch: Pictures a step.
        seed: Of the weights and of the order of pictures.
        skip_unreadable: Leave out pictures that cannot be read, and say which.
    """

    size: int = 0
    width: int = 16
    separable: bool = False
    weights: str = ""
    epochs: int = 30
    batch: int = 64
    seed: int = 0
    skip_unreadable: bool = False


def train(root: Path, wish: Wish) -> tuple[Any, float, int]:
    """Train a classifier on the train part of a folder; the weights of the least held-out loss are kept.

    Args:
        root: As ``whet lab --dataset-root`` takes it.
        wish: What is to be trained.

    Returns:
        The ``keras.Model``, which takes numbers from 0 to 255; its accuracy on the test part; the test pictures.

    Raises:
        DataError: The folder cannot be read as labelled pictures.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    keras.utils.set_random_seed(wish.seed)
    data = parted(root, unreadable(root) if wish.skip_unreadable else ())
    pictures = _preprocess(data, wish)
    x, y = _arrays(data.train, pictures)
    held = _arrays(data.select, pictures)
    net = _network(x.shape[1:], len(data.classes), wish)
    learning = keras.Sequential([keras.Input(x.shape[1:]), *_augmentation(x.shape[1:]), net])
    learning.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    learning.fit(
        x, y, batch_size=wish.batch, epochs=wish.epochs, validation_data=held, verbose=2,
        callbacks=[
            keras.callbacks.ReduceLROnPlateau(factor=0.3, patience=_PATIENCE // 2),
            keras.callbacks.EarlyStopping(patience=_PATIENCE, restore_best_weights=True),
        ],
    )  # fmt: skip
    x_test, y_test = _arrays(data.test, pictures)
    chosen = net.predict(x_test, batch_size=wish.batch, verbose=0).argmax(axis=1)
    return net, float((chosen == y_test).mean()), len(y_test)


def _preprocess(data: Data, wish: Wish) -> Preprocess:
    """Return what makes square pictures of one size, with a channel axis, of those in a folder.

    They are grey if all of them are, else RGB. What is to be known of the pictures is told on standard error.
    """
    test = samples_of(data.test)
    first, seen = _shape(test), looks(map(samples_of, (data.train, data.select, data.test)))
    size = wish.size or (first[0] if len(first) >= 2 and first[0] == first[1] else 96)
    color = modes.color_of(seen) if seen else "L" if len(first) == 2 or first[-1] == 1 else "RGB"
    for note in (*data.notes, *modes.told(seen, color)):
        click.echo(note, err=True)
    return Preprocess(color=color, resize=(size, size), layout="HWC", dtype="uint8")


def _shape(samples: Samples) -> tuple[int, ...]:
    """Return the shape of the first raw sample."""
    rows = samples.rows([0])
    return tuple(next(iter(rows.values()))[0].shape)


def _arrays(part: Any, pictures: Preprocess) -> tuple[Array, Array]:
    """Return a whole part as bytes (N, H, W, C), and its labels."""
    samples = samples_of(part)
    try:
        (x,) = pictures.inputs(samples.rows(range(len(samples)))).values()
    except ValueError as error:
        raise DataError(f"the pictures cannot be used: {error}") from error
    labels = samples.labels()
    assert labels is not None
    return x, labels


def _augmentation(shape: tuple[int, ...]) -> list[Any]:
    """Return what varies pictures as they are trained on: mirrored, shifted, magnified. It is not in the model."""
    from keras import layers

    return [layers.RandomFlip("horizontal"), layers.RandomTranslation(0.08, 0.08), layers.RandomZoom(0.1)]


def _network(shape: tuple[int, ...], classes: int, wish: Wish) -> Any:
    """Build the network: numbers from 0 to 255 in, probabilities out."""
    import keras
    from keras import layers

    picture = keras.Input(shape, name="picture")
    if wish.weights:
        return _on_imagenet(picture, classes)
    x = layers.Rescaling(1 / 255)(picture)
    x, width = _convolution(x, wish.width, separable=False), wish.width
    while x.shape[1] > _FINEST:
        width = min(2 * width, _WIDEST)
        x = _convolution(layers.MaxPooling2D()(x), width, separable=wish.separable)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(picture, layers.Dense(classes, activation="softmax", name="classes")(x), name="classifier")


def _convolution(x: Any, width: int, *, separable: bool) -> Any:
    from keras import layers

    if separable:
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=_MOMENTUM)(x))
    x = layers.Conv2D(width, 1 if separable else 3, padding="same", use_bias=False)(x)
    return layers.ReLU()(layers.BatchNormalization(momentum=_MOMENTUM)(x))


def _on_imagenet(picture: Any, classes: int) -> Any:
    """Return a MobileNetV2 under a new top; Keras downloads its weights."""
    import keras
    from keras import layers

    x = layers.Rescaling(1 / 127.5, offset=-1)(picture)
    try:
        base = keras.applications.MobileNetV2(include_top=False, weights="imagenet", pooling="avg", input_tensor=x)
    except Exception as error:  # whatever the download met
        raise ModelError(
            f"the weights of ImageNet cannot be had ({' '.join(str(error).split())}); connect to the internet, or "
            f"leave --weights out"
        ) from error
    top = layers.Dense(classes, activation="softmax", name="classes")(layers.Dropout(0.2)(base.output))
    return keras.Model(picture, top, name="classifier")


def _told(event: Event) -> None:
    """Show how far a download is, in one line that is written over."""
    click.echo(f"\r{event.stage} {event.done:,} of {event.total:,}   ", err=True, nl=False)


@click.command("classifier")
@click.argument("dataset_root", type=click.Path(path_type=Path))
@click.argument("model_path", type=click.Path(path_type=Path))
@click.option("--size", type=click.IntRange(8, 1024), help="Side of the picture that goes in; by default its own.")
@click.option("--width", type=click.IntRange(1, 512), default=16, show_default=True, help="First channels.")
@click.option("--separable", is_flag=True, help="Depthwise-separable convolutions.")
@click.option(
    "--weights",
    type=click.Choice(["imagenet"]),
    help="MobileNetV2 with weights that are downloaded, in place of a small network from scratch.",
)
@click.option("--download-dataset", is_flag=True, help="First download Oxford-IIIT Pet, as whet lab does.")
@click.option("--skip-unreadable", is_flag=True, help="Leave out pictures that cannot be read, as whet lab does.")
@click.option("--epochs", type=click.IntRange(1), default=30, show_default=True, help="At most.")
@click.option("--batch", type=click.IntRange(1), default=64, show_default=True, help="Pictures a step.")
@click.option("--seed", type=int, default=0, show_default=True)
def command(dataset_root: Path, model_path: Path, download_dataset: bool, **options: Any) -> None:
    """Train a small Keras classifier on DATASET_ROOT, save it as MODEL_PATH, and print its test accuracy."""
    if model_path.suffix not in (".keras", ".h5"):
        raise click.UsageError(f"{model_path.name} is no .keras or .h5 file; name the model so")
    options |= {"size": options["size"] or 0, "weights": options["weights"] or ""}
    if download_dataset:
        pets.download(dataset_root, _told)
        click.echo(err=True)
    net, accuracy, pictures = train(dataset_root, Wish(**options))
    try:
        model_path.parent.mkdir(parents=True, exist_ok=True)
        net.save(model_path)
    except OSError as error:
        raise StorageError(f"cannot write {model_path} ({error.strerror}); choose another path") from error
    click.echo(f"{net.count_params():,} parameters, accuracy {accuracy:.4f} on {pictures:,} test pictures")
    click.echo(f"saved as {model_path}")


def main(arguments: list[str]) -> int:
    """Run the command line and return its exit code; a mistake is one line."""
    try:
        command.main(arguments, prog_name="python -m whet.lab.classifier", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        return error.exit_code
    except WhetError as error:
        click.echo(f"error: {' '.join(str(error).split())}", err=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
