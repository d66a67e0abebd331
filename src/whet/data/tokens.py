"""Text to the numbers of its tokens. NumPy and tokenizers alone: bundles carry this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import short
from .columns import words

Array = NDArray[Any]

TOKEN_FIELDS = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""What a tokenizer gives for a text, and how the tokenizers library calls it."""


@dataclass(frozen=True)
class Tokens:
    """What cuts text into tokens and gives their numbers, by a ``tokenizer.json`` of the tokenizers library.

    Attributes:
        file: The ``tokenizer.json``; in a bundle, relative to its folder ``preprocess``.
        max_length: Longer texts are cut to so many tokens, special ones included.
        padding: ``max`` pads every text to ``max_length``, ``batch`` to the longest of its batch.
        columns: Of text: one, or two that are read as a pair (with the separator of the tokenizer between).
        inputs: The model's inputs, each with its field: ``input_ids``, ``attention_mask``, ``token_type_ids``.
        dtype: Of the inputs.
        digest: SHA-256 of the file.
    """

    file: str
    max_length: int = 128
    padding: str = "max"
    columns: tuple[str, ...] = ()
    inputs: tuple[tuple[str, str], ...] = ()
    dtype: str = "int64"
    digest: str = ""

    def __call__(self, rows: Mapping[str, Any]) -> dict[str, Array]:
        """Map columns of text to named inputs, each (N, length).

        Raises:
            ValueError: A column is missing, or the file is no tokenizer.
        """
        found = self._tokenizer().encode_batch(self._texts(rows))
        inputs = self.inputs or tuple((field, field) for field in TOKEN_FIELDS)
        return {
            name: np.array([getattr(one, TOKEN_FIELDS[field]) for one in found], dtype=self.dtype)
            for name, field in inputs
        }

    @property
    def vocabulary(self) -> int:
        """One more than the greatest number of a token."""
        return 1 + int(max(self._tokenizer().get_vocab().values(), default=0))

    def cut(self, rows: Mapping[str, Any]) -> int:
        """Return how many texts are longer than ``max_length``."""
        return sum(bool(one.overflowing) for one in self._tokenizer().encode_batch(self._texts(rows)))

    def _texts(self, rows: Mapping[str, Any]) -> list[Any]:
        names = [name for name in self.columns if name in rows]
        if len(names) < max(len(self.columns), 1):
            if len(rows) != 1 or len(self.columns) > 1:
                wanted = " and ".join(self.columns) or "of text"
                raise ValueError(f"there is no column {wanted}; there are {short(', '.join(rows), 200)}")
            names = list(rows)
        sides = [words(rows[name]) for name in names]
        return sides[0] if len(sides) == 1 else list(zip(*sides, strict=True))

    def _tokenizer(self) -> Any:
        return _tokenizer(self.file, self.max_length, self.padding)


@lru_cache(maxsize=4)
def _tokenizer(file: str, max_length: int, padding: str) -> Any:
    """Open a tokenizer, once; it pads as it was made to, else with ``[PAD]`` or ``<pad>``, else with 0."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(file)
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{file} is no tokenizer.json of the tokenizers library ({error})") from error
    own = tokenizer.padding or {}
    pad = own.get("pad_token") or next(
        (word for word in ("[PAD]", "<pad>", "<|endoftext|>") if tokenizer.token_to_id(word) is not None), "[PAD]"
    )
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding(
        direction=own.get("direction", "right"),
        pad_id=int(own.get("pad_id", tokenizer.token_to_id(pad) or 0)),
        pad_type_id=int(own.get("pad_type_id", 0)),
        pad_token=pad,
        length=max_length if padding == "max" else None,
    )
    return tokenizer


def chosen_for(tokens: Tokens, takes: Sequence[Any]) -> Tokens:
    """Choose the fields that a model takes; the only input of a model takes the numbers, whatever its name."""
    chosen = tokens.inputs or tuple((one.name, one.name) for one in takes if one.name in TOKEN_FIELDS)
    wanted = [one for one in takes if not one.held]
    if not chosen and len(wanted) == 1:
        chosen = ((wanted[0].name, "input_ids"),)
    dtypes = {one.dtype for one in takes if one.dtype and any(one.name == name for name, _ in chosen)}
    return replace(tokens, inputs=chosen, dtype=dtypes.pop() if len(dtypes) == 1 else tokens.dtype)
