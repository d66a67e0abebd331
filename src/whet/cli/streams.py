"""Standard output and error that never refuse a character."""

from __future__ import annotations

import codecs
import io
import sys

_HANDLER = "whet-escape"


def escape_what_cannot_be_written() -> None:
    r"""Write characters that a stream's encoding lacks, and lone surrogates, as ``\u00e9``, as JSON escapes them.

    A terminal that is ASCII alone, or a file name that is no UTF-8, is no reason to end in an error after the work.
    """
    codecs.register_error(_HANDLER, _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2)), error.end
