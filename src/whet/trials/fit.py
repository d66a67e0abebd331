"""Data fitted to a model: of a table's columns and a tokenizer's fields, those that the model takes."""

from __future__ import annotations

from pathlib import Path

from whet import plain
from whet.data.data import Splits
from whet.errors import DataError, SignatureError
from whet.models.adapter import adapter_for
from whet.models.model import Model
from whet.models.source import Source
from whet.models.takes import embedded, takes
from whet.storage import write_text
from whet.types import TensorSpec


def fitted(splits: Splits, source: Source, known: Path | None = None) -> Splits:
    """Return the splits with the inputs that a source takes; data that is no columns stays as it is.

    Args:
        splits: The data.
        source: The model, which is opened for it.
        known: A file that keeps what was found, so that it is looked for once.

    Raises:
        DataError: The tokenizer has more words than the model.
    """
    if not splits.preprocess.gathers:
        return splits
    if known is not None and known.exists():
        return splits.fitted(plain.loads(known.read_text(), tuple[TensorSpec, ...]))
    try:
        model = adapter_for(source.format).open(source, None)
    except SignatureError:
        return splits  # only running it on a sample tells what it takes
    check_words(splits, model)
    found = takes(model, source.inputs)
    if known is not None:
        write_text(known, plain.dumps(found))
    return splits.fitted(found)


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
