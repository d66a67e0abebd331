"""How pictures are stored, by their headers alone: which are not what goes in is told before any is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.bounds import listed, printable
from whet.data.raw import has_rotation, read_as, stored_as
from whet.errors import DataError, MissingDependency

_NAMED = 10  # pictures of a sentence


@dataclass(frozen=True, slots=True)
class Look:
    """A picture whose header was read.

    Attributes:
        name: What it is called in a sentence.
        stored: How it is stored, a mode of Pillow's: ``L``, ``CMYK``, ``RGB;16``.
        read: What it is read as where no colour is asked for.
        rotated: Whether it carries an EXIF rotation, which is not applied.
    """

    name: str
    stored: str
    read: str
    rotated: bool = False


def look(name: str, file: Any) -> Look | None:
    """Look at a picture's header.

    Args:
        name: What the picture is called in a sentence.
        file: Its path, or an open file of bytes.

    Returns:
        None of a picture that is for its reader to refuse, and of an array that has not the shape of one.

    Raises:
        MissingDependency: There is no Pillow.
    """
    if isinstance(file, Path) and file.suffix == ".npy":
        return _look_at_array(name, file)
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise MissingDependency.of("Pillow", "report") from error
    try:
        with Image.open(file) as image:
            deep = image.mode.startswith(("I", "F"))
            return None if deep else Look(name, stored_as(image), read_as(image.mode), has_rotation(image))
    except Exception:  # noqa: BLE001 - Pillow raises whatever its readers do
        return None


def _look_at_array(name: str, path: Path) -> Look | None:
    """Look at the shape of an array, which is read as it is."""
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError):
        return None
    mode = "L" if len(shape) == 2 else {1: "L", 3: "RGB", 4: "RGBA"}.get(shape[-1]) if len(shape) == 3 else None
    return Look(name, mode, mode) if mode else None


def told(looks: Sequence[Look], color: str | None) -> tuple[str, ...]:
    """Say which pictures are converted, by number, mode and name, and which carry a rotation that is not applied.

    Args:
        looks: At all pictures.
        color: What they are converted to, as preprocessing has it; None leaves them as they are read.

    Raises:
        DataError: Some are grey, others not, and nothing says what to convert them to.
    """
    if color is None:
        _check_alike(looks)
    return (*_converted(looks, color), *_rotated(looks))


def _rotated(looks: Sequence[Look]) -> tuple[str, ...]:
    """Say which pictures a viewer shows otherwise than they are read."""
    found = [each.name for each in looks if each.rotated]
    if not found:
        return ()
    are = "picture carries" if len(looks) == 1 else "pictures carry"
    return (
        f"{len(found)} of {len(looks)} {are} an EXIF rotation that is not applied: pixels are read as they are "
        f"stored ({printable(listed(found, _NAMED))}).",
    )


def _converted(looks: Sequence[Look], color: str | None) -> tuple[str, ...]:
    """Say which pictures are converted to another mode."""
    converted = [each for each in looks if each.stored != (color or each.read)]
    if not converted:
        return ()
    to, modes = color or converted[0].read, Counter(each.stored for each in converted)
    bare = "; transparency was dropped" if any("A" in mode and mode != "LAB" for mode in modes) else ""
    if len(converted) == len(looks) and len(modes) == 1:
        return (f"All {len(looks)} pictures are stored as {converted[0].stored} and were converted to {to}{bare}.",)
    kinds = ", ".join(f"{count} {mode}" for mode, count in modes.most_common())
    many = f" ({kinds})" if len(modes) > 1 else ""
    were = "was" if len(converted) == 1 else "were"
    return (
        f"{len(converted)} of {len(looks)} pictures {were} converted to {to}{many}: {_names(converted)}{bare}.",
    )


def color_of(looks: Sequence[Look]) -> str:
    """Return the colour that loses nothing: ``L`` of pictures that are all grey, else ``RGB``."""
    return "L" if looks and all(each.read == "L" for each in looks) else "RGB"


def _check_alike(looks: Sequence[Look]) -> None:
    """Refuse pictures of which some would go in with other channels than most."""
    kinds = Counter(each.read for each in looks)
    if len(kinds) < 2:
        return
    most = max(kinds, key=lambda mode: (kinds[mode], mode == "RGB"))
    others = [each for each in looks if each.read != most]
    are = "is" if len(others) == 1 else "are"
    raise DataError(
        f"{len(others)} of {len(looks)} pictures {are} not {most} as the others are: {_names(others)}; bring all "
        f"to one colour with --preprocess 'color={'L' if most == 'L' else 'RGB'}', or remove them"
    )


def _names(looks: Sequence[Look]) -> str:
    """Name the first pictures with how they are stored, and count the rest."""
    more = f" and {len(looks) - _NAMED} others" if len(looks) > _NAMED else ""
    return ", ".join(f"{each.name} ({each.stored})" for each in looks[:_NAMED]) + more
