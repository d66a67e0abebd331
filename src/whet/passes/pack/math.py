"""Codes, codebooks and masks: which forms a tensor can be stored in, in how many bytes. NumPy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from whet.types import Array

MOST_BITS = 7  # of a code: 8 would save nothing of a byte
PLANES = (4, 2, 1)  # bits of which a byte holds a whole number
_NODE_BYTES = 40  # what a node, or a tensor's name and shape, takes in a file, about


@dataclass(frozen=True)
class Coded:
    """A tensor as codes into a codebook.

    Attributes:
        codes: uint8, of the tensor's shape, or (n,) of what is not zero where there is a ``mask``.
        book: (values,), or (channels, values) where each channel has its own.
        axis: Of the channels; None of one codebook for all.
        mask: Of the tensor's shape: what is not zero. None where zero is a value like any other. With a mask the
            first value of a codebook is zero, and a code counts from 1.
    """

    codes: Array
    book: Array
    axis: int | None = None
    mask: Array | None = None

    @property
    def bits(self) -> int:
        """Of a code."""
        return bits_for(self.book.shape[-1] - (self.mask is not None))

    @property
    def size_bytes(self) -> int:
        """About what it takes in a file."""
        bits = self.codes.size * self.bits + (0 if self.mask is None else self.mask.size)
        nodes = 5 + 4 * self.bits.bit_count() + 3 * (self.axis is not None) + 9 * (self.mask is not None)
        return -(-bits // 8) + self.book.nbytes + _NODE_BYTES * nodes


@dataclass(frozen=True)
class Sparse:
    """A tensor as the numbers that are not zero (n,), and a mask of the tensor's shape that says where they are."""

    values: Array
    mask: Array

    @property
    def size_bytes(self) -> int:
        """About what it takes in a file."""
        return self.values.nbytes + -(-self.mask.size // 8) + _NODE_BYTES * 11


@dataclass(frozen=True)
class Fill:
    """A tensor of one value, whatever its shape.

    Attributes:
        value: (1,).
    """

    value: Array

    @property
    def size_bytes(self) -> int:
        """About what it takes in a file."""
        return _NODE_BYTES * 2 + self.value.nbytes


Form = Coded | Sparse | Fill


def bits_for(values: int) -> int:
    """Return the bits of a code that tells so many values apart: at least 1."""
    return max(1, (values - 1).bit_length())


def smallest(array: Array) -> Form | None:
    """Return the smallest form of a tensor (ndim >= 1), or None where none is smaller than the tensor itself.

    Equal means equal bit for bit, but -0.0, which masks leave behind, is taken for 0.0.
    """
    if array.dtype.kind == "f":
        array = array + array.dtype.type(0)
    forms = [form for form in _forms(array) if form.size_bytes < array.nbytes + _NODE_BYTES]
    return min(forms, key=lambda form: form.size_bytes, default=None)


def _forms(array: Array) -> list[Form]:
    words = array.view(f"u{array.itemsize}")
    distinct = np.unique(words)
    if len(distinct) == 1:
        return [Fill(array.reshape(-1)[:1])]
    mask = words != 0
    forms: list[Form] = []
    if not mask.all():
        forms.append(Sparse(array[mask], mask))
    for axis in (None, *({0, array.ndim - 1} if array.ndim > 1 else ())):
        coded = _coded(words, distinct, axis)
        if coded is not None:
            codes, book = coded
            forms += _with_book(codes, book.view(array.dtype), axis, mask)
    return forms


def _coded(words: Array, distinct: Array, axis: int | None) -> tuple[Array, Array] | None:
    """Return codes of the shape of ``words`` and codebooks, or None where there are too many values.

    The values of a channel stand in its row in order, zero first; a row that has fewer than others ends in zeros.
    """
    most = 1 << MOST_BITS
    if axis is None:
        if len(distinct) > most:
            return None
        book = np.concatenate([distinct[distinct == 0], distinct[distinct != 0]])
        order = np.argsort(book, kind="stable")
        return order[np.searchsorted(book, words, sorter=order)].astype(np.uint8), book
    rows = np.moveaxis(words, axis, 0).reshape(words.shape[axis], -1)
    if rows.shape[1] <= 2:
        return None
    ordered = np.sort(rows, axis=1)
    fresh = np.diff(ordered, axis=1, prepend=~ordered[:, :1]) != 0
    if int(fresh.sum(axis=1).max()) > most:
        return None
    books = [ordered[row][fresh[row]] for row in range(len(rows))]
    has_zero = any(book[0] == 0 for book in books)
    books = [book if book[0] == 0 or not has_zero else np.append(book[:1] * 0, book) for book in books]
    width = max(map(len, books))
    if width > most:
        return None
    codes = np.stack([np.searchsorted(book, row) for book, row in zip(books, rows, strict=True)]).astype(np.uint8)
    shape = (words.shape[axis], *np.delete(words.shape, axis))
    table = np.stack([np.pad(book, (0, width - len(book))) for book in books])
    return np.ascontiguousarray(np.moveaxis(codes.reshape(shape), 0, axis)), table


def _with_book(codes: Array, book: Array, axis: int | None, mask: Array) -> list[Form]:
    dense = Coded(codes, book, axis)
    return [dense] if mask.all() else [dense, Coded(codes[mask] - np.uint8(1), book, axis, mask)]


def plane(codes: Array, low: int, width: int) -> Array:
    """Return bits ``low`` to ``low + width`` of all codes, packed in bytes, the first code lowest.

    Args:
        codes: uint8, of any shape.
        low: The lowest bit.
        width: 1, 2 or 4.
    """
    held = 8 // width
    bits = (codes.reshape(-1) >> low) & ((1 << width) - 1)
    rows = np.pad(bits, (0, -bits.size % held)).reshape(-1, held)  # (bytes, held)
    return np.asarray((rows << (width * np.arange(held, dtype=np.uint8))).sum(axis=1), np.uint8)
