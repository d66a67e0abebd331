"""What makes files smaller, in sentences: the file itself or its zip, how far, and why; chosen by the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from whet.data.metrics import correlation, ranks
from whet.report.lab_compared import FAMILIES
from whet.report.lab_results import BASE, Shelf, Variant

_MORE = 1.05  # times smaller, from which on a file counts as smaller
_EXPLAINS = 0.8  # rank correlation, from which on one number is said to follow another
_MANY_ZEROS = 0.2
_NOTABLE = 0.05  # of repeats and of entropy, that is worth a word
_SAME_ZEROS = 0.001
DEFLATION = (
    "Deflating (RFC 1951, what a zip does) is lossless: a run of bytes that occurred in the last 32 KB is replaced "
    "by a reference to it (LZ77), and what remains is written in fewer bits the more often it occurs (Huffman). "
    "The deflation of a file is the share of its bytes that this saves."
)


def smaller(item: Variant, base: Variant) -> float:
    """Return how many times smaller a file is than the FP32 file."""
    return base.size_bytes / item.size_bytes


def smaller_deflated(item: Variant, base: Variant) -> float:
    """Return how many times smaller a file is than the FP32 file, both deflated."""
    return base.deflated_bytes / item.deflated_bytes


def sizes(shelf: Shelf) -> Iterator[str]:
    """Say how many times smaller than the FP32 file the best of each optimization is, raw and deflated."""
    base = shelf.base
    if base is None:
        return
    for family in (*FAMILIES, "combination"):
        found = shelf.of(family)
        if not found:
            continue
        raw, packed = (min(found, key=key) for key in (_bytes, _deflated))
        lengths = f"({raw.size_bytes:,.0f} bytes to {base.size_bytes:,.0f})"
        told = f"the smallest file is `{raw.name}`, {smaller(raw, base):.2f} times smaller than `{BASE}` {lengths}"
        if smaller(raw, base) < _MORE:
            told = f"no file is {_MORE} times smaller than `{BASE}`, not even `{raw.name}` {lengths}"
        yield (
            f"Of {family}, {told}; deflated, the smallest is `{packed.name}`, "
            f"{smaller_deflated(packed, base):.2f} times smaller than `{BASE}` deflated "
            f"({packed.deflated_bytes:,.0f} bytes to {base.deflated_bytes:,.0f})."
        )


def shrinks(shelf: Shelf) -> Iterator[str]:
    """Say which variants shrink the file itself, which only its zip, and which neither."""
    base = shelf.base
    if base is None:
        return
    others = [item for item in shelf.files if item is not base]
    itself = [item for item in others if smaller(item, base) >= _MORE]
    zipped = [item for item in others if item not in itself and smaller_deflated(item, base) >= _MORE]
    rest = [item for item in others if item not in itself and item not in zipped]
    if itself:
        yield f"The file itself shrinks: {_ratios(itself, base)}."
    if zipped:
        yield (
            f"The file keeps its length, and only its zip shrinks: {_ratios(zipped, base)}; on a device that holds "
            f"the file as it is they save nothing."
        )
    if rest:
        yield f"Neither the file nor its zip is {_MORE} times smaller: {_ratios(rest, base)}."
    yield from _zeros(shelf, base)


def _ratios(items: Sequence[Variant], base: Variant) -> str:
    ordered = sorted(items, key=lambda item: -smaller(item, base))
    return ", ".join(
        f"`{item.name}` ({smaller(item, base):.2f} times, deflated {smaller_deflated(item, base):.2f})"
        for item in ordered
    )


def _zeros(shelf: Shelf, base: Variant) -> Iterator[str]:
    """Say of which files' zeros are stored as numbers like others, and which leave them out (sparse encoding)."""
    full = [item for item in shelf.of("pruning") if _share_of_zeros(item) >= _MANY_ZEROS]
    left_out = [item for item in full if smaller(item, base) >= _MORE]
    stored = [item for item in full if item not in left_out]
    if stored:
        most = max(stored, key=_share_of_zeros)
        yield (
            f"`{most.name}` holds {_share_of_zeros(most):.1%} zeros in {most.size_bytes:,.0f} bytes, `{BASE}` has "
            f"{base.size_bytes:,.0f}: there a zero takes as many bytes as any number."
        )
    for item in left_out:
        yield (
            f"`{item.name}` holds {_share_of_zeros(item):.1%} zeros in {item.size_bytes:,.0f} bytes, "
            f"{smaller(item, base):.2f} times smaller than `{BASE}`: zeros are left out of it (sparse encoding); "
            f"deflated it takes {item.deflated_bytes:,.0f} bytes{_beside(item, stored)}."
        )


def _beside(item: Variant, stored: Sequence[Variant]) -> str:
    """Say what the same zeros take deflated where they are stored."""
    alike = [other for other in stored if abs(_share_of_zeros(other) - _share_of_zeros(item)) < _SAME_ZEROS]
    if not alike:
        return ""
    other = min(alike, key=_deflated)
    verb = "fewer than" if item.deflated_bytes < other.deflated_bytes else "not fewer than"
    return f", {verb} `{other.name}` with its zeros ({other.deflated_bytes:,.0f})"


def _share_of_zeros(item: Variant) -> float:
    return (item.contents.zeros if item.contents else None) or 0.0


def deflation(shelf: Shelf) -> Iterator[str]:
    """Say what deflation is, which optimization it rewards most, and why, by what lies in the files."""
    yield DEFLATION
    base = shelf.base
    best = [max(found, key=_percent) for family in FAMILIES if (found := shelf.of(family))]
    if base is None or not best:
        return
    ordered = sorted(best, key=_percent, reverse=True)
    told = ", ".join(f"{item.family} {item.deflation_percent:.0f} % (`{item.name}`)" for item in ordered)
    first = ordered[0]
    alike = [item.family for item in ordered if item.deflation_percent == first.deflation_percent]
    if first.deflation_percent <= base.deflation_percent:
        lead = "It rewards no optimization more than none"
    elif len(alike) > 1:
        lead = f"It rewards {' and '.join(alike)} alike"
    else:
        lead = f"It rewards {first.family} most"
    yield f"{lead}; the best of each: {told}; `{BASE}` {base.deflation_percent:.0f} %."
    yield from _why(shelf, base, first)


def _why(shelf: Shelf, base: Variant, first: Variant) -> Iterator[str]:
    """Say what the winner's file holds that the FP32 file does not, and whether it explains all files."""
    mine, plain = first.contents, base.contents
    if mine is None or plain is None:
        return
    parts = []
    if (mine.zeros or 0) >= _MANY_ZEROS > (plain.zeros or 0):
        parts.append(f"{mine.zeros:.1%} of its weights are zeros ({plain.zeros or 0:.1%} in `{BASE}`)")
    if mine.repeated > plain.repeated + _NOTABLE:
        parts.append(
            f"{mine.repeated:.1%} of its four-byte words occurred before in the file ({plain.repeated:.1%} in "
            f"`{BASE}`)"
        )
    if mine.entropy_bits < (1 - _NOTABLE) * plain.entropy_bits:
        parts.append(f"a byte of it has an entropy of {mine.entropy_bits:.2f} bits ({plain.entropy_bits:.2f})")
    if parts:
        yield f"In `{first.name}` {'; '.join(parts)}: that is what references and short codes save."
    else:
        yield f"What lies in `{first.name}` does not tell why: no more zeros, repeats, or order than in `{BASE}`."
    yield from _follows(shelf)


def _follows(shelf: Shelf) -> Iterator[str]:
    """Say whether the entropy of bytes, and the share of repeats, order the files as their deflation does."""
    known = [item for item in shelf.files if item.contents]
    if len(known) < 4:
        return
    saved = ranks(np.array([item.deflation_percent for item in known]))
    entropies = np.array([-item.contents.entropy_bits for item in known if item.contents])
    repeats = np.array([item.contents.repeated for item in known if item.contents])
    for what, values in (("the entropy of a byte, the lower the more", entropies), ("repeats", repeats)):
        rho = correlation(ranks(values), saved)
        verb = "follows" if rho >= _EXPLAINS else "does not follow"
        yield f"Over all files deflation {verb} {what} (rank correlation {rho:.2f} over {len(known)} files)."


def _bytes(item: Variant) -> float:
    return item.size_bytes


def _deflated(item: Variant) -> float:
    return item.deflated_bytes


def _percent(item: Variant) -> float:
    return item.deflation_percent
