"""Data fitted to a model: of a table's columns and a tokenizer's fields, those that the model takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from whet import isolate, plain
from whet.data.data import Splits
from whet.data.sources import DataSource
from whet.data.tokens import Tokens
from whet.errors import ChildCrashed, DataError, ModelError, RuntimeFailure, SignatureError, WhetError
from whet.isolate import Limits
from whet.models.adapter import adapter_for
from whet.models.model import Model
from whet.models.source import Source
from whet.models.takes import embedded, takes
from whet.models.torch import hub
from whet.progress import OnEvent
from whet.storage import sha256, write_text
from whet.types import TensorSpec

if TYPE_CHECKING:
    from whet.types import Batch

_CRASH_SECONDS = 120.0  # to find out whether a model makes its runtime crash


def open_data(data: DataSource, source: Source, known: Path | None = None) -> Splits:
    """Open data for a model; data that is no columns stays as it is.

    Args:
        data: Where it comes from. Texts for which it names no tokenizer are cut by the model's own.
        source: The model, which is opened if the data is columns.
        known: A file that keeps what was found of the model, so that it is looked for once.

    Raises:
        DataError: The data cannot be read, or its columns or the tokenizer do not fit the model.
    """
    splits = with_tokens(data, source).open()
    if not splits.preprocess.gathers:
        return splits
    if known is not None and known.exists():
        try:
            return splits.fitted(plain.read_json(known, tuple[TensorSpec, ...]))
        except (OSError, ValueError):
            known.unlink()  # damaged: found anew
    try:
        model = adapter_for(source.format).open(source, None)
    except SignatureError:
        return splits  # only running it on a sample tells what it takes
    check_words(splits, model)
    found = takes(model, source.inputs)
    if known is not None:
        write_text(known, plain.dumps(found))
    return splits.fitted(found)


def open_model(source: Source, splits: Splits, sample: Batch) -> Model:
    """Open a model on a sample of data; where it does not take the columns of a table, they are named.

    Raises:
        SignatureError: The model does not take the sample.
    """
    try:
        return adapter_for(source.format).open(source, sample)
    except SignatureError as error:
        columns = splits.preprocess.columns
        if splits.preprocess.tokens is not None or splits.preprocess.window or not columns:
            raise
        raise SignatureError(
            f"{error}; the table's columns {', '.join(columns)} went in: leave out what the model was not trained "
            f"on with --preprocess 'drop=NAME', or name the labels with --label"
        ) from error


def with_tokens(data: DataSource, source: Source) -> DataSource:
    """Return data that knows the tokenizer which came with a model, if one did."""
    path = hub.tokenizer_file(source)
    if path is None:
        return data
    config = json.loads((path.parent / hub.CONFIG).read_text(encoding="utf-8"))
    settings = path.parent / "tokenizer_config.json"
    told = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
    lengths = (told.get("model_max_length"), config.get("max_position_embeddings"))
    most = min([Tokens.max_length, *(int(length) for length in lengths if isinstance(length, int | float))])
    return replace(data, tokens=Tokens(str(path), most, digest=sha256(path)))


def check_words(splits: Splits, model: Model) -> None:
    """Refuse a tokenizer that gives numbers which the model's embedding does not have.

    Raises:
        DataError: It does.
    """
    tokens, words = splits.preprocess.tokens, embedded(model)
    if tokens is not None and 0 < words < tokens.vocabulary:
        raise DataError(
            f"the tokenizer does not fit the model: it has {tokens.vocabulary} words, the largest embedding "
            f"{words}; give the tokenizer.json that the model was trained with"
        )


@contextmanager
def as_given(source: Source) -> Iterator[None]:
    """Raise what a runtime refuses of the user's own model as a ModelError: no candidate's fault, but the file's.

    Raises:
        ModelError: The model cannot be run.
    """
    try:
        yield
    except RuntimeFailure as error:
        raise ModelError(f"{source.path or source.name} cannot be run as it is: {error}") from error


@contextmanager
def crashes_explained(sources: Sequence[Source]) -> Iterator[None]:
    """Where a child process died, open the models one by one, each in a child, and name the one that kills it.

    Raises:
        ModelError: A model makes its own runtime crash.
    """
    try:
        yield
    except ChildCrashed as error:
        for source in sources if str(error).startswith("died of") else ():
            if cause := _crash_of(source):
                raise ModelError(
                    f"{source.path or source.name} made the runtime that opens it crash ({cause}); the file is "
                    f"damaged, or made to do harm: copy or export it again"
                ) from error
        raise


def _crash_of(source: Source) -> str:
    """Return how a process dies that opens a model, or nothing."""
    try:
        isolate.call(_open_alone, source, limits=Limits(_CRASH_SECONDS))
    except ChildCrashed as error:
        return str(error) if str(error).startswith("died of") else ""
    except WhetError:
        return ""
    return ""


def _open_alone(source: Source, on_event: OnEvent) -> None:
    adapter_for(source.format).open(source, None)
