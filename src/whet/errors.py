"""Every deliberate error of whet.

    WhetError                      anything whet raises on purpose: exit code 70, if nothing below says another
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
    ├── PassError                  a pass could not do its work on this model: exit code 2
    │   ├── NothingChanged         a pass that would have changed nothing
    │   └── UnsupportedOperator    the target has no such operator
    ├── ChildError                 a child process failed
    │   ├── ChildCrashed           died of a signal or ended without an answer: exit code 70
    │   ├── TimeLimit              took longer than its limit: exit code 2
    │   └── MemoryLimit            used more memory than its limit: exit code 2
    ├── RuntimeFailure             a runtime could not open or run an artifact: exit code 2
    └── BundleError                a bundle is not what it says it is: exit code 1, a failed verification

A message says what was asked, what is true, and what to do next. Within a search, what fails one candidate is part
of that candidate's result, and the command goes on.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches

# Exit codes of a command that ended with an error. 0, 1 and 3 are those of verdicts.
FAILED = 1  # a verdict FAIL, or a bundle that is not what it says it is
MISTAKE = 2  # the request cannot be served as made
INTERNAL = 70  # EX_SOFTWARE of sysexits.h: an error of whet's own, or a run in which every candidate failed
INTERRUPTED = 130  # 128 + SIGINT; in the same way 143 after SIGTERM, 129 after SIGHUP, 141 after SIGPIPE

_TERMINAL_CODES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")


class WhetError(Exception):
    """Anything whet raises on purpose.

    Attributes:
        exit_code: What the command line returns for it.
        is_from_outside: Whether it is about a process that the user or the system ended, not what it was doing.
    """

    exit_code = INTERNAL
    is_from_outside = False


class UserError(WhetError):
    """The request cannot be served as made; the message is one line a user can act on."""

    exit_code = MISTAKE


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
    """A pass could not do its work on this model: the command asked for what cannot be done."""

    exit_code = MISTAKE


class NothingChanged(PassError):
    """A pass that would have changed nothing."""


class UnsupportedOperator(PassError):
    """The target format or runtime has no such operator."""


class ChildError(WhetError):
    """A child process failed."""


class ChildCrashed(ChildError):
    """A child died of a signal or ended without an answer."""


class TimeLimit(ChildError):
    """A child took longer than its limit."""

    exit_code = MISTAKE


class MemoryLimit(ChildError):
    """A child used more memory than its limit."""

    exit_code = MISTAKE


class RuntimeFailure(WhetError):
    """A runtime could not open or run an artifact."""

    exit_code = MISTAKE


class BundleError(WhetError):
    """A bundle is not what it says it is."""

    exit_code = FAILED


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
