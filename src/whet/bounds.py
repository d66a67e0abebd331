"""Bounds of what a user may ask for, checked before any work by the command line and by Python functions."""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.errors import UserError

MAX_BATCH_SIZES = 32
"""Each is measured with every candidate, for seconds."""
_DIGITS = 18  # a longer whole number is beyond 64 bits, or nearly so
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Bound:
    """What values an option takes.

    Attributes:
        low: Smallest value.
        high: Largest value; infinity where there is none, which is no value itself.
        example: A usual value, as written on the command line.
        whole: Whether the value is a whole number.
        open: Whether ``low`` itself is refused.
    """

    low: float
    high: float = math.inf
    example: str = ""
    whole: bool = False
    open: bool = False

    def __str__(self) -> str:
        """Return ``a whole number from 1 to 65,536, such as 32``."""
        start = f"{'above' if self.open else 'from'} {self.low:,g}"
        end = f" to {self.high:,.0f}" if math.isfinite(self.high) else "" if self.open else " up"
        return f"a {'whole ' if self.whole else ''}number {start}{end}, such as {self.example}"

    def allows(self, value: Any) -> bool:
        """Tell whether a value is a finite number within the bound."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        try:
            return math.isfinite(value) and self.low <= value <= self.high and not (self.open and value == self.low)
        except OverflowError:  # a whole number that no float can hold
            return False


BOUNDS = {
    "batch_size": Bound(1, 65_536, "32", whole=True),
    "threads": Bound(1, example="4", whole=True),  # machine.check_threads knows how many are too many
    "seed": Bound(0, 2**32 - 1, "0", whole=True),  # the largest that numpy's RandomState and Keras take
    "within": Bound(0, 366 * 86_400, "1200", open=True),
    "max_drop": Bound(0, example="0.01"),
    "max_class_drop": Bound(0, example="0.05"),
    "min_speedup": Bound(0, example="1.5", open=True),
    "max_bytes": Bound(1, 2**62, "5000000", whole=True),
    "min_fidelity": Bound(0, 1, "0.7"),
}
"""By the name of the option."""


def check(name: str, value: Any, label: str = "") -> None:
    """Refuse a value that an option does not take.

    Args:
        name: A key of ``BOUNDS``.
        value: As given.
        label: What the option is called in the message; its name by default.

    Raises:
        UserError: The value is outside of the bound, not finite, or of another type.
    """
    if not BOUNDS[name].allows(value):
        raise UserError(f"{label or name} is {shown(value)}; give {BOUNDS[name]}")


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse values that no verb takes, of those options whose values are plain numbers or texts.

    Raises:
        UserError: One of them.
    """
    within, label = options.get("within"), options.get("label")
    if within is not None and not isinstance(within, int | float):
        raise UserError(f"within is a number of seconds, not {shown(within)}")
    if label is not None and not isinstance(label, str):
        raise UserError(f"label is the name of a column, not {shown(label)}")
    for name in ("threads", "seed", "within"):
        if (value := options.get(name)) is not None:
            check(name, value)


def check_budget(budget: Any) -> None:
    """Refuse a budget with a value that is not finite or out of its bound.

    Raises:
        UserError: One of them.
    """
    for name in ("max_drop", "max_class_drop", "min_speedup", "max_bytes", "min_fidelity"):
        if (value := getattr(budget, name)) is not None:
            check(name, value, f"the budget's {name}")
    if not isinstance(budget.confidence, float) or not 0.5 < budget.confidence < 1:
        raise UserError(f"the budget's confidence is {shown(budget.confidence)}; give a number between 0.5 and 1")


def check_sizes(given: Sequence[int]) -> tuple[int, ...]:
    """Return batch sizes, each once.

    Raises:
        UserError: One is out of its bound, or there are none or too many.
    """
    sizes = tuple(dict.fromkeys(given))
    for size in sizes:
        check("batch_size", size, "a batch size")
    if not 0 < len(sizes) <= MAX_BATCH_SIZES:
        raise UserError(f"{len(sizes)} batch sizes are given; give 1 to {MAX_BATCH_SIZES} of them")
    return sizes


def number(text: str, *, whole: bool = False) -> int | float:
    """Read a number written in ASCII digits, without anything around it.

    Raises:
        ValueError: The text is no number, or a whole number of more digits than 64 bits hold.
    """
    if whole:
        if re.fullmatch(rf"[+-]?[0-9]{{1,{_DIGITS}}}", text) is None:
            raise ValueError(text)
        return int(text)
    if text.strip("+-").lower() in ("nan", "inf", "infinity"):
        return float(text)  # refused by the bound, by its name
    if _NUMBER.fullmatch(text) is None:
        raise ValueError(text)
    return float(text)


def shown(value: Any) -> str:
    """Return a value for the middle of a message: printable, in one line, and cut where it is long."""
    if isinstance(value, int) and value.bit_length() > 4 * _SHOWN:
        return f"a whole number of {value.bit_length()} bits"
    if isinstance(value, int | float):
        return str(value)
    text = printable(repr(value))
    return f"{text[: _SHOWN - 3]}... ({len(text):,} characters)" if len(text) > _SHOWN else text


def printable(text: str) -> str:
    r"""Return a text in one line in which control characters and lone surrogates are written as ``\x1b``."""
    return "".join(
        mark if mark.isprintable() else mark.encode("ascii", "backslashreplace").decode()
        if ord(mark) > 255 else f"\\x{ord(mark):02x}"
        for mark in " ".join(text.split())
    )  # fmt: skip


def listed(names: Sequence[str], limit: int = 20) -> str:
    """Return the first names, with commas between, and how many more there are; long names are cut."""
    some = ", ".join(name if len(name) <= _SHOWN else f"{name[: _SHOWN - 3]}..." for name in names[:limit])
    return f"{some} and {len(names) - limit:,} others" if len(names) > limit else some


def check_path(path: str | Path, label: str) -> None:
    """Refuse a path that the operating system cannot follow or read; one that leads nowhere is for the caller.

    Args:
        path: As given.
        label: What it is, for the message: ``the data``.

    Raises:
        UserError: It is empty, a name in it is too long, links run in a circle, or it may not be read.
    """
    if not str(path).strip():
        raise UserError(f"{label} is an empty name; give a file or a folder")
    try:
        Path(path).stat()
    except ValueError as error:
        raise UserError(f"{label} {shown(str(path))} holds a NUL character; check the path") from error
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return
        reason = (
            "links that run in a circle" if error.errno == errno.ELOOP else os.strerror(error.errno or 0).lower()
        )
        raise UserError(f"{label} {shown(str(path))} cannot be opened ({reason}); check the path") from error
    if not os.access(path, os.R_OK):
        raise UserError(f"{label} {shown(str(path))} may not be read (permission denied); allow it with chmod")
