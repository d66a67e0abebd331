"""Size: bytes on disk, and after deflate."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_LEVEL = 9
_MEMORY = 9  # Info-ZIP's own deflate ends a block after as many symbols; zlib's usual 8 ends them twice as often
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Size:
    """What files take.

    Attributes:
        bytes: On disk, which is what a stock runtime loads.
        deflated_bytes: After raw deflate at level 9, as in a ZIP archive.
    """

    bytes: int
    deflated_bytes: int

    @property
    def deflation_percent(self) -> int:
        """The whole percentage that Info-ZIP prints, ``(deflated 73%)``, to within a point (see deflated_size)."""
        return percent(self.bytes, self.deflated_bytes)


def measure(files: Iterable[Path]) -> Size:
    """Return the size of some files together, each deflated by itself as an archive would."""
    total = deflated = 0
    for path in files:
        total += path.stat().st_size
        deflated += deflated_size(path)
    return Size(total, deflated)


def deflated_size(path: Path) -> int:
    """Return the length of a file after raw deflate, reading it in pieces.

    Most files come out as ``zip -9`` makes them, to the byte. Where the content changes within a file, Info-ZIP
    also ends a block early, which zlib cannot: then the lengths differ by up to 1 %, either way.
    """
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS, _MEMORY)
    length = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            length += len(packer.compress(chunk))
    return length + len(packer.flush())


def percent(before: int, after: int) -> int:
    """Return the saved share in whole percent, rounded as Info-ZIP does: half up, and 0 where nothing is saved."""
    if before <= 0 or after >= before:
        return 0
    return (1 + 200 * (before - after) // before) // 2
