"""Every deliberate error of whet.

    WhetError                      anything whet raises on purpose
    ├── UserError                  the request cannot be served as made: one line, exit code 2
    │   ├── MissingDependency      an extra is not installed; names the exact ``pip install``
    │   ├── ModelError             the model cannot be found, read or built
    │   │   ├── WeightsMismatch    weights do not fit the model
    │   │   └── UnsafePickle       reading it would run code from the file
    │   ├── SignatureError         names, shapes or types of inputs or outputs do not fit
    │   ├── DataError              the data cannot be found, read or used
    │   ├── RecipeError            a recipe that cannot work, found before any work
    │   ├── RunFolderError         the RUN folder is in use, or holds another command's work
    │   └── StorageError           a disk that is full, or a place that cannot be written
    ├── PassError                  a pass could not do its work on this model
    │   ├── NothingChanged         a pass that would have changed nothing
    │   └── UnsupportedOperator    the target has no such operator
    ├── ChildError                 a child process came to grief
    │   ├── ChildCrashed           died of a signal or left without an answer
    │   ├── TimeLimit              took longer than it was given
    │   └── MemoryLimit            used more memory than it was given
    ├── RuntimeFailure             a runtime could not open or run an artifact
    └── BundleError                a bundle is not what it says it is

A message says what was asked, what is true, and what to do next.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches


class WhetError(Exception):
    """Anything whet raises on purpose. ``exit_code`` is what the command line returns for it."""

    exit_code = 1


class UserError(WhetError):
    """The request cannot be served as made; the message is one line a user can act on."""

    exit_code = 2


class MissingDependency(UserError):
    """A library of an extra is not installed."""

    @classmethod
    def of(cls, library: str, extra: str) -> "MissingDependency":
        """Build the error for ``library`` which comes with ``whet[extra]``."""
        return cls(f"This needs {library}, which is not installed; run: pip install 'whet[{extra}]'")


class ModelError(UserError):
    """The model cannot be found, read or built."""


class WeightsMismatch(ModelError):
    """The weights do not fit the model they were given for."""


class UnsafePickle(ModelError):
    """Reading the file would run code that lies in it."""


class SignatureError(UserError):
    """Names, shapes or types of inputs or outputs do not fit."""


class DataError(UserError):
    """The data cannot be found, read or used."""


class RecipeError(UserError):
    """A recipe that cannot work."""


class RunFolderError(UserError):
    """The RUN folder is in use, or holds another command's work."""


class StorageError(UserError):
    """A disk that is full, or a place that cannot be written."""


class PassError(WhetError):
    """A pass could not do its work on this model."""


class NothingChanged(PassError):
    """A pass that would have changed nothing."""


class UnsupportedOperator(PassError):
    """The target format or runtime has no such operator."""


class ChildError(WhetError):
    """A child process came to grief."""


class ChildCrashed(ChildError):
    """A child died of a signal or left without an answer."""


class TimeLimit(ChildError):
    """A child took longer than it was given."""


class MemoryLimit(ChildError):
    """A child used more memory than it was given."""


class RuntimeFailure(WhetError):
    """A runtime could not open or run an artifact."""


class BundleError(WhetError):
    """A bundle is not what it says it is."""


_TERMINAL_CODES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


def in_one_line(error: BaseException, most: int = 200) -> str:
    """Return what a library's error says in one line, for the middle of a message of ours.

    It may quote a stranger's file: what would move the cursor, colour or hide text is left out, or shown as ``?``.
    """
    text = " ".join(_TERMINAL_CODES.sub("", str(error)).split())
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return f"{text[: most - 3]}..." if len(text) > most else text or type(error).__name__


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?`` for the closest known word, else the list of what is known."""
    names = sorted(known)
    close = get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(names)}" if names else ""
