"""The folders of the machine that a bundle is made on, and how they are taken out of what is shipped.

They tell a stranger a user's name, customers and projects, and nobody else can open them.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from whet.models.source import Source

T = TypeVar("T")

_PATH = re.compile(r"/[^/\s\"'`,;:()\[\]{}<>|]+(?:/[^/\s\"'`,;:()\[\]{}<>|]+)+")
_FEW = 2  # components: / and one name, such as /tmp, which says nothing and may begin the name of a layer


@dataclass(frozen=True, slots=True)
class Folders:
    """Folders of this machine, those with the longest names first."""

    known: tuple[str, ...]

    @classmethod
    def of(cls, source: Source, stored: Path) -> Folders:
        """Return the folders of a model, of the files it is stored as, and of the user."""
        files = [Path(name) for name in (source.path, source.weights) if name]
        found = [Path.cwd(), *(path.parent for path in files), *stored.absolute().parents]
        both = {form for path in found for form in (path, path.resolve()) if len(form.parts) > _FEW}
        home = {Path.home()} - {Path("/")}
        return cls(tuple(sorted(map(str, both | home), key=len, reverse=True)))

    def taken_out(self, value: T) -> T:
        """Return plain data without these folders; of any other path on this machine, the last name stays."""
        if isinstance(value, str):
            return cast("T", self._of_text(value))
        if isinstance(value, dict):
            return cast("T", {key: self.taken_out(item) for key, item in value.items()})
        if isinstance(value, list | tuple):
            return cast("T", type(value)([self.taken_out(item) for item in value]))
        return value

    def _of_text(self, text: str) -> str:
        if os.sep not in text:
            return text
        for folder in self.known:
            text = text.replace(f"{folder}/", "")
            text = re.sub(rf"{re.escape(folder)}(?![\w.-])", Path(folder).name, text)
        return _PATH.sub(lambda match: _name(match[0]), text)


def _name(path: str) -> str:
    """Return the last name of a path whose folder is on this machine; names of layers look alike, and stay."""
    parent = Path(path).parent
    try:
        is_here = Path(path).exists() or (len(parent.parts) > _FEW and parent.is_dir())
    except OSError:  # too long for a path
        is_here = False
    return Path(path).name if is_here else path
